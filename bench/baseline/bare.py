"""A limit: Flask that does nothing."""

from flask import Flask, Response, jsonify

app = Flask(__name__)


@app.get("/")
def index() -> tuple[Response, int]:
    return jsonify(task_id="00000000-0000-0000-0000-000000000000"), 202
