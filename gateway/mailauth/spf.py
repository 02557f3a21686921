"""SPF: may this client send for this domain? ``check_host()`` of RFC 7208, for the reverse-path and the HELO name.

What a check found (``spf_evaluation``) becomes a result in words here. With a warm cache nothing is awaited. Any
number of checks can be under way; what they share is the ``SpfMemory``, if they are given one.

Bounds, all in ``Limits``: terms that ask the DNS, void look-ups, names of an ``mx`` and of a client, questions of the
terms, seconds in all. Nothing is raised for what a domain publishes or the DNS answers.
"""

import asyncio
from functools import partial
from typing import Final

from gateway.mailauth.results import Spf, SpfCheck, SpfResult
from gateway.mailauth.spf_evaluation import OF_LOCAL_PART, Address, Client, Evaluation
from gateway.mailauth.spf_macros import domain_name
from gateway.mailauth.spf_memory import SpfMemory
from gateway.mailauth.spf_questions import Deadline, Limits, Questions
from gateway.mailauth.spf_record import MAX_RECORD, Term
from gateway.mailauth.spf_steps import Frame, Match, one_line, steps
from gateway.resolver import Resolver
from gateway.smtp.path import Mailbox, ReversePath

_MAX_REASON: Final = 300
_OF_TRANSACTION: Final = OF_LOCAL_PART | {"h", "t"}
"""Macro letters whose values differ between two checks of one domain for one client (RFC 7208 7.2)."""

DEFAULT_LIMITS: Final = Limits()


async def check_host(
    resolver: Resolver,
    *,
    address: Address,
    domain: str,
    local_part: str = "",
    helo: str = "",
    receiver: str = "unknown",
    now: float = 0.0,
    limits: Limits = DEFAULT_LIMITS,
    memory: SpfMemory | None = None,
    deadline: Deadline | None = None,
) -> SpfCheck:
    """Check whether a client may send for a domain (RFC 7208 4.1).

    Args:
        resolver: Asks the DNS; its ``known`` gives what needs no asking.
        address: The client.
        domain: The domain, as the client gave it.
        local_part: The sender's local part, for macros; empty for ``postmaster`` (RFC 7208 4.3).
        helo: The HELO name, for macros.
        receiver: The gateway's own name, for macros.
        now: UNIX time in seconds, for macros.
        limits: What it may take.
        memory: Results of the same limits, which are taken as they are.
        deadline: Until when the DNS may answer, where another check has a share in it; of its own if None.

    Returns:
        The result. Whatever the arguments, the domain's records and the DNS are, there is one.
    """
    name = domain_name(domain)
    if name is None:
        given = one_line(domain.lower(), 255)
        reason = f"{given or 'the empty name'} is no domain name"
        return SpfCheck(result=SpfResult.NONE, domain=given, reason=reason)
    remembered = None if memory is None else memory.get((address, name))
    if remembered is not None:
        return remembered
    since = 0.0 if memory is None else memory.now()
    user = local_part or "postmaster"
    values = {"s": f"{user}@{name}", "l": user, "o": name, "h": helo, "r": receiver, "t": str(int(now))}
    questions = Questions(resolver, limits, deadline)
    evaluation = Evaluation(questions, Client.of(address), values, limits)
    check, is_whole = await _evaluated(evaluation, questions, name)
    if memory is not None and is_whole and check.letters.isdisjoint(_OF_TRANSACTION):
        memory.put((address, name), check, questions.known.values(), since)
    return check


async def _evaluated(evaluation: Evaluation, questions: Questions, domain: str) -> tuple[SpfCheck, bool]:
    """What an evaluation says of a domain, and whether it had the time that it needs."""
    frame: Frame | None = None
    explanation: str | None = None
    is_whole = False
    try:
        async with questions.timer:
            frame = await evaluation.check_host(domain)
            evaluation.judge(frame)
            if frame.result is SpfResult.FAIL:
                explanation = await evaluation.explanation(frame.last)
            is_whole = True
    except TimeoutError:
        if frame is None:
            reason, queries = f"the DNS took longer than {questions.limits.time:g} s", len(questions.known)
            return SpfCheck(result=SpfResult.TEMPERROR, domain=domain, reason=reason, queries=queries), False
    match = frame.last.match if frame.untold is None else None
    check = SpfCheck(
        result=frame.result,
        domain=domain,
        mechanism=None if match is None else one_line(match[0].text),
        reason=one_line(_reason(frame, evaluation, match), _MAX_REASON),
        explanation=explanation,
        record=None if frame.text is None else one_line(frame.text, MAX_RECORD),
        queries=len(questions.known),
        letters=frozenset(evaluation.letters),
        tell=partial(steps, frame, questions.known),
    )
    return check, is_whole


def _reason(frame: Frame, evaluation: Evaluation, match: tuple[Term, Match] | None) -> str:
    if frame.untold is not None:
        return frame.untold.reason
    if frame.fault is not None:
        failed_in = evaluation.failed_in
        return frame.fault.reason + (f" (record of {failed_in})" if failed_in != frame.domain else "")
    if match is None:
        return "nothing in the record matched" if frame.text else f"{frame.domain} has no SPF record"
    compared = f" ({match[1].compared})" if match[1].compared else ""
    return f"{evaluation.client.values['c']} matched {match[0].text} of {frame.last.domain}{compared}"


async def check_sender(
    resolver: Resolver,
    *,
    address: Address,
    reverse_path: ReversePath,
    helo: str | None,
    check_helo: bool = True,
    receiver: str = "unknown",
    now: float = 0.0,
    limits: Limits = DEFAULT_LIMITS,
    memory: SpfMemory | None = None,
) -> Spf:
    """Check the reverse-path and, if wanted, the HELO name (RFC 7208 2.3, 2.4).

    The second check begins when the first has to wait, and both end at one deadline. What one found stays if only the
    other is cut off. With the null reverse-path both are the same check. A HELO name that is no domain name is not
    checked.
    """
    helo_name = helo or ""
    helo_domain = domain_name(helo_name) if check_helo else None
    if memory is not None and isinstance(reverse_path, Mailbox) and helo_domain is not None:
        remembered = memory.get((address, reverse_path.domain))
        remembered_helo = None if remembered is None else memory.get((address, helo_domain))
        if remembered is not None and remembered_helo is not None:
            return Spf(mail_from=remembered, helo=remembered_helo)
    check = partial(
        check_host, resolver, address=address, helo=helo_name, receiver=receiver, now=now, limits=limits, memory=memory
    )
    if not isinstance(reverse_path, Mailbox):
        only = await check(domain=helo_name)
        return Spf(mail_from=only, helo=None if helo_domain is None else only)
    domain, local_part = reverse_path.domain, reverse_path.local_part
    if helo_domain is None:
        return Spf(mail_from=await check(domain=domain, local_part=local_part))
    if helo_domain == domain:
        deadline = Deadline(limits.time)
        mail_from = helo_check = await check(domain=domain, local_part=local_part, deadline=deadline)
        if not mail_from.letters.isdisjoint(OF_LOCAL_PART):
            helo_check = await check(domain=domain, deadline=deadline)
        return Spf(mail_from=mail_from, helo=helo_check)
    tasks: list[asyncio.Task[SpfCheck]] = []

    def begin(deadline: Deadline) -> None:
        tasks.append(asyncio.create_task(check(domain=helo_domain, deadline=deadline)))

    try:
        mail_from = await check(domain=domain, local_part=local_part, deadline=Deadline(limits.time, begin))
        return Spf(mail_from=mail_from, helo=await (tasks[0] if tasks else check(domain=helo_domain)))
    except BaseException:  # a task group would do this, and costs a twentieth of a check that needs none
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
