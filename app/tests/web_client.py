"""The web application with stand-ins for the broker and Redis."""

from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

from flask.testing import FlaskClient

from fakes import FakeBudgets, FakeClaims, FakePublisher, FakeRecords, FakeRedis
from messaging.budgets import Budgets
from messaging.idempotency import Idempotency
from messaging.keys import Keys
from messaging.settings import Settings
from messaging.web import Services, create_app

OPERATOR_KEY = "the-key-of-the-operators"


class Web:
    """The application with its stand-ins at hand."""

    def __init__(self, log: Path, secret: str = "server's secret", **settings: Any) -> None:
        self.log = log
        self.records = FakeRecords()
        self.publisher = FakePublisher()
        self.redis = FakeRedis()
        self.claims = FakeClaims()
        self.budgets = FakeBudgets(self.records)
        settings = Settings.model_validate(
            {
                "timelog_path": log,
                "timezone": ZoneInfo("Europe/Berlin"),
                "operator_key": OPERATOR_KEY,
                "secret_key": secret,
                "keys_path": log.parent / "keys.json",
                # from where werkzeug's client comes, and some tests
                "proxies": ["127.0.0.1", "::1"],
                **settings,
            }
        )
        app = create_app(settings)
        app.extensions["messaging"] = Services(
            settings,
            cast("Any", self.records),
            cast("Any", self.publisher),
            cast("Any", self.publisher),
            cast("Any", self.redis),
            cast("Any", self.claims),
            Idempotency(cast("Any", self.redis), secret, settings.secret_key_previous.get_secret_value()),
            Keys(settings.keys_path),
            Budgets(settings, self.budgets),
        )
        self.client: FlaskClient = app.test_client()

    def get(self, url: str, **kwargs: Any) -> Any:
        return self.client.get(url, **kwargs)

    def post(self, url: str, **kwargs: Any) -> Any:
        return self.client.post(url, **kwargs)

    @property
    def untouched(self) -> bool:
        return not self.publisher.submitted and not self.records.stored and self.log.read_text() == ""


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.mimetype == "application/problem+json"
    document: dict[str, Any] = response.get_json()
    assert document["status"] == status
    assert document["detail"]
    return document
