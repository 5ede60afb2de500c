"""Filters for the preflights."""

import ipaddress
import pathlib
import re
import zoneinfo


def problems(checks):
    """From a list of {ok, fix}, the lines of those that are not ok."""
    return ["- " + " ".join(check["fix"].split()) for check in checks if not check["ok"]]


def is_port(value):
    """Whether this is the number of a TCP port."""
    return is_number(value, 1, 65535)


def is_number(value, low, high=None):
    """Whether this is a whole number between low and high, also as text: `-e x=5` gives text."""
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,18}", str(value)):
        return False
    return low <= int(value) and (high is None or int(value) <= high)


def is_address(value):
    """Whether this can be a mail address: a first look, the application is stricter."""
    if not isinstance(value, str) or len(value) > 254:
        return False
    local, _, domain = value.rpartition("@")
    label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    atom = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
    return len(local) <= 64 and all(
        re.fullmatch(pattern, part)
        for pattern, part in ((rf"{atom}(\.{atom})*", local), (rf"{label}(\.{label})+", domain))
    )


def is_budget(value):
    """Whether these are limits such as `5/minute; 20/hour`: a first look, the application is stricter."""
    limit = r"\s*[0-9]{1,6}\s*(/|\s*per\s*)\s*([0-9]{1,4}\s*)?(second|minute|hour|day|month)s?\s*"
    return isinstance(value, str) and re.fullmatch(rf"{limit}([,;|]{limit})*", value, re.IGNORECASE) is not None


def no_recipients(values):
    """What in this list is no address, domain or domain with a dot before it, quoted; all of it, if it is no list.

    A first look: the application is stricter.
    """
    if not isinstance(values, (list, tuple)):
        return [f"'{values}'"]
    return [f"'{value}'" for value in values if not _is_recipient(value)]


def _is_recipient(value):
    if not isinstance(value, str) or len(value) > 254:
        return False
    local, at, domain = value.rpartition("@")
    labels = domain.removeprefix("" if at else ".").split(".")
    return (
        (len(labels) > 1 or (not at and domain.startswith(".")))
        and all(re.fullmatch(r"\w([\w-]{0,61}\w)?", label) and "_" not in label for label in labels)
        and (not at or re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", local) is not None)
    )


def is_network(value):
    """Whether this is an address or a network, such as 192.0.2.1 or 2001:db8::/32."""
    try:
        ipaddress.ip_network(str(value))
    except ValueError:
        return False
    return True


def cluster_addresses(hosts, hostvars):
    """The addresses of those hosts that are part of a cluster, by host; one that is in no group of ours is not."""
    return {
        host: hostvars[host]["cluster_address"]
        for host in hosts
        if hostvars[host]["messaging_cluster"] and host in hostvars[host]["messaging_hosts"]
    }


def port_names(names, ports):
    """From {what has it: port}, what has one of these ports."""
    return " and ".join(name for name, port in names.items() if str(port) in map(str, ports))


def address_problems(addresses):
    """What is wrong with the addresses of the hosts of a cluster, from {host: address}."""
    problems = [f"{host} has '{address}'" for host, address in addresses.items() if not _is_host_address(address)]
    for address in sorted(set(map(str, addresses.values())) - {""}):
        hosts = [host for host, other in addresses.items() if str(other) == address]
        if len(hosts) > 1:
            problems.append(f"{' and '.join(hosts)} have {address}")
    return problems


def _is_host_address(value):
    try:
        address = ipaddress.IPv4Address(str(value))
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or address.is_reserved)


def is_opening(value):
    """Whether this is an entry of base_firewall_allow."""
    if not isinstance(value, dict) or not {"port"} <= set(value) <= {"port", "from", "protocol"}:
        return False
    sources = value.get("from", "0.0.0.0/0")
    sources = sources if isinstance(sources, (list, tuple)) else [sources]
    return (
        is_port(value["port"])
        and value.get("protocol", "tcp") in ("tcp", "udp")
        and len(sources) > 0  # an empty list would mean nobody or everybody
        and all(is_network(source) for source in sources)
    )


def is_timezone(value):
    """Whether the zone is known; a controller without any zone data believes what looks like one."""
    try:
        zoneinfo.ZoneInfo(str(value))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        return not known and re.fullmatch(r"[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*", str(value)) is not None
    return True


def taken_by(probe, port, expected):
    """Names of the processes that hold a port which should be free or belong to one of `expected`."""
    return [name for name in probe["listeners"].get(str(port), []) if name not in expected]


def read_secrets(names, directory, missing):
    """What the files of these names in a directory hold, by name; `missing` for one that is not there."""
    found = {}
    for name in names:
        try:
            found[name] = pathlib.Path(directory, name).read_text(encoding="utf-8").rstrip("\n")
        except FileNotFoundError:
            found[name] = missing
    return found


def made_here(made, values):
    """Of the secrets that the controller made, those whose values are used; an operator has set the others."""
    return {name: made[name] for name, value in values.items() if made[name] == value}


def by_path(secrets, paths):
    """The secrets that hosts have a file of, by its path."""
    return {path: secrets[name] for name, path in paths.items() if name in secrets}


def read_tls(directory, host, missing):
    """The authorities that hosts trust, and one host's certificate and key, as PEM; `missing` before they are made."""
    authority, own = read_secrets(["authority.pem", f"host-{host}.pem"], directory, "").values()
    return {
        "ca": _blocks(authority, "CERTIFICATE") or missing,
        "certificate": _blocks(own, "CERTIFICATE") or missing,
        "key": _blocks(own, "PRIVATE KEY") or missing,
    }


def _blocks(text, kind):
    blocks = re.findall(rf"-----BEGIN {kind}-----.*?-----END {kind}-----", text, re.DOTALL)
    return "".join(f"{block}\n" for block in blocks)


class FilterModule:
    def filters(self):
        return {
            "problems": problems,
            "is_port": is_port,
            "is_number": is_number,
            "is_address": is_address,
            "is_budget": is_budget,
            "no_recipients": no_recipients,
            "is_network": is_network,
            "cluster_addresses": cluster_addresses,
            "port_names": port_names,
            "address_problems": address_problems,
            "is_opening": is_opening,
            "is_timezone": is_timezone,
            "taken_by": taken_by,
            "read_secrets": read_secrets,
            "read_tls": read_tls,
            "made_here": made_here,
            "by_path": by_path,
        }
