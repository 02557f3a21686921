"""What a configuration comes to, as JSON values: each listener's chain by stage, and what differs for domains.

``lychgate check`` prints it; programs read it with ``--json``.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.address import network_text
from gateway.config.model import ChainSettings, Config, DomainOptions, Listener, PolicySettings
from gateway.units import format_duration
from gateway.verdict import Response, Stage


def effective(config: Config, listeners: Iterable[Listener]) -> dict[str, Any]:
    """The whole configuration, with these of its listeners."""
    return {
        "hostname": config.hostname,
        "mode": config.mode.value,
        "delay_reject": config.delay_reject.value,
        "workers": config.workers,
        "listeners": [_listener(config, listener) for listener in listeners],
        "backends": {name: options.model_dump(mode="json") for name, options in config.backends.items()},
        "default_backend": config.default_backend,
        "quarantine": None if config.quarantine is None else config.quarantine.model_dump(mode="json"),
        "domains": {name: _domain(domain) for name, domain in config.domains.items()},
        "exceptions": [entry.model_dump(mode="json", exclude_none=True) for entry in config.exceptions],
        "state": str(config.state.place),
        "records": config.records.model_dump(mode="json"),
    }


def stages(chain: ChainSettings) -> dict[str, list[str]]:
    """The ids of the policies that run at each stage, in order; stages at which none runs are left out."""
    found = {
        stage.value: [settings.id for settings in chain.policies if stage in settings.policy.stages(settings.options)]
        for stage in Stage
    }
    return {stage: ids for stage, ids in found.items() if ids}


def policy(settings: PolicySettings) -> dict[str, Any]:
    """All settings of one policy."""
    return {
        "id": settings.id,
        "policy": settings.policy.name,
        "stages": list(settings.policy.stages(settings.options)),
        "mode": settings.mode.value,
        "on_error": settings.on_error.value,
        "timeout": format_duration(settings.timeout),
        "on": {name: _response(response) for name, response in settings.on.items()},
        "options": settings.options.model_dump(mode="json", by_alias=True, fallback=str),
    }


def differences(common: Iterable[PolicySettings], own: Iterable[PolicySettings]) -> dict[str, dict[str, Any]]:
    """What is different in a domain's chain: for each policy its settings there, by their names in the file."""
    found: dict[str, dict[str, Any]] = {}
    for theirs, mine in zip(common, own, strict=True):
        if mine is not theirs:
            found[mine.id] = _changed(policy(theirs), policy(mine))
    return found


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    changed = {key: after[key] for key in ("mode", "on_error", "timeout") if after[key] != before[key]}
    on = {name: action for name, action in after["on"].items() if action != before["on"][name]}
    options = {name: value for name, value in after["options"].items() if value != before["options"].get(name)}
    return changed | ({"on": on} if on else {}) | options


def _response(response: Response) -> Any:
    if response.reply is None and response.header is None and not response.delay:
        return response.action.value
    written: dict[str, str] = {"action": response.action.value}
    if response.reply is not None:
        written["reply"] = str(response.reply)
    if response.header is not None:
        written["header"] = response.header
    if response.delay:
        written["delay"] = format_duration(response.delay)
    return written


def _listener(config: Config, listener: Listener) -> dict[str, Any]:
    auth = listener.auth
    proxy = listener.proxy_protocol
    return {
        "smtp": listener.name,
        "tls": listener.tls.mode.value,
        "chain": "own" if listener.own_chain else "common",
        "auth": None if auth is None else {"backend": auth.backend, "required": auth.required},
        "proxy_protocol": None if proxy is None else [network_text(network) for network in proxy.trusted],
        "message_size": listener.message_size,
        "bare_newlines": listener.bare_newlines,
        "nul": listener.nul,
        "malformed_header": listener.malformed_header,
        "address_syntax": listener.address_syntax,
        "stages": stages(listener.chain),
        "policies": [policy(settings) for settings in listener.chain.policies],
        "domains": {
            name: differences(listener.chain.policies, listener.chain.for_domain(name))
            for name in config.domains
            if name in listener.chain.overrides
        },
    }


def _domain(domain: DomainOptions) -> dict[str, Any]:
    recipients = domain.recipients
    known: Any = "backend"
    if recipients is not None:
        known = [section.model_dump(mode="json", by_alias=True, exclude_defaults=True) for section in recipients]
        if len(known) == 1:
            known = "any" if recipients[0].any else known[0]
    return {
        "backend": domain.backend,
        "recipients": known,
        "subaddress": domain.subaddress,
        "message_size": domain.message_size,
        "alias_of": domain.alias_of,
    }
