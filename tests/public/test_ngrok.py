"""The public address through ngrok."""

from testinfra.host import Host


def test_names_of_the_internet_resolve(host: Host, internet: Host, edge: Host) -> None:
    for name in ("apt.ngrok.test", "connect.ngrok.test", "messaging.edge.test"):
        assert host.run("getent hosts %s", name).rc == 0, name
    assert internet.check_output("hostname") == "internet"
    assert edge.check_output("hostname") == "edge"
