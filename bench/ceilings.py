"""What the parts can do alone: the most that anything built of them can reach."""

import smtplib
import ssl
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from email.message import EmailMessage

import amqp

import sinks
from sides import Channel, Side

QUEUE = "limit"
# About as large as one of our messages
BODY = "x" * 250


def confirmed_publishes(side: Side, processes: int, threads: int, seconds: float) -> float:
    """Publishes to a quorum queue a second, each confirmed before the next of its thread."""
    login = (side.vhost, side.user, side.password)
    with Channel(*login) as channel:
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    try:
        with ProcessPoolExecutor(processes) as pool:
            counts = pool.map(_publish_all, *zip(*[(login, threads, seconds)] * processes, strict=True))
            return sum(counts) / seconds
    finally:
        with Channel(*login) as channel:
            channel.queue_delete(QUEUE)


def _publish_all(login: tuple[str, str, str], threads: int, seconds: float) -> int:
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(_publish, [login] * threads, [seconds] * threads))


def _publish(login: tuple[str, str, str], seconds: float) -> int:
    vhost, user, password = login
    connection = amqp.Connection("127.0.0.1", userid=user, password=password, virtual_host=vhost)
    connection.connect()
    channel = connection.channel()
    channel.confirm_select()
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        message = amqp.Message(BODY, delivery_mode=2, content_type="application/json")
        channel.basic_publish_confirm(message, "", QUEUE, mandatory=True)
        count += 1
    connection.close()
    return count


def warm_session(username: str, password: str, count: int) -> list[float]:
    """Milliseconds of each of `count` mails, one after the other in one session."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "service@example.com", "you@example.com", "A message for you"
    message.set_content("Somebody asked messaging-system to send you this message.")
    data = message.as_bytes()
    times = []
    context = ssl.create_default_context()
    with smtplib.SMTP_SSL(sinks.NAME, sinks.PORT, context=context) as client:
        client.login(username, password)
        for _ in range(count + 1):
            begun = time.monotonic()
            client.sendmail("service@example.com", ["you@example.com"], data)
            times.append((time.monotonic() - begun) * 1000)
    # the first one comes after the login, and meets a sink that is not warm yet
    return times[1:]
