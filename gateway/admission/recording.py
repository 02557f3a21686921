"""Recording: the decision record of a session or transaction that has ended.

``record_of`` reads what the types of ``session`` hold and makes the published form of ``records``; nothing is decided
here.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, assert_never

from gateway import records
from gateway.mailauth.results import AlignmentMode, Arc, DkimSignature, Dmarc, Spf
from gateway.records import (
    AlignmentRecord,
    ArcRecord,
    AuthenticationRecord,
    BackendRecord,
    ClientRecord,
    DecisionPart,
    DecisionRecord,
    DkimRecord,
    DmarcRecord,
    HeloRecord,
    MessageRecord,
    RecipientRecord,
    RecipientVerdict,
    ReplyRecord,
    Result,
    SpfRecord,
    TlsRecord,
)
from gateway.session import Recipient, RecipientState, Session, Transaction
from gateway.smtp.reply import Reply
from gateway.verdict import BACKEND, PROTOCOL, Action, Verdict, decider_text

_REMOVED: Final = 20
"""How many removed fields a record names, so that no sender makes it grow."""


def result_of(action: Action) -> Result:
    """What a transaction has come to that a policy's action decided."""
    match action:
        case Action.PASS | Action.TAG:
            return "accepted"
        case Action.QUARANTINE:
            return "quarantined"
        case Action.DEFER:
            return "deferred"
        case Action.REJECT:
            return "rejected"
        case Action.DISCARD:
            return "discarded"
        case Action.DISCONNECT:
            return "disconnected"
        case _:
            assert_never(action)


def state_of(action: Action) -> RecipientState:
    """What has become of a recipient that a policy's action decided about."""
    match action:
        case Action.PASS | Action.TAG | Action.QUARANTINE:
            return RecipientState.ACCEPTED
        case Action.DEFER | Action.DISCONNECT:
            return RecipientState.DEFERRED
        case Action.REJECT:
            return RecipientState.REJECTED
        case Action.DISCARD:
            return RecipientState.DISCARDED
        case _:
            assert_never(action)


_VERDICTS: Final[Mapping[RecipientState | None, RecipientVerdict]] = {
    None: "undecided",
    RecipientState.ACCEPTED: "accepted",
    RecipientState.DEFERRED: "deferred",
    RecipientState.REJECTED: "rejected",
    RecipientState.DISCARDED: "discarded",
}


def decision_of(result: Result, verdict: Verdict | None, backend: BackendRecord | None) -> DecisionPart:
    """Who decided: the verdict's policy, or without one the backend, if it was asked, or the protocol."""
    if verdict is not None:
        by = decider_text(verdict.by)
        return DecisionPart(result=result, policy=by, stage=verdict.stage, outcome=verdict.outcome)
    if result in {"aborted", "none"} or (result == "accepted" and backend is None):
        return DecisionPart(result=result, policy=None, stage=None, outcome=None)
    by = decider_text(PROTOCOL if backend is None else BACKEND)
    return DecisionPart(result=result, policy=by, stage=None, outcome=None)


def record_of(
    session: Session,
    transaction: Transaction | None,
    *,
    decision: DecisionPart,
    reply: Reply | None,
    backend: BackendRecord | None,
    gateway: str,
    address: str,
    duration: float,
) -> DecisionRecord:
    """The record of a transaction, or of a connection that had none.

    Args:
        session: The session.
        transaction: The transaction that has ended, None for the connection itself.
        decision: How it ended.
        reply: The last reply to the client.
        backend: The backend's part, None if it was not asked.
        gateway: The gateway's name.
        address: The client's address as text.
        duration: Seconds.
    """
    started = session.started if transaction is None else transaction.started
    checks = session.checks.copy() if transaction is None else session.checks + transaction.checks
    helo = None if session.helo_name is None else HeloRecord(name=session.helo_name, extended=session.extended)
    return DecisionRecord(
        version=records.VERSION,
        id=session.id if transaction is None else transaction.id,
        kind="connection" if transaction is None else "transaction",
        session_id=session.id,
        gateway=gateway,
        listener=session.listener,
        time=_moment(started),
        duration_ms=int(duration * 1_000_000) / 1000,
        client=_client_record(session, address),
        helo=helo,
        reverse_path=None if transaction is None else transaction.reverse_path.text,
        recipients=[] if transaction is None else [_recipient_record(r) for r in transaction.recipients],
        message=None if transaction is None else _message_record(transaction),
        authentication=None if transaction is None else _authentication_record(transaction),
        checks=checks,
        decision=decision,
        reply=reply_record(reply),
        backend=backend,
    )


_MILLISECONDS: Final = tuple(f".{number:03}+00:00" for number in range(1000))


def _moment(time: float) -> str:
    """A UNIX time as ISO 8601 writes it, to the millisecond."""
    second, microseconds = divmod(round(time * 1_000_000), 1_000_000)
    return _second(second) + _MILLISECONDS[microseconds // 1000]


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def reply_record(reply: Reply | None) -> ReplyRecord | None:
    """A reply as the record shows it."""
    return None if reply is None else ReplyRecord(code=reply.code, enhanced=reply.enhanced, text=reply.text)


def outcome_of(transaction: Transaction) -> tuple[Result, Verdict | None, Reply | None]:
    """How a transaction ended that the client left: as its last recipient if all were refused, else aborted."""
    refused: dict[RecipientState | None, Result] = {
        RecipientState.REJECTED: "rejected",
        RecipientState.DEFERRED: "deferred",
    }
    if not transaction.recipients or any(recipient.state not in refused for recipient in transaction.recipients):
        return "aborted", None, None
    last = transaction.recipients[-1]
    result = refused[last.state] if last.verdict is None else result_of(last.verdict.action)
    return result, last.verdict, last.reply


def _client_record(session: Session, address: str) -> ClientRecord:
    tls = session.tls
    return ClientRecord(
        address=address,
        port=session.client_port,
        name=session.client_name.name if session.client_name is not None else None,
        name_status=session.client_name.status if session.client_name is not None else None,
        tls=None if tls is None else TlsRecord(version=tls.version, cipher=tls.cipher, bits=tls.bits),
        login=session.login,
    )


def _recipient_record(recipient: Recipient) -> RecipientRecord:
    return RecipientRecord(
        address=recipient.path.text,
        verdict=_VERDICTS[recipient.state],
        decided_by=decider_text(recipient.decided_by),
        reply=reply_record(recipient.reply),
    )


def _message_record(transaction: Transaction) -> MessageRecord | None:
    message = transaction.message
    if message is None:
        return None
    message_id = message.message_id
    section = message.section
    return MessageRecord(
        size=message.size,
        declared_size=transaction.declared_size,
        message_id=None if message_id is None else message_id[:998],  # RFC 5322 2.1.1: the longest line
        removed=[field.name for field in section.removed[:_REMOVED]] if section.removed else [],
        mended=list(section.mended),
        malformed=section.malformed or None,
    )


def _authentication_record(transaction: Transaction) -> AuthenticationRecord | None:
    found = transaction.authentication
    spf, dkim, arc, dmarc = found.spf, found.dkim, found.arc, found.dmarc
    if spf is None and dkim is None and arc is None and dmarc is None:
        return None
    return AuthenticationRecord(
        spf=None if spf is None else _spf_record(spf),
        dkim=None if dkim is None else [_dkim_record(signature) for signature in dkim],
        arc=None if arc is None else _arc_record(arc),
        dmarc=None if dmarc is None else _dmarc_record(dmarc),
    )


def _spf_record(spf: Spf) -> SpfRecord:
    helo = None if spf.helo is None else spf.helo.result
    checked = spf.mail_from
    return SpfRecord(mail_from=checked.result, helo=helo, domain=checked.domain, reason=checked.reason)


def _dkim_record(signature: DkimSignature) -> DkimRecord:
    return DkimRecord(
        domain=signature.domain,
        selector=signature.selector,
        algorithm=signature.algorithm,
        result=signature.result,
        reason=signature.reason,
    )


def _arc_record(arc: Arc) -> ArcRecord:
    return ArcRecord(result=arc.result, oldest_pass=arc.oldest_pass, sealer=arc.sealer, reason=arc.reason)


def _dmarc_record(dmarc: Dmarc) -> DmarcRecord:
    published = dmarc.published
    return DmarcRecord(
        result=dmarc.result,
        policy=dmarc.policy,
        disposition=dmarc.disposition,
        domain=dmarc.domain,
        record_domain=dmarc.record_domain,
        alignment=AlignmentRecord(
            spf=dmarc.spf_aligned,
            dkim=dmarc.dkim_aligned,
            spf_mode=AlignmentMode.RELAXED if published is None else published.spf_mode,
            dkim_mode=AlignmentMode.RELAXED if published is None else published.dkim_mode,
        ),
        trusted_sealer=dmarc.arc_sealer,
        record=None if published is None else published.shown,
        reason=dmarc.reason,
    )
