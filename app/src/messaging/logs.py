"""JSON lines on standard output, with `request_id` and `task_id`, and without anybody's address."""

import logging
import logging.config
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from messaging.masking import mask_addresses
from messaging.settings import Settings

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
task_id: ContextVar[str | None] = ContextVar("task_id", default=None)


class MaskingJsonFormatter(JsonFormatter):
    """A JSON line for each record; every address in it is masked, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one JSON line."""
        return mask_addresses(super().format(record))


class ContextFilter(logging.Filter):
    """Adds the ids of the request and of the task that are being worked on."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        for name, variable in (("request_id", request_id), ("task_id", task_id)):
            value = variable.get()
            if value is not None and not hasattr(record, name):
                setattr(record, name, value)
        return True


def logging_config(level: str) -> dict[str, Any]:
    """A `logging.config.dictConfig` document for every process of the service."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"context": {"()": ContextFilter}},
        "formatters": {
            "json": {
                "()": MaskingJsonFormatter,
                "fmt": "%(levelname)s %(name)s %(message)s",
                "rename_fields": {"levelname": "level", "name": "logger"},
                "json_ensure_ascii": False,
            }
        },
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "json",
                "filters": ["context"],
            }
        },
        "root": {"level": level, "handlers": ["stdout"]},
    }


def setup_logging(settings: Settings) -> None:
    """Send every log record of this process to standard output as JSON lines."""
    logging.config.dictConfig(logging_config(settings.log_level))
    logging.captureWarnings(True)


def gunicorn_logconfig(level: str = "INFO") -> dict[str, Any]:
    """The same for gunicorn (`logconfig_dict` in its configuration file)."""
    return {
        **logging_config(level),
        "loggers": {
            name: {"level": level, "handlers": [], "propagate": True} for name in ("gunicorn.error", "gunicorn.access")
        },
    }
