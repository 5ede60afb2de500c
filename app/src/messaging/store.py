"""The connection to Redis, where claims and the order of tasks live whatever the result backend is."""

from dataclasses import dataclass

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from messaging.settings import Settings

# A request must not wait for Redis longer than a person notices; a worker can wait a little.
WEB_TIMEOUT = 0.25
WORKER_TIMEOUT = 2.0

# Why mail waits, in the workers' words, for `/readyz`; it ends by itself when nobody renews it.
SMTP_PROBLEM_KEY = "messaging:smtp-problem"
SMTP_PROBLEM_EXPIRES = 120  # seconds


# The order of the tasks, by the time of their request.
INDEX_KEY = "messaging:tasks"


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as Redis keeps it: what is stored under which key, for how many seconds, and its place in the order."""

    key: str
    text: str
    seconds: int
    task_id: str
    submitted_at: float


def connect(settings: Settings, timeout: float) -> Redis:
    """A client that gives up after `timeout` seconds and does not try again by itself."""
    return Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        password=settings.redis_password.get_secret_value() or None,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        # it compares the certificate with `redis_host` too
        ssl=bool(settings.redis_ca_file),
        ssl_ca_certs=settings.redis_ca_file or None,
        decode_responses=True,
    )
