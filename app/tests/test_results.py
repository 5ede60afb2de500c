from dataclasses import asdict

import pytest

from messaging.results import Record, RecordsUnavailableError, State

RECORD = Record("t1", "messaging.send_email", State.RETRYING, submitted_at=1.5, attempts=2, reason="451 later")


def test_a_record_survives_storage() -> None:
    assert Record.from_values(asdict(RECORD)) == RECORD


def test_a_record_of_another_release_is_read() -> None:
    assert Record.from_values({**asdict(RECORD), "a_later_field": 1}) == RECORD


@pytest.mark.parametrize("values", [None, [], "x", {}, {"state": "lost"}, {"state": "queued"}])
def test_what_is_no_record_is_not_known(values: object) -> None:
    with pytest.raises(RecordsUnavailableError):
        Record.from_values(values)
