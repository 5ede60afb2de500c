"""Addresses that callers give us."""

from email_validator import EmailNotValidError, validate_email

from messaging.mail.message import ENCODED_WORD

# RFC 5321 section 4.5.3.1: 64 for the local part, 255 for the domain, 256 for a path with its angle brackets
LONGEST_ADDRESS = 254


def list_entry(text: str) -> str:
    """An entry of a list of recipients as it is compared: in small letters, an internationalised domain in ASCII.

    It is an address, a domain (`example.com`) or all below a domain (`.example.com`).

    Raises:
        ValueError: it is none of these.
    """
    local, at, domain = text.rpartition("@")
    dot = "." if not at and domain.startswith(".") else ""
    try:
        checked = validate_email(
            f"{local if at else 'any'}@{domain.removeprefix(dot)}",
            check_deliverability=False,
            globally_deliverable=False,
            test_environment=True,
        )
    except EmailNotValidError:
        checked = None
    if checked is None or checked.ascii_email is None or (not dot and "." not in domain):
        raise ValueError(f"{text!r} is no address, no domain such as example.com, and no .example.com")
    return checked.ascii_email.lower() if at else f"{dot}{checked.ascii_domain}".lower()


def normalise(address: str, *, stays_on_host: bool) -> str:
    """`address` as it goes into the envelope, an internationalised domain in its ASCII form.

    Names that are reserved for tests are only good while mail stays on the host.

    Raises:
        ValueError: not an address, with a reason that its writer understands.
    """
    if not address:
        raise ValueError("an address is missing; write it like name@example.com")
    if len(address) > LONGEST_ADDRESS:
        raise ValueError(f"an address has at most {LONGEST_ADDRESS} characters, this one has {len(address)}")
    if ENCODED_WORD.search(address):
        raise ValueError("an address with an encoded word is not accepted; write it plainly")
    try:
        checked = validate_email(
            address, check_deliverability=False, allow_smtputf8=False, strict=True, test_environment=stays_on_host
        )
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None
    if checked.ascii_email is None:
        raise ValueError("the part before the @-sign must be ASCII")
    return checked.ascii_email
