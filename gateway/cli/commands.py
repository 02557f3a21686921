"""Every command as it is written: its name, arguments, options and help.

What a command does stands in a file of its own, which is imported when the command runs: the help of all of them must
not wait for what one of them needs. So this file and ``options`` import nothing beyond the command-line library and a
few enumerations.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigPath, Seconds, config_before, config_given
from gateway.state import Kind


def serve(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Serve mail: bind the listeners, become the configured user, start the workers.

    SIGHUP reloads the configuration, SIGTERM lets transactions finish and stops. The exit status is 1 when the
    configuration is wrong or the service can't start.
    """
    from gateway.cli.serve import serve as run

    run(config)


def check(
    config: ConfigPath = DEFAULT_CONFIG,
    *,
    listener: Annotated[
        str | None, typer.Option("--listener", "-l", metavar="ADDRESS:PORT", help="Only this listener.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a configuration, and show the chain that holds for each listener and what differs for domains.

    The exit status is 0 when it can be used, 1 when it can't, or, with --strict, when there are warnings.
    """
    from gateway.cli.check import check as run

    run(config, listener=listener, strict=strict, as_json=as_json)


def reload(
    config: ConfigPath = DEFAULT_CONFIG,
    timeout: Seconds = 90.0,
) -> None:
    """Let the running service take the configuration over, and tell whether it has.

    The exit status is 0 when the configuration is in force, 1 when it is not: with an error the old one stays. It is 4
    when the reload has to wait for transactions of reloads before it: it takes place by itself then, and nothing needs
    to be done. It is 3 when the service does not answer in time. Needs `runtime_folder` in the configuration, and the
    service's user or root.
    """
    from gateway.cli.reload import reload as run

    run(config, timeout)


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
    no_state: Annotated[
        bool, typer.Option("--no-state", help="Begin with empty limits and an empty greylist.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Run one message or envelope through the chain, without a socket or a backend, and tell every step.

    Limits and the greylist are looked at as they are now, and nothing is counted. What was not asked is told. The exit
    status says what would happen: 0 accepted, 3 deferred, 4 rejected, 5 discarded, 6 disconnected, 7 accepted for some
    recipients only, 8 quarantined.
    """
    from gateway.cli.explain import explain as run

    run(
        config,
        client_address=client_address,
        mail_from=mail_from,
        rcpt=rcpt,
        message=message,
        helo=helo,
        login=login,
        listener=listener,
        dns_zone=dns_zone,
        asks_state=not no_state,
        as_json=json,
    )


def policies(
    name: Annotated[
        str | None, typer.Argument(help="A policy, to print its documentation.", show_default=False)
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the installed policies, or print the documentation of one."""
    from gateway.cli.policies import policies as run

    run(name, as_json=as_json)


class Which(StrEnum):
    """The JSON Schemas that there are."""

    CONFIG = "config"
    RECORD = "record"


def schema(
    which: Annotated[Which, typer.Argument(help="Of the configuration file, or of a decision record.")] = Which.CONFIG,
) -> None:
    """Print a JSON Schema.

    That of the configuration knows the options of every installed policy. An editor with a YAML language server
    uses it when the file begins with the comment `# yaml-language-server: $schema=lychgate.schema.json`.
    """
    from gateway.cli import schema as schemas

    if which is Which.CONFIG:
        schemas.of_config()
    else:
        schemas.of_record()


def demo(
    config: Annotated[Path | None, typer.Option(help="A configuration instead of the demo's own.")] = None,
    maildir: Annotated[
        Path | None, typer.Option(help="Where accepted messages are kept; without it a folder that goes with the demo.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Another port for the first listener.", min=1, max=65535, show_default=False)
    ] = None,
) -> None:
    """Try the gateway: it listens on 127.0.0.1:2525, keeps what it accepts in a Maildir, and tells each decision."""
    from gateway.cli.demo import demo as run

    run(config, maildir, port)


recipients = typer.Typer(
    name="recipients",
    help="What the running gateway remembers of recipients, and what their sources say.",
    no_args_is_help=True,
)

_What = Annotated[str | None, typer.Argument(help="An address or a domain; everything without it.", show_default=False)]


@recipients.command("list")
def recipients_list(
    what: _What = None,
    config: ConfigPath = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(help="At most so many addresses of each source; 0 for all.", min=0)] = 100,
    *,
    json: AsJson = False,
) -> None:
    """Show what each worker remembers: addresses, what was said of them, and for how long that holds.

    Needs `runtime_folder` in the configuration, and the service's user or root.
    """
    from gateway.cli.recipients import show

    show(config, what, limit, as_json=json)


@recipients.command("flush")
def recipients_flush(
    what: _What = None,
    config: ConfigPath = DEFAULT_CONFIG,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Forget everything.")] = False,
) -> None:
    """Let every worker forget an address, a domain or everything, so that the sources are asked again.

    Needs `runtime_folder` in the configuration, and the service's user or root.
    """
    from gateway.cli.recipients import flush

    flush(config, what, everything=everything)


@recipients.command("check")
def recipients_check(
    address: Annotated[str, typer.Argument(help="The address to ask about.")],
    config: ConfigPath = DEFAULT_CONFIG,
    *,
    json: AsJson = False,
) -> None:
    """Ask the sources of the address's domain now, whatever is remembered, and say what each said.

    The exit status is 0 when the address exists, 4 when it does not, and 3 when that can't be told.
    """
    from gateway.cli.recipients_check import check as run

    run(config, address, as_json=json)


@recipients.command("lists")
def recipients_lists(config: ConfigPath = DEFAULT_CONFIG, *, json: AsJson = False) -> None:
    """Show the files of recipients: how many entries are in force, and what is held back until it is accepted."""
    from gateway.cli.lists import show

    show(config, as_json=json)


@recipients.command("accept")
def recipients_accept(
    name: Annotated[str, typer.Argument(help="The file of a list, by its path or its name.")],
    config: ConfigPath = DEFAULT_CONFIG,
    *,
    json: AsJson = False,
) -> None:
    """Accept a file of recipients as it is now, also if it is empty or has lost many entries.

    Workers that run notice within seconds. Needs the service's user or root.
    """
    from gateway.cli.lists import accept

    accept(config, name, as_json=json)


state = typer.Typer(name="state", help="What workers and machines count together.", invoke_without_command=True)


@state.callback()
def state_show(
    context: typer.Context,
    config: ConfigPath = DEFAULT_CONFIG,
    kind: Annotated[Kind | None, typer.Option(help="Only these entries.", show_default=False)] = None,
    subject: Annotated[
        str,
        typer.Option(
            help="Only entries about this: an address, a network, a name, or a part of one.", show_default=False
        ),
    ] = "",
    limit: Annotated[int, typer.Option(help="At most so many entries; 0 for all.", min=0)] = 50,
    *,
    json: AsJson = False,
) -> None:
    """Show limits and connections, the fullest first, and the greylist; or clear an entry.

    With `memory:` the running service is asked, by the `runtime_folder` of the configuration.
    """
    if context.invoked_subcommand is not None:
        config_before(context, config)
        return
    from gateway.cli.state import show

    show(config, kind, subject, limit, as_json=json)


@state.command("clear")
def state_clear(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="The entry's key, as `lychgate state` shows it; in quotes for the shell.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Forget one entry: an empty bucket, a triplet that is new again."""
    from gateway.cli.state import clear

    clear(config_given(context, config), key)


@state.command("workers")
def state_workers(context: typer.Context, config: ConfigPath = DEFAULT_CONFIG, *, json: AsJson = False) -> None:
    """Show how each worker gets on with Redis: whether it is away, how often it was, and what was not answered.

    Needs `runtime_folder` in the configuration, and the service's user or root.
    """
    from gateway.cli.state import workers

    workers(config_given(context, config), as_json=json)
