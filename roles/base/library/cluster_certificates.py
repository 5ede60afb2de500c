#!/usr/bin/python
"""Ansible module: an authority of our own on the controller, and a certificate for each host of a cluster."""

import datetime
import ipaddress
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    MISSING = None
except ImportError:
    MISSING = missing_required_lib("cryptography")

DOCUMENTATION = r"""
module: cluster_certificates
short_description: An authority of our own, and a certificate for each host of a cluster
description:
  - C(authority.pem) and C(host-<name>.pem) hold a private key and its certificate each; they are 0600 in a directory
    0700. A host's certificate is good for its name and its address, as a server and as a client.
  - A certificate stays until it comes close to its end, or until the host's address is another one.
  - An authority lasts ten years. After seven a second one joins it in the file, and hosts trust both. It signs only
    when the first one would not outlast a host's certificate, which is a year later, when every host knows it.
  - Nothing of what is in the files is in the result. Supports check mode.
options:
  directory: {description: Where the files are., type: path, required: true}
  hosts: {description: Names of the hosts to their IPv4 addresses., type: dict, required: true}
author:
  - messaging-system
"""

EXAMPLES = r"""
- name: Make the certificates of the cluster
  cluster_certificates:
    directory: secrets/inventory/tls
    hosts: {vm1.example.com: 10.0.0.1, vm2.example.com: 10.0.0.2}
"""

RETURN = r"""
changed_names:
  description: Names of the files that changed, or would change in check mode.
  type: list
  elements: str
  returned: always
"""

DAY = datetime.timedelta(days=1)
HOST_DAYS = 730
HOST_DAYS_LEFT = 90
AUTHORITY_DAYS = 3650
# a year more than a host's certificate lasts: in that year every host learns of the next authority
AUTHORITY_DAYS_LEFT = HOST_DAYS + 365


def now():
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def read(path):
    """The pairs of key and certificate in a file, in their order; none where there is no file, or another one."""
    try:
        with open(path, "rb") as stream:
            text = stream.read()
        blocks = [b"-----BEGIN PRIVATE KEY" + block for block in text.split(b"-----BEGIN PRIVATE KEY")[1:]]
        return [(load_pem_private_key(block, None), x509.load_pem_x509_certificate(block)) for block in blocks]
    except (FileNotFoundError, ValueError):
        return []


def write(path, pairs):
    """The file is there with all of its content, or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as stream:
            for key, certificate in pairs:
                stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
                stream.write(certificate.public_bytes(Encoding.PEM))
            stream.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def days_left(certificate):
    return (certificate.not_valid_after_utc - now()) / DAY


def subject(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def key_usage(authority):
    """What a key may do. Source: https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.3"""
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def begin(key, name, issuer, issuer_key, days):
    """What both kinds of certificates have; Python 3.13 refuses those without the identifiers of the keys."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - DAY)  # a host's clock may be behind
        .not_valid_after(now() + days * DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def make_authority():
    key = ec.generate_private_key(ec.SECP256R1())
    # another name for the next one: who looks for an issuer looks for its name
    name = "messaging-system {0:%Y-%m-%d}".format(now())
    certificate = (
        begin(key, name, subject(name), key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def make_host(name, address, authority):
    key = ec.generate_private_key(ec.SECP256R1())
    authority_key, issuer = authority
    certificate = (
        begin(key, name, issuer.subject, authority_key.public_key(), HOST_DAYS)
        .add_extension(names_of(name, address), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    return key, certificate


def names_of(name, address):
    return x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))])


def signed_by(certificate, authority):
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_good(pairs, name, address, authorities):
    """Whether this is the host's key and certificate, and not close to its end."""
    if len(pairs) != 1:
        return False
    key, certificate = pairs[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return (
        key.public_key() == certificate.public_key()
        and names == names_of(name, address)
        and days_left(certificate) > HOST_DAYS_LEFT
        and any(signed_by(certificate, authority) for _, authority in authorities)
    )


def plan(directory, hosts):
    """What is to be written: name of the file to its pairs.

    Raises ValueError where an authority is there that cannot be read: hosts with another one would believe nobody.
    """
    files = {}
    path = os.path.join(directory, "authority.pem")
    known = read(path)
    if not known and os.path.lexists(path):
        raise ValueError(
            "{0} is no authority of ours: bring it back from a copy. Where there is none, remove the file and run this "
            "on all hosts at once, without --limit: they get a new one".format(path)
        )
    authorities = [pair for pair in known if days_left(pair[1]) > 0]
    if not authorities or days_left(authorities[-1][1]) < AUTHORITY_DAYS_LEFT:
        authorities.append(make_authority())
        files["authority.pem"] = authorities
    signer = next(pair for pair in authorities if days_left(pair[1]) > HOST_DAYS)
    for name, address in hosts.items():
        file = "host-{0}.pem".format(name)
        if not is_good(read(os.path.join(directory, file)), name, address, authorities):
            files[file] = [make_host(name, address, signer)]
    return files


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "hosts": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=MISSING)
    directory = module.params["directory"]
    try:
        files = plan(directory, module.params["hosts"])
        if files and not module.check_mode:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            for name, pairs in files.items():
                write(os.path.join(directory, name), pairs)
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or directory, error.strerror or error))
    except ValueError as error:  # no address, or no authority
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(files), changed_names=sorted(files))


if __name__ == "__main__":
    main()
