"""Verdicts: the one place where a ruling, or a rule of the protocol's own, becomes a reply to the client."""

from collections.abc import Mapping
from typing import Final, assert_never

from gateway.chain.rule import Ruling
from gateway.smtp import reply as replies
from gateway.smtp.reply import MAX_REPLY_LINE, Reply
from gateway.verdict import PROTOCOL, Action, ByPolicy, Stage, Verdict

PROBLEMS: Final[Mapping[Reply, str]] = {
    replies.NUL_IN_DATA: "nul",
    replies.BARE_NEWLINE_DATA: "bare_newline",
    replies.HEADER_TOO_BIG: "header_too_large",
    replies.MESSAGE_TOO_BIG: "too_large",
    replies.INSUFFICIENT_STORAGE: "spool_failed",
    replies.MALFORMED_HEADER: "malformed_header",
}
"""What the record calls the protocol's reasons to refuse a message."""


def by_policy(ruling: Ruling, reference: str) -> Verdict:
    """The verdict of a ruling that decides.

    Args:
        ruling: The ruling.
        reference: What finds the record.
    """
    action = ruling.response.action
    said = ruling.response.reply or ruling.finding.reply
    reply: Reply | None
    match action:
        case Action.PASS | Action.TAG | Action.QUARANTINE:
            reply = None  # the backend has the next word
        case Action.DISCARD:
            reply = replies.ACCEPTED
        case Action.DEFER:
            reply = said.as_deferral().with_reference(reference)
        case Action.REJECT:
            reply = said.as_rejection().with_reference(reference)
        case Action.DISCONNECT:
            reply = said.as_disconnection().with_reference(reference)
        case _:
            assert_never(action)
    return Verdict(action, reply, ByPolicy(ruling.policy), ruling.finding.outcome.name, ruling.stage)


def by_protocol(reply: Reply, outcome: str | None, stage: Stage, reference: str) -> Verdict:
    """The verdict of the protocol's own rules; a reply of 421 disconnects."""
    if reply.code == replies.SHUTTING_DOWN.code:
        action = Action.DISCONNECT
    else:
        action = Action.DEFER if reply.is_transient else Action.REJECT
    return Verdict(action, reply.with_reference(reference), PROTOCOL, outcome, stage)


def as_greeting(hostname: str, verdict: Verdict) -> Reply:
    """What a client that is refused at connect is greeted with: 554, or 421 (RFC 5321 3.1).

    The gateway's name comes first, and an enhanced code is mere text (RFC 2034 3).
    """
    reply = verdict.reply or replies.LOCAL_ERROR
    if verdict.action is not Action.REJECT:
        return reply.as_disconnection()
    lines = reply.text.split("\n")
    if reply.enhanced is not None:
        lines = [f"{reply.enhanced} {line}" for line in lines]
    fits = len(f"554 {hostname} {lines[0]}\r\n".encode("utf-8", "surrogateescape")) <= MAX_REPLY_LINE
    return Reply(554, None, f"{hostname}{' ' if fits else chr(10)}" + "\n".join(lines))


def of_backend(reply: Reply, reference: str) -> Reply:
    """A backend's reply as the client gets it: unchanged; what the gateway says in its place has a reference."""
    if reply.code != replies.BACKEND_UNAVAILABLE.code or reply not in replies.BACKEND_FAULTS:
        return reply
    return reply.with_reference(reference)
