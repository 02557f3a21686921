"""Questions on their way to name servers: UDP, TCP where an answer is truncated, time-outs, fail-over.

What arrives and does not answer the question is passed over, and the question goes on waiting (RFC 5452 9.1).

The servers are asked in the order of the configuration. One that stays silent, while it answers nothing else either, or
that refuses the connection, is down: it is asked after the others, and now and then beside them, to see whether it is
back, so that no question waits for it. A server's failure (SERVFAIL, REFUSED, what can't be read) leads to the next
server at once, and when all have failed the question has. Late answers count as long as the question is open. An alias
about whose target the server says nothing is followed by asking for the target.

There are so many places for questions in flight. One that has no answer for a while gives its place to the next that
waits, and goes on without: so those who ask for names whose servers are silent do not keep others waiting.

Owned state: the questions in flight and those that wait for a place; the sockets are those of ``server``.
Nothing is raised for what servers or the network do.
"""

import asyncio
import math
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Final, Protocol

from gateway.adapters.dns.server import PROBING, NameServer, Port, random_id
from gateway.adapters.dns.wire import MAX_ALIASES, Kind, MalformedError, Reply, StrangerError, encode_query, read
from gateway.resolver import Answer, RecordType, Status

PATIENCE: Final = 1.5
"""Seconds after which another server, or the same again, is asked; less with many servers or a short time-out."""
SLOW: Final = 0.5
"""Seconds without an answer after which a question is slow: nearly all answers of a resolver nearby come before."""
SLOW_SHARE: Final = 4
"""How many times as many questions as there are places may go on without one."""
_TICK: Final = 0.001  # the resolution of the loop's clock
_TOO_LATE: Final = 0.01  # seconds before its deadline, in which a question that waited for a place is not worth asking


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


class _Question:
    """One question on its way.

    Attributes:
        deadline: When it is given up.
        open: Whether it still waits for an answer.
    """

    __slots__ = (
        "_alias_ttl",
        "_aliases",
        "_asked",
        "_done",
        "_edns",
        "_exchange",
        "_failed",
        "_octets",
        "_problem",
        "_record_type",
        "_sent",
        "_silent",
        "_tcp",
        "_timer",
        "_tries",
        "deadline",
        "open",
    )

    def __init__(
        self, exchange: "Exchange", octets: bytes, record_type: RecordType, done: Done, deadline: float
    ) -> None:
        self._octets = octets
        self._record_type = record_type
        self._edns = True
        self._aliases = 0
        self._alias_ttl = math.inf
        self.deadline = deadline
        self.open = True
        self._exchange = exchange
        self._done = done
        self._asked: NameServer | None = None  # the last, when it was asked with the others waiting
        self._sent = 0.0
        self._tries: list[tuple[Port, int]] = []
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

    def query(self, number: int) -> bytes:
        """The message that asks it."""
        return encode_query(number, self._octets, edns=self._edns)

    def received(self, server: NameServer, number: int, message: bytes) -> None:
        """Take what came by UDP under one of the question's ids."""
        try:
            reply = read(message, number, self._octets, self._record_type)
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
            answer = reply.answer
            if answer.ttl > self._alias_ttl:
                answer = Answer(answer.status, answer.records, self._alias_ttl)
            self._end(answer)
        elif reply.kind is Kind.NO_EDNS and self._edns:
            self._edns = False
            self._send(server, self._exchange.loop.time())
        elif reply.kind is Kind.ALIAS and self._aliases < MAX_ALIASES:
            self._aliases += 1
            self._alias_ttl = min(self._alias_ttl, reply.ttl)
            self._octets = reply.question  # late answers to the question before are then no answers
            self._ask(server, self._exchange.loop.time())
        else:
            self.failed(server, reply.problem or "truncated over TCP")

    async def _over_tcp(self, server: NameServer) -> None:
        number = random_id()
        query = self.query(number)
        try:
            reader, writer = await asyncio.open_connection(*server.address)
            try:
                writer.write(len(query).to_bytes(2) + query)
                message = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            finally:
                writer.transport.abort()
            reply = read(message, number, self._octets, self._record_type)
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
        slow: Seconds without an answer after which a question leaves its place to one that waits.
        started: How many questions went to the servers.
    """

    def __init__(self, servers: Sequence[NameServer], *, timeout: float, concurrency: int) -> None:
        """Prepare; no socket is opened yet.

        Args:
            servers: Whom to ask, at least one.
            timeout: Seconds for one question in all, and for waiting until it may be asked.
            concurrency: How many places there are for questions in flight; those above wait.
        """
        self.servers = tuple(servers)
        self.loop: asyncio.AbstractEventLoop
        self.patience = min(PATIENCE, timeout / (len(self.servers) + 1))
        self.slow = SLOW
        self.started = 0
        self._timeout = timeout
        self._places = concurrency
        self._open: dict[_Question, float] = {}  # those in a place, with the loop's time at which each began
        self._slow: set[_Question] = set()  # those that go on without
        self._timer: asyncio.TimerHandle | None = None  # when the first in a place becomes slow, while others wait
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
        if self._has_place(now):
            self._start(question, now)
        else:
            question.wait()
            self._queue.append(question)
            self._watch()

    def ended(self, question: _Question) -> None:
        """A question has ended: the next that waits takes its place."""
        if question in self._slow:
            self._slow.remove(question)
        elif self._open.pop(question, None) is None:
            with suppress(ValueError):  # it is not there when it was too late to start it
                self._queue.remove(question)
            return
        self._fill()

    def _fill(self) -> None:
        """Begin with those that wait, as far as there are places."""
        if self._filling:
            return
        self._filling = True
        try:
            while self._queue and self._has_place(now := self.loop.time()):
                following = self._queue.popleft()
                if now < following.deadline - _TOO_LATE:
                    self._start(following, now)
                else:
                    following.late()
        finally:
            self._filling = False
        self._watch()

    def _has_place(self, now: float) -> bool:
        """Whether there is a place, perhaps because one that is slow leaves its own."""
        if len(self._open) < self._places:
            return True
        question, began = next(iter(self._open.items()))
        if began + self.slow > now or len(self._slow) >= SLOW_SHARE * self._places:
            return False
        del self._open[question]
        self._slow.add(question)
        return True

    def _watch(self) -> None:
        """While others wait, look again when the first in a place becomes slow."""
        if self._queue and self._timer is None and len(self._slow) < SLOW_SHARE * self._places:
            self._timer = self.loop.call_at(next(iter(self._open.values())) + self.slow + _TICK, self._look)

    def _look(self) -> None:
        self._timer = None
        self._fill()

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
        for question in (*self._open, *self._slow, *self._queue):
            question.give_up()
        if self._timer is not None:
            self._timer.cancel()
        self._open.clear()
        self._slow.clear()
        self._queue.clear()
        for server in self.servers:
            server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, question: _Question, now: float) -> None:
        self._open[question] = now
        self.started += 1
        question.start(now)
