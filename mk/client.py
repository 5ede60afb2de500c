"""client.py URL (send ADDRESS | talk | check): what `make send`, `make talk` and `make url` ask the service."""

import http.client
import json
import sys
import time
from typing import Any
from urllib.parse import quote, urlsplit

FINAL_STATES = {"succeeded", "failed", "cancelled"}
PATIENCE = 60  # seconds


def ask(url: str, target: str) -> http.client.HTTPResponse:
    """The answer to one GET, without any proxy in between."""
    link = http.client.HTTPConnection(urlsplit(url).netloc, timeout=15)
    link.request("GET", target, headers={"Accept": "application/json"})
    return link.getresponse()


def get(url: str, target: str) -> tuple[int, Any]:
    """Status and document of one GET."""
    answer = ask(url, target)
    if 300 <= answer.status < 400:
        sys.exit(f"{url} answers {answer.status} to {answer.getheader('Location')}\n  fix: ask there, with curl")
    return answer.status, json.loads(answer.read())


def refused(status: int, problem: Any) -> str:
    """The readable part of a problem document."""
    return f"{status} {problem.get('title', '')}: {problem.get('detail', '')}"


def send(url: str, address: str) -> None:
    """Queue a mail and follow its task to the end."""
    target = f"/?sendmail={quote(address, safe='@')}"
    print(f'curl "{url}{target}"')
    status, answer = get(url, target)
    if status != 202:
        sys.exit(refused(status, answer))
    task, seen = answer["task_id"], answer["state"]
    print(f"{status}  task {task}  {seen}")
    if not answer.get("tracked", True):
        print("     it will be delivered; its state cannot be read while Redis is away")
        return
    deadline = time.monotonic() + PATIENCE
    while seen not in FINAL_STATES:
        if time.monotonic() > deadline:
            sys.exit(f"still {seen} after {PATIENCE} s\n  fix: make logs shows why")
        time.sleep(0.2)
        status, record = get(url, f"/api/v1/tasks/{task}")
        if status != 200:
            sys.exit(refused(status, record))
        if record["state"] != seen:
            seen = record["state"]
            print(f"     task {task}  {seen}")
    if seen != "succeeded":
        sys.exit(f"{seen}: {record.get('reason', 'no reason given')}\n  fix: make logs shows more")


def talk(url: str) -> None:
    """Have the time logged."""
    status, answer = get(url, "/?talktome")
    if status != 200:
        sys.exit(refused(status, answer))
    print(answer["logged"])


def check(url: str) -> None:
    """End with an error unless it answers; a redirect to TLS is an answer too."""
    status = ask(url, "/healthz").status
    if status >= 500:
        sys.exit(f"{url} answers {status}\n  fix: make status and make logs show why")


def main() -> None:
    """One request."""
    url, verb, *arguments = sys.argv[1:]
    try:
        {"send": send, "talk": talk, "check": check}[verb](url, *arguments)
    except (OSError, http.client.HTTPException, json.JSONDecodeError, KeyError) as error:
        sys.exit(f"{url} does not answer as it should ({error!r})\n  fix: make status and make logs show why")


main()
