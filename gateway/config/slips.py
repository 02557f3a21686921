"""What is allowed in a configuration and is most often a slip: it says more or less than was meant.

Each finding is a place and a message: clients trusted that are everybody, a certificate that has run out, a backend
that is the gateway itself, a policy that stands before what it builds on, a name that is none of our domains. All of
it can be told from the configuration, the files it names and this machine's own addresses; nothing is asked of the
network.
"""

import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import date, timedelta
from functools import partial
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address
from pathlib import Path
from typing import Final, TypeAlias

from gateway.config.backend import BackendOptions, BackendProtocol, NextHop, NextHopKind
from gateway.config.lists import Named
from gateway.config.model import ChainSettings, Config, DomainOptions, Listener, PolicySettings, TlsMode
from gateway.config.options import ExceptionEntry
from gateway.config.problems import listed
from gateway.config.recipients import RecipientOptions
from gateway.subjects import ORDER, Key
from gateway.tables import AddressList, ListKind, NetworkTable
from gateway.units import counted
from gateway.verdict import Stage

Told: TypeAlias = Iterator[tuple[str, str]]
"""Places, as paths of settings, and what is to be said of each."""

SOON: Final = timedelta(days=14)
"""How long before its end a certificate is spoken of."""

_WIDEST4, _WIDEST6 = 8, 16
"""The shortest prefixes of networks that are somebody's own; what is wider is the Internet."""

_FOUND_BY: Final = {Key.SPF_DOMAIN: "spf", Key.DKIM_DOMAIN: "dkim"}
"""The policies that find what others count by."""

_ANY4, _ANY6 = "0.0.0.0", "::"
_LOCALHOST: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_SMTP_PORT: Final = 25
_LMTP_PORT: Final = 24
_SMTPS_PORT: Final = 465
_SHOWN: Final = 3


def found(config: Config, today: date) -> Told:
    """All of them.

    Args:
        config: The configuration.
        today: The date in UTC, by which certificates expire.
    """
    for where, chain in _chains(config):
        yield from _on_order(where, chain)
        yield from _on_trusted(where, chain)
    for index, listener in enumerate(config.listeners):
        yield from _on_listener(f"listeners[{index}]", listener, today)
    yield from _on_backends(config)
    yield from _on_sizes(config)
    yield from _on_exceptions(config)
    yield from _on_recipients(config)


def _chains(config: Config) -> Iterator[tuple[str, ChainSettings]]:
    """Every chain that is used, with the path of its list."""
    if any(not listener.own_chain for listener in config.listeners) and config.chain is not None:
        yield "policies", config.chain
    for index, listener in enumerate(config.listeners):
        if listener.own_chain:
            yield f"listeners[{index}].policies", listener.chain


# Chains.


def _on_order(where: str, chain: ChainSettings) -> Told:
    """Policies that stand before what they build on."""
    for index, settings in enumerate(chain.policies):
        place = f"{where}[{index}]"
        for key in _keys(settings):
            finder = _FOUND_BY.get(key)
            if finder is not None and not _is_found(finder, index, chain.policies):
                yield place, f"counts by {key}, which {finder} finds: put {finder} before it, or it counts nobody"
        later = [other.policy.name for other in chain.policies[index + 1 :]]
        if settings.policy.name == "greylist" and "recipient" in later:
            told = "stands before recipient: senders to addresses that do not exist are told to come again first"
            yield place, f"{told}; put recipient before it"


def _keys(settings: PolicySettings) -> Iterable[Key]:
    keys = getattr(settings.options, "key", ())
    return [key for key in keys if isinstance(key, Key)] if isinstance(keys, tuple) else ()


def _is_found(finder: str, index: int, policies: tuple[PolicySettings, ...]) -> bool:
    """Whether a policy of that name has run before the last stage of the policy at the index has."""
    stages = _stages(policies[index])
    for number, other in enumerate(policies):
        if other.policy.name == finder and any(
            ORDER.index(first) < ORDER.index(stage) or (first is stage and number < index)
            for first in _stages(other)
            for stage in stages
        ):
            return True
    return False


def _stages(settings: PolicySettings) -> list[Stage]:
    return list(settings.policy.stages(settings.options))


def _on_trusted(where: str, chain: ChainSettings) -> Told:
    for index, settings in enumerate(chain.policies):
        trusted = getattr(settings.options, "trusted", None)
        if isinstance(trusted, NetworkTable) and (wide := _wide(trusted.networks())):
            is_relay = settings.policy.name == "relay"
            so = "OPEN RELAY: anyone there can send to any domain" if is_relay else "that is the Internet"
            yield f"{where}[{index}]", f"trusts {_some(wide)}; {so}"
    for name, policies in chain.overrides.items():
        for settings, common in zip(policies, chain.policies, strict=True):
            trusted = getattr(settings.options, "trusted", None)
            if settings is not common and isinstance(trusted, NetworkTable) and (wide := _wide(trusted.networks())):
                yield f"domains.{name}", f"its {settings.id} trusts {_some(wide)}, and that is the Internet"


def _wide(networks: Iterable[IPv4Network | IPv6Network]) -> list[str]:
    """Networks that are wider than anybody's own, also where they are written in pieces."""
    given = list(networks)
    four = collapse_addresses([network for network in given if isinstance(network, IPv4Network)])
    six = collapse_addresses([network for network in given if isinstance(network, IPv6Network)])
    return [
        *(str(network) for network in four if network.prefixlen < _WIDEST4),
        *(str(network) for network in six if network.prefixlen < _WIDEST6),
    ]


# Listeners.


def _on_listener(where: str, listener: Listener, today: date) -> Told:
    proxy = listener.proxy_protocol
    if proxy is not None and (wide := _wide(proxy.trusted)):
        told = f"trusts {_some(wide)}: anyone there can pass for any client, also for one that may relay"
        yield f"{where}.proxy_protocol", told
    certificate = listener.tls.certificate
    if listener.tls.mode is not TlsMode.NONE and certificate is not None:
        told_of = _on_certificate(certificate, today)
        if told_of is not None:
            yield f"{where}.tls.certificate", told_of


def _on_certificate(file: Path, today: date) -> str | None:
    from cryptography import x509  # it takes a moment, and most commands look at no certificate

    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError):
        return None  # told as a problem
    first, last = certificate.not_valid_before_utc.date(), certificate.not_valid_after_utc.date()
    if last < today:
        return f"the certificate has expired on {last.isoformat()}"
    if first > today:
        return f"the certificate is not valid before {first.isoformat()}"
    if last - today <= SOON:
        return f"the certificate expires on {last.isoformat()}, in {counted((last - today).days, 'day')}"
    return None


# Backends.


def _on_backends(config: Config) -> Told:
    own = {(listener.smtp.host, listener.smtp.port) for listener in config.listeners}
    for name, options in config.backends.items():
        for server in options.servers:
            port = _port(options, server)
            if any(port == listening and _is_at(config, server, host) for host, listening in own):
                told = f"{server} is where this gateway listens itself (port {port}): mail would go round in circles"
                yield f"backends.{name}", told
                break


def _port(options: BackendOptions, server: NextHop) -> int:
    """The port of a server, also where the protocol says it."""
    if server.port is not None:
        return server.port
    if options.protocol is BackendProtocol.LMTP:
        return _LMTP_PORT
    return _SMTPS_PORT if options.tls.implicit else _SMTP_PORT


def _is_at(config: Config, server: NextHop, host: str) -> bool:
    """Whether a server is at the address on which a listener listens."""
    if server.kind is not NextHopKind.HOST:
        return False
    target = server.target.lower()
    own_name = target in {"localhost", config.hostname, socket.gethostname().lower()}
    if host in {_ANY4, _ANY6}:
        return own_name or _is_local(target, host)
    if own_name and target == "localhost":
        return host in _LOCALHOST
    return target == host.lower()


def _is_local(target: str, host: str) -> bool:
    """Whether an address is one of this machine's, of a version that a listener on all addresses takes."""
    try:
        address = ip_address(target)
    except ValueError:
        return False
    if address.version == 6 and host == _ANY4:  # noqa: PLR2004 - IPv6
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004 - IPv4
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, _SMTP_PORT))  # sends nothing, and says from which address it would be sent
            return bool(probe.getsockname()[0] == str(address))  # to an own address from that address itself
    except OSError:
        return False


# Domains and names.


def _on_sizes(config: Config) -> Told:
    chains = [chain for _, chain in _chains(config)]
    if all(any(settings.policy.name == "size" for settings in chain.policies) for chain in chains):
        return
    for domain in config.domains.values():
        if domain.message_size is not None and domain.alias_of is None:
            told = "has a message_size, and a chain has no size policy, which alone looks at it"
            yield f"domains.{domain.name}", told
            return


def _on_exceptions(config: Config) -> Told:
    relays = {
        settings.id for _, chain in _chains(config) for settings in chain.policies if settings.policy.name == "relay"
    }
    for index, entry in enumerate(config.exceptions):
        name = _recipients_domain(entry)
        if name and config.domain(name) is None:
            so = "anyone may send to it" if entry.policy in relays else "it is about mail that clients relay, if any"
            yield f"exceptions[{index}]", f"{name!r} is none of our domains: {so}"
        if entry.recipient == "<>":
            yield f"exceptions[{index}]", "recipient: no recipient is <>, so it holds for no mail; sender may be <>"


def _recipients_domain(entry: ExceptionEntry) -> str | None:
    if entry.domain is not None:
        return entry.domain
    return None if entry.recipient in {None, "<>"} else str(entry.recipient).rpartition("@")[2]


def _on_recipients(config: Config) -> Told:
    """Domains in lists and files of recipients that are none of ours, or stand there as users; each list once."""
    seen: set[tuple[object, ...]] = set()
    of_files: dict[Named, _Slips] = {}
    for domain in config.domains.values():
        for section in domain.recipients or ():
            key = (section.entries, section.file, None if section.aliases is None else section.aliases.file)
            if not section.has_tables or domain.alias_of is not None or key in seen:
                continue
            seen.add(key)
            foreign, users = _in_section(config, section, of_files)
            if foreign:
                told = f"{_called(domain, section)} names addresses of {_some(sorted(foreign))}"
                yield f"domains.{domain.name}.recipients", f"{told}, which {_is(foreign)} of our domains"
            for user in sorted(users):
                told = f"{_called(domain, section)} names the user {user!r}; write @{_as_domain(user)}"
                yield f"domains.{domain.name}.recipients", f"{told} for all its addresses"


_Slips: TypeAlias = tuple[frozenset[str], frozenset[str]]
"""Domains that are none of ours, and domains that stand in a list as users."""


def _in_section(config: Config, section: RecipientOptions, of_files: dict[Named, _Slips]) -> _Slips:
    """What is found in a section; ``of_files`` has what was found in files that others named, too."""
    aliases = section.aliases
    found = [_in_list(config, partial(AddressList, section.entries, aliases=aliases.entries if aliases else ()))]
    if section.file is not None:
        found.append(_in_file(config, (section.file, ListKind.RECIPIENTS), of_files))
    if aliases is not None and aliases.file is not None:
        found.append(_in_file(config, (aliases.file, ListKind.ALIASES), of_files))
    foreign, users = zip(*found, strict=True)
    return frozenset().union(*foreign), frozenset().union(*users)


def _in_file(config: Config, named: Named, of_files: dict[Named, _Slips]) -> _Slips:
    if named not in of_files:
        file, kind = named
        is_recipients = kind is ListKind.RECIPIENTS
        make = partial(AddressList, file=file) if is_recipients else partial(AddressList, aliases_file=file)
        of_files[named] = _in_list(config, make)
    return of_files[named]


def _in_list(config: Config, make: Callable[[], AddressList]) -> _Slips:
    try:
        listing = make()
    except ValueError:
        return frozenset(), frozenset()  # it changed since it was loaded, and is told where it is read
    return (
        frozenset(name for name in listing.named_domains() if config.domain(name) is None),
        frozenset(user for user in listing.local_parts() if _as_domain(user) in config.domains),
    )


def _as_domain(user: str) -> str:
    """The domain that somebody may have meant who wrote it as a user."""
    return user.removeprefix("*").removeprefix(".")


def _called(domain: DomainOptions, section: RecipientOptions) -> str:
    files = [file for file in (section.file, None if section.aliases is None else section.aliases.file) if file]
    return listed(map(str, files), last="or") if files else f"the list of {domain.name}"


def _is(names: Collection[str]) -> str:
    return "is none" if len(names) == 1 else "are none"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
