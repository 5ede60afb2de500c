import json
import logging
import logging.config

import pytest

from messaging import logs


@pytest.fixture
def logger() -> logging.Logger:
    logging.config.dictConfig(logs.logging_config("INFO"))
    return logging.getLogger("test")


def test_a_line_is_json_with_the_ids_and_without_the_address(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.config.dictConfig(logs.logging_config("INFO"))
    logs.request_id.set("r-1")
    logs.task_id.set("t-1")
    logger.warning("550 <%s> unknown", "somebody@example.com")
    line = json.loads(capsys.readouterr().out)
    assert (line["level"], line["request_id"], line["task_id"]) == ("WARNING", "r-1", "t-1")
    assert "unknown" in line["message"]
    assert "somebody" not in line["message"]


def test_a_traceback_is_masked_and_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logging.config.dictConfig(logs.logging_config("INFO"))
    try:
        raise RuntimeError("cannot send to somebody@example.com")
    except RuntimeError:
        logging.getLogger("test").exception("unexpected")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "somebody" not in json.loads(out)["exc_info"]
