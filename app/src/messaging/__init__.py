"""Queue mail over HTTP, deliver it with Celery workers."""

__version__ = "0.1.0"
