"""Who locks himself out by the firewall is let in again, and whoever empties all tables has it back."""

from testinfra.host import Host

from faulty import converge, refused
from probe import wait_until


def _rules(host: Host) -> str:
    return str(host.run("nft list table inet messaging").stdout)


def test_rules_that_lock_out_are_taken_back(host: Host) -> None:
    """The playbook is made to believe that SSH is somewhere else."""
    kept = "/etc/nftables.d/messaging.nft"
    try:
        converge("--tags", "base", base_firewall="nftables")
        right = _rules(host), host.file(kept).content_string
        assert 'tcp dport 22 accept comment "SSH"' in right[0]
        wrong = refused("--tags", "base", base_firewall="nftables", __base_ssh_ports=[4], __base_firewall_seconds=15)
        assert "base_firewall_ssh_ports" in wrong, wrong
        wait_until(lambda: _rules(host) == right[0], "the rules from before are back", 30)
        assert host.file(kept).content_string == right[1], "nor do the wrong ones come with a reboot"
        # the distribution's own unit begins by emptying all tables
        host.check_output("systemctl restart nftables.service")
        assert _rules(host) == right[0], "they come back after it"
    finally:
        host.run("systemctl stop nftables.service")
        converge("--tags", "base", base_firewall="none")
    assert _rules(host) == ""
