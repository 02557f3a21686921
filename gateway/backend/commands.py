"""What MAIL and RCPT say to a server, and which extensions they need of it (RFC 5321 4.1.1, 1870, 6152, 6531, 3461).

They are what the client said, with one exception: whose message it is (AUTH) only a client can say that has
authenticated. Of any other it goes on as ``AUTH=<>``, for which a server may relay nothing (RFC 4954 5).
"""

from typing import Final

from gateway.session import Recipient, Transaction
from gateway.smtp.client import Capabilities
from gateway.smtp.path import Parameter

_DSN: Final = frozenset({"RET", "ENVID", "NOTIFY", "ORCPT"})
_NOTHING: Final[frozenset[str]] = frozenset()


def _needs(parameters: tuple[Parameter, ...]) -> frozenset[str]:
    needs = set()
    for parameter in parameters:
        if parameter.keyword == "BODY" and parameter.value is not None and parameter.value.upper() != "7BIT":
            needs.add(parameter.value.upper())
        elif parameter.keyword == "SMTPUTF8":
            needs.add("SMTPUTF8")
        elif parameter.keyword in _DSN:
            needs.add("DSN")
    return frozenset(needs)


def needed(transaction: Transaction, recipients: list[Recipient]) -> frozenset[str]:
    """The extensions that the parameters need from one end to the other: keywords that the server must offer."""
    needs = _needs(transaction.parameters) if transaction.parameters else _NOTHING
    for recipient in recipients:
        if recipient.parameters:
            needs |= _needs(recipient.parameters)
    return needs


def mail_command(transaction: Transaction, offered: Capabilities) -> str:
    """The MAIL command; without SIZE, AUTH and BODY=7BIT where the server does not offer them."""
    command = f"MAIL FROM:<{transaction.reverse_path.text}>"
    for parameter in transaction.parameters:
        extension = "8BITMIME" if parameter.keyword == "BODY" else parameter.keyword
        if extension in {"SIZE", "AUTH", "8BITMIME"} and extension not in offered.keywords:
            continue
        trusted = extension != "AUTH" or transaction.session.login is not None
        command += f" {parameter}" if trusted else " AUTH=<>"
    return command


def rcpt_command(recipient: Recipient) -> str:
    """The RCPT command."""
    command = f"RCPT TO:<{recipient.path.text}>"
    for parameter in recipient.parameters:
        command += f" {parameter}"
    return command
