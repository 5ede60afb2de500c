"""Steady traffic: `python3 traffic.py PREFIX COUNT PER_SECOND [HOST[,HOST...] [KEY]]`; one JSON object, a request each.

Runs on a host, with nothing but python3, so that the times are the client's and not those of the test's connection.
Where several hosts are named each gets its turn, and whoever finds one away goes to the next, as browsers do. With an
API key every other request carries it.
"""

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any


def connect(hosts: list[str]) -> http.client.HTTPConnection:
    """To the first that takes the connection."""
    for host in hosts[:-1]:
        connection = http.client.HTTPConnection(host, 80, timeout=0.5)
        try:
            connection.connect()
        except OSError:
            continue
        connection.sock.settimeout(30)
        return connection
    return http.client.HTTPConnection(hosts[-1], 80, timeout=30)


def ask(hosts: list[str], address: str, key: str, answers: list[dict[str, Any]]) -> None:
    """One request for a mail to `address`, and what the client saw of it; `at` is its beginning, since the epoch."""
    begun = time.monotonic()
    answer: dict[str, Any] = {"address": address, "at": time.time(), "key": bool(key)}
    try:
        connection = connect(hosts)
        answer["host"] = connection.host
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("GET", f"/?sendmail={address}", headers=headers)
        response = connection.getresponse()
        answer["status"] = response.status
        answer["retry_after"] = response.headers.get("Retry-After")
        answer["body"] = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        answer["status"] = 0
        answer["error"] = repr(error)
    answer["seconds"] = time.monotonic() - begun
    answers.append(answer)


def main() -> None:
    prefix, count, per_second, *rest = sys.argv[1:]
    hosts = (rest[0] if rest else "127.0.0.1").split(",")
    keys = ["", rest[1] if rest[1:] else ""]
    answers: list[dict[str, Any]] = []
    threads = []
    begun = time.monotonic()
    for number in range(int(count)):
        time.sleep(max(0.0, begun + number / float(per_second) - time.monotonic()))
        if Path(f"/tmp/{prefix}.stop").exists():
            break
        address = f"{prefix}-{number}@example.com"
        first = number // len(keys) % len(hosts)
        turn = hosts[first:] + hosts[:first]
        thread = threading.Thread(target=ask, args=(turn, address, keys[number % len(keys)], answers))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
