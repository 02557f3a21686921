"""The header that is judged is the header that is read: through the gateway and a real Postfix into a maildir.

Generated messages, with any octets and the oddities of real mail, go through the gateway in front of Postfix, which
delivers what the gateway let through. Each reader of ``tests/support/readers`` then reads the files: it must show the
author that DMARC judged, and the gateway's own fields as written, on top and nowhere else.
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


def send(port: int, batch: Sequence[tuple[str, bytes]], dice: Random) -> list[Sent]:
    """Send messages over one connection."""
    sent = []
    with Wire(port, first=[f"PROXY TCP4 {CLIENT} 198.51.100.1 45678 25\r\n".encode()]) as wire:
        wire.command("EHLO sender.example")
        for recipient, text in batch:
            sender = "" if dice.random() < 0.1 else "env@sender.example"
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


@pytest.mark.parametrize(
    ("client_info", "form"),
    [("xclient", {}), ("xforward", {}), ("xclient", {"bare_newlines": "normalize", "nul": "accept"})],
    ids=["xclient", "xforward", "lenient"],
)
def test_what_is_stored_is_read_as_it_was_judged(
    client_info: str, form: Mapping[str, str], dns: DnsServer, maildir: Maildir
) -> None:
    """Every reader shows the author that DMARC judged and the gateway's fields as written, or the mail was refused."""
    tag = {"action": "tag", "header": "X-Checked: yes"}
    settings = {
        "dns": {"servers": [dns.address], "client_names": False},
        "authentication_results": {"authserv_id": "gateway.example"},
        "policies": [
            "relay",
            "recipient",
            {"spf": {"on": {"pass": tag}}},
            "dkim",
            {"dmarc": {"on": {"no_author": "pass"}}},
        ],
    }
    run = f"{client_info}-{len(form)}"
    dice = Random(run)  # noqa: S311 - it chooses cases, not secrets
    texts = islice(headers(dice, FORGED), MESSAGES)
    batch = [(f"any-{run}-{number}@example.com", text) for number, text in enumerate(texts)]
    listeners = {"smtp": {"proxy_protocol": {"trusted": ["127.0.0.1"]}, **form}}
    options = {"client_info": client_info}
    with (
        Gateway(settings, listeners=listeners, backend=maildir.ports[client_info], backend_options=options) as gateway,
        ThreadPoolExecutor(4) as pool,
    ):
        parts = [(batch[number::4], Random(number)) for number in range(4)]  # noqa: S311 - the same
        sent = [each for part in pool.map(lambda part: send(gateway.port, *part), parts) for each in part]
        records = {record["recipients"][0]["address"]: record for record in gateway.records()}
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
