"""The pools of workers: what is wrong with them, and the instances they stand for."""

import re

KINDS = ("threads", "prefork", "solo")
NUMBERS = {"concurrency": (1, 1000), "instances": (0, 100), "prefetch": (1, 1000)}


def celery_pool_checks(pools, known_queues):
    """A list of {ok, fix}: every check of every pool."""
    known = [str(queue) for queue in known_queues]
    if not isinstance(pools, list) or not pools or not all(isinstance(pool, dict) for pool in pools):
        return [{"ok": False, "fix": "celery_pools: give a list of pools as in roles/celery/defaults/main.yml"}]
    checks = []
    names = [str(pool.get("name", "")) for pool in pools]
    for name in sorted({name for name in names if names.count(name) > 1}):
        checks.append((False, f"{names.count(name)} pools are called {name}; give each its own name"))
    for number, pool in enumerate(pools, 1):
        where = f"pool {pool.get('name') or number}:"
        checks += [(ok, f"{where} {fix}") for ok, fix in _checks_of_one(pool, known)]
    served = {queue for pool in pools if str(pool.get("instances")) != "0" for queue in _queues(pool)}
    for queue in known:
        fix = f"nobody works on the queue {queue}; add it to a pool with one instance or more"
        checks.append((queue in served, fix))
    return [{"ok": ok, "fix": f"celery_pools, {fix}"} for ok, fix in checks]


def _checks_of_one(pool, known):
    keys = {"name", "queues", "pool", *NUMBERS}
    missing, unknown = sorted(keys - set(pool)), sorted(set(map(str, pool)) - keys)
    yield not missing, f"{', '.join(missing)} missing; add it"
    yield not unknown, f"{', '.join(unknown)} not known; use {', '.join(sorted(keys))}"
    named = re.fullmatch(r"[a-z][a-z0-9_]{0,30}", str(pool.get("name", ""))) is not None
    yield named, "a name is made of small letters, digits and _; rename it"
    if "queues" in pool:
        yield bool(_queues(pool)), f"queues is {pool['queues']}; give a list of one or more of {', '.join(known)}"
    for queue in _queues(pool):
        yield queue in known, f"there is no queue {queue}; use {', '.join(known)}, or add it to messaging_queues"
    if "pool" in pool:
        yield pool["pool"] in KINDS, f"pool is {pool['pool']}; set it to one of {', '.join(KINDS)}"
    for key in NUMBERS.keys() & pool.keys():
        low, high = NUMBERS[key]
        yield _between(pool[key], low, high), f"{key} is {pool[key]}; set it to a number from {low} to {high}"


def _queues(pool):
    queues = pool.get("queues")
    return [str(queue) for queue in queues] if isinstance(queues, list) else []


def _between(value, low, high):
    """Numbers may come as text: `-e` gives text."""
    return (
        not isinstance(value, bool)
        and re.fullmatch(r"0|[1-9][0-9]{0,5}", str(value)) is not None
        and low <= int(value) <= high
    )


def celery_instances(pool):
    """The services of one pool."""
    return [{"name": f"{pool['name']}-{number}", "pool": pool} for number in range(1, int(pool["instances"]) + 1)]


def celery_env_file(instance, directory):
    """What the unit of one instance reads, as an entry for host_files."""
    pool = instance["pool"]
    values = {
        "QUEUES": ",".join(map(str, pool["queues"])),
        "POOL": pool["pool"],
        "CONCURRENCY": pool["concurrency"],
        "PREFETCH": pool["prefetch"],
    }
    lines = ["# Ansible managed", *(f"WORKER_{name}={value}" for name, value in values.items())]
    return {
        "path": f"{directory}/{instance['name']}.env",
        "content": "\n".join(lines) + "\n",
        "group": "messaging",
        "mode": "0640",
    }


def celery_old_file(name, directory):
    """The same for an instance that is gone."""
    return {"path": f"{directory}/{name}.env", "state": "absent"}


def celery_units(names):
    """The units of these instances."""
    return [f"messaging-worker@{name}.service" for name in names]


def _found(lines):
    """From lines such as `/etc/.../email-1.env:WORKER_POOL=threads`, each pool with the names of its `workers`."""
    pools = {}
    for line in lines:
        path, _, setting = line.partition(":")
        key, _, value = setting.partition("=")
        instance = path.rpartition("/")[2].removesuffix(".env")
        pool = pools.setdefault(instance.rpartition("-")[0], {"workers": []})
        if instance not in pool["workers"]:
            pool["workers"].append(instance)
        pool[key.removeprefix("WORKER_").lower()] = value
    return pools


def celery_found_pool(lines, name):
    """A pool as it is on the host, in the form of celery_pools."""
    pool = _found(lines)[name]
    queues = pool["queues"].split(",")
    return {**pool, "name": name, "queues": queues, "instances": len(pool["workers"])}


def celery_scale_problems(lines, name, number):
    """What speaks against `number` instances for the pool `name`, a line each."""
    pools = _found(lines)
    # a pool without any could not be found again here
    low, high = 1, NUMBERS["instances"][1]
    if not pools:
        return ["- there are no workers: run the playbook first (make deploy)"]
    if str(name) not in pools:
        wrong = f"there is no pool called {name}" if name else "POOL is missing"
        return [f"- {wrong}: give POOL={' or POOL='.join(sorted(pools))}"]
    if not _between(number, low, high):
        return [f"- N is {number or 'missing'}: give a number from {low} to {high}"]
    return []


class FilterModule:
    def filters(self):
        return {
            "celery_pool_checks": celery_pool_checks,
            "celery_instances": celery_instances,
            "celery_env_file": celery_env_file,
            "celery_old_file": celery_old_file,
            "celery_units": celery_units,
            "celery_found_pool": celery_found_pool,
            "celery_scale_problems": celery_scale_problems,
        }
