"""Server groups, transactions and messages for tests of the backend layer."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

from gateway.adapters.dns.zone import ZoneResolver
from gateway.backend import Delivery, ServerGroup
from gateway.config.backend import BackendOptions
from gateway.resolver import Answer, ClientName, NameStatus, RecordType, Status
from gateway.session import Recipient, Session, Transaction
from gateway.smtp.path import NULL_REVERSE_PATH, Mailbox, Parameter, ReversePath
from gateway.smtp.reply import Reply

BODY = b"Subject: test\r\n\r\nHello\r\n"
ADDED = [b"Received: from client.example\r\n"]


class Zone:
    """A resolver of fixed answers; names not in it do not exist."""

    def __init__(self, answers: dict[tuple[str, RecordType], Answer] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[tuple[str, RecordType]] = []

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Answer from the table."""
        self.asked.append((name, record_type))
        return self.answers.get((name, record_type), Answer(Status.NXDOMAIN, (), 300))

    def known(self, name: str, record_type: RecordType) -> Answer | None:  # noqa: ARG002 - the interface
        """Nothing is at hand before it is asked."""
        return None


class Bytes:
    """The content of a message: in memory, or to be read in chunks of a size."""

    def __init__(self, octets: bytes, chunk: int | None = None) -> None:
        self.size = len(octets)
        self.parts: Sequence[bytes] | None = [octets] if chunk is None else None
        self._octets = octets
        self._chunk = chunk or 65_536

    @property
    def ends_with_newline(self) -> bool:
        """Whether the last line has its CRLF."""
        return not self._octets or self._octets.endswith(b"\r\n")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The octets from the start."""
        for start in range(0, self.size, self._chunk):
            yield self._octets[start : start + self._chunk]


async def _no_name(_address: str) -> ClientName:
    return ClientName(None, NameStatus.UNKNOWN)


def session(address: str = "192.0.2.7", **fields: Any) -> Session:
    """A client's session."""
    values: dict[str, Any] = {
        "id": "s1",
        "listener": "127.0.0.1:25",
        "client_address": ip_address(address),
        "client_port": 4711,
        "server_address": "127.0.0.1:25",
        "started": 0.0,
        "resolver": ZoneResolver({}),
        "find_client_name": _no_name,
        "client_name": ClientName("client.example", NameStatus.CONFIRMED),
        "helo_name": "helo.example",
        "extended": True,
    }
    return Session(**(values | fields))


def mailbox(text: str) -> Mailbox:
    """An address."""
    local_part, _, domain = text.rpartition("@")
    return Mailbox(text, local_part, domain.lower())


def parameters(text: str) -> tuple[Parameter, ...]:
    """Parameters as a client writes them."""
    pairs = [word.partition("=") for word in text.split()]
    return tuple(Parameter(keyword.upper(), value if equals else None) for keyword, equals, value in pairs)


def transaction(sender: str | None = "a@sender.example", words: str = "", of: Session | None = None) -> Transaction:
    """A transaction; a sender of None is the null reverse-path."""
    path: ReversePath = NULL_REVERSE_PATH if sender is None else mailbox(sender)
    return Transaction(id="s1.1", session=of or session(), reverse_path=path, parameters=parameters(words), started=0.0)


def recipient(address: str = "alice@example.com", words: str = "") -> Recipient:
    """A recipient."""
    return Recipient(path=mailbox(address), parameters=parameters(words))


def options(*servers: object, **fields: Any) -> BackendOptions:
    """Options with short time-outs; a number is a port of 127.0.0.1."""
    hops = [f"127.0.0.1:{server}" if isinstance(server, int) else str(server) for server in servers]
    timeouts = {"connect": "5s", "greeting": "5s", "command": "5s", "data_block": "5s", "end_of_data": "5s"}
    return BackendOptions(servers=hops, **({"timeouts": timeouts} | fields))


def short(**limits: str) -> dict[str, str]:
    """Time-outs of which some are so short that a stall is seen at once."""
    return {"connect": "5s", "greeting": "5s", "command": "5s", "data_block": "5s", "end_of_data": "5s"} | limits


@asynccontextmanager
async def group(*servers: object, zone: Zone | None = None, **fields: Any) -> AsyncIterator[ServerGroup]:
    """A started group, stopped at the end."""
    made = ServerGroup("test", options(*servers, **fields), zone or Zone(), "gateway.example")
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def deliver(
    servers: ServerGroup,
    body: bytes = BODY,
    to: str = "alice@example.com",
    words: str = "",
    of: Session | None = None,
    chunk: int | None = None,
) -> tuple[Reply, Delivery]:
    """Deliver one message to one recipient; returns the reply that ended it, and the delivery."""
    delivery = servers.delivery(transaction(words=words, of=of))
    answer = await delivery.recipient(recipient(to))
    if answer.is_positive:
        answer = await delivery.send(ADDED, Bytes(body, chunk))
    return answer, delivery
