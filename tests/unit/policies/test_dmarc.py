"""dmarc: what follows from DMARC, what saves a message, and what the record keeps for reports."""

import asyncio
from dataclasses import replace

import pytest

from gateway.adapters.dns.zone import ZoneResolver
from gateway.mailauth.author import Author
from gateway.mailauth.results import (
    Arc,
    ArcResult,
    ArcSet,
    Disposition,
    DkimResult,
    DkimSignature,
    DmarcResult,
    Spf,
    SpfCheck,
    SpfResult,
)
from gateway.policy import OnError
from gateway.resolver import Answer, RecordType
from gateway.session import Transaction
from gateway.tables import NameTable
from gateway.testing import Site, message, run
from gateway.verdict import Action, Finding, Outcome, Stage
from policies.dmarc import Dmarc, DmarcOptions

ZONE = {
    "_dmarc.reject.example": {"TXT": ["v=DMARC1; p=reject; sp=quarantine; rua=mailto:r@reject.example; fo=1"]},
    "_dmarc.quarantine.example": {"TXT": ["v=DMARC1; p=quarantine"]},
    "_dmarc.watched.example": {"TXT": ["v=DMARC1; p=none"]},
    "_dmarc.testing.example": {"TXT": ["v=DMARC1; p=reject; t=y"]},
    "_dmarc.odd.example": {"TXT": ["v=DMARC1; p=rejekt"]},
    "_dmarc.strict.example": {"TXT": ["v=DMARC1; p=reject; adkim=s"]},
    "_dmarc.broken.example": "SERVFAIL",
    "_dmarc.sub.slow.example": "TIMEOUT",
    "_dmarc.a.lost.example": {"TXT": ["v=DMARC1; p=none"]},
    "_dmarc.lost.example": "TIMEOUT",
    "_dmarc.slow.example": {"TXT": ["v=DMARC1; p=reject"]},
}


async def check(
    author: str,
    options: dict[str, object] | None = None,
    *,
    spf: str | None = None,
    dkim: str | None = None,
    arc: Arc | None = None,
    client: str = "192.0.2.1",
    login: str | None = None,
    mail_from: str = "alice@example.net",
) -> tuple[Finding | None, Transaction]:
    """Run the policy on a message whose From field has an address of the author's domain."""
    site = Site(zone=ZONE)
    transaction = site.transaction(mail_from, session=site.session(client, login=login))
    if spf is not None:
        transaction.authentication.spf = Spf(mail_from=SpfCheck(result=SpfResult.PASS, domain=spf))
    if dkim is not None:
        transaction.authentication.dkim = (DkimSignature(result=DkimResult.PASS, domain=dkim, selector="s1"),)
    transaction.authentication.arc = arc
    header = f"From: Alice <alice@{author}>\r\n" if "\r\n" not in author else author
    finding = await run(
        site.policy(Dmarc, options), Stage.MESSAGE, transaction, message(f"{header}\r\nHi\r\n".encode())
    )
    return finding, transaction


@pytest.mark.parametrize(
    ("author", "spf", "outcome", "result", "disposition"),
    [
        ("reject.example", "reject.example", Dmarc.passed, DmarcResult.PASS, Disposition.NONE),
        ("a.reject.example", "b.reject.example", Dmarc.passed, DmarcResult.PASS, Disposition.NONE),
        ("reject.example", "other.example", Dmarc.reject, DmarcResult.FAIL, Disposition.REJECT),
        ("reject.example", None, Dmarc.reject, DmarcResult.FAIL, Disposition.REJECT),
        ("a.reject.example", None, Dmarc.quarantine, DmarcResult.FAIL, Disposition.QUARANTINE),
        ("quarantine.example", None, Dmarc.quarantine, DmarcResult.FAIL, Disposition.QUARANTINE),
        ("testing.example", None, Dmarc.quarantine, DmarcResult.FAIL, Disposition.QUARANTINE),
        ("watched.example", None, Dmarc.fail, DmarcResult.FAIL, Disposition.NONE),
        ("unknown.example", "unknown.example", Dmarc.none, DmarcResult.NONE, Disposition.NONE),
        ("odd.example", "odd.example", Dmarc.none, DmarcResult.NONE, Disposition.NONE),
        ("broken.example", "broken.example", Dmarc.temperror, DmarcResult.TEMPERROR, Disposition.NONE),
    ],
)
async def test_each_outcome_is_what_the_domain_asks_for(
    author: str, spf: str | None, outcome: object, result: DmarcResult, disposition: Disposition
) -> None:
    """The outcome is the disposition of a failure, else the result; both stand on the transaction."""
    finding, transaction = await check(author, spf=spf)
    assert finding is not None
    assert finding.outcome is outcome
    assert transaction.authentication.dmarc is not None
    assert (transaction.authentication.dmarc.result, transaction.authentication.dmarc.disposition) == (
        result,
        disposition,
    )
    assert transaction.authentication.dmarc.domain == author


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("Subject: none\r\n", "missing"),
        ("From: a@reject.example\r\nFrom: a@reject.example\r\n", "repeated"),
        ("From: undisclosed:;\r\n", "no_address"),
        ("From: root@localhost\r\n", "no_domain"),
        ("From: =?cp37?q?jane?= x\r\n", "malformed"),
    ],
)
async def test_a_from_field_without_a_domain_is_outside_of_dmarc_and_refused(header: str, fault: str) -> None:
    """What gives no author's domain would be a way around DMARC; the reply says what is wrong with it."""
    finding, transaction = await check(header, spf="reject.example")
    assert finding is not None
    assert finding.outcome is Dmarc.bad_from
    assert finding.evidence["fault"] == fault
    assert finding.reply.text != Dmarc.bad_from.reply.text
    assert transaction.authentication.dmarc is not None
    assert (transaction.authentication.dmarc.result, transaction.authentication.dmarc.domain) == (
        DmarcResult.PERMERROR,
        "",
    )


@pytest.mark.parametrize(
    ("header", "mail_from", "outcome"),
    [
        ("From: <>\r\n", "", Dmarc.no_author),
        ("From: MAILER-DAEMON (Mail Delivery System)\r\n", "", Dmarc.no_author),
        ("From:\r\n", "", Dmarc.no_author),
        ("Subject: no From field\r\n", "", Dmarc.no_author),
        ("From: <>\r\n", "a@reject.example", Dmarc.bad_from),
        ("From: MAILER-DAEMON\r\n", "a@reject.example", Dmarc.bad_from),
        ("From: MAILER-DAEMON@localhost\r\n", "", Dmarc.bad_from),
        ("From: =?utf-8?q?a=40localhost?=\r\n", "", Dmarc.bad_from),
        ("From: <>\r\nFrom: <>\r\n", "", Dmarc.bad_from),
        ("From: a@reject.example\r\nX: y\r\n", "", Dmarc.reject),
    ],
)
async def test_a_bounce_may_name_no_author(header: str, mail_from: str, outcome: Outcome) -> None:
    """Only with the null reverse-path, and only where no reader could see an address."""
    finding, transaction = await check(header, mail_from=mail_from)
    assert finding is not None
    assert finding.outcome is outcome
    assert transaction.authentication.dmarc is not None
    assert Dmarc.no_author.action is Action.TAG


REJECT, QUARANTINE, OTHER = "a@reject.example", "b@quarantine.example", "c@unknown.example"


@pytest.mark.parametrize(
    ("authors", "spf", "dkim", "outcome", "domain"),
    [
        # Several organizations: each must pass, and no record is no pass.
        (f"{REJECT}, {QUARANTINE}", "reject.example", "quarantine.example", Dmarc.passed, "reject.example"),
        (f"{REJECT}, {QUARANTINE}", "reject.example", None, Dmarc.bad_from, "quarantine.example"),
        (f"{REJECT}, {QUARANTINE}", None, "quarantine.example", Dmarc.bad_from, "reject.example"),
        (f"{REJECT}, {OTHER}", "reject.example", "unknown.example", Dmarc.bad_from, "unknown.example"),
        (f"{OTHER}, {REJECT}", "reject.example", "unknown.example", Dmarc.bad_from, "unknown.example"),
        ('"a@reject.example", <x@watched.example>', "watched.example", None, Dmarc.bad_from, "reject.example"),
        ("(a@reject.example), <x@watched.example>", "watched.example", None, Dmarc.bad_from, "reject.example"),
        ('"a@reject.example via X" <x@watched.example>', "watched.example", None, Dmarc.passed, "watched.example"),
        # What can't be told now is no refusal, unless another one does not pass for certain.
        ("a@broken.example, b@reject.example", "reject.example", None, Dmarc.temperror, "broken.example"),
        ("a@sub.slow.example, b@slow.example", "slow.example", None, Dmarc.temperror, "sub.slow.example"),
        # One organization: the worst result counts.
        ("a@reject.example, b@x.reject.example", "reject.example", None, Dmarc.passed, "reject.example"),
        ("a@x.reject.example, b@reject.example", "other.example", None, Dmarc.reject, "reject.example"),
        ("a@x.quarantine.example, b@quarantine.example", None, None, Dmarc.quarantine, "x.quarantine.example"),
        ("a@x.strict.example, b@strict.example", None, "x.strict.example", Dmarc.reject, "strict.example"),
        # Without any record the public suffix list says which domains belong together.
        ("a@x.unknown.example, b@unknown.example", "unknown.example", None, Dmarc.none, "x.unknown.example"),
        # At most so many organizations.
        (", ".join(f"a@o{n}.example" for n in range(6)), "o0.example", None, Dmarc.bad_from, ""),
        ("a@reject.example, b@broken.example", None, None, Dmarc.reject, "reject.example"),
        ("a@broken.example, b@quarantine.example", None, None, Dmarc.quarantine, "quarantine.example"),
        ("a@watched.example, b@broken.example", None, None, Dmarc.temperror, "broken.example"),
        ("a@watched.example, b@broken.example", "watched.example", None, Dmarc.temperror, "broken.example"),
        (
            ", ".join(f"a@o{n}.reject.example" for n in range(6)),
            "reject.example",
            None,
            Dmarc.passed,
            "o0.reject.example",
        ),
        (
            ", ".join(f"a@o{n}.reject.example" for n in range(21)),
            "reject.example",
            None,
            Dmarc.bad_from,
            "",
        ),
    ],
)
async def test_several_authors(authors: str, spf: str | None, dkim: str | None, outcome: Outcome, domain: str) -> None:
    """Each organization must pass; bad_from says which domain does not, in the reply and in the record."""
    finding, transaction = await check(f"From: {authors}\r\nX: y\r\n", spf=spf, dkim=dkim)
    assert finding is not None
    assert finding.outcome is outcome
    assert transaction.authentication.dmarc is not None
    assert transaction.authentication.dmarc.domain == domain
    if outcome is Dmarc.bad_from:
        assert transaction.authentication.dmarc.result is DmarcResult.PERMERROR
        assert finding.evidence["fault"] == ("several_organizations" if domain else "too_many")
        assert domain in finding.reply.text
        assert ("too many" in finding.reply.text) is (not domain)


async def test_how_many_organizations_are_evaluated_is_a_setting() -> None:
    """More than ``organizations`` are bad_from, though all would pass."""
    authors = f"From: {REJECT}, {QUARANTINE}\r\nX: y\r\n"
    for limit, outcome in ((2, Dmarc.passed), (1, Dmarc.bad_from)):
        finding, _ = await check(authors, {"organizations": limit}, spf="reject.example", dkim="quarantine.example")
        assert finding is not None
        assert finding.outcome is outcome


async def test_a_trusted_sealer_speaks_for_each_author() -> None:
    """Of several authors each that fails must be made up for by ARC."""
    authors = f"From: {REJECT}, {QUARANTINE}\r\nX: y\r\n"
    both = "dkim=pass header.d=reject.example; dkim=pass header.d=quarantine.example"
    second = "dkim=pass header.d=quarantine.example"
    finding, transaction = await check(
        authors, {"trust_arc": ["lists.example"]}, spf="reject.example", arc=chain("lists.example", second)
    )
    assert finding is not None
    assert finding.outcome is Dmarc.arc_trusted
    assert transaction.authentication.dmarc is not None
    assert transaction.authentication.dmarc.arc_sealer == "lists.example"
    for recorded, outcome in ((both, Dmarc.arc_trusted), ("dkim=pass header.d=reject.example", Dmarc.bad_from)):
        finding, _ = await check(authors, {"trust_arc": ["lists.example"]}, arc=chain("lists.example", recorded))
        assert finding is not None
        assert finding.outcome is outcome


async def test_our_own_clients_are_not_checked() -> None:
    """Who has authenticated or is trusted sends for others; nothing is left on the transaction."""
    for finding, transaction in (
        await check("reject.example", login="alice"),
        await check("reject.example", client="127.0.0.1"),
        await check("reject.example", {"trusted": ["198.51.100.0/24"]}, client="198.51.100.7"),
    ):
        assert finding is None
        assert transaction.authentication.dmarc is None
    finding, _ = await check("reject.example", {"trusted": ["198.51.100.0/24"]}, client="127.0.0.1")
    assert finding is not None


def chain(sealer: str, recorded: str, result: ArcResult = ArcResult.PASS) -> Arc:
    """A chain of one set."""
    arc_set = ArcSet(instance=1, domain=sealer, selector="arc", authentication_results=f"mx.{sealer}; {recorded}")
    return Arc(result=result, reason="why", oldest_pass=0, sealer=sealer, sets=(arc_set,))


async def test_a_trusted_sealer_rescues_what_it_saw_pass() -> None:
    """The result stays a failure, nothing is asked for, and the override is one that a report can have."""
    arc = chain("list.example", "dmarc=pass header.from=reject.example")
    finding, transaction = await check("reject.example", {"trust_arc": ["list.example"]}, arc=arc)
    assert finding is not None
    assert finding.outcome is Dmarc.arc_trusted
    assert finding.outcome.action is Action.PASS
    assert finding.evidence["override"] == {
        "type": "local_policy",
        "comment": "arc=pass as[1].d=list.example as[1].s=arc",
    }
    assert transaction.authentication.dmarc is not None
    assert transaction.authentication.dmarc.result is DmarcResult.FAIL
    assert transaction.authentication.dmarc.policy is Disposition.REJECT
    assert transaction.authentication.dmarc.disposition is Disposition.NONE
    assert transaction.authentication.dmarc.arc_sealer == "list.example"


async def test_an_aligned_pass_that_a_trusted_sealer_saw_is_enough() -> None:
    """Alignment is the same as for a pass of our own."""
    arc = chain("a.list.example", "dkim=pass header.d=mail.reject.example")
    finding, _ = await check("reject.example", {"trust_arc": [".list.example"]}, arc=arc)
    assert finding is not None
    assert finding.outcome is Dmarc.arc_trusted


@pytest.mark.parametrize(
    ("sealer", "recorded", "result"),
    [
        ("other.example", "dmarc=pass header.from=reject.example", ArcResult.PASS),
        ("list.example", "dmarc=fail header.from=reject.example", ArcResult.PASS),
        ("list.example", "dmarc=pass header.from=reject.example", ArcResult.FAIL),
        ("list.example", "dmarc=pass header.from=reject.example", ArcResult.NONE),
        ("other.example", "dmarc=pass header.from=reject.example", ArcResult.TEMPERROR),
    ],
)
async def test_nobody_else_rescues(sealer: str, recorded: str, result: ArcResult) -> None:
    """A stranger's seal, a recorded failure and a chain that does not pass change nothing."""
    finding, _ = await check("reject.example", {"trust_arc": ["list.example"]}, arc=chain(sealer, recorded, result))
    assert finding is not None
    assert finding.outcome is Dmarc.reject


async def test_without_trusted_sealers_arc_changes_nothing() -> None:
    """Anyone can seal (RFC 8617 9): by default nobody is trusted."""
    finding, _ = await check("reject.example", arc=chain("list.example", "dmarc=pass header.from=reject.example"))
    assert finding is not None
    assert finding.outcome is Dmarc.reject


async def test_a_fault_in_the_chain_of_a_trusted_sealer_is_no_refusal() -> None:
    """What the seal would have rescued may not be refused for a fault of the DNS; nor by one about alignment."""
    arc = chain("list.example", "dmarc=pass", ArcResult.TEMPERROR)
    finding, transaction = await check("reject.example", {"trust_arc": ["list.example"]}, arc=arc)
    assert finding is not None
    assert finding.outcome is Dmarc.temperror
    assert transaction.authentication.dmarc is not None
    assert transaction.authentication.dmarc.result is DmarcResult.TEMPERROR
    unfinished = Arc(result=ArcResult.TEMPERROR, reason="the validation did not end")
    finding, _ = await check("reject.example", {"trust_arc": ["list.example"]}, arc=unfinished)
    assert finding is not None
    assert finding.outcome is Dmarc.temperror
    finding, _ = await check("reject.example", arc=unfinished)
    assert finding is not None
    assert finding.outcome is Dmarc.reject
    arc = chain("list.example", "dkim=pass header.d=sub.slow.example")
    finding, _ = await check("slow.example", {"trust_arc": ["list.example"]}, arc=arc)
    assert finding is not None
    assert finding.outcome is Dmarc.temperror


async def test_an_older_signature_that_can_not_be_checked_now_is_no_refusal() -> None:
    """It may prove that nobody changed the message since a trusted sealer saw it pass."""
    trusted = ArcSet(
        instance=1,
        domain="list.example",
        selector="a",
        authentication_results="x; dmarc=pass header.from=reject.example",
    )
    stranger = ArcSet(instance=2, domain="other.example", selector="a", authentication_results="x; dmarc=fail")
    arc = Arc(result=ArcResult.PASS, oldest_pass=2, sealer="other.example", sets=(trusted, stranger))
    finding, _ = await check("reject.example", {"trust_arc": ["list.example"]}, arc=arc)
    assert finding is not None
    assert finding.outcome is Dmarc.reject
    finding, _ = await check("reject.example", {"trust_arc": ["list.example"]}, arc=replace(arc, untold=(1,)))
    assert finding is not None
    assert finding.outcome is Dmarc.temperror


async def test_an_spf_temperror_of_the_author_defers() -> None:
    """A fault is never a refusal, whatever the domain asks for."""
    site = Site(zone=ZONE)
    transaction = site.transaction()
    transaction.authentication.spf = Spf(
        mail_from=SpfCheck(result=SpfResult.TEMPERROR, domain="reject.example", reason="no answer")
    )
    transaction.authentication.dkim = ()
    finding = await run(site.policy(Dmarc), Stage.MESSAGE, transaction, message(b"From: a@reject.example\r\n\r\n"))
    assert finding is not None
    assert finding.outcome is Dmarc.temperror
    assert finding.outcome.action is Action.DEFER
    assert finding.reply.code == 451


async def test_the_evidence_has_what_an_aggregate_report_needs() -> None:
    """What the decision record does not have anyway: what was published, where reports go, what was overridden."""
    finding, _ = await check("a.reject.example", spf="other.example")
    assert finding is not None
    assert finding.evidence["policy_published"] == {
        "domain": "reject.example",
        "discovery_method": "treewalk",
        "p": "reject",
        "sp": "quarantine",
        "np": "quarantine",
        "fo": "1",
        "adkim": "r",
        "aspf": "r",
        "testing": "n",
    }
    assert finding.evidence["rua"] == ["mailto:r@reject.example"]
    assert "override" not in finding.evidence
    finding, _ = await check("testing.example")
    assert finding is not None
    assert finding.evidence["override"] == {"type": "policy_test_mode", "comment": "t=y"}
    finding, _ = await check("odd.example")
    assert finding is not None
    assert finding.evidence["errors"] == ["p has none of its values"]


async def test_a_refusal_says_why_and_for_whom() -> None:
    """The reply has the word DMARC and the domain (RFC 9989, Rejecting Messages), and the code of RFC 7372."""
    finding, _ = await check("reject.example")
    assert finding is not None
    assert str(finding.reply) == "550 5.7.26 Rejected by the DMARC policy of reject.example"


def test_it_needs_what_it_reads_and_never_lets_forgeries_in_by_a_fault() -> None:
    """It stands behind spf and dkim; when it can't run, mail is deferred."""
    assert Dmarc.requires == ("spf", "dkim")
    assert Dmarc.also_requires(DmarcOptions()) == ()
    assert Dmarc.also_requires(DmarcOptions(trust_arc=NameTable(["lists.example.org"]))) == ("arc",)
    assert Dmarc.on_error is OnError.DEFER
    assert {outcome.name for outcome in Dmarc.outcomes.values() if outcome.action is Action.REJECT} == {
        "reject",
        "bad_from",
    }


class Stopped(ZoneResolver):
    """A resolver at which the policy is stopped while it waits."""

    def known(self, name: str, record_type: RecordType) -> Answer | None:  # noqa: ARG002 - the interface's
        """Nothing."""
        return None

    async def lookup(self, name: str, record_type: RecordType) -> Answer:  # noqa: ARG002 - the interface's
        """What a time-out of the chain looks like from within."""
        raise TimeoutError


async def test_a_time_out_leaves_a_temperror() -> None:
    """Should the chain stop the policy while it waits, what stays says that it can't be told."""
    site = Site(zone=ZONE)
    transaction = site.transaction()
    transaction.session.resolver = Stopped({})
    with pytest.raises(TimeoutError):
        await run(site.policy(Dmarc), Stage.MESSAGE, transaction, message(b"From: a@reject.example\r\n\r\n"))
    assert transaction.authentication.dmarc is not None
    assert transaction.authentication.dmarc.result is DmarcResult.TEMPERROR


async def test_the_authors_records_are_asked_for_while_others_wait() -> None:
    """All that a walk may need, at once; nothing about an author who can't be told, or a client that is left out."""
    site = Site(zone=ZONE)
    policy = site.policy(Dmarc)
    asked: list[str] = []

    class Asked(ZoneResolver):
        async def lookup(self, name: str, record_type: RecordType) -> Answer:
            asked.append(name)
            return await super().lookup(name, record_type)

        def known(self, name: str, record_type: RecordType) -> Answer | None:  # noqa: ARG002 - the interface's
            return None

    for field, client, expected in (
        (b"From: a@mail.reject.example", "192.0.2.9", ["mail.reject.example", "example", "reject.example"]),
        (b"From: a, b", "192.0.2.9", []),
        (b"From: a@mail.reject.example", "127.0.0.1", []),
    ):
        asked.clear()
        transaction = site.transaction(session=site.session(client_address=client))
        transaction.session.resolver = Asked(ZONE)
        policy.look_ahead(transaction, message(field + b"\r\n\r\n"))
        await asyncio.sleep(0)
        assert sorted(asked) == sorted(f"_dmarc.{name}" for name in expected)


async def test_several_organizations_of_which_none_can_be_told_now_are_put_off() -> None:
    """A key that did not answer may have let each of them pass: no refusal, and no pass."""
    site = Site(zone=ZONE)
    transaction = site.transaction()
    transaction.authentication.dkim = tuple(
        DkimSignature(result=DkimResult.TEMPERROR, domain=domain, reason="timeout")
        for domain in ("reject.example", "quarantine.example")
    )
    octets = f"From: {REJECT}, {QUARANTINE}\r\n\r\nHi\r\n".encode()
    finding = await run(site.policy(Dmarc), Stage.MESSAGE, transaction, message(octets))
    assert finding is not None
    assert finding.outcome is Dmarc.temperror


async def test_an_author_that_was_read_ahead_is_read_once() -> None:
    """What look_ahead left on the transaction is what is judged."""
    site = Site(zone=ZONE)
    transaction = site.transaction()
    transaction.authentication.author = Author(("quarantine.example",))
    octets = f"From: {REJECT}\r\n\r\nHi\r\n".encode()
    finding = await run(site.policy(Dmarc), Stage.MESSAGE, transaction, message(octets))
    assert finding is not None
    assert finding.outcome is Dmarc.quarantine


async def test_authors_are_put_off_while_nobody_can_tell_whether_they_are_one() -> None:
    """Each would only be watched, but of two organizations both must pass; a refusal of one stays one."""
    site = Site(zone=ZONE)
    for other, outcome in (("watched.example", Dmarc.temperror), ("reject.example", Dmarc.reject)):
        octets = f"From: x@a.lost.example, y@{other}\r\n\r\nHi\r\n".encode()
        finding = await run(site.policy(Dmarc), Stage.MESSAGE, site.transaction(), message(octets))
        assert finding is not None
        assert finding.outcome is outcome
