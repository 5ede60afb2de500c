"""Whom mail may go to."""

from pathlib import Path

import pytest

from messaging.addresses import list_entry
from messaging.recipients import accepted, mailbox
from messaging.settings import Settings
from web_client import Web, problem


@pytest.mark.parametrize(
    ("allow", "deny", "address", "good"),
    [
        ("", "", "me@example.com", True),
        ("example.com", "", "me@example.com", True),
        ("example.com", "", "me@EXAMPLE.com", True),
        ("example.com", "", "me@sub.example.com", False),
        ("example.com", "", "me@badexample.com", False),
        (".example.com", "", "me@sub.example.com", True),
        (".example.com", "", "me@a.b.example.com", True),
        (".example.com", "", "me@example.com", False),
        (".example.com", "", "me@badexample.com", False),
        ("me@example.com", "", "Me@example.com", True),
        ("me@example.com", "", "me+tag@example.com", False),
        ("me@example.com", "", "you@example.com", False),
        ("", "example.com", "me@example.com", False),
        ("", "example.com", "me@example.org", True),
        ("", ".com", "me@example.com", False),
        ("", "victim@example.com", "victim+1@example.com", False),
        ("", "victim@example.com", "VICTIM@example.com", False),
        ("", "vic.tim@gmail.com", "victim@googlemail.com", False),
        ("", "victim+news@example.com", "victim@example.com", True),
        ("", "victim+news@example.com", "victim+news@example.com", False),
        ("", "victim@example.com", "other@example.com", True),
        ("example.com", "me@example.com", "me@example.com", False),
        ("me@example.com", "example.com", "me@example.com", False),
        ("", "bücher.example", "me@xn--bcher-kva.example", False),
        ("", "xn--bcher-kva.example", "me@bücher.example", False),
        ("BÜCHER.example, example.com", "", "me@bücher.example", True),
        ("", ".bücher.example", "me@shop.bücher.example", False),
    ],
)
def test_the_lists(allow: str, deny: str, address: str, good: bool) -> None:
    settings = Settings.model_validate({"recipients_allow": allow, "recipients_deny": deny})
    if good:
        assert accepted(address, settings)
    else:
        with pytest.raises(ValueError, match="mail to this address is not accepted here"):
            accepted(address, settings)


@pytest.mark.parametrize(
    "entry", ["example", "@example.com", "a b@example.com", "*.example.com", ".", "..com", "a@b@c.de"]
)
def test_an_entry_that_is_none(entry: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        list_entry(entry)


@pytest.mark.parametrize(
    ("address", "box"),
    [
        ("Me@example.com", "me@example.com"),
        ("me+a+b@example.com", "me@example.com"),
        ("a.b@example.com", "a.b@example.com"),
        ("A.B+c@GMail.com", "ab@gmail.com"),
        ("a.b@googlemail.com", "ab@gmail.com"),
        ("+tag@example.com", "+tag@example.com"),
    ],
)
def test_a_mailbox(address: str, box: str) -> None:
    assert mailbox(address) == box


def test_every_way_in_asks(tmp_path: Path) -> None:
    log = tmp_path / "times.log"
    log.touch()
    web = Web(log, recipients_deny="secret-partner.example, victim@example.com")
    answers = [
        problem(web.get("/?sendmail=victim%2B1@example.com"), 400),
        problem(web.get("/action?sendmail=a@secret-partner.example"), 400),
        problem(
            web.post("/api/v1/tasks/send-email", json={"to": "victim@example.com", "subject": "s", "text": "t"}), 422
        ),
        problem(web.post("/send-email", data={"to": "victim@example.com", "subject": "s", "text": "t"}), 422),
    ]
    assert web.untouched
    assert answers[0]["parameter"] == "sendmail"
    assert [error["field"] for answer in answers[2:] for error in answer["errors"]] == ["to", "to"]
    assert "partner" not in str(answers)
