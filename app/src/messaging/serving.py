"""gunicorn's configuration: `gunicorn --config python:messaging.serving "messaging.web:create_app()"`.

Threads, since a request mostly waits for the broker. How many of them and of processes is said in the unit, and systemd
hands over the socket.
"""

from typing import TYPE_CHECKING, cast

from messaging import history
from messaging.logs import gunicorn_logconfig
from messaging.settings import load, or_exit

if TYPE_CHECKING:
    from flask import Flask

    from messaging.web.server import Worker

# Seconds: a broker that says nothing is not waited for
WARM_UP = 1.0

with or_exit():
    _settings = load()

worker_class = "messaging.web.server.Worker"
umask = 0o027
# nginx refuses longer ones first, with a problem document
limit_request_line = 8190
limit_request_field_size = 8190
timeout = 30
graceful_timeout = 30
# What they say of a client is true: the application lets nobody else in
forwarded_allow_ips = ",".join(_settings.proxies)
control_socket_disable = True
logconfig_dict = gunicorn_logconfig(_settings.log_level)
# nginx has the access log; this one would repeat it, with the queries in it
logconfig_dict["loggers"]["gunicorn.access"] = {"level": "CRITICAL", "handlers": [], "propagate": False}


def post_worker_init(worker: "Worker") -> None:
    """Be ready for as many requests as there are threads: after a restart that many may wait in the socket."""
    services = cast("Flask", worker.wsgi).extensions["messaging"]
    services.publisher.warm_up(worker.cfg.threads, WARM_UP)
    history.keep(services.history)
