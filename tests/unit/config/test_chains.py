"""Chains: settings of policies, what is done about outcomes, and what domains change."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from pydantic import Field, field_validator

from gateway.config.effective import effective
from gateway.config.installation import GROUP
from gateway.config.model import Mode
from gateway.config.registry import Registry, UnknownPolicyError
from gateway.policy import OnError, Options, Policy
from gateway.session import Transaction
from gateway.smtp.reply import Reply
from gateway.verdict import Action, Outcome, Response
from tests.support.configuring import GOOD, Relay, SizeLimit, SizeOptions, loaded, problems

HEAD = "listeners: [{smtp: 'localhost:1'}]\nbackends: {a: {servers: [h]}}\n"


def test_a_policy_without_settings_has_its_own_defaults(tmp_path: Path) -> None:
    """A name alone gives the class's defaults for everything."""
    chain = loaded(tmp_path, HEAD + "policies: [size]\n").chain
    assert chain is not None
    settings = chain.policies[0]
    assert (settings.id, settings.policy) == ("size", SizeLimit)
    assert (settings.mode, settings.on_error, settings.timeout) == (Mode.ENFORCE, OnError.PASS, 3.0)
    assert settings.on == {"too_large": Response(Action.REJECT), "nearly": Response(Action.PASS)}
    assert isinstance(settings.options, SizeOptions)
    assert settings.options.limit == 1000


def test_settings_of_a_policy(tmp_path: Path) -> None:
    """Common settings stand beside the policy's own, and file names start in the configuration's folder."""
    (tmp_path / "trusted.txt").write_text("192.0.2.0/24\n", encoding="utf-8")
    text = """
policies:
  - size:
      id: large
      on: {too_large: defer, nearly: {action: tag, header: "X-Size: large"}}
      mode: observe
      on_error: defer
      timeout: 500ms
      limit: 2KB
      trusted: {file: trusted.txt}
      inner: {depth: 3}
"""
    chain = loaded(tmp_path, HEAD + text).chain
    assert chain is not None
    settings = chain.policies[0]
    assert (settings.id, settings.mode, settings.on_error, settings.timeout) == (
        "large",
        Mode.OBSERVE,
        OnError.DEFER,
        0.5,
    )
    assert settings.on == {
        "too_large": Response(Action.DEFER),
        "nearly": Response(Action.TAG, None, "X-Size: large"),
    }
    assert isinstance(settings.options, SizeOptions)
    assert (settings.options.limit, settings.options.inner.depth) == (2000, 3)
    assert ip_address("192.0.2.1") in settings.options.trusted


def test_a_reply_of_its_own_keeps_the_default_action(tmp_path: Path) -> None:
    """An outcome's reply can be set without its action."""
    chain = loaded(tmp_path, HEAD + "policies: [size: {on: {too_large: {reply: '554 5.3.4 No'}}}]\n").chain
    assert chain is not None
    assert chain.policies[0].on["too_large"] == Response(Action.REJECT, Reply(554, "5.3.4", "No"))


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ("[sise]", "3:12: policies[0]: there is no policy 'sise' (did you mean 'size'?); installed are: relay, size. "),
        ("[size, size]", "3:18: policies[1]: the chain has a policy 'size' already, in line 3; give one of them an id"),
        (
            "[size: {id: smtp}]",
            "3:23: policies[0].size.id: the id 'smtp' is reserved: records call the protocol so; give the policy",
        ),
        (
            "[relay, size: {id: backend}]",
            "3:30: policies[1].size.id: the id 'backend' is reserved: records call the backend so; give the policy",
        ),
        (
            "[{size: {}, relay: {}}]",
            "3:12: policies[0]: an entry names one policy, and this has size and relay; indent",
        ),
        ("[{}]", "3:12: policies[0]: must be a policy's name, or a name with settings (name: {...})"),
        ("[5]", "3:12: policies[0]: must be a policy's name, or a name with settings (name: {...})"),
        ("[size: 25MB]", "3:18: policies[0].size: must be a mapping of settings (key: value)"),
        ("[size: {limit: big}]", "3:26: policies[0].size.limit: 'big' is not a size such as 64KB, 25MB or 10MiB"),
        ("[size: {limt: 5}]", "3:19: policies[0].size.limt: is not a setting here (did you mean 'limit'?)"),
        ("[size: {tiemout: 5s}]", "3:19: policies[0].size.tiemout: is not a setting here (did you mean 'timeout'?)"),
        (
            "[size: {inner: {dept: 5}}]",
            "3:27: policies[0].size.inner.dept: is not a setting here (did you mean 'depth'",
        ),
        ("[size: {inner: {depth: x}}]", "3:34: policies[0].size.inner.depth: must be a whole number"),
        ("[size: {timeout: 5}]", "3:28: policies[0].size.timeout: 5 is not a duration such as 500ms, 5s, 10m"),
        (
            "[size: {on_error: reject}]",
            "3:29: policies[0].size.on_error: 'reject' is not allowed; it must be pass or de",
        ),
        ("[size: {id: 'a b'}]", "3:23: policies[0].size.id: does not have the form"),
        ("[size: {on: defer}]", "3:23: policies[0].size.on: must be a mapping (key: value)"),
        (
            "[size: {on: {too_large: }}]",
            "3:24: policies[0].size.on.too_large: has no value; it must be pass, tag, defe",
        ),
        (
            "[size: {on: {too_large: rejct}}]",
            "3:35: policies[0].size.on.too_large: 'rejct' is not an action (did you mean 'reject'?); it must be pass, ",
        ),
        (
            "[size: {on: {too_large: {reply: '450 4.1.1 No'}}}]",
            "3:43: policies[0].size.on.too_large.reply: the reply of reject begins with 5, and this with 450",
        ),
        (
            "[size: {on: {too_large: {action: disconnect, reply: '450 4.1.1 No'}}}]",
            "3:63: policies[0].size.on.too_large.reply: the reply of disconnect begins with 421, and this with 450",
        ),
        (
            "[size: {on: {too_large: {action: pass, reply: '550 5.1.1 No'}}}]",
            "3:57: policies[0].size.on.too_large.reply: the action pass sends no reply; give one with defer, reject or",
        ),
        (
            "[size: {on: {too_large: {reply: '550 4.1.1 No'}}}]",
            "3:43: policies[0].size.on.too_large.reply: the class of 4.1.1 differs from that of 550",
        ),
        (
            "[size: {on: {too_large: {header: 'X: y'}}}]",
            "3:44: policies[0].size.on.too_large.header: the action reject adds no header field; give one with tag",
        ),
        (
            '[size: {on: {too_large: {action: tag, header: "X: y\\r\\nZ: a"}}}]',
            "3:57: policies[0].size.on.too_large.header: 'X: y\\r\\nZ: a' is not a header field such as 'X-Name: text'",
        ),
        (
            "[size: {on: {too_large: quarantine}}]",
            "3:35: policies[0].size.on.too_large: the action quarantine needs the section 'quarantine:",
        ),
        (
            "[size: {mode: observe, on: {nearly: {action: quarantine}}}]",
            "3:56: policies[0].size.on.nearly.action: the action quarantine needs the section 'quarantine:",
        ),
        (
            "[size: {on: {nearly: {delay: 61s}}}]",
            "3:40: policies[0].size.on.nearly.delay: must be at most 1m: no reply is held back for longer",
        ),
        ("[size: {on: {nearly: {delay: 5}}}]", "3:40: policies[0].size.on.nearly.delay: 5 is not a duration such as"),
    ],
)
def test_what_is_wrong_with_a_chain(tmp_path: Path, policies: str, expected: str) -> None:
    """Each fault in a chain is told where it stands."""
    found = problems(tmp_path, f"{HEAD}policies: {policies}\n")
    assert len(found) == 1
    assert found[0].startswith(expected)


class Holds(Policy[Options]):
    """Holds mail."""

    name = "holds"
    writes = ("X-Held", "Subject")
    found = Outcome("found", Action.QUARANTINE, Reply(550, "5.7.1", "No"), "It is to be held.")

    def on_data(self, transaction: Transaction) -> None:
        """Say nothing."""


HOLDING = Registry.of(Holds, SizeLimit)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "policies: [size, holds]\n",
            ["3:18: policies[1]: the outcome found is quarantined unless 'on' says otherwise:"],
        ),
        ("policies: [holds: {on: {found: tag}}]\n", []),
        (
            "policies: [size]\ndomains: {x.example: {policies: {size: {on: {nearly: quarantine}}}}}\n",
            ["4:54: domains.x.example.policies.size.on.nearly: the action quarantine needs the section"],
        ),
        (
            "policies: [holds]\nquarantine: {backend: b}\n",
            ["4:23: quarantine.backend: there is no backend 'b'; there are a"],
        ),
        ("policies: [holds]\nquarantine: {}\n", ["4:1: quarantine.backend: is missing"]),
        ("policies: [holds]\nquarantine: {backend: a}\n", []),
    ],
)
def test_what_is_held_needs_a_place(tmp_path: Path, text: str, expected: list[str]) -> None:
    """A policy holds mail, by its own default too, only where the file says at which backend."""
    if not expected:
        assert loaded(tmp_path, HEAD + text, registry=HOLDING).chain is not None
        return
    found = problems(tmp_path, HEAD + text, registry=HOLDING)
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected


def test_what_policies_write_is_removed_from_what_comes_in(tmp_path: Path) -> None:
    """By the names of their class and those of tags, but never a field that is the message's own."""
    policies = "policies: [holds: {on: {found: tag}}, size: {on: {nearly: {action: tag, header: 'X-Size: 1'}}}]\n"
    assert loaded(tmp_path, HEAD + policies, registry=HOLDING).written_fields == {"x-held", "x-size"}


def test_a_delay_stands_beside_any_action(tmp_path: Path) -> None:
    """Or beside the default one; a domain's own replaces it."""
    text = HEAD + (
        "policies: [size: {on: {too_large: {action: tag, delay: 5s}, nearly: {delay: 1m}}}]\n"
        "domains: {x.example: {policies: {size: {on: {nearly: {delay: 0s}}}}}}\n"
    )
    config = loaded(tmp_path, text)
    chain = config.chain
    assert chain is not None
    assert chain.policies[0].on["too_large"] == Response(Action.TAG, delay=5.0)
    assert chain.policies[0].on["nearly"] == Response(Action.PASS, delay=60.0)
    assert chain.for_domain("x.example")[0].on["nearly"] == Response(Action.PASS)
    shown = effective(config, config.listeners)["listeners"][0]
    assert shown["policies"][0]["on"] == {
        "too_large": {"action": "tag", "delay": "5s"},
        "nearly": {"action": "pass", "delay": "1m"},
    }


def test_a_domain_overrides_setting_by_setting(tmp_path: Path) -> None:
    """A domain's settings replace the chain's one by one, and leave other policies the same object."""
    text = GOOD.replace("size: {limit: 2KB}", "size: {limit: 2KB, timeout: 1s, on: {too_large: defer}}").replace(
        "example.com: {", "example.com: {policies: {size: {wait: 9s, on: {nearly: tag}}}, "
    )
    chain = loaded(tmp_path, text).chain
    assert chain is not None
    relay, size = chain.for_domain("example.com")
    assert relay is chain.policies[0]
    assert size is not chain.policies[1]
    assert isinstance(size.options, SizeOptions)
    assert (size.options.limit, size.options.wait, size.timeout) == (2000, 9.0, 1.0)
    assert size.on == {"too_large": Response(Action.DEFER), "nearly": Response(Action.TAG)}
    assert chain.for_domain("example.net") is chain.policies


def test_a_domain_can_end_the_observation_of_a_policy(tmp_path: Path) -> None:
    """A domain's mode of a policy replaces the chain's."""
    text = GOOD.replace("{limit: 2KB}", "{mode: observe}").replace(
        "example.com: {", "example.com: {policies: {size: {mode: enforce}}, "
    )
    chain = loaded(tmp_path, text).chain
    assert chain is not None
    assert chain.policies[1].mode is Mode.OBSERVE
    assert chain.for_domain("example.com")[1].mode is Mode.ENFORCE


def test_observing_a_domain_observes_every_policy_there(tmp_path: Path) -> None:
    """``mode: observe`` of a domain holds for all policies of the chain, and for no other domain."""
    text = GOOD.replace("example.com: {", "other.test: {mode: observe, policies: {size: {limit: 1}}}\n  example.com: {")
    chain = loaded(tmp_path, text).chain
    assert chain is not None
    assert [settings.mode for settings in chain.for_domain("other.test")] == [Mode.OBSERVE, Mode.OBSERVE]
    assert [settings.mode for settings in chain.for_domain("example.com")] == [Mode.ENFORCE, Mode.ENFORCE]


def test_observing_everything_wins(tmp_path: Path) -> None:
    """``mode: observe`` of the whole file holds whatever a policy or a domain says."""
    text = "mode: observe\n" + GOOD.replace("example.com: {", "example.com: {policies: {size: {mode: enforce}}, ")
    chain = loaded(tmp_path, text).chain
    assert chain is not None
    assert {settings.mode for settings in (*chain.policies, *chain.for_domain("example.com"))} == {Mode.OBSERVE}


def test_an_alias_has_the_other_domains_chain(tmp_path: Path) -> None:
    """``alias_of`` takes the other domain's policies, too."""
    text = GOOD.replace(
        "example.com: {", "a.test: {alias_of: example.com}\n  example.com: {policies: {size: {limit: 1}}, "
    )
    chain = loaded(tmp_path, text).chain
    assert chain is not None
    assert chain.for_domain("a.test") == chain.for_domain("example.com")
    assert chain.for_domain("a.test") != chain.policies


def test_a_domain_overrides_the_chains_that_have_the_policy(tmp_path: Path) -> None:
    """Settings of a domain hold in every listener's chain that has a policy of the id."""
    text = GOOD.replace("0.0.0.0:25", "0.0.0.0:25\n  - {smtp: 'localhost:26', policies: [relay: {id: big}]}").replace(
        "example.com: {", "example.com: {policies: {big: {on: {denied: defer}}}, "
    )
    config = loaded(tmp_path, text)
    common, own = config.listeners[0].chain, config.listeners[1].chain
    assert common is config.chain
    assert not common.overrides
    assert own.for_domain("example.com")[0].on == {"denied": Response(Action.DEFER)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("{limit: x}", "7:42: domains.example.com.policies.size.limit: 'x' is not a size"),
        ("{limt: 1}", "7:35: domains.example.com.policies.size.limt: is not a setting here (did you mean 'limit'?)"),
        ("{on: {nearby: tag}}", "7:40: domains.example.com.policies.size.on.nearby: is not an outcome of size (did "),
        ("{id: x}", "7:35: domains.example.com.policies.size.id: is set in the chain; a domain names the policy by it"),
        ("5", "7:28: domains.example.com.policies.size: must be a mapping of settings (key: value)"),
    ],
)
def test_what_is_wrong_with_an_override(tmp_path: Path, settings: str, expected: str) -> None:
    """A fault in a domain's settings is told in the domain, once."""
    text = GOOD.replace("example.com: {", f"example.com: {{policies: {{size: {settings}}}, ")
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_settings_shared_by_an_alias_are_told_once(tmp_path: Path) -> None:
    """A fault in settings that many domains share by a YAML alias is one problem."""
    text = GOOD.replace(
        "example.com: {",
        "a.test: {policies: {size: &s {limit: x}}}\n  b.test: {policies: {size: *s}}\n  example.com: {",
    )
    assert len(problems(tmp_path, text)) == 1


class BrokenOptions(Options):
    """Options whose validator has a fault of its own."""

    table: dict[str, int] = Field(default={})

    @field_validator("table")
    @classmethod
    def _look(cls, value: dict[str, int]) -> dict[str, int]:
        return {"found": value["wanted"]}


class Broken(Policy[BrokenOptions]):
    """Has such options."""

    name = "broken"


def test_a_fault_in_a_policys_validator_is_a_problem(tmp_path: Path) -> None:
    """When a policy's own code fails on its options, the file is refused with the place, as for other problems."""
    found = problems(tmp_path, HEAD + "policies: [broken: {table: {a: 1}}]\n", registry=Registry.of(Broken))
    assert found == ["3:12: policies[0].broken: the policy fails to read its options: KeyError: 'wanted'"]


class Verdicts(Policy[Options]):
    """Builds on what relay and size found."""

    name = "verdicts"
    requires = ("relay", "size")


def test_a_policy_stands_behind_those_it_builds_on(tmp_path: Path) -> None:
    """A policy that reads what others found is refused where they are missing or stand behind it."""
    registry = Registry.of(Verdicts, Relay, SizeLimit)
    for chain in ("[size, verdicts]", "[size, verdicts, relay]"):
        found = problems(tmp_path, f"{HEAD}policies: {chain}\n", registry=registry)
        told = "verdicts reads what relay found; put relay before it in the chain"
        assert found == [f"3:18: policies[1]: {told}"]
    config = loaded(tmp_path, f"{HEAD}policies: [relay, size, verdicts]\n", registry=registry)
    assert config.chain is not None
    assert [settings.id for settings in config.chain.policies] == ["relay", "size", "verdicts"]


class _TrustingOptions(Options):
    """With or without trust."""

    trust: bool = False


class Trusting(Policy[_TrustingOptions]):
    """Builds on what relay found if it trusts."""

    name = "trusting"

    @classmethod
    def also_requires(cls, options: Options) -> tuple[str, ...]:
        """What it needs depends."""
        return ("relay",) if isinstance(options, _TrustingOptions) and options.trust else ()


def test_an_option_can_need_another_policy(tmp_path: Path) -> None:
    """What only an option builds on must be there where the option is set, for all or for one domain."""
    registry = Registry.of(Trusting, Relay)
    told = "trusting reads what relay found; put relay before it in the chain"
    found = problems(tmp_path, f"{HEAD}policies: [trusting: {{trust: true}}, relay]\n", registry=registry)
    assert found == [f"3:12: policies[0].trusting: {told}"]
    domain = "domains: {example.com: {policies: {trusting: {trust: true}}}}\n"
    found = problems(tmp_path, f"{HEAD}{domain}policies: [trusting]\n", registry=registry)
    assert found == [f"3:36: domains.example.com.policies.trusting: {told}"]
    for chain in ("[trusting]", "[relay, trusting: {trust: true}]"):
        assert loaded(tmp_path, f"{HEAD}policies: {chain}\n", registry=registry).chain is not None


class _Offer:
    """Something that offers a policy, as an entry point does."""

    def __init__(self, offered: object) -> None:
        self._offered = offered

    def load(self) -> object:
        """Give what is offered, or fail as an import does."""
        if isinstance(self._offered, Exception):
            raise self._offered
        return self._offered


@pytest.mark.parametrize(
    ("offers", "message"),
    [
        ([_Offer(Relay), _Offer(SizeLimit)], "more than one installed package offers a policy 'x'"),
        ([_Offer(ImportError("No module named 'y'"))], "'x' can't be loaded: ImportError: No module named 'y'"),
        ([_Offer(str)], "the policy 'x' is not a subclass of gateway.policy.Policy"),
        ([_Offer("text")], "the policy 'x' is not a subclass of gateway.policy.Policy"),
    ],
)
def test_policies_that_can_not_be_used(offers: list[_Offer], message: str) -> None:
    """A name that two packages offer, or whose class is broken, is told when it is used and not before."""
    registry = Registry({"x": offers, "relay": [_Offer(Relay)]})
    assert registry.get("relay") is Relay
    with pytest.raises(UnknownPolicyError) as caught:
        registry.get("x")
    assert message in str(caught.value)


def test_our_own_policies_are_installed() -> None:
    """The project's entry points name policies that can be loaded, each by its own name."""
    registry = Registry.installed()
    assert {"access", "limits", "loop", "recipient", "relay", "size"} <= set(registry.names)
    assert all(registry.get(name).name == name for name in registry.names)
    assert GROUP == "lychgate.policies"
