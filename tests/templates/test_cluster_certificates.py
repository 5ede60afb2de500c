"""The certificates of a cluster: good for what they are for, and made again when they have to be."""

import datetime
import ssl
from pathlib import Path
from typing import Any

import pytest

from rendering import cluster, evaluate, everything_on, load_module

HOSTS = {"vm1.example.com": "10.0.0.1", "vm2": "10.0.0.2"}
BOTH = ["host-vm1.example.com.pem", "host-vm2.pem"]


@pytest.fixture
def module() -> Any:
    return load_module("base/library/cluster_certificates.py")


@pytest.fixture
def later(module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets days go by."""
    begin = module.now()

    def go(days: int) -> None:
        monkeypatch.setattr(module, "now", lambda: begin + datetime.timedelta(days=days))

    return go


def run(module: Any, directory: Path, hosts: dict[str, str]) -> list[str]:
    """Names of the files that changed."""
    files = module.plan(str(directory), hosts)
    for name, pairs in files.items():
        module.write(str(directory / name), pairs)
    return sorted(files)


def texts(directory: Path, host: str) -> dict[str, str]:
    """What the host gets."""
    return dict(evaluate("base", f"'{directory}' | read_tls('{host}', 'stand-in')"))


def handshake(directory: Path, server: str, asked: str, trusted: str) -> None:
    """Python's own client, as strict as that of 3.13, asks a server in memory."""
    files = directory / "texts.pem"
    files.write_text(texts(directory, server)["certificate"] + texts(directory, server)["key"])
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(files)
    asking = ssl.create_default_context(cadata=trusted)
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(to_client, to_server, server_hostname=asked)
    other = serving.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_files_are_closed_and_stay(module: Any, tmp_path: Path) -> None:
    assert run(module, tmp_path, HOSTS) == ["authority.pem", *BOTH]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["authority.pem", *BOTH], "nothing is left over"
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o600"}
    assert run(module, tmp_path, HOSTS) == []


@pytest.mark.parametrize("asked", ["10.0.0.1", "vm1.example.com"])
def test_a_host_is_believed_under_its_address_and_its_name(module: Any, tmp_path: Path, asked: str) -> None:
    run(module, tmp_path, HOSTS)
    handshake(tmp_path, "vm1.example.com", asked, texts(tmp_path, "vm2")["ca"])


def test_no_other_name_or_authority_is_believed(module: Any, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for directory in (tmp_path, tmp_path / "other"):
        run(module, directory, HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path, "vm1.example.com", "10.0.0.2", texts(tmp_path, "vm2")["ca"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, "vm1.example.com", "10.0.0.1", texts(tmp_path / "other", "vm2")["ca"])


def test_a_host_gets_its_own_key_and_not_that_of_the_authority(module: Any, tmp_path: Path) -> None:
    assert texts(tmp_path, "vm2") == {"ca": "stand-in", "certificate": "stand-in", "key": "stand-in"}
    run(module, tmp_path, HOSTS)
    got = texts(tmp_path, "vm2")
    assert got["key"] in (tmp_path / "host-vm2.pem").read_text()
    assert [text.count("-----BEGIN") for text in got.values()] == [1, 1, 1]
    assert got["key"] not in (tmp_path / "authority.pem").read_text()
    assert "PRIVATE" not in got["ca"] + got["certificate"]


def test_another_address_and_another_host_get_new_ones(module: Any, tmp_path: Path) -> None:
    run(module, tmp_path, HOSTS)
    assert run(module, tmp_path, {**HOSTS, "vm2": "10.0.0.9", "vm3": "10.0.0.3"}) == ["host-vm2.pem", "host-vm3.pem"]


def test_a_file_that_is_broken_is_made_again(module: Any, tmp_path: Path) -> None:
    run(module, tmp_path, HOSTS)
    (tmp_path / "host-vm2.pem").write_text((tmp_path / "host-vm1.example.com.pem").read_text()[:-40])
    assert run(module, tmp_path, HOSTS) == ["host-vm2.pem"]
    (tmp_path / "authority.pem").unlink()
    assert run(module, tmp_path, HOSTS) == ["authority.pem", *BOTH], "what nobody trusts is made again"


@pytest.mark.parametrize("text", ["", "garbage\n", "-----BEGIN PRIVATE KEY-----\ngarbage\n"])
def test_an_authority_that_cannot_be_read_is_kept(module: Any, tmp_path: Path, text: str) -> None:
    run(module, tmp_path, HOSTS)
    (tmp_path / "authority.pem").write_text(text)
    with pytest.raises(ValueError, match=r"authority\.pem is no authority of ours: bring it back"):
        module.plan(str(tmp_path), HOSTS)


def test_a_host_outside_the_groups_gets_none() -> None:
    values = cluster({"vm1": "10.0.0.1", "vm2": "10.0.0.2", "other": ""}, everything_on("vm1", "vm2"))
    assert evaluate("base", "__base_tls_hosts", **values) == {"vm1": "10.0.0.1", "vm2": "10.0.0.2"}


def test_a_certificate_is_made_again_three_months_before_its_end(module: Any, later: Any, tmp_path: Path) -> None:
    run(module, tmp_path, HOSTS)
    later(730 - 91)
    assert run(module, tmp_path, HOSTS) == []
    later(730 - 89)
    assert run(module, tmp_path, HOSTS) == BOTH


def test_the_next_authority_is_known_to_all_before_it_signs(module: Any, later: Any, tmp_path: Path) -> None:
    run(module, tmp_path, HOSTS)
    first = texts(tmp_path, "vm2")["ca"]
    later(3650 - 730 - 365 + 1)
    assert "authority.pem" in run(module, tmp_path, HOSTS)
    both = texts(tmp_path, "vm2")["ca"]
    assert both.startswith(first)
    assert both.count("-----BEGIN") == 2
    assert signers(module, tmp_path, "vm2") == [True, False]

    later(3650 - 730 + 1)
    run(module, tmp_path, {**HOSTS, "vm2": "10.0.0.9"})
    assert texts(tmp_path, "vm2")["ca"] == both
    assert signers(module, tmp_path, "vm2") == [False, True]

    later(3650 + 1)
    run(module, tmp_path, {**HOSTS, "vm3": "10.0.0.3"})
    assert signers(module, tmp_path, "vm3") == [False, True], "one that has ended signs nothing and harms nothing"


def signers(module: Any, directory: Path, host: str) -> list[bool]:
    """Of each authority, whether the host's certificate is its."""
    [(_, certificate)] = module.read(directory / f"host-{host}.pem")
    return [module.signed_by(certificate, authority) for _, authority in module.read(directory / "authority.pem")]
