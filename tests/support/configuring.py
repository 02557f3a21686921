"""Small policies, and configurations made of text, for tests of ``gateway.config`` and the commands that show it."""

from pathlib import Path
from typing import Final

import pytest
from pydantic import Field

from gateway.config.load import load
from gateway.config.model import Config
from gateway.config.problems import ConfigError
from gateway.config.registry import Registry
from gateway.policy import NoOptions, OnError, Options, Policy
from gateway.session import Recipient, Transaction
from gateway.smtp.reply import Reply
from gateway.tables import NetworkTable
from gateway.units import Duration, Size
from gateway.verdict import Action, Finding, Outcome


class Relay(Policy[NoOptions]):
    """Refuses what is not ours."""

    name = "relay"
    denied = Outcome("denied", Action.REJECT, Reply(554, "5.7.1", "Relay access denied"), "The recipient is foreign.")

    def on_rcpt(self, transaction: Transaction, recipient: Recipient) -> Finding | None:
        """Refuse foreign recipients."""
        known = recipient.domain is not None or transaction.session.login is not None
        return None if known else self.denied()


class Inner(Options):
    """A section of options."""

    depth: int = Field(default=1, description="How deep.")


class SizeOptions(Options):
    """Options of every kind."""

    limit: Size = Field(default=1000, description="The largest message.")
    wait: Duration = Field(default=2.0, description="How long it waits.")
    trusted: NetworkTable = Field(default=NetworkTable(), description="Networks that may send more.")
    inner: Inner = Field(default=Inner(), description="What lies within.")


class SizeLimit(Policy[SizeOptions]):
    """Refuses what is too large."""

    name = "size"
    on_error = OnError.PASS
    timeout = 3.0
    too_large = Outcome("too_large", Action.REJECT, Reply(552, "5.3.4", "Too large"), "It is larger than the limit.")
    nearly = Outcome("nearly", Action.PASS, Reply(552, "5.3.4", "Nearly too large"), "It is nearly as large.")

    def on_mail(self, transaction: Transaction) -> Finding | None:
        """Look at the declared size."""
        return self.too_large() if (transaction.declared_size or 0) > self.options.limit else None


REGISTRY: Final = Registry.of(Relay, SizeLimit)

GOOD: Final = """\
hostname: mx1.example.com
listeners:
  - smtp: 0.0.0.0:25
backends:
  postfix: {servers: ["127.0.0.1:10025"]}
domains:
  example.com: {recipients: {list: [alice, bob]}}
policies:
  - relay
  - size: {limit: 2KB}
"""
"""A configuration without fault."""


def loaded(folder: Path, text: str, *, registry: Registry = REGISTRY) -> Config:
    """The configuration that a text comes to."""
    path = folder / "lychgate.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, registry=registry)


def problems(folder: Path, text: str, *, registry: Registry = REGISTRY) -> list[str]:
    """What is wrong with a text, each as ``line:column: path: message``."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, registry=registry)
    return [line.removeprefix(f"{folder / 'lychgate.yaml'}:") for line in str(caught.value).split("\n")]
