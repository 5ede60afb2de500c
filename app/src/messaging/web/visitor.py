"""What we know of a visitor: the ids of his last tasks, in a signed cookie of his own. Nothing is kept here."""

from datetime import timedelta

from flask import Flask, Request, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

from messaging.settings import Settings

KEPT = 10
_TASKS = "tasks"


class _Sessions(SecureCookieSessionInterface):
    """Cookies that only go over HTTPS where the visitor came by HTTPS: the same host may answer to both."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        # most callers have no cookie, and making what would check it takes time
        if self.get_cookie_name(app) not in request.cookies:
            return self.session_class()
        return super().open_session(app, request)


def init_app(app: Flask, settings: Settings) -> None:
    """Sign the cookies with the settings' key; they last as long as the records that they lead to.

    Those that are signed with the key before it are believed too.
    """
    app.secret_key = settings.secret_key.get_secret_value()
    if previous := settings.secret_key_previous.get_secret_value():
        app.config["SECRET_KEY_FALLBACKS"] = [previous]
    app.session_interface = _Sessions()
    app.config.update(
        SESSION_COOKIE_NAME="visitor",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=timedelta(seconds=settings.result_expires),
    )


def tasks() -> list[str]:
    """The ids of this visitor's tasks, newest first."""
    return list(session.get(_TASKS, []))


def remember(task_id: str) -> None:
    """Add a task of this visitor; the oldest makes room."""
    session.permanent = True
    session[_TASKS] = [task_id, *(known for known in tasks() if known != task_id)][:KEPT]
