"""Steady traffic from the host itself: `python3 traffic.py PREFIX COUNT PER_SECOND`; one JSON object, a request each.

Runs on the host, with nothing but python3, so that the times are the client's and not those of the test's connection.
"""

import http.client
import json
import sys
import threading
import time
from typing import Any


def ask(address: str, answers: list[dict[str, Any]]) -> None:
    """One request for a mail to `address`, and what the client saw of it."""
    begun = time.monotonic()
    answer: dict[str, Any] = {"address": address}
    try:
        connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=30)
        connection.request("GET", f"/?sendmail={address}")
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
    prefix, count, per_second = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    answers: list[dict[str, Any]] = []
    threads = []
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + number / per_second - time.monotonic()))
        thread = threading.Thread(target=ask, args=(f"{prefix}-{number}@example.com", answers))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
