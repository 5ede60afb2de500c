"""certificates.py FOLDER NAME[,NAME...]...: an authority of this run, and a certificate from it for each list of names.

Writes ca.crt, and <first name>.crt and <first name>.key for each list. One that ended an hour ago is asked for as
expired=NAME[,NAME...]; its files are expired.crt and expired.key. The authority's key is not kept.
"""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey
WEEK = timedelta(days=7)
EXPIRED = "expired="


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: str, key: Key, issuer: str, issuer_key: Key, *extensions: x509.ExtensionType, ends: timedelta = WEEK
) -> bytes:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        _name(issuer),
        _name(subject),
        key.public_key(),
        x509.random_serial_number(),
        now - timedelta(hours=2),
        now + ends,
    )
    identifiers = (
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
    )
    for extension in (*extensions, *identifiers):
        builder = builder.add_extension(
            extension, critical=isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
        )
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def main(folder: Path, *lists: str) -> None:
    """Write the files; a private key is readable by its owner only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority, authority_key = "Test authority of messaging-system", ec.generate_private_key(ec.SECP256R1())
    for wanted in lists:
        names = wanted.removeprefix(EXPIRED).split(",")
        expired = wanted.startswith(EXPIRED)
        file_name = "expired" if expired else names[0]
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        ends = timedelta(hours=-1) if expired else WEEK
        certificate = _certificate(names[0], key, authority, authority_key, alternatives, ends=ends)
        (folder / f"{file_name}.crt").write_bytes(certificate)
        file = folder / f"{file_name}.key"
        file.touch(0o600)
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    rights = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    # Last: it is what tells that all of them are there.
    certificate = _certificate(authority, authority_key, authority, authority_key, constraints, rights)
    (folder / "ca.crt").write_bytes(certificate)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
