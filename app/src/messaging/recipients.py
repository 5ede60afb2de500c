"""Whom mail may go to, and when two addresses are one mailbox."""

from collections.abc import Sequence

from messaging.addresses import normalise
from messaging.settings import Settings

# Dots mean nothing there, and the two domains are one
# Source: https://support.google.com/mail/answer/7436150
_GMAIL = frozenset({"gmail.com", "googlemail.com"})


def accepted(address: str, settings: Settings) -> str:
    """`address` as it goes into the envelope, if mail may go there.

    Raises:
        ValueError: not an address, or not one that mail may go to; with a reason that its writer understands.
    """
    normal = normalise(address, stays_on_host=settings.mail_embedded)
    refused = _named(normal, settings.recipients_deny) or _same_mailbox(normal, settings.recipients_deny)
    # who allows an address means this one: with another tag it may be somebody else's
    if refused or (settings.recipients_allow and not _named(normal, settings.recipients_allow)):
        # which of the lists says so is nobody's business
        raise ValueError("mail to this address is not accepted here")
    return normal


def mailbox(address: str) -> str:
    """The mailbox that an address most likely leads to: case, a +tag, and dots at Gmail make no difference.

    Source: https://www.rfc-editor.org/rfc/rfc5233 (subaddresses)
    """
    local, _, domain = address.lower().rpartition("@")
    local = local.partition("+")[0] or local
    return f"{local.replace('.', '')}@gmail.com" if domain in _GMAIL else f"{local}@{domain}"


def _named(address: str, entries: Sequence[str]) -> bool:
    """Whether an entry is the address, its domain, or a domain above that with a dot before it."""
    address = address.lower()
    domain = address.rpartition("@")[2]
    names = {address, domain, *(domain[at:] for at, letter in enumerate(domain) if letter == ".")}
    return not names.isdisjoint(entries)


def _same_mailbox(address: str, entries: Sequence[str]) -> bool:
    """Whether an address among the entries is the same mailbox; one with a tag stands for itself only."""
    box = mailbox(address)
    return any("@" in entry and "+" not in entry and mailbox(entry) == box for entry in entries)
