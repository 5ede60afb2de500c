"""What the preflight says of a certificate and a key that nginx shall serve."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from rendering import evaluate

NAME = "mail.example.com"
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]


def certificate(*names: str, key: int = 0, begins: int = -1, ends: int = 10) -> str:
    """PEM; valid from and until so many days from now."""
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateBuilder(
        subject,
        subject,
        KEYS[key].public_key(),
        x509.random_serial_number(),
        now + timedelta(days=begins),
        now + timedelta(days=ends),
    )
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(KEYS[key], hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def private(key: int = 0, encryption: KeySerializationEncryption | None = None) -> str:
    """PEM."""
    encoded = KEYS[key].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return encoded.decode()


def problems(chain: str, key: str, name: str = NAME) -> list[str]:
    return list(evaluate("nginx", "chain | certificate_problems(key, name)", chain=chain, key=key, name=name))


@pytest.mark.parametrize("names", [(NAME,), ("other.example.com", NAME.upper()), ("*.example.com",)])
def test_what_fits_is_accepted(names: tuple[str, ...]) -> None:
    assert problems(certificate(*names), private()) == []
    issuer = certificate("issuer.example.com", key=1)
    assert problems(certificate(*names) + issuer, private()) == []


@pytest.mark.parametrize(
    ("chain", "key", "says"),
    [
        ("", private(), "nginx_tls_certificate: the file on the controller is missing"),
        ("no certificate", private(), "nginx_tls_certificate: the file on the controller is missing"),
        (certificate(NAME), "", "nginx_tls_key: the file on the controller is missing"),
        (certificate(NAME), certificate(NAME), "nginx_tls_key: the file on the controller is missing"),
        (certificate(NAME), private(encryption=BestAvailableEncryption(b"x")), "openssl pkey"),
        (certificate(NAME), private(1), "not the key of nginx_tls_certificate"),
        (certificate("issuer.example.com", key=1) + certificate(NAME), private(), "has to come first"),
        (certificate(NAME, begins=-9, ends=-1), private(), "has expired on 20"),
        (certificate(NAME, begins=1), private(), "not valid before 20"),
        (certificate("www.example.com"), private(), "is for www.example.com: set nginx_server_name"),
        (certificate("*.example.org", "*.mail.example.com", "*"), private(), "or get one for mail.example.com"),
        (certificate(), private(), "is for no host"),
    ],
)
def test_what_does_not_is_refused_with_the_fix(chain: str, key: str, says: str) -> None:
    [problem] = problems(chain, key)
    assert says in problem
    assert not [line for line in key.splitlines() if line in problem]
