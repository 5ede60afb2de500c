"""The playbook changes the configuration of all hosts while requests come in: none fails."""

from faulty import converge
from load import ROLLING, Seen, during
from system import host, members

RESTARTED = {
    "rabbitmq": "rabbitmq-server.service",
    "redis": "redis-server.service",
    "app": "messaging-web.service",
    "celery": "messaging-worker@email-1.service",
    "flower": "messaging-flower.service",
}


def since_when() -> dict[tuple[str, str], str]:
    """Since when each service runs."""
    ask = "systemctl show --property ActiveEnterTimestampMonotonic --value %s"
    return {
        (name, unit): host(name).check_output(ask, unit) for group, unit in RESTARTED.items() for name in members(group)
    }


def test_a_run_of_the_playbook_fails_no_request(healthy: None, key: str, table: list[Seen]) -> None:
    before = since_when()
    # whatever was there before, it becomes something else
    file = host(members("rabbitmq")[0]).file("/etc/rabbitmq/rabbitmq.conf")
    other = file.contains("vm_memory_high_watermark.relative = 0.45")
    values = {
        "messaging_log_level": "INFO" if other else "WARNING",
        "rabbitmq_memory_watermark": 0.4 if other else 0.45,
        "redis_maxmemory": "256mb" if other else "300mb",
        "nginx_client_max_body_size": "1m" if other else "2m",
    }
    seen = during(ROLLING, lambda: converge(**values), key)
    table.append(seen)
    reckoning = seen.reckoning
    print(seen)
    after = since_when()
    assert [place for place, moment in after.items() if moment == before[place]] == [], "these did not restart"
    assert reckoning.accepted > reckoning.requests / 2
    assert reckoning.lost == 0
    assert (reckoning.failed, reckoning.dead, reckoning.misreported) == (0, 0, 0)
    assert (reckoning.no_answer, reckoning.wrong, reckoning.throttled) == (0, 0, 0)
    # Redis restarts, and mail without a key waits for it: its budget cannot be looked up meanwhile
    refused = [answer for answer in seen.answers if answer["status"] != 202]
    assert [each for each in refused if each["key"]] == []
    assert [each for each in refused if "Budgets cannot be checked" not in each["body"]["detail"]] == []
    assert reckoning.twice == 0
