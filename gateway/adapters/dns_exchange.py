"""Questions on their way to name servers: UDP, TCP where an answer is truncated, time-outs, fail-over.

Every question has an id from the system's random numbers and leaves from one of a few ports of its server, chosen at
random, each of which the system chose at random and which is given up after some questions or seconds (RFC 5452 9.2,
10). Sockets are connected, so that what others send does not arrive; what arrives and does not answer the question is
passed over, and the question goes on waiting.

The servers are asked in the order of the configuration. One that stays silent, while it answers nothing else either, or
that refuses the connection, is down: it is asked after the others, and now and then beside them, to see whether it is
back, so that no question waits for it. A server's failure (SERVFAIL, REFUSED, what can't be read) leads to the next
server at once, and when all have failed the question has. Late answers count as long as the question is open.

Owned state: the sockets, the questions in flight and those that wait for a place, and what is known of each server.
Nothing is raised for what servers or the network do.
"""

import asyncio
import random
import socket
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Final, Protocol

from gateway.adapters.dns_wire import Kind, MalformedError, Reply, StrangerError, encode_query, read
from gateway.resolver import Answer, RecordType, Status

PORTS: Final = 8
"""Ports of a server that are in use at a time."""
PORT_QUESTIONS: Final = 50
"""Questions that leave from one port, before another takes its place."""
PORT_LIFETIME: Final = 10.0
"""Seconds for which questions leave from one port."""
PATIENCE: Final = 1.5
"""Seconds after which another server, or the same again, is asked; less with many servers or a short time-out."""
PROBING: Final = 10.0
"""Seconds between two looks whether a server that is down is back."""

_LARGEST: Final = 4096  # octets of a UDP answer; 1232 are asked for
_TOO_LATE: Final = 0.01  # seconds before its deadline, in which a question that waited for a place is not worth asking
_AT_ONCE: Final = 100  # datagrams read before others have their turn
_random: Final = random.SystemRandom()


class Done(Protocol):
    """Takes what became of a question."""

    def __call__(self, answer: Answer, problem: str, *, asked: bool) -> None:
        """Take it.

        Args:
            answer: The answer; ``SERVFAIL`` and ``TIMEOUT`` without time-to-live.
            problem: Why there is none, in words.
            asked: Whether any server was asked.
        """
        ...


class NameServer:
    """A recursive name server, and what is known of it.

    Attributes:
        address: Its address and port, as ``socket.connect`` takes them.
        down: Whether it does not answer.
        heard: When it sent something last.
        probe_at: When to look whether it is back.
    """

    __slots__ = ("_family", "_ports", "address", "down", "heard", "probe_at")

    def __init__(self, address: str, port: int) -> None:
        self.address = (address, port)
        self.down = False
        self.heard = float("-inf")
        self.probe_at = 0.0
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._ports: list[_Port] = []

    def __str__(self) -> str:
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def port(self, loop: asyncio.AbstractEventLoop, now: float) -> "_Port":
        """A port from which the next question leaves.

        Raises:
            OSError: There is no way to the server.
        """
        ports = self._ports
        if len(ports) < PORTS:
            port = _Port(self, self._family, loop, now)
            ports.append(port)
            return port
        index = int(_random.random() * PORTS)
        port = ports[index]
        if port.left <= 0 or now >= port.until:
            new = _Port(self, self._family, loop, now)
            port.retire()
            port = ports[index] = new
        return port

    def lost(self, now: float) -> None:
        """It does not answer."""
        if not self.down:
            self.down = True
            self.probe_at = now + PROBING

    def forget(self, port: "_Port") -> None:
        """Use a port no more."""
        with suppress(ValueError):
            self._ports.remove(port)

    def close(self) -> None:
        """Close all ports."""
        for port in self._ports:
            port.close()
        self._ports.clear()


class _Port:
    """A UDP socket, connected to one server, and the questions that wait for an answer on it."""

    __slots__ = ("_loop", "_retired", "_server", "_socket", "left", "until", "waiting")

    def __init__(
        self, server: NameServer, family: socket.AddressFamily, loop: asyncio.AbstractEventLoop, now: float
    ) -> None:
        self.waiting: dict[int, _Question] = {}
        self.left = PORT_QUESTIONS
        self.until = now + PORT_LIFETIME
        self._server = server
        self._loop = loop
        self._retired = False
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(server.address)  # here the system chooses a port at random
            loop.add_reader(self._socket, self._readable)
        except BaseException:
            self._socket.close()
            raise

    def send(self, question: "_Question") -> int:
        """Send a question; its id."""
        waiting = self.waiting
        number = _random.getrandbits(16)
        while number in waiting:
            number = _random.getrandbits(16)
        self.left -= 1
        with suppress(BlockingIOError):  # as good as lost on the way
            self._socket.send(encode_query(number, question.octets, edns=question.edns))
        waiting[number] = question
        return number

    def release(self, number: int) -> None:
        """Wait for this answer no more."""
        self.waiting.pop(number, None)
        if self._retired and not self.waiting:
            self.close()

    def retire(self) -> None:
        """No further question leaves from here; close when the last one is answered or given up."""
        self._retired = True
        if not self.waiting:
            self.close()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def fail(self, problem: str) -> None:
        """The system says that there is no way to the server."""
        self._server.forget(self)
        self.close()
        self._server.lost(self._loop.time())
        for question in set(self.waiting.values()):
            question.failed(self._server, problem)

    def _readable(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                message = self._socket.recv(_LARGEST)
                self._server.heard = self._loop.time()
                self._server.down = False
                number = int.from_bytes(message[:2])
                question = self.waiting.get(number)
                if question is not None:
                    question.received(self._server, number, message)
                if not self.waiting:
                    return
        except BlockingIOError:
            pass
        except OSError as error:
            self.fail(error.strerror or str(error))


class _Question:
    """One question on its way.

    Attributes:
        octets: Itself, as it stands in a message.
        record_type: Its type.
        edns: Whether it goes with EDNS.
        deadline: When it is given up.
        open: Whether it still waits for an answer.
    """

    __slots__ = (
        "_asked",
        "_done",
        "_exchange",
        "_failed",
        "_problem",
        "_sent",
        "_silent",
        "_tcp",
        "_timer",
        "_tries",
        "deadline",
        "edns",
        "octets",
        "open",
        "record_type",
    )

    def __init__(
        self, exchange: "Exchange", octets: bytes, record_type: RecordType, done: Done, deadline: float
    ) -> None:
        self.octets = octets
        self.record_type = record_type
        self.edns = True
        self.deadline = deadline
        self.open = True
        self._exchange = exchange
        self._done = done
        self._asked: NameServer | None = None  # the last, when it was asked with the others waiting
        self._sent = 0.0
        self._tries: list[tuple[_Port, int]] = []
        self._silent: set[NameServer] = set()
        self._failed: set[NameServer] = set()
        self._tcp: dict[NameServer, asyncio.Task[None]] = {}
        self._problem = "no answer"
        self._timer: asyncio.TimerHandle | None = None

    def wait(self) -> None:
        """Wait for a place; until the deadline at most."""
        self._timer = self._exchange.loop.call_at(self.deadline, self.late)

    def start(self, now: float) -> None:
        """Ask the first server."""
        server = self._next()
        if server is not None:  # there is always one
            self._ask(server, now)
        back = self._exchange.probe(now)
        if back is not None and self.open and back is not self._asked:
            self._send(back, now)

    def received(self, server: NameServer, number: int, message: bytes) -> None:
        """Take what came by UDP under one of the question's ids."""
        try:
            reply = read(message, number, self.octets, self.record_type)
        except StrangerError:
            return
        except MalformedError as error:
            self.failed(server, f"a malformed answer: {error}")
            return
        if reply.kind is Kind.TRUNCATED:
            if server not in self._tcp and server not in self._failed:
                self._tcp[server] = self._exchange.task(self._over_tcp(server))
        else:
            self._take(server, reply)

    def failed(self, server: NameServer, problem: str) -> None:
        """A server can't tell: ask the next, or end."""
        if not self.open:
            return
        self._failed.add(server)
        self._problem = f"{server}: {problem}"
        if self._asked is not server and self._asked not in self._failed:
            return  # another is being asked
        following = self._next()
        if following is None:
            self._end(Answer(Status.SERVFAIL))
        else:
            self._ask(following, self._exchange.loop.time())

    def give_up(self) -> None:
        """Release all it holds, and tell nobody."""
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
        for port, number in self._tries:
            port.release(number)
        for task in self._tcp.values():
            task.cancel()

    def _next(self) -> NameServer | None:
        """Whom to ask next: servers that are up, then those that are down unless others are up but can't tell."""
        left = [each for each in self._exchange.servers if each not in self._failed and each not in self._silent]
        for server in left:
            if not server.down:
                return server
        if self._failed and any(not server.down for server in self._exchange.servers):
            return None
        if left:
            return max(left, key=lambda server: server.heard)
        if self._failed:
            return None
        self._silent.clear()
        return self._next()

    def _ask(self, server: NameServer, now: float) -> None:
        self._asked = server
        self._sent = now
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._exchange.loop.call_at(min(now + self._exchange.patience, self.deadline), self.late)
        if server not in self._tcp:
            self._send(server, now)

    def _send(self, server: NameServer, now: float) -> None:
        problem = ""
        for _ in range(2):  # the first try on a port may only tell of a failure before
            try:
                port = server.port(self._exchange.loop, now)
            except OSError as error:
                self.failed(server, error.strerror or str(error))
                return
            try:
                self._tries.append((port, port.send(self)))
            except OSError as error:
                problem = error.strerror or str(error)
                port.fail(problem)
            else:
                return
        self.failed(server, problem)

    def late(self) -> None:
        """No answer came in time, or no place."""
        now = self._exchange.loop.time()
        server = self._asked
        if server is None:
            self._end(Answer(Status.TIMEOUT))
            return
        if server not in self._failed:
            self._silent.add(server)
            if server.heard < self._sent:
                server.lost(now)
        if now >= self.deadline:
            self._end(Answer(Status.SERVFAIL if self._failed else Status.TIMEOUT))
            return
        following = self._next()
        if following is None:
            self._end(Answer(Status.SERVFAIL))
        else:
            self._ask(following, now)

    def _take(self, server: NameServer, reply: Reply) -> None:
        if reply.answer is not None:
            self._problem = ""
            self._end(reply.answer)
        elif reply.kind is Kind.NO_EDNS and self.edns:
            self.edns = False
            self._send(server, self._exchange.loop.time())
        else:
            self.failed(server, reply.problem or "truncated over TCP")

    async def _over_tcp(self, server: NameServer) -> None:
        number = _random.getrandbits(16)
        query = encode_query(number, self.octets, edns=self.edns)
        try:
            reader, writer = await asyncio.open_connection(*server.address)
            try:
                writer.write(len(query).to_bytes(2) + query)
                message = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            finally:
                writer.transport.abort()
            reply = read(message, number, self.octets, self.record_type)
        except (OSError, asyncio.IncompleteReadError) as error:
            reply = Reply(Kind.FAILURE, problem=f"over TCP: {error}")
        except (MalformedError, StrangerError) as error:
            reply = Reply(Kind.FAILURE, problem=f"over TCP: a malformed answer: {error}")
        del self._tcp[server]
        if self.open:
            self._take(server, reply)

    def _end(self, answer: Answer) -> None:
        if self.open:
            self.give_up()
            self._exchange.ended(self)
            self._done(answer, self._problem, asked=self._asked is not None)


class Exchange:
    """Asks name servers.

    Attributes:
        servers: The name servers.
        loop: The event loop of the first question.
        patience: Seconds for which one server is waited for before another is asked.
        started: How many questions went to the servers.
    """

    def __init__(self, servers: Sequence[NameServer], *, timeout: float, concurrency: int) -> None:
        """Prepare; no socket is opened yet.

        Args:
            servers: Whom to ask, at least one.
            timeout: Seconds for one question in all, and for waiting until it may be asked.
            concurrency: How many questions are in flight at once; those above wait.
        """
        self.servers = tuple(servers)
        self.loop: asyncio.AbstractEventLoop
        self.patience = min(PATIENCE, timeout / (len(self.servers) + 1))
        self.started = 0
        self._timeout = timeout
        self._places = concurrency
        self._open: set[_Question] = set()
        self._queue: deque[_Question] = deque()
        self._filling = False
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, octets: bytes, record_type: RecordType, done: Done) -> None:
        """Ask a question.

        Args:
            octets: The question, as ``encode_question`` made it.
            record_type: Its type.
            done: Is called once, with what became of it; possibly before this returns.
        """
        self.loop = asyncio.get_running_loop()
        now = self.loop.time()
        question = _Question(self, octets, record_type, done, now + self._timeout)
        if len(self._open) < self._places:
            self._start(question, now)
        else:
            question.wait()
            self._queue.append(question)

    def ended(self, question: _Question) -> None:
        """A question has ended: the next that waits takes its place."""
        if question not in self._open:
            with suppress(ValueError):  # it is not there when it was too late to start it
                self._queue.remove(question)
            return
        self._open.remove(question)
        if self._filling:
            return
        self._filling = True
        try:
            while self._queue and len(self._open) < self._places:
                following, now = self._queue.popleft(), self.loop.time()
                if now < following.deadline - _TOO_LATE:
                    self._start(following, now)
                else:
                    following.late()
        finally:
            self._filling = False

    def probe(self, now: float) -> NameServer | None:
        """A server that is down, if it is time to look whether it is back; then not again for a while."""
        for server in self.servers:
            if server.down and now >= server.probe_at:
                server.probe_at = now + PROBING
                return server
        return None

    def task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Begin something that ``close`` ends."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Give up all questions, without a word to who asked, and close all sockets."""
        for question in (*self._open, *self._queue):
            question.give_up()
        self._open.clear()
        self._queue.clear()
        for server in self.servers:
            server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, question: _Question, now: float) -> None:
        self._open.add(question)
        self.started += 1
        question.start(now)
