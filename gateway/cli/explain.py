"""``lychgate explain``: what would happen to a message, step by step."""

import asyncio
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from gateway import records
from gateway.adapters.dns.resolver import DnsResolver
from gateway.adapters.dns.zone import ZoneResolver
from gateway.address import address_text
from gateway.cli.common import DEFAULT_CONFIG, AsJson, ConfigPath, load_config
from gateway.config.model import Config, Listener
from gateway.explain import Attempt, Explanation, Step
from gateway.explain import explain as walk
from gateway.log import printable
from gateway.policy import SystemClock
from gateway.verdict import Action, Check

if TYPE_CHECKING:
    from gateway.resolver import Resolver

EXIT: Final = {"accepted": 0, "none": 0, "deferred": 3, "rejected": 4, "discarded": 5, "disconnected": 6, "aborted": 4}
"""Exit statuses by the record's result; 1 is a bad configuration, 2 a bad command line."""

_COLOURS: Final = {
    Action.PASS: "green", Action.TAG: "cyan", Action.DEFER: "yellow", Action.REJECT: "red", Action.DISCARD: "magenta",
    Action.DISCONNECT: "red",
}  # fmt: skip


def explain(
    client_address: Annotated[str, typer.Option(help="The client's IP address.")],
    mail_from: Annotated[str, typer.Option(help="The sender's address; '' or '<>' for the null reverse-path.")],
    rcpt: Annotated[list[str], typer.Option(help="A recipient's address; may be given several times.")],
    message: Annotated[
        Path | None,
        typer.Argument(help="A file with the message, '-' for standard input; without it, only the envelope."),
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    helo: Annotated[str, typer.Option(help="What the client says in EHLO.")] = "client.invalid",
    login: Annotated[str | None, typer.Option(help="The name the client authenticated with.")] = None,
    listener: Annotated[str | None, typer.Option(help="The listener's address; the first one without it.")] = None,
    dns_zone: Annotated[
        Path | None, typer.Option(help="A YAML file that answers all DNS questions: name: {TXT: [..], A: [..], ...}.")
    ] = None,
    *,
    json: AsJson = False,
) -> None:
    """Run one message or envelope through the chain, without a socket or a backend, and tell every step.

    The exit status says what would happen: 0 accepted, 3 deferred, 4 rejected, 5 discarded, 6 disconnected.
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
    explanation = asyncio.run(_explain(settings, _listener(settings, listener), attempt, dns_zone))
    if json:
        sys.stdout.write(records.encode(explanation.record).decode() + "\n")
    else:
        _print(explanation)
    raise typer.Exit(EXIT[explanation.record.decision.result])


async def _explain(config: Config, listener: Listener, attempt: Attempt, zone: Path | None) -> Explanation:
    resolver: Resolver
    if zone is not None:
        try:
            resolver = ZoneResolver.load(zone)
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error), param_hint="--dns-zone") from error
        return await walk(config, listener, attempt, resolver, SystemClock())
    dns = DnsResolver.from_options(config.dns)
    try:
        return await walk(config, listener, attempt, dns, SystemClock())
    finally:
        await dns.close()


def _address(text: str) -> str:
    try:
        return address_text(ip_address(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not an IP address", param_hint="--client-address") from error


def _listener(config: Config, name: str | None) -> Listener:
    for listener in config.listeners:
        if name is None or listener.name == name:
            return listener
    names = ", ".join(listener.name for listener in config.listeners)
    raise typer.BadParameter(f"there is no listener {name!r}; there are: {names}", param_hint="--listener")


def _read(path: Path) -> bytes:
    """The message; a file with UNIX line ends is taken as text and gets those of mail."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"can not read {path}: {error.strerror}", param_hint="MESSAGE") from error
    return content if b"\r\n" in content else content.replace(b"\n", b"\r\n")


def _print(explanation: Explanation) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for step in explanation.steps:
        _print_step(console, step)
    decision = explanation.record.decision
    by = "" if decision.policy is None else f" by {decision.policy}"
    outcome = "" if decision.outcome is None else f" ({decision.outcome})"
    console.print(f"\n[bold]Result: {decision.result}{escape(by + outcome)}[/bold]")


def _print_step(console: Console, step: Step) -> None:
    console.print(f"[bold]{escape(printable(step.command))}[/bold]")
    for check in step.checks:
        _print_check(console, check)
    for question in step.questions:
        answer = ", ".join(question.answer.records) if question.answer.records else question.answer.status.value
        console.print(
            f"    [dim]DNS {escape(printable(question.name))} {question.record_type}: {escape(printable(answer))}[/dim]"
        )
    colour = "green" if step.reply.is_positive else "yellow" if step.reply.is_transient else "red"
    console.print(f"  [{colour}]-> {escape(printable(str(step.reply)))}[/{colour}]")
    for line in step.note.splitlines():
        console.print(f"     [dim]{escape(printable(line))}[/dim]")


def _print_check(console: Console, check: Check) -> None:
    if check.exempted is not None:
        console.print(f"  {check.policy:<14} exempted: {escape(check.exempted)}")
        return
    colour = _COLOURS[check.action]
    what = "nothing to say" if check.outcome is None else check.outcome
    action = "" if check.outcome is None else f" -> [{colour}]{check.action}[/{colour}]"
    observed = " [dim](observed: not applied)[/dim]" if check.observed and check.outcome is not None else ""
    lists = {
        name: [value] if isinstance(value, Mapping) else value
        for name, value in check.evidence.items()
        if isinstance(value, list | tuple | Mapping)
    }
    evidence = _words({name: value for name, value in check.evidence.items() if name not in lists})
    shown = f"  [dim]{escape(printable(evidence))}[/dim]" if evidence else ""
    took = f"{check.duration_us / 1000:.1f} ms"
    console.print(f"  {check.policy:<14} {escape(what)}{action}{observed}{shown}  [dim]{took}[/dim]")
    for name, values in lists.items():
        for value in values:
            text = _words(value) if isinstance(value, Mapping) else str(value)
            console.print(f"    [dim]{escape(name)}: {escape(printable(text))}[/dim]")


def _words(evidence: Mapping[str, object]) -> str:
    """Evidence in a line; what there is none of is left out."""
    return ", ".join(f"{name}={value}" for name, value in evidence.items() if value is not None and value != "")
