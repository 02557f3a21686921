"""The JSON Schema of a configuration file, by which an editor checks and completes it.

It is made from the models of ``options`` and of every installed policy's options. What a schema can't say (that a
backend exists, that an exception names a policy of the chain) is left to ``lychgate check``; whatever ``load``
accepts, the schema accepts. The one difference: ``${env:NAME}`` stands only where text may stand.
"""

from collections.abc import Mapping
from typing import Any

from gateway.config.chains import CommonSettings, ResponseSection
from gateway.config.options import FileOptions
from gateway.config.reference import summary
from gateway.config.registry import Registry, UnknownPolicyError
from gateway.policy import Policy
from gateway.verdict import Action

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema(registry: Registry) -> dict[str, Any]:
    """The JSON Schema of the whole file, with the policies that the registry offers."""
    schema = FileOptions.model_json_schema(mode="validation")
    definitions: dict[str, Any] = schema["$defs"]
    policies = _policies(registry)
    names = {name: _add(definitions, name, policy) for name, policy in policies.items()}
    definitions["Chain"] = {"type": "array", "items": {"anyOf": _entries(policies, names)}}
    definitions["Overrides"] = {
        "type": "object",
        "description": "Settings of the chain's policies that differ for this domain: the policy's id to settings.",
        "properties": {name: {"$ref": f"#/$defs/{names[name]}"} for name in policies},
        "additionalProperties": {"type": "object"},
    }
    _put(schema["properties"], "policies", "Chain")
    _put(definitions["ListenerSection"]["properties"], "policies", "Chain")
    _put(definitions["DomainSection"]["properties"], "policies", "Overrides")
    _allow_words(schema["properties"], definitions)
    return {"$schema": DIALECT, **schema, "title": "Lychgate configuration"}


def _policies(registry: Registry) -> Mapping[str, type[Policy[Any]]]:
    """Every policy that can be loaded; one that can't is an error only where it is used."""
    found: dict[str, type[Policy[Any]]] = {}
    for name in registry.names:
        try:
            found[name] = registry.get(name)
        except UnknownPolicyError:
            continue
    return found


def _add(definitions: dict[str, Any], name: str, policy: type[Policy[Any]]) -> str:
    """Define the settings of a policy; returns the definition's name."""
    key = f"policy-{name}"
    own = policy.options_type.model_json_schema(mode="validation", ref_template=f"#/$defs/{key}-{{model}}")
    common = CommonSettings.model_json_schema(mode="validation", ref_template=f"#/$defs/{key}-{{model}}")
    for part in (own, common):
        for inner, definition in part.pop("$defs", {}).items():
            definitions[f"{key}-{inner}"] = definition
    properties = {**own.get("properties", {}), **common["properties"]}
    properties["on"] = {
        "type": "object",
        "description": "What is done about an outcome.",
        "properties": {outcome.name: _response(outcome.help) for outcome in policy.outcomes.values()},
        "additionalProperties": False,
    }
    definitions[key] = {
        "type": "object",
        "description": summary(policy),
        "properties": properties,
        "additionalProperties": False,
        **({"required": own["required"]} if "required" in own else {}),
    }
    return key


def _response(description: str) -> dict[str, Any]:
    actions = [action.value for action in Action]
    full = ResponseSection.model_json_schema(mode="validation")["properties"]
    properties: dict[str, Any] = {
        name: {"type": "string", "description": full[name]["description"]} for name in full if name != "delay"
    }
    properties["delay"] = full["delay"]
    properties["action"]["enum"] = actions
    detailed = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"description": description, "anyOf": [{"type": "string", "enum": actions}, detailed]}


def _entries(policies: Mapping[str, type[Policy[Any]]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """What may stand in a chain: a name, or a name with settings."""
    entries: list[dict[str, Any]] = []
    for name, policy in policies.items():
        settings = {"anyOf": [{"$ref": f"#/$defs/{names[name]}"}, {"type": "null"}]}
        entries.append({"const": name, "description": summary(policy)})
        entries.append(
            {"type": "object", "properties": {name: settings}, "required": [name], "additionalProperties": False}
        )
    return entries


def _put(properties: dict[str, Any], key: str, definition: str) -> None:
    """Let a property be what a definition says, keeping its description."""
    properties[key] = {"$ref": f"#/$defs/{definition}", "description": properties[key].get("description", "")}


def _allow_words(properties: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Add the short forms that validators take besides the models: a word, a list, nothing at all."""
    records = properties["records"]
    properties["records"] = {
        "anyOf": [{"$ref": "#/$defs/RecordOptions"}, {"const": "stdout"}],
        "description": records.get("description", ""),
    }
    _allow_short_recipients(definitions)
    domains = properties["domains"]
    domains["additionalProperties"] = {"anyOf": [domains["additionalProperties"], {"type": "null"}]}


def _allow_short_recipients(definitions: dict[str, Any]) -> None:
    """The same for what may stand behind ``recipients``."""
    sources = definitions["RecipientOptions"]["properties"]
    sources["aliases"]["anyOf"].append({"type": "array", "items": {"type": "string"}})
    sources["probe"]["anyOf"].append({"type": "boolean"})
    ldap = definitions["LdapOptions"]["properties"]
    for key in ("server_host", "result_attribute"):
        listed = {name: ldap[key].pop(name) for name in ("type", "items", "minItems") if name in ldap[key]}
        ldap[key]["anyOf"] = [listed, {"type": "string"}]
    recipients = definitions["DomainSection"]["properties"]["recipients"]
    recipients["anyOf"].append({"$ref": "#/$defs/RecipientOptions"})
    for field in (recipients, *sources.values()):  # left out, or with a value
        if "anyOf" in field:
            field["anyOf"] = [form for form in field["anyOf"] if form != {"type": "null"}]
