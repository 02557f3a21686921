"""Asking a backend whether an address exists: MAIL, RCPT and RSET, and no message.

Connections for this are apart from those for mail, and no client is ever announced on them: what a server says of an
address must not depend on who wants to send to it. They count the refusals on them like all others (``pool``).

======================================  ==========================================================================
The server's answer to RCPT             means
======================================  ==========================================================================
2xx                                     the address exists
552, or 5yz 5.2.2, 5.2.3                it exists: its mailbox is full, or the message would be too large
550, 551, 553; 554 with such a code:    it does not exist. 5.4.1 is what Exchange says of an unknown recipient
5.0.x, 5.1.x, 5.2.x, 5.4.1, or none
anything else                           nothing: a policy (5.7.x), a wrong sender (5.1.7, 5.1.8), a fault, any 4yz
======================================  ==========================================================================

So is a refused MAIL nothing about the recipient. A server that takes every address can't be asked: after a yes an
address is asked about that nobody can have. If that is taken, too, the domain is noted as one whose addresses all
exist, as far as its server says, and until the next test it is not asked at all.
"""

import re
import secrets
import time
from collections.abc import Callable
from typing import Final

import structlog

from gateway.backend.connection import BackendError, Connection
from gateway.backend.group import ServerGroup
from gateway.backend.pool import Pool
from gateway.backend.server import Server
from gateway.config.recipients import ProbeOptions
from gateway.lookup.answer import Answer, UnansweredError, UnverifiableError
from gateway.smtp.client import Command
from gateway.smtp.reply import Reply

_log = structlog.get_logger("lychgate.recipients")

# Dot-string of RFC 5321 4.1.2, with what RFC 6531 3.3 adds; any other local part needs quotes.
_DOT_STRING: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+)*"
)

_ABOUT_SENDER: Final = frozenset({"5.1.7", "5.1.8", "5.1.9"})  # RFC 3463 3.2, RFC 7505
_FULL: Final = frozenset({"5.2.2", "5.2.3"})
_DOMAINS: Final = 10_000  # of which is remembered whether they take every address


class BackendProbe:
    """Asks the servers of a group (a ``Lookup``).

    Args:
        group: The servers; their health is watched there.
        options: The options.
        monotonic: Tells seconds that never go back.
    """

    folds_case = False

    def __init__(
        self, group: ServerGroup, options: ProbeOptions, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._group = group
        self._options = options
        self._monotonic = monotonic
        self._pools: dict[Server, Pool] = {}
        self._tested: dict[str, tuple[bool, float]] = {}

    async def ask(self, local_part: str, domain: str) -> Answer:
        """See ``Lookup``."""
        if self._takes_all(domain):
            return Answer(True, "the server takes every address of the domain, so it was not asked")
        reply = await self._rcpt(local_part, domain)
        exists = _meaning(reply)
        if exists is None:
            raise UnverifiableError(f"the server said {reply}")
        if exists and self._options.random_test and domain not in self._tested:
            try:
                await self._test(domain)
            except UnverifiableError:
                return Answer(True, str(reply))  # the next yes will bring the test
            if self._takes_all(domain):
                return Answer(True, f"{reply}; it takes every address of the domain")
        elif not exists:
            self._note(domain, takes_all=False)
        return Answer(exists, str(reply))

    def forget(self, domain: str | None) -> None:
        """Forget whether every address is taken."""
        for known in [each for each in self._tested if domain in {None, each}]:
            del self._tested[known]

    async def close(self) -> None:
        """Close the free connections."""
        for pool in self._pools.values():
            pool.retire()

    def _takes_all(self, domain: str) -> bool:
        found = self._tested.get(domain)
        if found is not None and self._monotonic() >= found[1]:
            del self._tested[domain]
            return False
        return found is not None and found[0]

    async def _test(self, domain: str) -> None:
        """Ask about an address that nobody can have."""
        reply = await self._rcpt(f"no-such-address-{secrets.token_hex(8)}", domain)
        exists = _meaning(reply)
        if exists is None:
            raise UnverifiableError(f"the server said {reply}")
        self._note(domain, takes_all=exists)
        if exists:
            _log.warning("backend takes every address, so that asking it is pointless", domain=domain,
                         backend=self._group.name, reply=str(reply))  # fmt: skip

    def _note(self, domain: str, *, takes_all: bool) -> None:
        if domain not in self._tested:
            while len(self._tested) >= _DOMAINS:
                del self._tested[next(iter(self._tested))]
            self._tested[domain] = (takes_all, self._monotonic() + self._options.random_test)

    async def _rcpt(self, local_part: str, domain: str) -> Reply:
        """The answer to RCPT of the first server that gives one.

        Raises:
            UnansweredError: None does.
        """
        recipient = f"{_written(local_part)}@{domain}"
        problem = "no server is up"
        await self._group.ask_if_down()
        for server in self._group.candidates():
            if not server.is_up:
                continue
            pool = self._pool(server)
            for _ in range(2):  # the second time, if need be, on a new connection
                try:
                    connection, kept = await self._connection(pool)
                except BackendError as error:
                    problem = f"{server.name}: {error}"
                    break
                try:
                    return await self._transact(connection, pool, recipient)
                except BackendError as error:
                    connection.fail(error)
                    problem = f"{server.name}: {error}"
                    if not kept or error.timed_out:
                        if error.counts:
                            server.failed(error)
                        break
                except BaseException:  # cancelled too: no half transaction may stay
                    connection.abort("cancelled")
                    raise
        raise UnansweredError(problem)

    def _pool(self, server: Server) -> Pool:
        pool = self._pools.get(server)
        if pool is None:
            for gone in [known for known in self._pools if known not in self._group.servers]:
                self._pools.pop(gone).retire()
            options = self._group.options
            pool = self._pools[server] = Pool(
                server.opener.open, limit=self._options.connections, idle=options.idle, messages=options.messages
            )
        return pool

    async def _connection(self, pool: Pool) -> tuple[Connection, bool]:
        """A connection, and whether it is a kept one."""
        connection = pool.take(None)
        if connection is not None:
            return connection, True
        pool.make_room()
        if pool.has_room:
            pool.enter()
        else:
            connection = await pool.wait(self._options.timeout, None)
            if connection is not None:
                return connection, True
        return await pool.open(), False

    async def _transact(self, connection: Connection, pool: Pool, recipient: str) -> Reply:
        """MAIL, RCPT and RSET in one go.

        Raises:
            BackendError: The connection is of no use any more.
            UnverifiableError: The server can't be asked about this recipient.
        """
        mail = f"MAIL FROM:<{self._options.sender}>"
        if not recipient.isascii():
            if "SMTPUTF8" not in connection.engine.capabilities.keywords:
                pool.give_back(connection)
                raise UnverifiableError("the server does not offer SMTPUTF8")
            mail += " SMTPUTF8"
        commands = [(Command.MAIL, mail), (Command.RCPT, f"RCPT TO:<{recipient}>"), (Command.RESET, "RSET")]
        connection.resets += 1
        answers = await connection.exchange(commands, self._group.options.timeouts.command)
        if not answers[2].is_positive:
            raise BackendError(f"the server refused RSET: {answers[2]}")
        pool.give_back(connection)
        if not answers[0].is_positive:
            raise UnverifiableError(f"the server refused the sender: {answers[0]}")
        return answers[1]


def _meaning(reply: Reply) -> bool | None:
    """Whether the address exists by an answer to RCPT, None where it says nothing about that."""
    if reply.is_positive:
        return True
    code = None if reply.enhanced is None else str(reply.enhanced)
    if reply.is_transient or code in _ABOUT_SENDER:
        return None
    if reply.code == 552 or code in _FULL:  # noqa: PLR2004 - RFC 5321 4.2.2: exceeded storage allocation
        return True
    says_no = code is None or code == "5.4.1" or code.split(".")[1] in {"0", "1", "2"}
    if reply.code == 554 and code is None:  # noqa: PLR2004 - its text, transaction failed, may be about anything
        return None
    return False if reply.code in {550, 551, 553, 554} and says_no else None


def _written(local_part: str) -> str:
    """A local part as RCPT has it: with quotes where it needs them."""
    if _DOT_STRING.fullmatch(local_part):
        return local_part
    return '"' + local_part.replace("\\", "\\\\").replace('"', '\\"') + '"'
