"""A client's value in another syntax: every hostile value at every place that needs no other program.

``SAID`` and ``SHOWN`` say of each place what holds. The places where another program reads the value stand in
``tests/integration/test_hostile_values.py``, the commands in ``tests/unit/cli/test_hostile_values.py``.
"""

import asyncio
import email
import email.policy
import json
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import dns.name
import dns.wire
import msgspec
import pytest
import structlog

from gateway import records
from gateway.adapters.dns.resolver import DnsResolver
from gateway.adapters.dns.wire import encode_question
from gateway.adapters.metrics import Metrics
from gateway.adapters.recipients.http import _url
from gateway.adapters.state.memory import MemoryState
from gateway.admission.trace import received, sender_authentication
from gateway.backend.client_info import MAX_VALUE, NOT_KNOWN_NOW, UNAVAILABLE, identity, xclient, xforward
from gateway.backend.probe import _written
from gateway.doors.control import Command, answer
from gateway.log import configure
from gateway.lookup import ldap
from gateway.lookup.answer import UnverifiableError
from gateway.lookup.socketmap import Socketmap
from gateway.lookup.tcp_table import TcpTable
from gateway.mailauth.results import DkimResult, DkimSignature, Dmarc, DmarcResult, Spf, SpfCheck, SpfResult
from gateway.mailauth.spf_macros import is_askable
from gateway.policy import SystemClock
from gateway.printable import printable, printable_json
from gateway.records import DecisionRecord, HeloRecord, RecipientRecord, ReplyRecord
from gateway.resolver import ClientName, NameStatus, RecordType, Status
from gateway.smtp.grammar import parse_rcpt
from gateway.smtp.reply import MAX_REPLY_LINE, Reply
from gateway.state import Take, subject
from gateway.testing import Site
from tests.support import backend, hostile
from tests.support.authres_grammar import read_strictly
from tests.support.log_output import Output, restored_log
from tests.support.records import ACCEPTED

ALL: Final = frozenset({"NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT", "SOURCE"})
MARKERS: Final = {"[unavailable]", "[tempunavail]"}


def attributes(lines: list[str]) -> dict[str, str | None]:
    """Attributes as Postfix reads them (XCLIENT_README, xtext of RFC 3461 4): None for a marker.

    Every line and every value has the length that Postfix takes, and no value is empty.
    """
    found: dict[str, str | None] = {}
    for line in lines:
        assert len(line) <= 510
        assert line.isascii()
        assert line.isprintable()
        for word in line.split(" ")[1:]:
            name, equals, value = word.partition("=")
            assert equals
            assert name not in found
            assert 1 <= len(value) <= MAX_VALUE == 255
            assert re.fullmatch(r"(?:[A-Za-z0-9._:-]|\+[0-9A-F]{2})+|\[[A-Z]+\]", value), (
                "a word, as Postfix parts words"
            )
            octets = re.sub(rb"\+(..)", lambda code: bytes.fromhex(code[1].decode()), value.encode())
            read = octets.decode("utf-8", "surrogateescape")
            assert (read.lower() in MARKERS) is (value in {UNAVAILABLE, NOT_KNOWN_NOW}), "a marker is the gateway's"
            found[name] = None if value.lower() in MARKERS else read
    assert set(found) == ALL - {"SOURCE", "LOGIN", "DESTADDR", "DESTPORT"} | (set(found) & ALL)
    return found


def announced(value: str) -> None:
    """Itself, or unknown; the others are what they are, and a client is not taken for another."""
    for of in (backend.session(helo_name=value), backend.session(login=value)):
        key = "LOGIN" if of.login is not None else "HELO"
        who = identity(of)
        assert (who.helo_name, who.login) == (of.helo_name, of.login)
        assert who != identity(backend.session(helo_name="other.example", login="other"))
        said = attributes(xclient(who, ALL))
        assert said[key] in {value, None}
        assert (said["NAME"], said["ADDR"], said["PORT"]) == ("client.example", "192.0.2.7", "4711")
        if value and value.lower() not in MARKERS and len(value) < 80 and value.isascii() and "\0" not in value:
            assert said[key] == value
        said = attributes(xforward(who, ALL))
        assert (said["NAME"], said["ADDR"]) == ("client.example", "192.0.2.7")
        assert said["HELO"] in {of.helo_name, None}


def named(value: str) -> None:
    """A client's name that is none never comes from the DNS; said all the same it stays one value."""
    of = backend.session(client_name=ClientName(value, NameStatus.CONFIRMED))
    assert attributes(xclient(identity(of), ALL))["NAME"] in {value, None}


def wanted(value: str) -> None:
    """What RCPT to a backend says is read as the same local part."""
    if hostile.is_local_part(value):
        path, words = parse_rcpt(f"TO:<{_written(value)}@example.com>")
        assert (path.local_part, words) == (value, ())


def in_path_of_url(value: str) -> None:
    """The path has as many parts as the template, none of which is a step, however often it is decoded."""
    try:
        url = _url("http://h/users/{local_part}/exists?d={domain}", {"local_part": value, "domain": "d.example"})
    except UnverifiableError:
        assert not value or value in {".", ".."} or "/" in value or "\\" in value
        return
    split = urlsplit(url)
    assert url.isascii()
    assert url.isprintable()
    parts = split.path.split("/")
    assert parts[:2] + parts[3:] == ["", "users", "exists"]
    assert unquote(parts[2], errors="surrogateescape") == value
    assert (split.query, split.fragment) == ("d=d.example", "")


def in_query_of_url(value: str) -> None:
    """Any value is one parameter, itself."""
    split = urlsplit(_url("http://h/exists?a={address}&b=1", {"address": value}))
    read = parse_qs(split.query, keep_blank_values=True, errors="surrogateescape")
    assert read == {"a": [value], "b": ["1"]}


def in_dn(value: str) -> None:
    """One value of RFC 4514, itself: every character with a meaning is escaped, spaces at both ends too."""
    written = ldap.escaped_dn(value)
    assert re.search(r'(?<!\\)(?:\\\\)*[",;<>+=#\0\r\n]', re.sub(r"\\[0-9a-f]{2}", "", written)) is None
    assert not written.startswith((" ", "#"))
    read = re.sub(r"\\([0-9a-f]{2}|.)", lambda code: chr(int(code[1], 16)) if len(code[1]) == 2 else code[1], written)
    assert read == value
    assert written == written.strip(" "), "a server strips what stands at the ends"


def in_socketmap(value: str) -> None:
    """One netstring: the map, a space, and the key to the end."""
    request = Socketmap("virtual").request(value)
    length, _, rest = request.partition(b":")
    assert rest[int(length) :] == b","
    assert rest[: int(length)].decode("utf-8", "surrogateescape") == f"virtual {value}"


def in_tcp_table(value: str) -> None:
    """One line that is decoded to the key."""
    request = TcpTable().request(value).decode("ascii")
    assert re.fullmatch(r"get [!-~]*\n", request)
    assert unquote(request[4:-1], errors="surrogateescape") == value


def counted(value: str) -> None:
    """A subject is one part of a key: it has nothing that parts keys, and no other value has the same."""
    text = subject(helo_name=value)
    assert text.isascii()
    assert len(text) <= 300
    assert not set(text) & set("{}, \r\n\0%") - {"%"}
    twins = [other for other in hostile.said().values() if subject(helo_name=other) == text]
    assert twins == [value]
    assert subject(helo_name=value, recipient="x") != subject(helo_name=f"{value},recipient=x")
    assert subject(helo_name=subject(helo_name=value).partition("=")[2]) == text or text != f"helo_name={value}"


def asked_in_the_dns(value: str) -> None:
    """The very name, or none at all; what can't be asked for does not exist, without a question."""

    async def ask() -> None:
        resolver = DnsResolver(["127.0.0.1:1"])
        try:
            if encoded(value) is None:
                answer = await resolver.lookup(value, RecordType.A)
                assert (answer.status, resolver.queries) == (Status.NXDOMAIN, 0)
        finally:
            await resolver.close()

    asyncio.run(ask())
    name = encoded(value)
    if name is None:
        assert not is_askable(value)
        return
    labels = [label.decode("latin-1") for label in name.labels[:-1]]
    assert all(1 <= len(label) <= 63 for label in labels)
    if "\\" not in value:  # which escapes, as in zone files
        assert ".".join(labels) == value.lower().removesuffix(".")


def encoded(value: str) -> dns.name.Name | None:
    """The question's name as dnspython reads it, None where the gateway asks none."""
    try:
        wire = encode_question(value.lower().removesuffix("."), RecordType.A)
    except ValueError:
        return None
    return dns.name.from_wire_parser(dns.wire.Parser(wire))


def one_field(field: bytes) -> str:
    """A field is one for a reader, has no line above 998 octets, and no control character; returns its value."""
    assert field.endswith(b"\r\n")
    assert all(len(line) <= 998 for line in field.split(b"\r\n"))
    assert re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n|\r\n(?![ \t]|\Z)", field) is None
    message = email.message_from_bytes(field + b"\r\nbody", policy=email.policy.compat32)
    assert len(message.items()) == 1
    assert message.get_payload() == "body"
    return str(message.items()[0][1])


def in_received(value: str) -> None:
    """One field, whose words are the gateway's own but for those of the client, which end nothing."""
    if value not in hostile.helo_names().values():
        return
    transaction = Site().transaction(session=Site().session(helo_name=value))
    written = one_field(received(transaction, hostname="mx.example.com", address="192.0.2.1", now=0))
    match = re.fullmatch(
        r"from (\S+) \(unknown \[192\.0\.2\.1\]\)\r?\n\tby mx\.example\.com \(Lychgate\) .*", written, re.DOTALL
    )
    assert match is not None
    assert not set(match[1]) & set('()<>@;"\\')


def in_authentication_results(value: str) -> None:
    """One field of RFC 8601, with the results that were found and no other."""
    transaction = Site().transaction(session=Site().session(helo_name=value, login=value or None))
    transaction.session.client_name = ClientName(value, NameStatus.CONFIRMED)
    transaction.authentication.spf = Spf(mail_from=SpfCheck(result=SpfResult.FAIL, domain=value, reason=value))
    transaction.authentication.dkim = (
        DkimSignature(result=DkimResult.FAIL, domain=value, selector=value, auid=f"{value}@x.example", reason=value),
    )
    transaction.authentication.dmarc = Dmarc(result=DmarcResult.FAIL, domain=value, reason=value)
    for reverse_path in ("", value):
        transaction.reverse_path = (
            backend.mailbox(f"{reverse_path}@x.example") if reverse_path else transaction.reverse_path
        )
        (field,) = sender_authentication(transaction, authserv_id="mx.example.com", address="192.0.2.1")
        one_field(field)
        assert field.isascii()
        read = [(each.method, each.result) for each in read_strictly(field)]
        expected = [("iprev", "pass"), ("spf", "fail"), ("dkim", "fail"), ("dmarc", "fail")]
        assert read == ([("auth", "pass")] if value else []) + expected


def in_reply(value: str) -> None:
    """A backend's text is one reply of whole lines, with and without a reference."""
    reply = Reply.from_backend(550, [value.encode("utf-8", "replace")])
    for each in (reply, reply.with_reference("0K3F5Z8Q2M7A1B")):
        lines = each.wire.split(b"\r\n")
        assert lines.pop() == b""
        assert all(re.fullmatch(rb"550[ -][^\x00-\x08\x0a-\x1f\x7f]*", line) for line in lines)
        assert all(len(line) + 2 <= MAX_REPLY_LINE for line in lines)


def hostile_record(value: str) -> DecisionRecord:
    """A record in which everything that a client, a backend or the DNS said is the value."""
    return msgspec.structs.replace(
        ACCEPTED,
        helo=HeloRecord(name=value, extended=True),
        client=msgspec.structs.replace(ACCEPTED.client, name=value, login=value),
        reverse_path=value,
        recipients=[
            RecipientRecord(
                address=value,
                verdict="accepted",
                decided_by=None,
                reply=ReplyRecord(code=250, enhanced=None, text=value),
            )
        ],
        reply=ReplyRecord(code=250, enhanced=None, text=value),
        checks=[msgspec.structs.replace(check, evidence={"said": value}) for check in ACCEPTED.checks],
    )


def recorded(value: str) -> None:
    """One line for every reader of lines, harmless on a terminal, and the very value for a reader of JSON."""
    line = records.encode(hostile_record(value)).decode()
    assert line.splitlines() == [line]
    assert hostile.is_harmless(line)
    data = json.loads(line)
    legible = re.sub("[\udc80-\udcff]", lambda half: f"\\x{ord(half[0]) - 0xDC00:02x}", value)
    legible = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", legible)
    said = (data["helo"]["name"], data["client"]["name"], data["client"]["login"], data["reverse_path"])
    assert {*said, data["recipients"][0]["address"], data["reply"]["text"]} == {legible}


def printed_as_json(value: str) -> None:
    """Harmless on a terminal, and the same for a reader."""
    text = printable_json(json.dumps({"key": value, value: [1]}, ensure_ascii=False, indent=2))
    assert hostile.is_harmless(text)
    text.encode()
    if not re.search("[\ud800-\udfff]", value):
        assert json.loads(text) == json.loads(json.dumps({"key": value, value: [1]}))


def shown(value: str) -> None:
    """One harmless line; what is harmless by itself stays."""
    text = printable(value)
    text.encode()
    assert hostile.is_harmless(text)
    assert "\n" not in text
    assert hostile.is_harmless(value) is (text == value) or "\n" in value


def logged(value: str) -> None:
    """One harmless line for an event, in both formats, also in the text of an exception."""
    for line_format in ("json", "text"):
        with restored_log(), Output() as output:
            configure("info", line_format, descriptor=output.descriptor)
            structlog.get_logger("lychgate.test").warning("event", value=value, names=[value], of={value: value})
            (line,) = output.text().split("\n")[:-1]
        assert hostile.is_harmless(line)
        if line_format == "json":
            assert json.loads(line)["value"] == printable(value)


class Echo(msgspec.Struct):
    """A request with a value."""

    value: str


def controlled(value: str) -> None:
    """A control socket's request and reply are a line each, and carry the very value."""
    request = json.dumps({"command": "echo", "value": value}).encode() + b"\n"
    told = answer({"echo": Command(Echo, lambda given: given.value)}, request)
    assert told.find(b"\n") == len(told) - 1
    assert json.loads(told) == {"reply": value}
    assert "error" in json.loads(answer({}, json.dumps({"command": value}).encode()))


SAID: Final[dict[str, Callable[[str], None]]] = {
    "XCLIENT and XFORWARD": announced,
    "XCLIENT and XFORWARD, the name": named,
    "RCPT to a backend": wanted,
    "the path of a URL": in_path_of_url,
    "the query of a URL": in_query_of_url,
    "a distinguished name": in_dn,
    "socketmap": in_socketmap,
    "tcp_table": in_tcp_table,
    "the subject of a limit": counted,
    "a question of the DNS": asked_in_the_dns,
    "Received": in_received,
    "Authentication-Results": in_authentication_results,
    "a reply": in_reply,
    "the control socket": controlled,
}
"""Where a client's value goes to another program, which reads it."""

SHOWN: Final[dict[str, Callable[[str], None]]] = {
    "the decision record": recorded,
    "JSON of a command": printed_as_json,
    "text of a command": shown,
    "the log": logged,
}
"""Where people see what anybody said, and be it half a character in somebody's JSON."""


@pytest.mark.parametrize("place", SAID)
@pytest.mark.parametrize("value", hostile.said())
def test_a_value_stays_a_value(place: str, value: str) -> None:
    """What the place says of it holds for each value."""
    SAID[place](hostile.VALUES[value])


@pytest.mark.parametrize("place", SHOWN)
@pytest.mark.parametrize("value", hostile.VALUES)
def test_what_is_shown_is_harmless(place: str, value: str) -> None:
    """What the place says of it holds for each value."""
    SHOWN[place](hostile.VALUES[value])


def test_no_subject_is_another_s_that_was_cut() -> None:
    """A value that ends like a subject that was cut, with its digest, is counted by itself."""
    cut = subject(reverse_path="a" * 400)
    assert len(cut) == 300
    assert subject(reverse_path=cut.partition("=")[2]) != cut


async def test_a_limit_counts_each_value_by_itself() -> None:
    """No client uses up what another may have."""
    state = MemoryState(SystemClock())
    for expected in (True, False):
        for value in hostile.said().values():
            take = Take(name="one", subject=subject(login=value), rate=1e-9, burst=1.0)
            (answer,) = await state.ask([take])
            assert not isinstance(answer, Exception)
            assert answer.granted is expected, value


def test_no_client_makes_a_series_of_numbers() -> None:
    """Whatever clients say, Prometheus gets as many series as from an ordinary one."""

    class Nowhere:
        lost = 0

        def write(self, record: DecisionRecord) -> None: ...

        async def close(self) -> None: ...

    metrics = Metrics(Nowhere())
    metrics.write(ACCEPTED)
    before = _page(metrics)
    for value in hostile.VALUES.values():
        metrics.write(hostile_record(value))
    assert [line.rpartition(" ")[0] for line in _page(metrics) if "_created" not in line] == [
        line.rpartition(" ")[0] for line in before if "_created" not in line
    ]


def _page(metrics: Metrics) -> list[str]:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": ""}
    return b"".join(metrics.page(environ, lambda *_: None)).decode().splitlines()


def test_the_list_reaches_every_way_in() -> None:
    """A list that a grammar refuses whole would test nothing."""
    assert len(hostile.local_parts()) > 50
    assert len(hostile.helo_names()) > 30
    assert {"a label of 64", "an empty label"}.isdisjoint(hostile.domains())
    assert "an underscore" in hostile.domains()
