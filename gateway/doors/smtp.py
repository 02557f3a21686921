"""The SMTP door: a listener's sockets and the conversations behind them.

It accepts connections, reads the PROXY header of trusted peers, keeps the limits on connections, and hands each
connection to a ``Conversation``. It looks at the deadlines of all conversations a few times a second, which costs less
than a timer for each command. On shutdown it stops accepting, lets transactions under way finish, and tells idle
clients 421 (RFC 5321 3.8).
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from gateway.admission.trace import Identity
from gateway.backend import AuthRelay, ServerGroup
from gateway.chain.chain import Chain
from gateway.config.model import Config, Listener, TlsMode
from gateway.doors.client_lines import ClientLines
from gateway.doors.conversation import Conversation
from gateway.doors.link import ClientLink
from gateway.doors.listening import BACKLOG, address_of
from gateway.doors.places import Places
from gateway.doors.proxy_protocol import Addresses, ProxyError, SilentError, read_header
from gateway.doors.terms import engine_options, rules_of
from gateway.doors.tls import Certificate
from gateway.form import HeaderReader
from gateway.gathering import Gathering, gathering
from gateway.policy import Clock
from gateway.records import RecordSink
from gateway.resolver import Resolver, SessionResolver, client_name, known_client_name
from gateway.session import Domain, Session
from gateway.smtp import reply as replies
from gateway.smtp.reply import Reply
from gateway.smtp.server import TlsState
from gateway.spool import Spool, SpoolMemory

if TYPE_CHECKING:
    from gateway.smtp.client import Capabilities

log = structlog.get_logger("lychgate.smtp")

END_TO_END: Final = frozenset({"8BITMIME", "SMTPUTF8", "DSN"})
"""Extensions that can only be offered where the backend offers them too."""

BY_FORCE: Final = 1.0
"""Seconds that sessions have to end which are ended by force."""

UNKNOWN_MECHANISMS: Final = ("PLAIN", "LOGIN")
"""What AUTH offers while the backend's own mechanisms are not known."""

NAMING: Final = 10_000
"""Clients whose names are looked up at the same time; more go without."""

_TLS_STATES: Final = {
    TlsMode.NONE: TlsState.NONE,
    TlsMode.STARTTLS: TlsState.OPTIONAL,
    TlsMode.STARTTLS_REQUIRED: TlsState.REQUIRED,
    TlsMode.IMPLICIT: TlsState.ACTIVE,
}


class SmtpDoor:
    """One listener.

    Args:
        config: The whole configuration.
        listener: The listener's part.
        listening: Its bound, listening sockets.
        certificate: Its certificate, None without TLS.
        chain: Its chain.
        groups: The server groups by name.
        domain: Finds our domain of a name.
        identity: The gateway's names.
        resolver: Asks the DNS.
        sink: Takes the records.
        clock: Tells the time.
        places: The connections of all listeners.
        client_lines: What the log says of clients.
        header_reader: Reads the headers of messages.
        spool_memory: What the messages of all listeners take in memory.

    Attributes:
        name: The listener's address, for records.
        hostname: The gateway's name.
        greeting: What clients are greeted with.
        certificate: Its certificate, None without TLS.
        engine_options: For each connection's engine.
        timeouts: The time limits.
        clock: Tells the time.
        rules: What holds for all its sessions.
        session_resolver: Makes what asks the DNS for one session, within its bounds.
        find_client_name: Looks up the name of a client's address.
        auth_required: Whether MAIL needs authentication.
        client_lines: What the log says of clients.
        records_silent: Whether a client that leaves without a word leaves a record.
        silent: How many clients have left without a word.
        connections: Connections that are open now, those that are being closed among them.
        gathering: What replies are gathered in; there once it is open.
    """

    def __init__(
        self,
        config: Config,
        listener: Listener,
        listening: list[socket.socket],
        *,
        certificate: Certificate | None,
        chain: Chain,
        groups: Mapping[str, ServerGroup],
        domain: Callable[[str], Domain | None],
        identity: Identity,
        resolver: Resolver,
        sink: RecordSink,
        clock: Clock,
        places: Places,
        client_lines: ClientLines,
        header_reader: HeaderReader,
        spool_memory: SpoolMemory,
    ) -> None:
        self.name = listener.name
        self.hostname = config.hostname
        self.greeting = Reply(220, None, f"{config.hostname} ESMTP Lychgate")
        self.timeouts = config.timeouts
        self.clock = clock
        self.initial_tls = _TLS_STATES[listener.tls.mode]
        self.implicit_tls = listener.tls.mode is TlsMode.IMPLICIT
        self.certificate = certificate
        self.engine_options = engine_options(config, listener)
        self._config = config
        self._listener = listener
        self._listening = listening
        self.rules = rules_of(config, listener, chain=chain, domain=domain, sink=sink, clock=clock, identity=identity)
        self._signatures = chain.signatures
        self._resolver = resolver
        self.find_client_name = partial(client_name, resolver)
        self._header_reader = header_reader
        self._spool_memory = spool_memory
        self._groups = groups
        dns = config.dns
        self.session_resolver = partial(SessionResolver, resolver, dns.session_queries, dns.session_time, dns.timeout)
        self.auth_required = listener.auth is not None and listener.auth.required
        self.client_lines = client_lines
        self.records_silent = config.records.silent_clients
        self.silent = 0
        self.connections = 0
        self.gathering: Gathering
        self._places = places
        self._conversations: set[Conversation] = set()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._naming: set[asyncio.Task[None]] = set()
        self._proxying: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []
        self._draining = False
        self._reachable = [groups[name] for name in _reachable(config, listener) if name in groups]
        self._extensions_of: list[Capabilities | None] | None = None
        self._extensions: frozenset[str] = frozenset()

    # Opening and closing.

    async def open(self) -> None:
        """Begin to accept connections."""
        loop = asyncio.get_running_loop()
        self.gathering = gathering(loop)
        for listening in self._listening:
            if self._listener.proxy_protocol is not None:
                self._accepting.append(self._own(self._accept_proxied(listening)))
            else:
                connected = partial(ClientLink, self, loop, address_of(listening))
                self._servers.append(await loop.create_server(connected, sock=listening, backlog=BACKLOG))
        self._own(self._watch())

    def close(self) -> None:
        """Stop accepting; sessions go on."""
        for server in self._servers:
            server.close()
        for task in self._accepting:
            task.cancel()
        for listening in self._listening:
            listening.close()

    @property
    def transactions(self) -> int:
        """How many transactions are open."""
        return sum(conversation.link.engine.in_transaction for conversation in self._conversations)

    def send_away(self) -> None:
        """Stop accepting, and let every client go as soon as it has no transaction open: most at once, with 421."""
        self._draining = True
        self.close()
        for task in self._proxying.copy():
            task.cancel()
        loop = asyncio.get_running_loop()
        for conversation in self._conversations:
            if not conversation.link.is_awaited:  # not now: a task that has not begun would clean nothing up
                loop.call_soon(conversation.break_off)
            conversation.link.drain()

    async def empty(self, stopped: asyncio.Task[None], patience: float) -> None:
        """Return when no session is left, ``stopped`` is done, or ``patience`` seconds are over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + patience
        while self._conversations and not stopped.done() and loop.time() < end:
            tasks = [conversation.task for conversation in self._conversations if conversation.task is not None]
            await asyncio.wait([stopped, *tasks], timeout=end - loop.time(), return_when=asyncio.FIRST_COMPLETED)

    async def drain(self, grace: float) -> None:
        """Stop accepting, let transactions under way finish for ``grace`` seconds, then end what is left."""
        self.send_away()
        tasks = [conversation.task for conversation in self._conversations if conversation.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                log.warning("sessions ended by force", listener=self.name, sessions=len(late))
                await asyncio.wait(late, timeout=BY_FORCE)  # one that waits for what is stuck is left
        for work in self._tasks:
            work.cancel()

    # What a connection and its conversation ask of their door.

    def begin(self, link: ClientLink) -> None:
        """A client has connected: begin the conversation with it, which is short where it is refused."""
        self.connections += 1
        refusal = None if self._places.take(link.client_address) else replies.TOO_MANY_CONNECTIONS
        if self._draining:
            refusal = replies.SHUTTING_DOWN
        conversation = Conversation(self, link)
        self._conversations.add(conversation)
        conversation.task = asyncio.get_running_loop().create_task(conversation.run(refusal))

    def forget(self, conversation: Conversation) -> None:
        """A conversation is over; its connection may still take a while to close."""
        self._conversations.discard(conversation)

    def lost(self, link: ClientLink) -> None:
        """A connection is gone."""
        self.connections -= 1
        self._places.leave(link.client_address)

    def spool(self) -> Spool:
        """The place for one message."""
        options = self._config.spool
        return Spool(options.memory, options.directory, self._header_reader, self._signatures, self._spool_memory)

    def group(self, name: str) -> ServerGroup:
        """The servers of a backend."""
        return self._groups[name]

    def extensions(self) -> frozenset[str]:
        """What EHLO offers besides the engine's own: what is end-to-end where all its backends have it.

        Of a backend that was never reached nothing is known. It takes no mail either, so recipients are deferred; not
        to offer SMTPUTF8 would make senders give up for good, and a fault is never a refusal.
        """
        known = [group.capabilities for group in self._reachable]
        if known != self._extensions_of:
            offered = END_TO_END
            for capabilities in known:
                offered &= END_TO_END if capabilities is None else capabilities.keywords
            self._extensions_of = known
            self._extensions = offered | {"PIPELINING", "CHUNKING"}
        return self._extensions

    def auth_mechanisms(self, session: Session) -> tuple[str, ...]:
        """What AUTH offers: what the backend offers, once the connection is encrypted.

        Before the backend was ever reached: what every client has, so that it is told to come again (454).
        """
        auth = self._listener.auth
        if auth is None or auth.backend is None or session.tls is None:
            return ()
        capabilities = self._groups[auth.backend].capabilities
        return UNKNOWN_MECHANISMS if capabilities is None else capabilities.auth

    async def auth_relay(self, session: Session) -> AuthRelay:
        """A backend's connection for one client's authentication."""
        auth = self._listener.auth
        assert auth is not None  # noqa: S101 - mechanisms are offered only then
        assert auth.backend is not None  # noqa: S101 - the same
        return await self._groups[auth.backend].authenticate(session)

    # Clients' names.

    def name_client(self, session: Session, client: str, *, ask: bool) -> None:
        """Give the client its name if it is at hand; else ask in the background. Neither where names are not wanted.

        Args:
            session: The client's.
            client: Its address as text.
            ask: Whether to ask, where it is not at hand.
        """
        if not self._config.dns.client_names:
            return
        session.client_name = known_client_name(self._resolver, client)
        if session.client_name is None and ask and len(self._naming) < NAMING:
            task = self._own(self._name(session))
            self._naming.add(task)
            task.add_done_callback(self._naming.discard)

    @staticmethod
    async def _name(session: Session) -> None:
        await session.resolve_client_name()

    # Tasks of its own.

    def _own(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watch(self) -> None:
        """Expire conversations whose deadline has passed; look for a new certificate now and then."""
        loop = asyncio.get_running_loop()
        limits = [self.timeouts.command, self.timeouts.data, self.timeouts.session or 60.0]
        pause = max(0.02, min(1.0, min(limits) / 4))
        certificate_due, refreshing = loop.time(), None
        while True:
            await asyncio.sleep(pause)
            now = loop.time()
            for conversation in self._conversations:
                if conversation.link.deadline < now:
                    conversation.link.expire()
            if self.certificate is not None and now > certificate_due and (refreshing is None or refreshing.done()):
                certificate_due = now + 5.0
                refreshing = self._own(self._refresh(self.certificate))

    @staticmethod
    async def _refresh(certificate: Certificate) -> None:
        await asyncio.to_thread(certificate.refresh)  # which may wait for a file system that does not answer

    async def _accept_proxied(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # out of descriptors, or the peer was gone already
                log.warning("accept failed", listener=self.name, error=str(error))
                await asyncio.sleep(0.1)
                continue
            if len(self._proxying) >= self._places.limit:
                connection.close()
                continue
            task = self._own(self._proxied(connection))
            self._proxying.add(task)
            task.add_done_callback(partial(self._proxied_ended, connection))

    async def _proxied(self, connection: socket.socket) -> None:
        """Read the PROXY header where the peer is trusted to send one, then begin the conversation."""
        proxy = self._listener.proxy_protocol
        addresses: Addresses | None = None
        loop = asyncio.get_running_loop()
        try:
            connection.setblocking(False)
            if proxy is not None and proxy.trusts(_peer(connection)):
                async with asyncio.timeout(self.timeouts.proxy):
                    addresses = await read_header(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(lambda: ClientLink(self, loop, proxied=addresses), connection)
        except SilentError:
            self.silent += 1
            log.debug("a trusted peer left without a word", listener=self.name)
            connection.close()
        except (ProxyError, OSError, TimeoutError) as error:
            log.warning("no PROXY header from a trusted peer", listener=self.name, error=str(error) or "timeout")
            connection.close()

    def _proxied_ended(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        """Also of a task that was cancelled before it began."""
        self._proxying.discard(task)
        if task.cancelled():
            with suppress(OSError):
                if not self.implicit_tls:
                    connection.send(replies.SHUTTING_DOWN.wire)  # a few octets: the kernel has room for them
                connection.shutdown(socket.SHUT_RDWR)  # uvloop may still refer to the socket: then close says nothing
            connection.close()


def _peer(connection: socket.socket) -> str:
    """The address of a connection's other end.

    Raises:
        SilentError: It was gone before it was looked at.
    """
    try:
        return str(connection.getpeername()[0])
    except OSError:
        raise SilentError from None


def _reachable(config: Config, listener: Listener) -> list[str]:
    """The names of the backends that may get mail of a listener's clients."""
    auth = listener.auth
    names = set() if auth is None else {auth.backend}
    if auth is None or not auth.required:
        first = next(iter(config.backends), None)
        names |= {domain.backend for domain in config.domains.values()} | {config.default_backend or first}
    if config.quarantine is not None and listener.chain.quarantines:
        names.add(config.quarantine.backend)
    return sorted(name for name in names if name is not None)
