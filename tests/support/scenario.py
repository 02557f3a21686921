"""Scenarios: a configuration, a conversation and the record it leaves, as a mail administrator reads them.

A file of ``tests/scenarios`` holds one YAML document for each scenario:

``holds``       what it shows, in a sentence
``config``      the configuration, as far as it is not the common one (``_COMMON``); each key replaces the common key
``zone``        the DNS (``gateway.adapters.dns.zone``)
``clock``       the time, ``2026-01-01T12:00:00Z`` unless given
``files``       names and contents of files beside the configuration
``backends``    the servers behind the gateway, ``{backend: {}}`` unless given. ``says`` gives replies by the beginning
                of the command (``end`` is the end of data; ``hang up`` closes), ``offers`` what EHLO offers,
                ``up: false`` refuses connections; every other key is the configuration's
``client``      the client's address, ``192.0.2.1`` unless given
``session``     the conversation; or ``sessions``, a list of mappings with ``client``, ``listener`` (its number) and
                ``session``
``backend``     what the backends received, in order: commands, and messages as text of several lines
``records``     what the decision records say: the keys that are given are compared (see ``summary``)
``explain``     true: ``explain`` is asked about the same envelope, and must come to the same replies and record

A conversation is lines ``C: command`` and ``S: reply``. It is compared as a whole; references are written ``ID``. What
the client sends without reading in between leaves in one write. In angle brackets stand things that are no line:
``C: <close>`` the client closes, ``C: <end>`` it sends nothing more, ``C: <octets "...">`` octets as Python writes
them, without a line end, ``C: <lines N>`` so many lines of 80 octets, ``C: <tls>`` the handshake, ``C: <clock TIME>``
the time is another, ``S: <close>`` the server closes.

The conversation goes through the SMTP door of a worker, on loopback. The client's address comes by the PROXY protocol.
"""

import ast
import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, Final, Self, cast

import trustme
from ruamel.yaml import YAML

from gateway.adapters.dns.zone import ZoneResolver
from gateway.config.load import loads
from gateway.config.model import Config
from gateway.config.registry import Registry
from gateway.explain import Attempt, Explanation, explain
from gateway.policy import OnError, Options, Policy
from gateway.records import DecisionRecord, encode
from gateway.session import Message, Recipient, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.testing import NOON, SettableClock
from gateway.verdict import Action, Finding, Outcome
from gateway.worker import Worker
from policies.access import Access
from policies.dkim import Dkim
from policies.dmarc import Dmarc
from policies.limits import Limits
from policies.loop import Loop
from policies.recipient import KnownRecipient
from policies.relay import Relay
from policies.sender_domain import SenderDomain
from policies.size import Size
from policies.spf import Spf

_COMMON: Final[dict[str, Any]] = {
    "hostname": "mx.example.com",
    "domains": {"example.com": {}},
    "policies": [],
    "listeners": [{}],
    "records": {"stdout": False},
    "recipient_lists": {"folder": "lists"},
}
_WITHIN: Final = 20.0
_ID: Final = re.compile(r'\b[0-9A-HJKMNP-TV-Z]{14}(?=[.\]\s;"]|$)')
_TLS_LINE: Final = re.compile(r"using TLSv1\.\d with cipher \S+ \(\d+ bits\)")


# The policies of scenarios: one for each stage, which find what they are told to look for.


class LookOptions(Options):
    """What to look for: a pattern in the client's address, HELO name, sender, recipient, or the message's header."""

    match: str = ""
    brings: tuple[str, ...] = ()
    fails: bool = False
    stalls: bool = False


class _Look(Policy[LookOptions]):
    """Finds what matches, and brings header fields along; or fails, or never ends."""

    writes = ("X-Spam-Score", "X-Spam-Level", "Subject")

    on_error = OnError.DEFER
    found: ClassVar[Outcome] = Outcome("found", Action.REJECT, Reply(550, "5.7.1", "Found"), "It matches.")

    async def look(self, text: str) -> Finding | None:
        if re.search(self.options.match, text) is None:
            return None
        if self.options.stalls:
            await asyncio.Event().wait()
        if self.options.fails:
            raise RuntimeError("the scanner is\r\n250 broken")
        return self.found(fields=self.options.brings, text=text)


class AtConnect(_Look):
    name = "at_connect"

    async def on_connect(self, session: Session) -> Finding | None:
        return await self.look(str(session.client_address))


class AtHelo(_Look):
    name = "at_helo"

    async def on_helo(self, session: Session) -> Finding | None:
        return await self.look(session.helo_name or "")


class AtMail(_Look):
    name = "at_mail"

    async def on_mail(self, transaction: Transaction) -> Finding | None:
        return await self.look(f"<{transaction.reverse_path}>")


class AtRcpt(_Look):
    name = "at_rcpt"

    async def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Finding | None:
        return await self.look(f"{transaction.reverse_path} {recipient.path}")


class AtData(_Look):
    name = "at_data"

    async def on_data(self, transaction: Transaction) -> Finding | None:
        return await self.look(str(transaction.reverse_path))


class AtMessage(_Look):
    name = "at_message"

    async def on_message(self, transaction: Transaction, message: Message) -> Finding | None:
        return await self.look(f"{transaction.reverse_path} {message.header.decode('latin-1')}")


class Named(Policy[Options]):
    """Has the client's name looked up."""

    name = "named"

    async def on_mail(self, transaction: Transaction) -> Finding | None:
        await transaction.session.resolve_client_name()
        return None


REGISTRY: Final = Registry.of(
    AtConnect,
    AtHelo,
    AtMail,
    AtRcpt,
    AtData,
    AtMessage,
    Named,
    Access,
    Dkim,
    Dmarc,
    Limits,
    Loop,
    KnownRecipient,
    Relay,
    SenderDomain,
    Size,
    Spf,
)


# The servers behind the gateway.


class ScriptedBackend:
    """A server that says what it is told to say, and notes what it is told.

    Attributes:
        says: Replies by the beginning of a command; the longest beginning counts. ``end`` is the end of data.
        heard: Each transaction's commands and message, in the order of their coming.
    """

    def __init__(self, says: Mapping[str, str], offers: Sequence[str], *, lmtp: bool, heard: list[str]) -> None:
        self.says = says
        self.heard = heard
        self.port = 0
        self._offers = offers
        self._lmtp = lmtp
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self, *, up: bool) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        if not up:
            server.close()
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 backend.example.com ESMTP\r\n")
        recipients = 0
        while line := await reader.readline():
            command = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            verb = command.split(" ")[0].upper()
            if verb in {"MAIL", "RCPT", "DATA", "BDAT"}:
                self.heard.append(command)
            match verb:
                case "EHLO" | "LHLO":
                    lines = ["backend.example.com", *self._offers]
                    reply = "\n".join([*(f"250-{each}" for each in lines[:-1]), f"250 {lines[-1]}"])
                case "DATA":
                    reply = self._reply(command, "354 Go on")
                    if reply.startswith("354"):
                        writer.write(reply.encode() + b"\r\n")
                        reply = await self._message(reader, recipients)
                case "BDAT":
                    self.heard.append((await reader.readexactly(int(command.split(" ")[1]))).decode("latin-1"))
                    reply = self._reply("end", "250 2.0.0 Ok: queued as 4F1B2C")
                case _:
                    reply = self._reply(command, "250 2.0.0 Ok")
            recipients = 0 if verb == "MAIL" else recipients + (verb == "RCPT" and reply.startswith("2"))
            if reply == "hang up":
                return
            writer.write(reply.replace("\n", "\r\n").encode() + b"\r\n")
            await writer.drain()
            if verb == "QUIT":
                return

    async def _message(self, reader: asyncio.StreamReader, recipients: int) -> str:
        lines: list[bytes] = []
        while (line := await reader.readline()) != b".\r\n":
            if not line:
                raise ConnectionResetError
            lines.append(line.removeprefix(b"."))
        self.heard.append(b"".join(lines).decode("utf-8", "surrogateescape"))
        reply = self._reply("end", "250 2.0.0 Ok: queued as 4F1B2C")
        return "\n".join([reply] * recipients) if self._lmtp else reply

    def _reply(self, command: str, good: str) -> str:
        beginnings = [beginning for beginning in self.says if command.startswith(beginning)]
        return self.says[max(beginnings, key=len)] if beginnings else good


# A scenario.


@dataclass(slots=True)
class Outcomes:
    """What came of a scenario."""

    transcripts: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    records: list[DecisionRecord] = field(default_factory=list)


class _Sink:
    lost = 0

    def __init__(self, records: list[DecisionRecord]) -> None:
        self._records = records

    def write(self, record: DecisionRecord) -> None:
        encoded = encode(record)
        assert b"\n" not in encoded
        assert json.loads(encoded)["id"] == record.id
        self._records.append(record)

    async def close(self) -> None:
        pass


class Scenario:
    """One document of a file."""

    KEYS: ClassVar = {
        "holds", "config", "zone", "clock", "files", "backends", "client", "session", "sessions", "backend", "records",
        "explain",
    }  # fmt: skip

    def __init__(self, name: str, document: Mapping[str, Any]) -> None:
        unknown = set(document) - self.KEYS
        assert not unknown, f"{name}: {unknown}"
        self.name = name
        self.document = document
        first = {"client": document.get("client", "192.0.2.1"), "session": document.get("session", "")}
        self.sessions: list[dict[str, Any]] = document.get("sessions") or [first]

    @property
    def clock(self) -> float:
        """The time at its beginning."""
        return _time(self.document["clock"]) if "clock" in self.document else NOON

    def config(self, folder: Path, backends: Mapping[str, ScriptedBackend]) -> Config:
        """Its configuration, with the ports of the backends."""
        made = _COMMON | self.document.get("config", {})
        made["listeners"] = [
            {"smtp": f"127.0.0.{index}:0", "proxy_protocol": {"trusted": ["127.0.0.0/8"]}} | listener
            for index, listener in enumerate(made["listeners"], 1)
        ]
        own = self.document.get("backends", {"backend": {}})
        made["backends"] = {
            name: {"servers": [f"127.0.0.1:{backend.port}"]}
            | {key: value for key, value in own[name].items() if key not in {"says", "offers", "up"}}
            for name, backend in backends.items()
        }
        for name, content in self.document.get("files", {}).items():
            (folder / name).write_text(content)
        return loads(json.dumps(made), folder / "lychgate.yaml", registry=REGISTRY)

    async def run(self, folder: Path) -> Outcomes:
        """Walk it through the SMTP door of a worker."""
        outcomes = Outcomes()
        authority = trustme.CA()
        if "tls" in json.dumps(self.document.get("config", {})):
            certificate = authority.issue_cert("mx.example.com")
            certificate.private_key_and_cert_chain_pem.write_to_path(folder / "mx.pem")
        async with AsyncExitStack() as stack:
            backends: dict[str, ScriptedBackend] = {}
            for name, options in self.document.get("backends", {"backend": {}}).items():
                offers = options.get("offers", ["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE", "DSN", "CHUNKING"])
                backend = ScriptedBackend(
                    options.get("says", {}), offers, lmtp=options.get("protocol") == "lmtp", heard=outcomes.heard
                )
                backends[name] = await stack.enter_async_context(backend.serving(up=options.get("up", True)))
            config = self.config(folder, backends)
            clock = SettableClock(self.clock)
            sockets = [[_listening(listener.smtp.host)] for listener in config.listeners]
            ports = [(each.getsockname()[0], each.getsockname()[1]) for (each,) in sockets]
            resolver = ZoneResolver(self.document.get("zone", {}))
            worker = Worker(config, sockets, sink=_Sink(outcomes.records), resolver=resolver, clock=clock)
            await worker.start()
            try:
                for session in self.sessions:
                    talk = _Talk(clock, authority)
                    await talk.hold(ports[session.get("listener", 1) - 1], session)
                    outcomes.transcripts.append("\n".join(talk.lines))
                    await _ended(worker)
            finally:
                await worker.stop(_WITHIN)
        return outcomes

    async def explain(self, folder: Path) -> Explanation:
        """Ask ``explain`` about the envelope of its first session."""
        config = self.config(folder, dict.fromkeys(self.document.get("backends", {"backend": {}}), _NOWHERE))
        session = self.sessions[0]
        text = session["session"]
        helo = re.search(r"^C: (?:EHLO|HELO) (.*)$", text, re.MULTILINE)
        sender = re.search(r"^C: MAIL FROM:<(.*?)>", text, re.MULTILINE)
        data = re.search(r"^S: 354 .*?\n((?:C: ?.*\n)*?)C: \.\n", text, re.MULTILINE)
        message = None if data is None else re.sub(r"^C: ?(.*)$", "\\1\r", data[1], flags=re.MULTILINE).encode()
        attempt = Attempt(
            client_address=str(session.get("client", "192.0.2.1")),
            helo=helo[1] if helo is not None else "client.example.org",
            mail_from=sender[1] if sender is not None else "nobody@example.org",
            recipients=re.findall(r"^C: RCPT TO:<(.*?)>", text, re.MULTILINE),
            message=message,
        )
        zone = ZoneResolver(self.document.get("zone", {}))
        listener = config.listeners[session.get("listener", 1) - 1]
        return await explain(config, listener, attempt, zone, SettableClock(self.clock))


_NOWHERE: Final = ScriptedBackend({}, (), lmtp=False, heard=[])
_NOWHERE.port = 9


def scenarios(folder: Path) -> list[Scenario]:
    """Every scenario of a folder."""
    yaml = YAML(typ="safe", pure=True)
    found: list[Scenario] = []
    for file in sorted(folder.glob("*.yaml")):
        for document in yaml.load_all(file.read_text("utf-8")):
            words = re.sub(r"[^a-z0-9]+", "-", document["holds"].lower()).strip("-")
            found.append(Scenario(f"{file.stem}:{words[:70]}", document))
    return found


def summary(record: DecisionRecord) -> dict[str, Any]:
    """A record as scenarios compare it: as it is, but for these, which become lines of text.

    ``decision`` is ``RESULT by POLICY: OUTCOME at STAGE``, a recipient ``ADDRESS VERDICT by POLICY: REPLY``, a check
    ``POLICY at STAGE for RECIPIENT: OUTCOME -> ACTION, DELAY ms later``, a backend ``GROUP: REPLY``.
    """
    decision = record.decision
    backend = record.backend
    made: dict[str, Any] = json.loads(_ID.sub("ID", encode(record).decode()))
    made["decision"] = (
        decision.result + _if(" by {}", decision.policy) + _if(": {}", decision.outcome) + _if(" at {}", decision.stage)
    )
    made["recipients"] = [
        f"{each['address']} {each['verdict']}" + _if(" by {}", each["decided_by"]) + _if(": {}", _words(each["reply"]))
        for each in made["recipients"]
    ]
    made["checks"] = [_check(check) for check in made["checks"]]
    made["reply"] = _words(made["reply"])
    made["backend"] = None if backend is None else backend.group + _if(": {}", _words(made["backend"]["reply"]))
    return made


def _if(text: str, value: object) -> str:
    return "" if value is None else text.format(value)


def _words(reply: Mapping[str, Any] | None) -> str | None:
    if reply is None:
        return None
    return f"{reply['code']} {_if('{} ', reply['enhanced'])}{reply['text']}"


def _check(check: Mapping[str, Any]) -> str:
    line = f"{check['policy']} at {check['stage']}" + _if(" for {}", check["recipient"])
    if check["exempted"] is not None:
        return f"{line}: exempted, {check['exempted']}"
    if check["outcome"] is None:
        return f"{line}: nothing"
    delay = f", {check['delay_ms']} ms later" if "delay_ms" in check else ""
    return f"{line}: {check['outcome']} -> {check['action']}{delay}" + (" (observed)" if check["observed"] else "")


def part(expected: object, actual: object) -> object:
    """What is actual, cut down to the keys that are expected, at any depth of mappings."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        return {key: part(expected[key], actual.get(key)) for key in expected}
    return actual


def plain(text: str) -> str:
    """Text with references written ``ID`` and the terms of TLS left out."""
    return _TLS_LINE.sub("using TLS", _ID.sub("ID", text))


def _time(value: object) -> float:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _listening(host: str) -> socket.socket:
    listening = socket.socket()
    listening.bind((host, 0))
    listening.listen()
    listening.setblocking(False)
    return listening


async def _ended(worker: Worker) -> None:
    """Wait until no session is left, so that its record is written."""
    never = asyncio.create_task(asyncio.Event().wait())
    for door in worker.doors:
        await door.empty(cast("asyncio.Task[None]", never), _WITHIN)
    never.cancel()


class _Talk:
    """A client that speaks a session's lines; ``lines`` is what was said."""

    def __init__(self, clock: SettableClock, authority: trustme.CA) -> None:
        self.lines: list[str] = []
        self._clock = clock
        self._context = ssl.create_default_context()
        authority.configure_trust(self._context)

    async def hold(self, address: tuple[str, int], session: Mapping[str, Any]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        self._reader, self._writer = reader, writer
        client = ip_address(session.get("client", "192.0.2.1"))
        server = "2001:db8::25" if client.version == 6 else "198.51.100.25"
        writer.write(f"PROXY TCP{client.version} {client} {server} 40000 25\r\n".encode())
        try:
            async with asyncio.timeout(_WITHIN):
                for line in session["session"].splitlines():
                    await self._step(line)
                writer.close()
                async for rest in reader:
                    self.lines.append(f"S: {rest.decode().rstrip()}")
        except TimeoutError:
            self.lines.append("<nothing more came>")
        except ConnectionError as error:
            self.lines.append(f"<{error}>")
        finally:
            writer.transport.abort()

    async def _step(self, line: str) -> None:
        side, _, text = line.partition(" ")
        if side == "S:":
            answer = await self._reader.readline()
            said = answer.decode("utf-8", "surrogateescape").rstrip("\r\n") if answer else "<close>"
            self.lines.append(f"S: {plain(said)}")
            return
        assert side == "C:", line
        self.lines.append(line)
        command, _, argument = text.removeprefix("<").removesuffix(">").partition(" ")
        match text if not text.startswith("<") else command:
            case "close":
                self._writer.transport.abort()
            case "end":
                self._writer.write_eof()
            case "tls":
                await self._writer.start_tls(self._context, server_hostname="mx.example.com")
            case "clock":
                self._clock.set(_time(argument))
            case "octets":
                self._writer.write(ast.literal_eval(f"b{argument}"))
            case "lines":
                self._writer.write((b"x" * 78 + b"\r\n") * int(argument))
            case _:
                self._writer.write(text.encode("utf-8") + b"\r\n")
