"""Claims on the host's own Redis: who gets one, who does not, and who may take it over."""

import json
import re
import uuid
from pathlib import Path
from typing import Any

from testinfra.host import Host

from faulty import in_release

PROGRAM = """
import json, sys, time
from messaging import store
from messaging.claims import ClaimedElsewhereError, Claims, PREFIX
from messaging.settings import load

settings = load()
redis = store.connect(settings, 2)
task = sys.argv[1]

def tries(instance, started):
    try:
        with Claims(redis, instance, started).hold(task):
            return True
    except ClaimedElsewhereError:
        return False

seen = {}
with Claims(redis, "email-1", 100.0).hold(task):
    seen["another instance"] = tries("email-2", 200.0)
    seen["the same start"] = tries("email-1", 100.0)
    seen["lease in seconds"] = redis.pttl(PREFIX + task) / 1000
    seen["the instance restarted"] = tries("email-1", 200.0)
seen["after the end"] = tries("email-2", 200.0)
with Claims(redis, "email-1", 100.0, lease=0.8).hold(task):
    time.sleep(2)
    seen["renewed past its lease"] = not tries("email-2", 200.0)
redis.set(PREFIX + task, "email-9|1.0", px=300)
deadline = time.monotonic() + 10
while not tries("email-2", 200.0) and time.monotonic() < deadline:
    time.sleep(0.05)
seen["after a dead owner"] = time.monotonic() < deadline
print(json.dumps(seen))
"""


def test_who_gets_a_claim(host: Host) -> None:
    seen: dict[str, Any] = json.loads(in_release(host, PROGRAM, f"claims-{uuid.uuid4().hex}"))
    assert 10 < seen.pop("lease in seconds") <= 20
    assert seen == {
        "another instance": False,
        "the same start": False,
        "the instance restarted": True,
        "after the end": True,
        "renewed past its lease": True,
        "after a dead owner": True,
    }


def test_the_scripts_in_redis_keep_their_rules(host: Host) -> None:
    program = (Path(__file__).parent / "redis_rules.py").read_text()
    rules = re.findall(r"^    (\w+),$", program.partition("RULES: ")[2], re.MULTILINE)
    assert len(rules) >= 15
    assert in_release(host, program).split() == rules
