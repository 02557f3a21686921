"""The terms of a listener: what its configuration says of a session, whatever door it has.

The SMTP door and ``explain`` go by the same ones, so that what is explained is what would happen.
"""

from collections.abc import Callable

from gateway.admission import weight
from gateway.admission.rules import Rules
from gateway.admission.trace import Identity
from gateway.chain.chain import Chain
from gateway.config.backend import BackendProtocol
from gateway.config.model import Config, DelayReject, Listener
from gateway.policy import Clock
from gateway.records import RecordSink
from gateway.session import Domain, Recipient, Session
from gateway.smtp.data import BareNewlines, NulOctets
from gateway.smtp.grammar import AddressSyntax
from gateway.smtp.server import ServerOptions


def rules_of(
    config: Config,
    listener: Listener,
    *,
    chain: Chain,
    domain: Callable[[str], Domain | None],
    sink: RecordSink,
    clock: Clock,
    identity: Identity,
) -> Rules:
    """What holds for all sessions of a listener.

    Args:
        config: The whole configuration.
        listener: The listener's part.
        chain: Its chain.
        domain: Finds our domain of a name.
        sink: Takes the records.
        clock: Gives the time.
        identity: The gateway's names.
    """
    lmtp = (name for name, options in config.backends.items() if options.protocol is BackendProtocol.LMTP)
    return Rules(
        chain=chain,
        domain=domain,
        backend=backend_of(config, listener),
        quarantine=None if config.quarantine is None else config.quarantine.backend,
        recipient_limit=config.limits.recipients,
        recipient_overshoot=config.limits.recipient_overshoot,
        transaction_memory=config.limits.session_memory - weight.SESSION,
        single_recipient=frozenset(lmtp),
        sink=sink,
        clock=clock,
        identity=identity,
        delay_reject=config.delay_reject is DelayReject.RCPT,
        session_delay=config.limits.session_delay,
    )


def backend_of(config: Config, listener: Listener) -> Callable[[Session, Recipient], str]:
    """A function that gives the name of the backend that a recipient's mail goes to."""
    submission = None if listener.auth is None else listener.auth.backend
    default = config.default_backend or next(iter(config.backends), "none")

    def backend(session: Session, recipient: Recipient) -> str:
        if session.login is not None and submission is not None:
            return submission
        return default if recipient.domain is None else recipient.domain.backend

    return backend


def engine_options(config: Config, listener: Listener) -> ServerOptions:
    """The settings of a listener's engines."""
    limits = config.limits
    return ServerOptions(
        hostname=config.hostname,
        message_size=listener.message_size,
        header_size=limits.header_size,
        header_lines=limits.header_lines,
        command_line=limits.command_line,
        auth_line=limits.auth_line,
        parameters=limits.parameters,
        errors=limits.errors,
        unknown_commands=limits.unknown_commands,
        idle_commands=limits.idle_commands,
        refusals=limits.refusals,
        transactions=limits.transactions,
        chunks=limits.chunks,
        empty_chunks=limits.empty_chunks,
        dropped_octets=limits.dropped_octets,
        bare_newlines=BareNewlines(listener.bare_newlines),
        nul=NulOctets(listener.nul),
        address_syntax=AddressSyntax(listener.address_syntax),
    )
