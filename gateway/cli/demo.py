"""``lychgate demo``: the gateway with a mail server of its own behind it, to try it without setting up anything.

The gateway is the real one with real policies. Behind it stands aiosmtpd, which keeps what it accepts in a Maildir.
Each decision is told as it falls.
"""

import asyncio
import dataclasses
import errno
import mailbox
import shutil
import signal
import tempfile
from importlib import resources
from pathlib import Path
from typing import Final, assert_never

import typer
import uvloop
from aiosmtpd.smtp import SMTP, Envelope, Session
from rich.console import Console

from gateway.cli.common import ExitCode, load_config
from gateway.cli.screen import bad_parameter, console, line
from gateway.config.backend import BackendOptions, NextHop, NextHopKind
from gateway.config.model import Config
from gateway.doors.listening import ListenError, bind
from gateway.lines import LineStream, LineWriter
from gateway.log import END_WITHIN, WAITING, configure
from gateway.records import DecisionRecord, Result
from gateway.verdict import Party
from gateway.worker import Worker

_LOOPBACK: Final = "127.0.0.1"


def _style(result: Result) -> str:
    match result:
        case "accepted":
            return "green"
        case "deferred":
            return "yellow"
        case "discarded" | "quarantined":
            return "magenta"
        case "rejected" | "disconnected":
            return "red"
        case "aborted" | "none":
            return "dim"
        case _:
            assert_never(result)


def demo(config: Path | None, maildir: Path | None, port: int | None) -> None:
    """Carry the command out: return when it was stopped.

    Args:
        config: The file; None for the demo's own.
        maildir: Where accepted messages are kept; None for a folder that goes with the demo.
        port: Another port for the first listener.

    Raises:
        typer.Exit: It can't start; with ``ExitCode.CONFIG``.
    """
    settings = load_config(config or _demo_file())
    if port is not None:
        settings = _at_port(settings, port)
    configure("warning", "text")
    decisions = LineWriter(1, room=WAITING, name="decisions")  # mail waits for nobody who reads what is told
    out = console(soft_wrap=True, file=LineStream(decisions))
    try:
        with tempfile.TemporaryDirectory(prefix="lychgate-demo-") as own:
            folder = Path(own) / "Maildir" if maildir is None else maildir
            _check_maildir(folder)
            asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_demo(settings, folder, out))
    except (ListenError, OSError) as error:
        console(soft_wrap=True).print(line(f"lychgate: {error}{_what_to_do(settings, error)}", style="red"))
        raise typer.Exit(ExitCode.CONFIG) from error
    finally:
        decisions.flush(END_WITHIN)


def _at_port(config: Config, port: int) -> Config:
    first, *others = config.listeners
    first = dataclasses.replace(first, smtp=dataclasses.replace(first.smtp, port=port))
    return dataclasses.replace(config, listeners=(first, *others))


def _check_maildir(folder: Path) -> None:
    """Whether mail can be kept there: in a new folder, an empty one, or one that is a Maildir.

    Raises:
        typer.BadParameter: It is a file, a folder with other things, or can't be made.
    """
    if folder.exists() and not folder.is_dir():
        raise bad_parameter(f"{folder} is a file, and mail is kept in a folder", param_hint="--maildir")
    parts = [folder / name for name in ("cur", "new", "tmp")]
    if folder.is_dir() and any(folder.iterdir()) and not all(part.is_dir() for part in parts):
        told = f"{folder} has other things in it and is no Maildir; name a new folder"
        raise bad_parameter(told, param_hint="--maildir")
    try:
        for part in parts:
            part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        told = f"{folder} can't be made: {error.strerror}; name another folder"
        raise bad_parameter(told, param_hint="--maildir") from error


def _what_to_do(config: Config, error: Exception) -> str:
    """What helps against a port that is taken."""
    cause = error.__cause__
    if not isinstance(error, ListenError) or not isinstance(cause, OSError) or cause.errno != errno.EADDRINUSE:
        return ""
    other = config.listeners[0].smtp.port % 65535 + 1
    return f". Another program listens there, perhaps another demo: end it, or try lychgate demo --port {other}"


def _demo_file() -> Path:
    """The demo's configuration: part of the package, or beside it in a checkout."""
    packaged = Path(str(resources.files("gateway"))) / "demo.yaml"
    return packaged if packaged.is_file() else Path(str(resources.files("gateway"))).parent / "deploy" / "demo.yaml"


class _Maildir:
    """aiosmtpd's handler: keeps each message as a file."""

    def __init__(self, folder: Path) -> None:
        self._maildir = mailbox.Maildir(folder)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002, N802 - aiosmtpd's
        key = self._maildir.add(envelope.content or b"")
        return f"250 2.0.0 Ok: kept as {key}"


class _Teller:
    """A sink that tells each decision in a line, and what was found below it."""

    lost = 0

    def __init__(self, out: Console) -> None:
        self._out = out

    def write(self, record: DecisionRecord) -> None:
        """Tell one decision."""
        decision = record.decision
        if decision.result == "none":
            return
        style = _style(decision.result)
        who = f"<{record.reverse_path}>" if record.reverse_path is not None else record.client.address
        whom = ", ".join(f"<{recipient.address}>" for recipient in record.recipients)
        by = "" if decision.policy in {None, Party.BACKEND.value} else f" by {decision.policy}: {decision.outcome}"
        result = (f"{decision.result:<9}", style)
        self._out.print(line(f"{record.time[11:19]} ", result, f" {who} -> {whom}{by}"))
        if record.reply is not None:
            enhanced = f" {record.reply.enhanced}" if record.reply.enhanced else ""
            told = f"{record.reply.code}{enhanced} {record.reply.text}"
            self._out.print(line("         ", (f"the client was told: {told}", "dim")))

    async def close(self) -> None:
        """Nothing is held."""


async def _demo(config: Config, folder: Path, out: Console) -> None:
    loop = asyncio.get_running_loop()
    handler = _Maildir(folder)
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="demo-backend", enable_SMTPUTF8=True, loop=loop), _LOOPBACK, 0
    )
    config = _in_front_of(config, server.sockets[0].getsockname()[1])
    sockets = [bind(listener.smtp) for listener in config.listeners]
    worker = Worker(config, sockets, sink=_Teller(out), accepts_lists=False)
    await worker.start()
    _welcome(out, config, folder)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    await stopping.wait()
    out.print()
    out.print("Stopping: transactions under way finish first.")
    await worker.stop(config.timeouts.drain)
    server.close()


def _in_front_of(config: Config, port: int) -> Config:
    """The configuration with the demo's mail server, on whatever port was free, in place of all backends."""
    own = BackendOptions(servers=(NextHop(NextHopKind.HOST, _LOOPBACK, port),))
    return dataclasses.replace(config, backends=dict.fromkeys(config.backends, own))


def _welcome(out: Console, config: Config, folder: Path) -> None:
    listener = config.listeners[0].smtp
    host = "127.0.0.1" if listener.host in {"0.0.0.0", "::"} else listener.host
    server = f"{host}:{listener.port}"
    domain = next(iter(config.domains), "example.com")
    where = f" Its mail server keeps what it accepts in {folder}."
    out.print(line((f"Lychgate is listening on {server}.", "bold"), where))
    out.print()
    out.print("Try, in another terminal:")
    out.print()
    for comment, recipient in (
        ("accepted: a recipient that exists", f"alice@{domain}"),
        ("refused: no open relay", "someone@example.net"),
        ("refused: no such recipient", f"nobody@{domain}"),
    ):
        command = f"  swaks --server {server} --from you@example.org --to {recipient:<22} "
        out.print(line(command, (f"# {comment}", "dim")))
    if shutil.which("swaks") is None:
        out.print()
        out.print("(swaks is a Debian package: apt-get install swaks. Any other SMTP client will do.)")
    out.print()
    out.print("Each decision is told below. Ctrl-C stops.")
    out.print()
