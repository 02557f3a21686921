"""What gateways count together: the interface of the shared state.

A policy that must know what other workers and machines have seen asks here: how full a bucket is, how many connections
a client has, whether a triplet was greylisted. Each operation is atomic wherever it is carried out, so any number of
workers together let through exactly what one would. ``adapters.state.memory`` keeps it in one worker's memory,
``adapters.state.redis`` in Redis; the time is the state's own, so clocks of machines need not agree.

Limits (``Take``, ``Enter``) are asked together: ``ask`` grants all or counts none, in one round trip. A hook of a
policy does not call it but returns an ``Asking``; the chain joins the askings of policies that stand next to one
another. See ``docs/decisions/state.md``.

Entries go by themselves when they say nothing any more: none is kept for ever. When the state can't be asked
``StateUnavailableError`` is raised, at once while an outage lasts, and the adapter has logged the outage: who catches
it need not.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol, TypeAlias
from urllib.parse import quote

import msgspec

from gateway.verdict import Finding, Outcome

SCHEMA: Final = 1
"""The version of what entries look like; it stands in every key, so that a new form never meets an old one."""

LEASE: Final = 30.0
"""Seconds after which a connection is no longer counted whose worker has died; living workers renew theirs."""

_LONGEST: Final = 300
"""Characters of a subject: a reverse-path (RFC 5321 4.5.3.1.3: 256 octets) and its name."""

_SAFE: Final = "@.+-_=/<>:!#$&'*?^`|~"
_PLAIN: Final = re.compile(rf"[A-Za-z0-9{re.escape(_SAFE)}]*", re.ASCII).fullmatch


class StateUnavailableError(Exception):
    """The state can't be asked now; already told in the log."""


class Kind(StrEnum):
    """What an entry is."""

    RATE = "rate"
    CONCURRENCY = "concurrency"
    GREYLIST = "greylist"


class Counting(StrEnum):
    """How a bucket is counted in.

    ``TAKE`` counts if there is room, ``LOOK`` only says whether there is, ``ADD`` counts in any case, up to the brim.
    ``BACK`` gives back what ``TAKE`` counted, as far as the bucket has not lost it in the meantime.
    """

    TAKE = "take"
    LOOK = "look"
    ADD = "add"
    BACK = "back"


def subject(**parts: object) -> str:
    """What is counted, as text for keys: ``client_address=192.0.2.1,helo_name=example.org``.

    Whatever could be taken for a part of a key is escaped; what is too long for one is cut and made unique by a digest.
    Only such a text has ``_LONGEST`` characters, so that nobody can write another's.
    """
    text = ",".join(f"{name}={_escaped(str(value))}" for name, value in parts.items())
    if len(text) < _LONGEST:
        return text
    return f"{text[: _LONGEST - 33]}~{digest(text)}"


def digest(text: str) -> str:
    """A short name of a long text; 128 bits, so that nobody finds two texts with the same."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _escaped(text: str) -> str:
    return text if _PLAIN(text) else quote(text, safe=_SAFE, errors="surrogateescape")


class Take(msgspec.Struct, frozen=True, kw_only=True):
    """Counts in a bucket: it holds ``burst`` and loses ``rate`` a second; what does not fit is not granted.

    A cost larger than the bucket is granted when the bucket is empty, and then takes as long as it needs to run out: it
    is not refused for ever.

    Attributes:
        name: The limit's name.
        subject: Who is counted; see ``subject``.
        rate: What the bucket loses in a second.
        burst: What it holds.
        cost: What is counted.
        counting: Whether it is counted.
        hold: Seconds for which nothing is granted any more once something was not.
        binding: Whether nothing else of the asking counts when this is not granted.
        approximate: Whether this worker counts by itself while the state can't be asked.
        since: With ``BACK``: when it was taken, as ``Answer.at`` says.
    """

    name: str
    subject: str
    rate: float
    burst: float
    cost: float = 1.0
    counting: Counting = Counting.TAKE
    hold: float = 0.0
    binding: bool = True
    approximate: bool = False
    since: float = 0.0


class Enter(msgspec.Struct, frozen=True, kw_only=True):
    """Counts a connection for as long as it lasts: until ``State.leave``, or ``LEASE`` after its worker has died.

    Attributes:
        name: The limit's name.
        subject: Whose connections are counted.
        member: The connection, by its session's id. To enter twice counts once.
        limit: How many there may be.
        binding: Whether nothing else of the asking counts when this is not granted.
        approximate: Whether this worker counts by itself while the state can't be asked.
    """

    name: str
    subject: str
    member: str
    limit: int
    binding: bool = True
    approximate: bool = False


Operation: TypeAlias = Take | Enter


class Answer(msgspec.Struct, frozen=True):
    """What came of an operation.

    Attributes:
        granted: Whether there was room for it; it was counted only if there was for all that bind.
        level: What is counted now: what the bucket holds, or how many connections there are.
        wait: Seconds until it would be granted; 0 when it was, or when nobody can tell.
        approximate: Whether only this worker was asked, because the state is away.
        at: When it was taken, by the state's clock, as UNIX time; 0 for what is not taken.
    """

    granted: bool
    level: float
    wait: float = 0.0
    approximate: bool = False
    at: float = 0.0


class Reservation(msgspec.Struct, frozen=True):
    """What was counted in advance, and is given back if the mail does not come through.

    Attributes:
        operation: What was counted.
        answer: What came of it.
        recipient: For which recipient; None for the message as a whole.
    """

    operation: Take
    answer: Answer
    recipient: object | None = None


class Asking(msgspec.Struct, frozen=True):
    """What a hook returns that wants to know of limits; the chain asks and calls ``conclude`` with the answers.

    Attributes:
        operations: The limits, each with another name or subject.
        refusal: The outcome that ``conclude`` may give when one is not granted. Where the operator's settings let it
            pass, or only observe, the chain lets the operations bind nobody.
        conclude: Makes the finding of the answers, which come in the order of the operations.
        reservations: Where to note what was counted, for it to be given back if the mail does not come through: those
            of the transaction. None where what was counted stays counted.
        recipient: For which recipient it is counted; None for the message as a whole.
    """

    operations: Sequence[Operation]
    refusal: Outcome
    conclude: Callable[[Sequence[Answer]], Finding | None]
    reservations: list[Reservation] | None = None
    recipient: object | None = None


class Greeted(StrEnum):
    """What the greylist knows of a triplet.

    ``NEW``: nothing. ``EARLY``: it came again before its delay was over. ``PASSED``: it has just waited long enough.
    ``KNOWN``: it did so before. ``CLIENT``: so many triplets of this client did that no more is asked of it.
    """

    NEW = "new"
    EARLY = "early"
    PASSED = "passed"
    KNOWN = "known"
    CLIENT = "client"

    @property
    def may_pass(self) -> bool:
        """Whether it has not to wait (any more)."""
        return self not in {Greeted.NEW, Greeted.EARLY}


class Greet(msgspec.Struct, frozen=True, kw_only=True):
    """Greylists a triplet.

    Attributes:
        client: Who sends: a network, or a domain that was authenticated; see ``subject``.
        envelope: The rest of the triplet; see ``subject``.
        delay: Seconds that a new triplet has to wait.
        window: Seconds after its first attempt in which it must come again.
        keep: Seconds after its last attempt for which it is remembered when it has passed; the client, too.
        passes: Of how many triplets a client must have come again to be waved through; 0 for never.
    """

    client: str
    envelope: str
    delay: float
    window: float
    keep: float
    passes: int


class Greeting(msgspec.Struct, frozen=True):
    """What came of greylisting.

    Attributes:
        status: What is known of the triplet.
        wait: Seconds that it still has to wait, 0 when it may pass.
        waited: Seconds since its first attempt; 0 for a client that is waved through.
        passes: How many triplets of the client have passed.
    """

    status: Greeted
    wait: float
    waited: float
    passes: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the state, for people.

    Attributes:
        key: Names it for ``State.clear``.
        kind: What it is.
        name: The limit's name; for the greylist ``client`` or ``triplet``.
        subject: Whom it is about.
        level: What is counted now.
        limit: At which level nothing more is granted; None where there is no such level.
        expires: Seconds until it is gone, unless it is used.
        detail: What else there is to know.
    """

    key: str
    kind: Kind
    name: str
    subject: str
    level: float
    limit: float | None
    expires: float
    detail: Mapping[str, object]


CLIENT: Final = "client"
"""The name of a greylist entry about a client as a whole."""


def entry_key(kind: Kind, about: str, name: str) -> str:
    """An entry's key: in Redis it stands behind the prefix and ``SCHEMA``.

    What is about one subject shares a slot of a Cluster, by the braces.
    """
    return f"{kind}:{{{about}}}:{name}"


def triplet_entry(client: str, name: str, envelope: str, passes: int, age: float, expires: float) -> Entry:
    """A triplet, by the name in its key, for people."""
    return Entry(
        key=entry_key(Kind.GREYLIST, client, name),
        kind=Kind.GREYLIST,
        name="triplet",
        subject=client,
        level=passes,
        limit=None,
        expires=expires,
        detail={"envelope": envelope, "waiting": passes == 0, "age": round(age, 1)},
    )


def client_entry(client: str, passes: int, expires: float) -> Entry:
    """A client of the greylist as a whole, for people."""
    return Entry(
        key=entry_key(Kind.GREYLIST, client, CLIENT),
        kind=Kind.GREYLIST,
        name=CLIENT,
        subject=client,
        level=passes,
        limit=None,
        expires=expires,
        detail={},
    )


class State(Protocol):
    """The shared state."""

    async def ask(self, operations: Sequence[Operation]) -> Sequence[Answer | StateUnavailableError]:
        """Ask for all of these: all are counted, or, when one that binds is not granted, none.

        In a Redis Cluster this is so for operations with the same subject; what others counted is given back at once.

        Returns:
            The answers in the order of the operations; an error in the place of one that can't be told now.
        """
        ...

    def post(self, operation: Take) -> None:
        """Count without waiting for it, with ``Counting.ADD``; lost when the state is away."""
        ...

    def give_back(self, operation: Take, answer: Answer) -> None:
        """Give back what was taken. Does not wait; nothing is given back while the state is away.

        The bucket loses what is not given back as it loses all else: that is what becomes of the reservations of a
        worker that died. Never is more given back than is still in the bucket of what was taken, so that all who were
        granted something and kept it are no more than the limit allows. That is at least the cost less what the bucket
        loses in the time since; it is all of it where the bucket never held less in that time.

        Args:
            operation: What was taken, once; to be given back once.
            answer: What came of it.
        """
        ...

    def leave(self, operation: Enter) -> None:
        """A connection has ended; nothing happens if it was not counted. Does not wait."""
        ...

    async def greet(self, greet: Greet) -> Greeting:
        """Greylist a triplet: note it if it is new, and say what is known.

        Raises:
            StateUnavailableError: It can't be told.
        """
        ...

    def entries(self, kind: Kind | None = None) -> AsyncIterator[Entry]:
        """All entries (of a kind), in no order, while others may change them.

        Raises:
            StateUnavailableError: They can't be read.
        """
        ...

    async def clear(self, key: str) -> bool:
        """Forget an entry by its key; says whether there was one.

        Raises:
            StateUnavailableError: It can't be told.
        """
        ...

    async def start(self) -> None:
        """Connect; when the state is away this is logged, and tried again."""
        ...

    async def stop(self) -> None:
        """Let go of what this worker counts, and disconnect."""
        ...
