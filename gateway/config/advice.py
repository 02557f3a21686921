"""What is allowed in a configuration but probably not meant, and what must hold outside of it.

``warnings`` looks at the configuration alone; ``file_problems`` looks whether the files that serving needs can be
used, which depends on who asks and on whom the service becomes (``reach``). ``lychgate check`` prints both; ``serve``
refuses to start over the second.
"""

import grp
import pwd
import ssl
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from gateway.config import reach, slips
from gateway.config.model import Config, DomainOptions, Listener, Mode, PolicySettings, TlsMode
from gateway.config.problems import Problem


def warnings(config: Config, today: date) -> list[Problem]:
    """What is probably not meant.

    Args:
        config: The configuration.
        today: The date in UTC, by which exceptions expire.
    """
    found = [*config.warnings]
    for where, message in (
        *_on_the_whole(config),
        *(
            warning
            for index, listener in enumerate(config.listeners)
            for warning in _on_listener(config, index, listener)
        ),
        *_on_exceptions(config, today),
        *slips.found(config, today),
    ):
        found.append(Problem(config.path, config.positions.get(where), where, message))
    return found


def file_problems(config: Config) -> list[Problem]:
    """What keeps the service from its work.

    Certificates and keys that are not there, can't be read by this user, or don't fit each other; and what the service
    can't read once it is another user.
    """
    found: list[Problem] = []
    for index, listener in enumerate(config.listeners):
        if listener.tls.mode is TlsMode.NONE or listener.tls.certificate is None:
            continue
        where = f"listeners[{index}].tls"
        certificate, key = listener.tls.certificate, listener.tls.key or listener.tls.certificate
        unreadable = False
        for name, path in (("certificate", certificate), ("key", key)):
            message = _unreadable(path)
            if message is not None and not (unreadable and path == certificate):
                place = f"{where}.{name}"
                found.append(Problem(config.path, config.positions.get(place), place, message))
                unreadable = True
        if not unreadable:
            message = _misfit(certificate, key)
            if message is not None:
                found.append(Problem(config.path, config.positions.get(where), where, message))
    return found + reach.problems(config)


def _unreadable(path: Path) -> str | None:
    try:
        with path.open("rb"):
            return None
    except FileNotFoundError:
        return f"there is no file {str(path)!r}"
    except OSError as error:
        return f"the file {str(path)!r} can't be read: {error.strerror}"


def _misfit(certificate: Path, key: Path) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # an encrypted key would ask on the terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"the key {str(key)!r} does not belong to the certificate {str(certificate)!r}"
        return f"{str(certificate)!r} and {str(key)!r} are not a certificate and its unencrypted key in PEM form"
    return None


def _on_the_whole(config: Config) -> Iterator[tuple[str, str]]:
    if config.mode is Mode.OBSERVE:
        yield "mode", "everything is only observed: no policy refuses anything, not even relaying"
    if "." not in config.hostname:
        yield "hostname", f"{config.hostname!r} is not a full name; many servers refuse such a greeting"
    if not config.domains:
        yield "domains", "no domain is ours, so every recipient is foreign"
    if config.records.file is None and not config.records.stdout:
        yield "records", "decision records are written nowhere"
    yield from _on_folders(config)
    yield from _on_names(config)
    if config.default_backend is None and len(config.backends) > 1 and any(map(_trusts_clients, config.listeners)):
        first = next(iter(config.backends))
        yield "backends", f"what trusted clients send to other domains goes to {first!r}; name a default_backend"
    used = {domain.backend for domain in config.domains.values()} | {config.default_backend}
    used |= set() if config.quarantine is None else {config.quarantine.backend}
    used |= {listener.auth.backend for listener in config.listeners if listener.auth is not None}
    for name in config.backends:
        if name not in used:
            yield f"backends.{name}", "nothing uses this backend"


def _trusts_clients(listener: Listener) -> bool:
    """Whether its relay policy lets some clients send to any domain."""
    tables = [getattr(settings.options, "trusted", None) for settings in listener.chain.policies]
    return any(table is not None and not table.is_empty for table in tables)


def _on_folders(config: Config) -> Iterator[tuple[str, str]]:
    """What is written while serving needs its folder; a service manager may make it at the start."""
    if config.records.file is not None and not config.records.file.parent.is_dir():
        yield "records.file", f"there is no folder {str(config.records.file.parent)!r}: without it no record is written"
    if config.spool.directory is not None and not config.spool.directory.is_dir():
        yield "spool.directory", f"there is no folder {str(config.spool.directory)!r}: large messages would be deferred"


def _on_names(config: Config) -> Iterator[tuple[str, str]]:
    """Whom to become has to exist where it serves, which may be another machine."""
    for where, name, look_up in (("user", config.user, pwd.getpwnam), ("group", config.group, grp.getgrnam)):
        try:
            if name is not None:
                look_up(name)
        except KeyError:
            yield where, f"there is no {where} {name!r} on this machine: the service would not start"


def _on_listener(config: Config, index: int, listener: Listener) -> Iterator[tuple[str, str]]:
    where = f"listeners[{index}]"
    if listener.auth is not None and listener.tls.mode is TlsMode.NONE:
        yield f"{where}.auth", "AUTH is not offered without TLS, and this listener has none"
    if listener.auth is not None and listener.auth.required:
        return
    relay = [settings for settings in listener.chain.policies if settings.policy.name == "relay"]
    if not any(map(_refuses, relay)):
        if config.mode is Mode.OBSERVE and relay:
            pass  # told once for the whole
        elif relay:
            yield where, "OPEN RELAY: the relay policy of this chain refuses nothing, so anyone can send to any domain"
        else:
            yield where, "OPEN RELAY: this chain has no relay policy, so anyone can send through it to any domain"
    if not any(settings.policy.name == "recipient" for settings in listener.chain.policies):
        known = [domain.name for domain in config.domains.values() if _are_known(domain)]
        if known:
            yield where, f"the recipients of {_some(known)} are never looked at: this chain has no recipient policy"
        else:
            yield where, "this chain has no recipient policy; only the backend knows unknown recipients"


def _are_known(domain: DomainOptions) -> bool:
    """Whether the gateway itself can tell who its recipients are."""
    return domain.recipients is not None and not any(section.any for section in domain.recipients)


def _refuses(settings: PolicySettings) -> bool:
    denied = settings.on.get("denied")
    return settings.mode is Mode.ENFORCE and denied is not None and denied.action.ends_stage


def _on_exceptions(config: Config, today: date) -> Iterator[tuple[str, str]]:
    for index, entry in enumerate(config.exceptions):
        if entry.until is not None and entry.until < today:
            yield f"exceptions[{index}]", f"has expired on {entry.until.isoformat()} and does nothing: {entry.reason}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004 - three examples are enough
