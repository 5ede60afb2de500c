"""Filters for the role nginx."""

import re
from datetime import datetime, timezone

# cryptography is imported where it is used: Ansible loads this file for every task, and that takes longer than most do


def is_hostname(value):
    """Whether this is a full name of a host, as a certificate has it."""
    label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    return len(str(value)) <= 253 and re.fullmatch(rf"{label}(\.{label})+", str(value)) is not None


def certificate_problems(certificate, key, name):
    """What keeps nginx from serving `name` with this certificate and key, both PEM: sentences, without any secret."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        chain = x509.load_pem_x509_certificates((certificate or "").encode())
    except ValueError:
        return ["nginx_tls_certificate: the file on the controller is missing or holds no certificate in PEM form"]
    try:
        own = _public(load_pem_private_key((key or "").encode(), None))
    except TypeError:
        return ["nginx_tls_key: the key has a passphrase; take it off: openssl pkey -in <file> -out <new file>"]
    except ValueError:
        return ["nginx_tls_key: the file on the controller is missing or holds no private key in PEM form"]
    matching = [number for number, one in enumerate(chain) if _public(one) == own]
    if not matching:
        return ["nginx_tls_key is not the key of nginx_tls_certificate: give the two that were made together"]
    problems = []
    if matching[0] != 0:
        problems.append("nginx_tls_certificate: the host's own certificate has to come first, its issuers after it")
    leaf, now = chain[matching[0]], datetime.now(timezone.utc)
    if leaf.not_valid_after_utc <= now:
        problems.append(f"nginx_tls_certificate has expired on {leaf.not_valid_after_utc:%Y-%m-%d}: get a new one")
    if leaf.not_valid_before_utc > now:
        begins = f"{leaf.not_valid_before_utc:%Y-%m-%d}"
        problems.append(f"nginx_tls_certificate is not valid before {begins}: look at the clocks")
    names = _names(leaf)
    if name and not any(_covers(each, name) for each in names):
        told = ", ".join(names) or "no host"
        problems.append(f"nginx_tls_certificate is for {told}: set nginx_server_name to that, or get one for {name}")
    return problems


def _public(holder):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _names(certificate):
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def _covers(pattern, name):
    pattern, name = pattern.lower(), name.lower()
    return pattern == name or (pattern.startswith("*.") and pattern[2:] == name.partition(".")[2])


class FilterModule:
    def filters(self):
        return {"is_hostname": is_hostname, "certificate_problems": certificate_problems}
