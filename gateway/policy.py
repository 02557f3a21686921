"""What a policy is: the base class, its options, and what the gateway hands it.

A policy is a class in a file of its own. The hooks it defines say at which stages it runs; each returns ``None``
(nothing to say) or a finding: one of the ``Outcome`` attributes that the class declares, called with the evidence. A
hook that has to wait for something is ``async def``; a plain ``def`` is run in place and must not block.

    class Loop(Policy[LoopOptions]):
        looping = Outcome("looping", Action.REJECT, Reply(554, "5.4.6", "Too many hops"), "It goes in circles.")

        def on_message(self, transaction: Transaction, message: Message) -> Finding | None:
            hops = len(message.all("Received"))
            return self.looping(hops=hops) if hops > self.options.hops else None

Options are a frozen pydantic model with a description for each field; documentation and JSON Schema are made from
them. What goes wrong in a policy is its own business to raise: the chain does what ``on_error`` says.
"""

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar, get_args

from pydantic import ConfigDict

from gateway.header import is_messages_own, is_one_line
from gateway.resolver import Resolver
from gateway.session import Domain, Message, Recipient, Session, Transaction
from gateway.state import Asking, State
from gateway.strict import StrictModel
from gateway.verdict import Finding, Outcome, Stage

__all__ = ["Clock", "Context", "NoOptions", "OnError", "Options", "Policy"]

Result: TypeAlias = Finding | Asking | None


class OnError(StrEnum):
    """What happens when a policy raises or runs out of time: never a refusal for good."""

    PASS = "pass"  # noqa: S105 - not a password
    DEFER = "defer"


class Options(StrictModel):
    """The base of every policy's options: frozen, an unknown key is an error, and so is text in place of a number.

    A validator that reads files finds the configuration's folder in ``info.context["folder"]``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)


class NoOptions(Options):
    """For a policy that has none."""


class Clock(Protocol):
    """Tells the time; tests set their own."""

    def now(self) -> float:
        """UNIX time in seconds."""
        ...


class SystemClock:
    """The real time."""

    now = staticmethod(time.time)  # no code of ours: it is asked several times a message
    """UNIX time in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the gateway hands every policy.

    Attributes:
        hostname: The gateway's own name.
        folder: The folder of the configuration file; relative file names start there.
        resolver: Asks the DNS.
        clock: Tells the time.
        domain: Finds the settings of one of our domains by its name in lower case, A-labels.
        message_size: The largest message in octets for domains without a limit of their own, 0 for none.
        state: What workers and machines count together.
    """

    hostname: str
    folder: Path
    resolver: Resolver
    clock: Clock
    domain: Callable[[str], Domain | None]
    message_size: int
    state: State


OptionsT = TypeVar("OptionsT", bound=Options)


class Policy(Generic[OptionsT]):
    """The base of every policy.

    Attributes:
        name: The name in the configuration; set by the subclass.
        on_error: What happens when it raises or times out, unless the operator says otherwise. ``DEFER`` where a wrong
            pass admits what the policy exists to keep out.
        timeout: Seconds a hook may wait, unless the operator says otherwise.
        requires: The names of policies that must stand before it in the chain, because it reads what they found.
        hashes_body: Whether it reads ``Message.body_hashes``, so that bodies are hashed while they stream in.
        uses_state: Whether it needs ``Context.state``, which several workers must share.
        asks: Whether its hooks return an ``Asking``: then those of policies next to one another are asked together.
            Such a hook changes nothing by itself, because an earlier policy's refusal may make its answer void.
        writes: The names of the header fields that its findings bring along. Fields of these names that come in are
            removed. What belongs to the message itself (From, Subject and the like) nobody may write.
        outcomes: The declared outcomes by name, gathered from the class's attributes.
        id: Its name in the chain; the ``name`` unless the operator gave it another.
        options: The operator's options.
        context: What the gateway hands it.
    """

    name: ClassVar[str]
    on_error: ClassVar[OnError] = OnError.DEFER
    timeout: ClassVar[float] = 10.0
    requires: ClassVar[tuple[str, ...]] = ()
    hashes_body: ClassVar[bool] = False
    uses_state: ClassVar[bool] = False
    asks: ClassVar[bool] = False
    writes: ClassVar[tuple[str, ...]] = ()
    outcomes: ClassVar[Mapping[str, Outcome]] = {}
    options_type: ClassVar[type[Options]] = NoOptions

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.outcomes = {
            value.name: value
            for base in reversed(cls.__mro__)
            for value in vars(base).values()
            if isinstance(value, Outcome)
        }
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, Options):
                    cls.options_type = argument

    def __init__(self, options: OptionsT, context: Context) -> None:
        self.id = self.name
        self.options = options
        self.context = context

    @property
    def signatures(self) -> int:
        """How many DKIM-Signature fields of a message bodies are hashed for, where it ``hashes_body``."""
        return 0

    @classmethod
    def hooks(cls) -> Mapping[Stage, str]:
        """The stages at which it runs, each with the name of its method."""
        return {stage: f"on_{stage}" for stage in Stage if callable(getattr(cls, f"on_{stage}", None))}

    @classmethod
    def stages(cls, options: Options) -> Mapping[Stage, str]:  # noqa: ARG003 - for those that depend on them
        """The stages at which it runs with these options: all of ``hooks`` unless the policy says otherwise."""
        return cls.hooks()

    @classmethod
    def also_requires(cls, options: Options) -> tuple[str, ...]:  # noqa: ARG003 - for those that depend on them
        """What must stand before it with these options, besides ``requires``."""
        return ()

    @classmethod
    def check_fields(cls, finding: Finding) -> None:
        """Whether the header fields of a finding can be added to a message.

        Raises:
            ValueError: One is no field of one line in printable US-ASCII (RFC 5322 2.1.1, 2.2), its name is not among
                ``writes``, or belongs to the message itself.
        """
        for field in finding.fields:
            if not is_one_line(field):
                raise ValueError(f"{field!r} is not a header field of one line, such as 'X-Name: text'")
            name = field.partition(":")[0]
            if is_messages_own(name):
                raise ValueError(f"{name} is a field of the message itself, which a policy can't write")
            if name.lower() not in map(str.lower, cls.writes):
                raise ValueError(f"the header field {name} is not among those that the policy writes")

    def hook(self, stage: Stage, method: str) -> Callable[..., Any]:
        """A stage's hook as it is called: behind the look-up of the client's name if it needs that."""
        hook: Callable[..., Any] = getattr(self, method)
        if not self.names_clients or stage is Stage.CLOSE:
            return hook

        async def named(subject: Session | Transaction, *more: object) -> Any:
            session = subject if isinstance(subject, Session) else subject.session
            if session.client_name is None:
                await session.resolve_client_name()
            found = hook(subject, *more)
            return await found if inspect.isawaitable(found) else found

        return named

    async def start(self) -> None:
        """Prepare; called once in each worker before the first connection."""

    async def stop(self) -> None:
        """Release what ``start`` took; called once when the worker ends."""

    def look_ahead(self, transaction: Transaction, message: Message) -> None:
        """The message has come, and no policy has looked at it yet.

        What ``on_message`` is going to ask for, whatever others find, can be asked for here (``resolver.ask_ahead``):
        then the answers come while the others wait for theirs. Says nothing; an exception is logged and passed over.
        """

    @property
    def names_clients(self) -> bool:
        """Whether its hooks need the client's name, so that it is looked up before them: ``Session.client_name``."""
        return False

    @property
    def watches_refusals(self) -> bool:
        """Whether ``on_refusal`` is to be called."""
        return False

    def on_refusal(
        self, session: Session, transaction: Transaction, recipient: Recipient | None, by: str | None
    ) -> None:
        """Something of the client's was refused for good: the recipient, or without one the sender or the message.

        Args:
            session: The session.
            transaction: The transaction.
            recipient: The recipient that was refused.
            by: The id of the policy that refused it, None for the backend.
        """


# The signatures of the hooks, each defined by a policy if it wants to run there (a hook may be async):
#   on_connect(self, session: Session)                                       before the greeting
#   on_helo(self, session: Session)                                          after HELO or EHLO
#   on_mail(self, transaction: Transaction)                                  after MAIL
#   on_rcpt(self, transaction: Transaction, recipient: Recipient)            after each RCPT
#   on_data(self, transaction: Transaction)                                  before the data is asked for
#   on_message(self, transaction: Transaction, message: Message)             when all data has arrived
#   on_close(self, session: Session)                                         when the connection has ended; returns None
