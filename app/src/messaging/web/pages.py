"""Pages for people."""

from flask import Blueprint, jsonify, render_template, request
from flask.typing import ResponseReturnValue

from messaging import __version__

blueprint = Blueprint("pages", __name__)

CALLS = {
    "/?sendmail=<address>": "queue a mail to that address; answers with the task's id",
    "/?talktome": "append the current time to the log; answers with the line",
    "/?talktome=async": "the same through the queue",
    "/api/v1/tasks/<task_id>": "the state of a task",
    "/healthz": "is the process alive",
    "/readyz": "can it do its work, and if not, why",
}


def home() -> ResponseReturnValue:
    """What the service is and how to call it; as JSON for clients that ask for it."""
    if request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json":
        return jsonify({"service": "messaging-system", "version": __version__, "calls": CALLS})
    return render_template("home.html", calls=CALLS, version=__version__)
