"""``lychgate explain``: what would happen to a message, step by step."""

import asyncio
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal, assert_never

import typer
from rich.console import Console

from gateway import records
from gateway.adapters.dns.zone import ZoneResolver
from gateway.adapters.state.glance import Find, Glance
from gateway.adapters.state.view import entry_of
from gateway.address import address_text
from gateway.cli.common import load_config
from gateway.cli.control import ask_workers
from gateway.cli.screen import Piece, bad_parameter, console, line, print_plain
from gateway.config.model import Config, Listener
from gateway.explain import Attempt, Explanation, Step
from gateway.explain import explain as walk
from gateway.policy import SystemClock
from gateway.state import Entry
from gateway.verdict import Action, Check

if TYPE_CHECKING:
    from gateway.records import Result
    from gateway.resolver import Resolver


def exit_status(result: 'Result | Literal["mixed"]') -> int:
    """The exit status by the record's result; 1 is a bad configuration, 2 a bad command line."""
    match result:
        case "accepted" | "none":
            return 0
        case "deferred":
            return 3
        case "rejected" | "aborted":
            return 4
        case "discarded":
            return 5
        case "disconnected":
            return 6
        case "mixed":
            return 7
        case "quarantined":
            return 8
        case _:
            assert_never(result)


def _colour(action: Action) -> str:
    match action:
        case Action.PASS:
            return "green"
        case Action.TAG:
            return "cyan"
        case Action.DEFER:
            return "yellow"
        case Action.DISCARD | Action.QUARANTINE:
            return "magenta"
        case Action.REJECT | Action.DISCONNECT:
            return "red"
        case _:
            assert_never(action)


def explain(
    config: Path,
    *,
    client_address: str,
    mail_from: str,
    rcpt: list[str],
    message: Path | None,
    helo: str,
    login: str | None,
    listener: str | None,
    dns_zone: Path | None,
    asks_state: bool,
    as_json: bool,
) -> None:
    """Carry the command out; its options are those of the command line.

    Raises:
        typer.Exit: Always, with the ``exit_status`` of the result, or because the configuration can't be used.
        typer.BadParameter: An option's value can't be used.
    """
    settings = load_config(config)
    attempt = Attempt(
        client_address=_address(client_address),
        helo=helo,
        mail_from=mail_from.removeprefix("<").removesuffix(">"),
        recipients=[address.removeprefix("<").removesuffix(">") for address in rcpt],
        message=None if message is None else _read(message),
        login=login,
    )
    chosen = _listener(settings, listener)
    explanation = asyncio.run(_explain(settings, chosen, attempt, dns_zone, asks_state=asks_state))
    if as_json:
        print_plain(records.encode(explanation.record).decode())
    else:
        _print(explanation)
    raise typer.Exit(exit_status(explanation.result))


async def _explain(
    config: Config, listener: Listener, attempt: Attempt, zone: Path | None, *, asks_state: bool
) -> Explanation:
    clock = SystemClock()
    shared = None
    if asks_state and config.state.is_shared:
        from gateway.adapters.state.redis import RedisState  # the driver takes a while to load

        shared = RedisState(config.state)
    find = None if not asks_state else _remembered(config) if shared is None else shared.find
    try:
        return await _walk(config, listener, attempt, zone, None if find is None else Glance(find, clock))
    finally:
        if shared is not None:
            await shared.stop()


def _remembered(config: Config) -> Find | None:
    """What the running service's worker has in its memory; None where there is none to be asked."""
    folder = config.runtime_folder
    if folder is None or not any(folder.glob("worker-*.sock")):
        return None

    async def find(key: str) -> Entry | None:
        request = {"command": "state", "subject": key.partition(":{")[2].partition("}:")[0], "limit": 0}
        replies = await asyncio.to_thread(ask_workers, config, request)
        entries = [entry for reply in replies.values() for entry in reply["entries"]]
        return next((entry_of(entry) for entry in entries if entry["key"] == key), None)

    return find


async def _walk(
    config: Config, listener: Listener, attempt: Attempt, zone: Path | None, state: Glance | None
) -> Explanation:
    resolver: Resolver
    if zone is not None:
        try:
            resolver = ZoneResolver.load(zone)
        except (OSError, ValueError) as error:
            raise bad_parameter(str(error), param_hint="--dns-zone") from error
        return await walk(config, listener, attempt, resolver, SystemClock(), state)
    from gateway.adapters.dns.resolver import DnsResolver  # which takes a while to load

    dns = DnsResolver.from_options(config.dns)
    try:
        return await walk(config, listener, attempt, dns, SystemClock(), state)
    finally:
        await dns.close()


def _address(text: str) -> str:
    try:
        return address_text(ip_address(text))
    except ValueError as error:
        raise bad_parameter(f"{text!r} is not an IP address", param_hint="--client-address") from error


def _listener(config: Config, name: str | None) -> Listener:
    for listener in config.listeners:
        if name is None or listener.name == name:
            return listener
    names = ", ".join(listener.name for listener in config.listeners)
    raise bad_parameter(f"there is no listener {name!r}; there are: {names}", param_hint="--listener")


def _read(path: Path) -> bytes:
    """The message; a file with UNIX line ends is taken as text and gets those of mail."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise bad_parameter(f"can not read {path}: {error.strerror}", param_hint="MESSAGE") from error
    return content if b"\r\n" in content else content.replace(b"\n", b"\r\n")


def _print(explanation: Explanation) -> None:
    out = console(soft_wrap=True)
    for step in explanation.steps:
        _print_step(out, step)
    decision = explanation.record.decision
    by = "" if decision.policy is None else f" by {decision.policy}"
    outcome = "" if decision.outcome is None else f" ({decision.outcome})"
    out.print()
    for what in explanation.not_asked:
        out.print(line(f"Not asked: {what}", style="dim"))
    if explanation.result == "mixed":
        accepted = sum(recipient.verdict == "accepted" for recipient in explanation.record.recipients)
        told = f"mixed: {accepted} of {len(explanation.record.recipients)} recipients accepted"
    else:
        told = f"{decision.result}{by}{outcome}"
    out.print(line(f"Result: {told}", style="bold"))


def _print_step(out: Console, step: Step) -> None:
    out.print(line(step.command, style="bold"))
    for check in step.checks:
        _print_check(out, check)
    for question in step.questions:
        answer = ", ".join(question.answer.records) if question.answer.records else question.answer.status.value
        out.print(line(f"    DNS {question.name} {question.record_type}: {answer}", style="dim"))
    colour = "green" if step.reply.is_positive else "yellow" if step.reply.is_transient else "red"
    out.print(line("  ", (f"-> {step.reply}", colour)))
    for note in filter(None, step.note.split("\n")):
        out.print(line(f"     {note}", style="dim"))


def _print_check(out: Console, check: Check) -> None:
    if check.exempted is not None:
        out.print(f"  {check.policy:<14} exempted: {check.exempted}")
        return
    lists = {
        name: [value] if isinstance(value, Mapping) else value
        for name, value in check.evidence.items()
        if isinstance(value, list | tuple | Mapping)
    }
    evidence = _words({name: value for name, value in check.evidence.items() if name not in lists})
    pieces: list[Piece] = [f"  {check.policy:<14} {check.outcome or 'nothing to say'}"]
    if check.outcome is not None:
        pieces += [" -> ", (check.action, _colour(check.action))]
        pieces += [(" (observed: not applied)", "dim")] if check.observed else []
    pieces += [(f"  {evidence}", "dim")] if evidence else []
    pieces.append((f"  {check.duration_us / 1000:.1f} ms", "dim"))
    out.print(line(*pieces))
    for name, values in lists.items():
        for value in values:
            text = _words(value) if isinstance(value, Mapping) else str(value)
            out.print(line(f"    {name}: {text}", style="dim"))


def _words(evidence: Mapping[str, object]) -> str:
    """Evidence in a line; what there is none of is left out."""
    return ", ".join(f"{name}={value}" for name, value in evidence.items() if value is not None and value != "")
