"""Connections to the brokers: TLS, and the patience of workers who have several of them.

Source: https://docs.celeryq.dev/en/stable/userguide/configuration.html#broker-settings
"""

import random
import socket
import ssl
from collections.abc import Mapping
from typing import Any, cast

import amqp
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from messaging.settings import Settings

# Seconds. A broker that is frozen is given up after two of these. One broker alone is waited for: there is no other
HEARTBEAT = 20
HEARTBEAT_OF_SEVERAL = 6
CONNECT_TIMEOUT = 2.0
# One whose host is gone answers no probe, and is given up when a probe is as old as py-amqp lets any data get: 1 s
SOCKET_SETTINGS = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2}
# Between two rounds through all brokers
PAUSE_BETWEEN_ROUNDS = 1


def tls(settings: Settings, host: str) -> dict[str, Any] | None:
    """What py-amqp needs to talk TLS with `host` (`address:port`); None for no TLS."""
    if not settings.amqp_ca_file:
        return None
    return {**_verify(settings), "server_hostname": host.rpartition(":")[0] or host}


def _verify(settings: Settings) -> dict[str, Any]:
    return {"ca_certs": settings.amqp_ca_file, "cert_reqs": ssl.CERT_REQUIRED}


class QuickConnection(amqp.Connection):
    """A connection that is closed at once: the goodbye of TLS would wait for the answer of a broker that is silent."""

    def collect(self) -> None:
        """Close the socket."""
        transport = cast("Any", self)._transport
        if transport is not None and transport.sock is not None:
            transport.sock.settimeout(0)
        super().collect()


class Transport(pyamqp.Transport):
    """kombu's own, which would compare the certificates of all brokers with the address of the first."""

    class Connection(QuickConnection, pyamqp.Connection):
        """As above, with kombu's channels."""

    def establish_connection(self) -> Any:
        """A connection to the broker whose turn it is."""
        client: Any = self.client
        if client.ssl:
            client.ssl = {**client.ssl, "server_hostname": client.hostname}
        return super().establish_connection()


# Under the name that the URLs have: Flower knows that one
TRANSPORT_ALIASES["amqp"] = f"{__name__}:Transport"


def for_celery(settings: Settings) -> Mapping[str, Any]:
    """The settings of Celery that say where the brokers are."""
    several = len(settings.amqp_hosts) > 1
    return {
        # not all of them begin with the same one
        "broker_url": random.SystemRandom().sample(settings.amqp_urls, len(settings.amqp_urls)),
        "broker_use_ssl": _verify(settings) if settings.amqp_ca_file else False,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": CONNECT_TIMEOUT,
        "broker_heartbeat": HEARTBEAT_OF_SEVERAL if several else HEARTBEAT,
        "broker_transport_options": {"socket_settings": SOCKET_SETTINGS} if several else {},
    }
