"""The kit for authors of policies: it makes what a real gateway would, and refuses what one would refuse."""

import pytest

from gateway.policy import NoOptions, Policy
from gateway.resolver import NameStatus, RecordType, Status
from gateway.session import Session, Transaction
from gateway.smtp.path import NULL_REVERSE_PATH
from gateway.smtp.reply import Reply
from gateway.testing import NOON, Site, message, run
from gateway.verdict import Action, Finding, Outcome, Stage


class Sample(Policy[NoOptions]):
    """Runs at connect in place, and at mail after waiting."""

    name = "sample"
    found = Outcome("found", Action.REJECT, Reply(550, "5.7.1", "No"), "Found.")

    def on_connect(self, session: Session) -> Finding | None:
        """Find what has no HELO name."""
        return self.found(at=self.context.clock.now()) if session.helo_name is None else None

    async def on_mail(self, transaction: Transaction) -> Finding | None:
        """Ask the DNS; find what is declared nowhere for the null reverse-path."""
        if transaction.reverse_path == NULL_REVERSE_PATH:
            return Outcome("stray", Action.PASS, self.found.reply, "Stray.")()
        answer = await self.context.resolver.lookup("example.net", RecordType.A)
        return self.found(records=list(answer.records)) if answer.status is Status.FOUND else None


async def test_run_calls_hooks_that_wait_and_hooks_that_do_not() -> None:
    """A hook is called in place or awaited, with the site's clock and DNS."""
    site = Site(zone={"example.net": {"A": ["192.0.2.1"]}})
    policy = site.policy(Sample)
    site.clock.advance(60)
    assert await run(policy, Stage.CONNECT, site.session()) is None
    first = await run(policy, Stage.CONNECT, site.session(helo_name=None))
    assert first is not None
    assert first.evidence == {"at": NOON + 60}
    second = await run(policy, Stage.MAIL, site.transaction())
    assert second is not None
    assert second.evidence == {"records": ["192.0.2.1"]}
    site.clock.set(5.0)
    assert site.context.clock.now() == 5.0


class Brings(Sample):
    """Brings a header field along that it does not declare."""

    name = "brings"

    def on_rcpt(self) -> Finding | None:
        """Find it."""
        return self.found(fields=("X-Undeclared: 1",))


async def test_run_refuses_what_the_chain_would_not_do() -> None:
    """A stage without a hook, and an outcome that is not declared, are errors of the author."""
    site = Site()
    with pytest.raises(ValueError, match="does not run at rcpt"):
        await run(site.policy(Sample), Stage.RCPT)
    with pytest.raises(ValueError, match="does not declare the outcome 'stray'"):
        await run(site.policy(Sample), Stage.MAIL, site.transaction(""))
    with pytest.raises(ValueError, match="not among those that the policy writes"):
        await run(site.policy(Brings), Stage.RCPT)


def test_transactions_and_recipients_are_read_as_from_the_wire() -> None:
    """Paths and parameters are parsed, sessions count their transactions, and domains of ours are found."""
    site = Site(domains=["example.com"])
    session = site.session(login="alice")
    site.transaction(session=session)
    transaction = site.transaction("alice@example.net", "SIZE=10 BODY=8BITMIME", session=session)
    assert transaction.id == f"{session.id}.2"
    assert transaction.declared_size == 10
    ours = site.recipient(transaction, '@a.example:"bob"@EXAMPLE.com', "NOTIFY=NEVER")
    other = site.recipient(transaction, "bob@example.org")
    assert ours.domain is site.context.domain("example.com")
    assert ours.path.source_route == ("a.example",)
    assert str(ours.parameters[0]) == "NOTIFY=NEVER"
    assert other.domain is None
    assert transaction.recipients == [ours, other]
    assert site.transaction("").reverse_path == NULL_REVERSE_PATH


def test_malformed_addresses_are_errors() -> None:
    """What the wire would refuse is an error here."""
    site = Site()
    with pytest.raises(ValueError, match="MAIL FROM:<a b>"):
        site.transaction("a b")
    with pytest.raises(ValueError, match="RCPT TO:<>"):
        site.recipient(site.transaction(), "")


async def test_the_clients_name_comes_from_the_zone_and_is_kept() -> None:
    """The name is looked up at the first use and then remembered on the session."""
    zone = {"192.0.2.1": {"PTR": "mail.example.net"}, "mail.example.net": {"A": "192.0.2.1"}, "192.0.2.2": "TIMEOUT"}
    site = Site(zone=zone)
    session = site.session("192.0.2.1")
    before = session.client_name
    name = await session.resolve_client_name()
    assert (name.name, name.status) == ("mail.example.net", NameStatus.CONFIRMED)
    assert before is None
    assert session.client_name is name
    assert await session.resolve_client_name() is name
    assert (await site.session("192.0.2.2").resolve_client_name()).status is NameStatus.TEMPORARY


@pytest.mark.parametrize(
    ("octets", "header", "names"),
    [
        (b"A: 1\r\nB: 2\r\n 3\r\n\r\nbody\r\n", b"A: 1\r\nB: 2\r\n 3\r\n", ["a", "b"]),
        (b"A: 1\r\n\r\n", b"A: 1\r\n", ["a"]),
        (b"A: 1\r\n", b"A: 1\r\n", ["a"]),
        (b"\r\nA: 1\r\n", b"", []),
        (b"", b"", []),
    ],
)
async def test_a_message_is_parted_at_its_first_empty_line(octets: bytes, header: bytes, names: list[str]) -> None:
    """The header ends at the first empty line; the content is every octet."""
    made = message(octets)
    assert made.header == header
    assert [field.name for field in made.fields] == names
    assert made.size == len(octets)
    assert made.content.ends_with_newline == (not octets or octets.endswith(b"\r\n"))
    assert [chunk async for chunk in made.content.chunks()] == [octets]
