"""The tutorial's view."""

from flask import Flask, Response, jsonify, request
from tasks import send_mail

app = Flask(__name__)


@app.get("/")
def index() -> tuple[Response, int]:
    result = send_mail.delay(request.args["sendmail"])
    return jsonify(task_id=result.id), 202
