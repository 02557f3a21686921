"""The header that is judged is the header that is read: through the gateway and a real Postfix into a maildir.

Generated messages, with any octets and the oddities of real mail, go through the gateway in front of Postfix, which
delivers what the gateway let through. Each reader of ``tests/support/readers`` then reads the files: it must show the
author that DMARC judged, and the gateway's own fields as written, on top and nowhere else. The corpus of honest mail
goes the same way, and none of it may be refused.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any, Final

import pytest

from tests.integration.test_readers_author import is_cut, shown_domain
from tests.support.corpus import HONEST
from tests.support.dns_server import DnsServer
from tests.support.dns_thread import dns_thread
from tests.support.gateway import Gateway
from tests.support.maildir import Maildir, delivering
from tests.support.readers.every import PEERS, read_all
from tests.support.readers.generate import headers
from tests.support.readers.reading import Reading
from tests.support.signing import txt
from tests.support.wire import Answer, Wire

MESSAGES: Final = int(os.environ.get("READERS_MESSAGES", "400"))
CLIENT: Final = "192.0.2.66"

FORGED: Final = (
    b"Authentication-Results: gateway.example; dmarc=pass header.from=bank.example",
    b"X-Checked: forged",
    b"X-Lychgate-Forged: jane@bank.example",
)
"""Fields that only the gateway writes."""

ZONE: Final[dict[str, Any]] = {
    "sender.example": {"TXT": [txt("v=spf1 +all")]},
    "_dmarc.sender.example": {"TXT": [txt("v=DMARC1; p=reject")]},
    "attack.example": {"TXT": [txt("v=spf1 +all")]},
    "_dmarc.attack.example": {"TXT": [txt("v=DMARC1; p=none")]},
    "bank.example": {"TXT": [txt("v=spf1 -all")]},
    "_dmarc.bank.example": {"TXT": [txt("v=DMARC1; p=none")]},
}

OWN: Final[Mapping[str, re.Pattern[str]]] = {
    "Received": re.compile(r"from .+ by gateway\.example .+; \w+, \d+ \w+ \d+ [\d:]+ \+0000( \(UTC\))?"),
    "Authentication-Results": re.compile(r"gateway\.example; (?:(?!jane@|forged|From:).)+"),
    "X-Checked": re.compile(r"yes"),
}
"""The fields that the gateway writes, and what stands in them."""

pytestmark = [pytest.mark.peer("postfix", *PEERS), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def dns() -> Iterator[DnsServer]:
    """The DNS."""
    with dns_thread(ZONE) as server:
        yield server


@pytest.fixture(scope="module")
def maildir() -> Iterator[Maildir]:
    """A Postfix as ``docs/postfix.md`` has it."""
    # Else it takes the gateway, on loopback, for a client of its own domain, and completes addresses in headers.
    services = {
        client_info: {f"smtpd_authorized_{client_info}_hosts": "127.0.0.1", "local_header_rewrite_clients": ""}
        for client_info in ("xclient", "xforward")
    }
    with delivering(services) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Sent:
    """One message and what became of it.

    Attributes:
        recipient: Its only recipient, whom no other message has.
        text: As it was sent.
        answer: The answer to its end.
    """

    recipient: str
    text: bytes
    answer: Answer


def send(port: int, batch: Sequence[tuple[str, str, bytes]], dice: Random) -> list[Sent]:
    """Send messages over one connection, each with its reverse-path and its recipient."""
    sent = []
    with Wire(port, first=[f"PROXY TCP4 {CLIENT} 198.51.100.1 45678 25\r\n".encode()]) as wire:
        wire.command("EHLO sender.example")
        for sender, recipient, text in batch:
            assert wire.command(f"MAIL FROM:<{sender}> BODY=8BITMIME").code == 250
            assert wire.command(f"RCPT TO:<{recipient}>").code == 250
            if text.endswith(b"\r\n") and dice.random() < 0.5:
                assert wire.command("DATA").code == 354
                wire.send(re.sub(rb"(\A|(?<=\r\n))\.", b"..", text) + b".\r\n")
            else:
                wire.send(f"BDAT {len(text)} LAST\r\n".encode(), text)
            sent.append(Sent(recipient, text, wire.reply()))
    return sent


def own_fields(reading: Reading) -> list[tuple[str, str]]:
    """The fields that stand right below the Received field of the backend, as many as the gateway writes."""
    values = [" ".join(value.split()) for _, value in reading.fields]
    top = next(
        number
        for number, (name, _) in enumerate(reading.fields)
        if name == "Received" and "by backend.example" in values[number]
    )
    names = [name for name, _ in reading.fields]
    return list(zip(names, values, strict=True))[top + 1 : top + 1 + len(OWN)]


def claims(reading: Reading) -> list[str]:
    """The fields of the whole header that say they are the gateway's, but for its Received field."""
    found = []
    for name, value in reading.fields:
        plain = re.sub(r"[^a-z-]", "", name.lower())
        is_result = plain == "authentication-results" and re.match(r"[\s\"]*gateway\.example\b", value)
        if is_result or plain == "x-checked" or plain.startswith("x-lychgate-"):
            found.append(name)
    return found


def faults(name: str, text: bytes, reading: Reading, judged: set[str]) -> list[str]:
    """What a reader sees that it should not."""
    found = []
    shown = {shown_domain(address) for address in reading.authors} - {None, *judged}
    if shown and not is_cut(name, text):
        found.append(f"shows {sorted(map(str, shown))}, judged {sorted(judged)}")
    own = own_fields(reading)
    if sorted(field for field, _ in own) != sorted(OWN):
        found.append(f"on top are {own}")
    found += [f"{field}: {value}" for field, value in own if field in OWN and not OWN[field].fullmatch(value)]
    if sorted(claims(reading)) != ["Authentication-Results", "X-Checked"]:
        found.append(f"the gateway's fields are {claims(reading)}")
    return found


def judged_domains(record: Mapping[str, Any]) -> set[str]:
    """The author's domains that DMARC evaluated."""
    (evidence,) = [check["evidence"] for check in record["checks"] if check["policy"] == "dmarc"]
    return set(evidence.get("authors") or ([evidence["domain"]] if "domain" in evidence else []))


def sent_through(
    dns: DnsServer, backend: int, batch: Sequence[tuple[str, str, bytes]], form: Mapping[str, str], *, client_info: str
) -> tuple[list[Sent], dict[str, dict[str, Any]]]:
    """Send messages through a gateway, over four connections; what became of each, and the records by recipient."""
    tag = {"action": "tag", "header": "X-Checked: yes"}
    spf = {"spf": {"on": {"pass": tag, "none": tag}}}
    dmarc = {"dmarc": {"on": {"no_author": "pass"}}}
    settings = {
        "dns": {"servers": [dns.address], "client_names": False},
        "authentication_results": {"authserv_id": "gateway.example"},
        "policies": ["relay", "recipient", spf, "dkim", dmarc],
    }
    listeners = {"smtp": {"proxy_protocol": {"trusted": ["127.0.0.1"]}, **form}}
    options = {"client_info": client_info}
    with (
        Gateway(settings, listeners=listeners, backend=backend, backend_options=options) as gateway,
        ThreadPoolExecutor(4) as pool,
    ):
        parts = [(batch[number::4], Random(number)) for number in range(4)]  # noqa: S311 - it chooses cases, not secrets
        sent = [each for part in pool.map(lambda part: send(gateway.port, *part), parts) for each in part]
        return sent, {record["recipients"][0]["address"]: record for record in gateway.records()}


@pytest.mark.parametrize(
    ("client_info", "form"),
    [("xclient", {}), ("xforward", {}), ("xclient", {"bare_newlines": "normalize", "nul": "accept"})],
    ids=["xclient", "xforward", "lenient"],
)
def test_what_is_stored_is_read_as_it_was_judged(
    client_info: str, form: Mapping[str, str], dns: DnsServer, maildir: Maildir
) -> None:
    """Every reader shows the author that DMARC judged and the gateway's fields as written, or the mail was refused."""
    run = f"{client_info}-{len(form)}"
    dice = Random(run)  # noqa: S311 - it chooses cases, not secrets
    texts = islice(headers(dice, FORGED), MESSAGES)
    senders = ("", *("env@sender.example",) * 9)
    batch = [(dice.choice(senders), f"any-{run}-{number}@example.com", text) for number, text in enumerate(texts)]
    sent, records = sent_through(dns, maildir.ports[client_info], batch, form, client_info=client_info)
    kept = [each for each in sent if each.answer.code == 250]
    assert all(each.answer.code in {250, 550, 554} for each in sent), {each.answer.code for each in sent}
    stored = maildir.messages([each.recipient for each in kept])
    texts_stored = [stored[each.recipient] for each in kept]
    wrong = []
    for name, readings in read_all(texts_stored).items():
        for each, text, reading in zip(kept, texts_stored, readings, strict=True):
            judged = judged_domains(records[each.recipient])
            seen = f"\n    sent   {each.text[:300]!r}\n    stored {text[:1200]!r}"
            wrong += [f"{name} {fault}{seen}" for fault in faults(name, text, reading, judged)]
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:20])
    assert len(kept) > MESSAGES / 4, f"only {len(kept)} of {MESSAGES} were let through"


_DROPPED: Final = re.compile(rb"(?:Bcc|Content-Length|Return-Path):", re.IGNORECASE)
"""Fields that Postfix leaves out."""


def lines_of(text: bytes) -> list[bytes]:
    """The lines of a message as it is stored, but for empty ones and what Postfix leaves out."""
    header, end, body = text.replace(b"\r\n", b"\n").partition(b"\n\n")
    header = re.sub(rb"(\A|(?<=\n))(>*From )(?![ \t]*:)", rb"X-Mailbox-Line: \2", header)
    header = re.sub(rb"(?m)^([!-9;-~]+)[ \t]+:", rb"\1:", header)
    return [line for line in (header + end + body).split(b"\n") if line and _DROPPED.match(line) is None]


def test_honest_mail_is_stored_whole(dns: DnsServer, maildir: Maildir) -> None:
    """The corpus of honest oddities is let through, every line of it is stored, and readers show its authors."""
    names = {f"any-{name.replace('_', '-')}@example.com": name for name in HONEST}
    batch = [(HONEST[name].reverse_path, recipient, HONEST[name].text) for recipient, name in names.items()]
    sent, records = sent_through(dns, maildir.ports["xclient"], batch, {}, client_info="xclient")
    refused = {names[each.recipient]: each.answer.text for each in sent if each.answer.code != 250}
    assert not refused
    stored = maildir.messages(names)
    for recipient, name in names.items():
        assert judged_domains(records[recipient]) == set(HONEST[name].domains), name
        left = iter(stored[recipient].split(b"\n"))
        lost = [line for line in lines_of(HONEST[name].text) if line not in left]
        assert not lost, f"{name}: {lost}"
    texts = [stored[each.recipient] for each in sent]
    for reader, readings in read_all(texts).items():
        for each, text, reading in zip(sent, texts, readings, strict=True):
            wrong = faults(reader, text, reading, set(HONEST[names[each.recipient]].domains))
            assert not wrong, f"{reader}: {names[each.recipient]}: {wrong}"
