"""Filters for hosts at AWS."""

import ipaddress
import re


def aws_host_problems(hosts, services, needed):
    """What is wrong with aws_hosts, in one line; empty if nothing is."""
    if not isinstance(hosts, (list, tuple)) or not hosts or not all(isinstance(host, dict) for host in hosts):
        return "it has to be a list of {name, groups, type}"
    names = [str(host.get("name", "")) for host in hosts]
    found = [f"'{name}' is no name of a host" for name in names if not _is_label(name)]
    found += [f"'{name}' is there twice" for name in sorted({name for name in names if names.count(name) > 1})]
    covered = set()
    for host in hosts:
        groups = aws_groups(host, services)
        if not isinstance(groups, (list, tuple)):
            found.append(f"the groups of '{host.get('name')}' are no list")
            continue
        covered.update(groups)
        found += [f"'{group}' of '{host.get('name')}' is no group" for group in groups if group not in services]
    missing = [service for service in needed if service not in covered]
    if missing:
        found.append(f"no host is in {', '.join(missing)}")
    return ", ".join(found)


def aws_groups(host, services):
    """The groups of a host: all, where it names none."""
    return services if host.get("groups") is None else host["groups"]


def is_aws_cidr(value, shortest, longest=32):
    """Whether this is an IPv4 network, such as 203.0.113.7/32, that is neither larger nor smaller than that."""
    try:
        network = ipaddress.IPv4Network(str(value))
    except ValueError:
        return False
    return "/" in str(value) and shortest <= network.prefixlen <= longest


def _is_label(value):
    return re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value) is not None


def aws_messages(result):
    """What a task that failed has said, also one with a loop."""
    failed = [each for each in result.get("results", [result]) if each.get("failed")] or [result]
    return "\n".join(dict.fromkeys(str(each.get("msg", "")).strip() for each in failed))


class FilterModule:
    def filters(self):
        return {
            "aws_host_problems": aws_host_problems,
            "aws_groups": aws_groups,
            "is_aws_cidr": is_aws_cidr,
            "aws_messages": aws_messages,
        }
