"""Addresses do not get out, and JSON stays JSON."""

import json
import time
from urllib.parse import quote

import pytest

from messaging.masking import mask, mask_addresses


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("me@example.com", "m***@example.com"),
        ("m@example.com", "m***@example.com"),
        ("@example.com", "***@example.com"),
        ('"a@b"@example.com', '"***@example.com'),
        ("nothing", "n***"),
        ("", "***"),
    ],
)
def test_mask(address: str, masked: str) -> None:
    assert mask(address) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("to joe.doe+tag@example.com, ok", "to j***@example.com, ok"),
        ("RCPT TO:<joe@example.com> joe@a.b", "RCPT TO:<j***@example.com> j***@a.b"),
        ("GET /?sendmail=joe@example.com&x=1", "GET /?sendmail=j***@example.com&x=1"),
        ("GET /?sendmail=joe%40example.com HTTP/1.1", "GET /?sendmail=j***%40example.com HTTP/1.1"),
        ("/?a=1&sendmail=joe%2Btag%2540example.com", "/?a=1&sendmail=j***%2540example.com"),
        ("a@b.c&sendmail=joe@example.com", "a***@b.c&sendmail=j***@example.com"),
        ("/inbox/joe@example.com", "/i***@example.com"),
        ("args=('joe@example.com',)", "args=('j***@example.com',)"),
        (r"\njoe@example.com", r"\nj***@example.com"),
        ("jöe@exämple.com", "j***@exämple.com"),
        ("joe@[127.0.0.1]", "j***@[127.0.0.1]"),
        ("joe@localhost", "j***@localhost"),
        ('"joe doe"@example.com', '"***"@example.com'),
        ("x@y@z.com", "x***@y***@z.com"),
        ("at 5 @ noon, 100%, %40, @home, a@", "at 5 @ noon, 100%, %40, @home, a@"),
        ("no address at all", "no address at all"),
        ("", ""),
    ],
)
def test_mask_addresses(text: str, masked: str) -> None:
    assert mask_addresses(text) == masked


@pytest.mark.parametrize(
    "message",
    [
        "secret.person@example.com",
        "\x0bsecret.person@example.com",
        "\nsecret.person@example.com\t",
        '"secret person"@example.com',
        "\\secret.person@example.com",
        "https://example.org/?to=" + quote("secret.person@example.com"),
        "@home",
        '"',
    ],
)
def test_json_stays_json(message: str) -> None:
    masked = json.loads(mask_addresses(json.dumps({"a": "x", "message": message, "b": ["@c", message]})))
    assert masked.keys() == {"a", "message", "b"}
    assert "person" not in masked["message"]
    assert "person" not in masked["b"][1]
    assert masked["b"][0] == "@c"


def test_time_is_linear() -> None:
    start = time.monotonic()
    for text in ("a" * 1_000_000, "@" * 1_000_000, "a@" * 300_000, "?a=" * 300_000 + "@b", '"' * 300_000 + '"@b'):
        mask_addresses(text)
    assert time.monotonic() - start < 5
