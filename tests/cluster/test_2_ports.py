"""Who can connect to what: the hosts of the inventory to each other's services, strangers to nginx alone."""

from system import OUTSIDE, SERVICE_PORTS, address, answering, everybody, host, listening, members, service_places

WEB = 80
# Where the services listen that a single host has, and what the distribution would open
USUAL = {1883, 2525, 4369, 5671, 5672, 6379, 8000, 8080, 8081, 9180, 15672, 15692, 25672, 26379}


def test_strangers_reach_nginx_and_nothing_else() -> None:
    places = {(address(name), port) for name in everybody() for port in USUAL | {WEB} | listening(name)}
    expected = sorted((address(name), WEB) for name in members("nginx"))
    assert answering(OUTSIDE, places) == expected


def test_the_hosts_reach_each_other() -> None:
    places = service_places()
    for name in everybody():
        assert answering(name, places) == sorted(places), f"seen from {name}"


def test_each_host_listens_for_what_it_has_only() -> None:
    for name in everybody():
        expected = {port for group, ports in SERVICE_PORTS.items() if name in members(group) for port in ports}
        expected |= {WEB} if name in members("nginx") else set()
        assert listening(name) == expected, name


def test_another_address_does_not_help() -> None:
    """One that nobody has is no host of the inventory, though it is of the same network."""
    outside = host(OUTSIDE)
    outside.check_output("ip address add 10.77.200.77/24 dev eth0")
    try:
        for name in everybody():
            outside.check_output("ip route add %s/32 dev eth0 src 10.77.200.77", address(name))
        assert answering(OUTSIDE, service_places()) == []
    finally:
        for name in everybody():
            outside.run("ip route del %s/32", address(name))
        outside.run("ip address del 10.77.200.77/24 dev eth0")


def test_ipv6_is_no_way_round() -> None:
    outside = host(OUTSIDE)
    for name in everybody():
        listed = host(name).check_output("ip -6 -oneline address show dev eth0 scope link")
        if not listed:
            continue
        place = listed.split()[3].partition("/")[0] + "%eth0"
        for port in sorted(USUAL | listening(name) - {WEB}):
            said = outside.run("python3 -c %s %s %s", _CONNECT_6, place, str(port))
            assert said.rc != 0, f"{name}: {place} port {port}"


_CONNECT_6 = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"
