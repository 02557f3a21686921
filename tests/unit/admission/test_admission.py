"""The admission's own parts: ids, the end of a session, the Received field."""

from gateway.admission.admission import Admission
from gateway.admission.rules import Rules
from gateway.admission.trace import Identity
from gateway.chain.chain import Chain
from gateway.records import DecisionRecord
from gateway.session import RecipientState, Session, new_id
from gateway.smtp import reply as replies
from gateway.smtp.grammar import parse_mail, parse_rcpt
from gateway.testing import NOON, Site, message
from gateway.verdict import Action, ByPolicy, Party, Verdict


class Desk:
    """A admission with no policies, and its records."""

    lost = 0

    def __init__(self, memory: int = 10**6) -> None:
        self.records: list[DecisionRecord] = []
        self.site = Site(domains=["example.com"])
        self.session: Session = self.site.session()
        self.admission = Admission(
            self.session,
            Rules(
                chain=Chain([], {}, [], self.site.context),
                domain=self.site.context.domain,
                backend=lambda _session, recipient: recipient.path.domain,
                quarantine="held",
                recipient_limit=2,
                recipient_overshoot=2,
                transaction_memory=memory,
                single_recipient=frozenset(),
                sink=self,
                clock=self.site.clock,
                identity=Identity(hostname="mx.example.com"),
                delay_reject=True,
                session_delay=60.0,
            ),
        )

    def write(self, record: DecisionRecord) -> None:
        """Take a record."""
        self.records.append(record)

    async def close(self) -> None:
        """Nothing is held."""

    async def mail(self) -> None:
        """A transaction."""
        assert (await self.admission.mail(*parse_mail("FROM:<a@example.org>"))).reply is None


def test_ids_are_unique_and_sort_by_time() -> None:
    """Fourteen characters; later ones sort behind earlier ones, and no two are the same."""
    times = [0.001 * step for step in range(500)] + [NOON, NOON + 0.001, 4e9]
    ids = [new_id(time) for time in times]
    assert ids == sorted(ids)
    assert {len(made) for made in ids} == {14}
    assert len({new_id(NOON) for _ in range(1000)}) > 990  # 25 random bits


async def test_only_a_reply_of_the_backend_makes_a_recipient_accepted() -> None:
    """4xx defers, 5xx rejects, and refusals are counted."""
    desk = Desk()
    await desk.mail()
    states = []
    for answer in (replies.RECIPIENT_OK, replies.BACKEND_UNAVAILABLE, replies.BAD_RECIPIENT_ADDRESS):
        recipient, _ = await desk.admission.rcpt(*parse_rcpt("TO:<b@example.com>"))
        desk.admission.answered(recipient, answer)
        states.append(recipient.state)
    assert states == [RecipientState.ACCEPTED, RecipientState.DEFERRED, RecipientState.REJECTED]
    assert desk.session.refusals == 2
    assert len(desk.records) == 0


async def test_what_recipients_share_is_found_anew_in_each_transaction() -> None:
    """Those of one backend share a transaction, also after one of another backend; others are told to come again."""
    desk = Desk()
    for domain, second in (("example.com", "example.com"), ("example.org", "example.org"), ("a.example", "b.example")):
        await desk.mail()
        first, verdict = await desk.admission.rcpt(*parse_rcpt(f"TO:<a@{domain}>"))
        assert verdict.reply is None
        desk.admission.answered(first, replies.RECIPIENT_OK)
        _, verdict = await desk.admission.rcpt(*parse_rcpt(f"TO:<b@{second}>"))
        assert verdict.outcome == (None if second == domain else "split")
        desk.admission.abort()


async def test_recipients_over_the_limit_are_not_noted() -> None:
    """They are deferred with 452, and take no memory."""
    desk = Desk()
    await desk.mail()
    for _ in range(4):
        recipient, verdict = await desk.admission.rcpt(*parse_rcpt("TO:<b@example.com>"))
        if verdict.reply is None:
            desk.admission.answered(recipient, replies.RECIPIENT_OK)
    assert verdict.reply == replies.TOO_MANY_RECIPIENTS.with_reference(desk.admission.reference)
    assert desk.admission.transaction is not None
    assert len(desk.admission.transaction.recipients) == 2


async def test_too_many_recipients_over_the_limit_end_the_session() -> None:
    """As many as the overshoot get 452 in each transaction; one more gets 421."""
    desk = Desk()
    codes: list[int] = []
    for count in (4, 5):
        await desk.mail()
        for _ in range(count):
            recipient, verdict = await desk.admission.rcpt(*parse_rcpt("TO:<b@example.com>"))
            if verdict.reply is None:
                desk.admission.answered(recipient, replies.RECIPIENT_OK)
            codes.append(250 if verdict.reply is None else verdict.reply.code)
        desk.admission.abort()
    assert codes == [250, 250, 452, 452, 250, 250, 452, 452, 421]


async def test_a_transaction_that_holds_too_much_takes_no_more_recipients() -> None:
    """A recipient that does not fit gets 452, also where it is what the client has sent ahead that takes the room."""
    desk = Desk(memory=4000)
    await desk.mail()
    codes: list[int] = []
    for waiting in (4000, 4000, 0, 0, 0, 0):
        recipient, verdict = await desk.admission.rcpt(*parse_rcpt(f"TO:<{'b' * 200}@example.com>"), waiting)
        if verdict.reply is None:
            desk.admission.answered(recipient, replies.RECIPIENT_OK)
        codes.append(250 if verdict.reply is None else verdict.reply.code)
    assert codes[:3] == [250, 452, 250]


async def test_a_policy_that_ends_the_connection_later_leaves_a_record_of_its_own() -> None:
    """Behind a transaction that has its record already; the protocol's end of an idle session leaves no second one."""
    for by, count in ((ByPolicy("limits"), 2), (Party.PROTOCOL, 1)):
        desk = Desk()
        await desk.mail()
        desk.admission.abort()
        verdict = Verdict(Action.DISCONNECT, replies.TIMEOUT, by, "why")
        await desk.admission.close(verdict, replies.TIMEOUT)
        assert [record.kind for record in desk.records] == ["transaction", "connection"][:count]
    assert desk.records[0].decision.result == "aborted"


async def test_a_record_holds_what_a_client_sent_as_it_can_be_shown() -> None:
    """A Message-ID of any octets is cut and decoded."""
    desk = Desk()
    await desk.mail()
    recipient, _ = await desk.admission.rcpt(*parse_rcpt("TO:<b@example.com>"))
    desk.admission.answered(recipient, replies.RECIPIENT_OK)
    await desk.admission.message(message(b"Message-ID: <\xff" + b"x" * 2000 + b">\r\n\r\n"))
    desk.admission.finish("accepted", None, replies.ACCEPTED)
    part = desk.records[0].message
    assert part is not None
    assert part.message_id is not None
    assert part.message_id.startswith("<\ufffdxxx")
    assert len(part.message_id) == 998
    assert desk.session.messages == 1
