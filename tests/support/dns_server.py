"""A small DNS server on loopback, UDP and TCP, that answers from a dictionary; the real peer of DNS tests.

    async with DnsServer({"example.com": {"A": ["192.0.2.1"]}, "slow.example": "TIMEOUT"}) as server:
        resolver = DnsResolver([server.address])

It can also misbehave as servers on the Internet do, see its attributes.

A name's value maps record types to lists of records in zone file notation, and may be a word instead, for the whole
name or one type: ``SERVFAIL`` or ``TIMEOUT`` (no answer at all). Names that are not in the zone do not exist. Every
negative answer has an SOA. Answers that are too large for who asks over UDP are truncated.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Self, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.support.half_answers import ENDLESS, Half, by_tcp, by_udp
from tests.support.ports import free_port

Records = Mapping[str, Sequence[str] | str]
Zone = Mapping[str, Records | str]


class DnsServer:
    """The server; use it with ``async with``.

    Attributes:
        zone: What it answers; may be changed while it runs.
        ttl: The TTL of every record in seconds, and the SOA's minimum.
        soa_ttl: The TTL of the SOA record in negative answers in seconds.
        soa: Whether negative answers have an SOA.
        truncate: Answer UDP questions with the TC bit and no records.
        garbage: Answer with octets that are no DNS message.
        edns: Whether it knows EDNS; if not it answers FORMERR.
        rcode: What it answers everything with, None for answers from the zone.
        spoofs: Makes of the right answer what is sent before it, over UDP and as datagrams of their own.
        rewrite: Makes of the right answer what is sent instead, over UDP and TCP.
        single_octets: Send over TCP an octet at a time, others having their turn between two.
        slow: Names whose answers are truncated over UDP and come an octet at a time over TCP.
        halves: Questions, as name and type, that are answered by half only (``half_answers``).
        silent_over: The transports over which nothing is answered: ``udp``, ``tcp``.
        asked: Set once the first question has come.
        questions: What was asked, in order: ``udp`` or ``tcp``, name, type.
        queries: The messages that asked, and the ports that they came from.
        released: While cleared, answers are held back.
        address: ``127.0.0.1:PORT``.
    """

    def __init__(self, zone: Zone, *, ttl: int = 300, port: int | None = None) -> None:
        self._port = port
        self.zone = dict(zone)
        self.ttl = ttl
        self.soa_ttl = 3600
        self.soa = True
        self.truncate = False
        self.garbage = False
        self.edns = True
        self.rcode: dns.rcode.Rcode | None = None
        self.spoofs: Callable[[bytes], Iterable[bytes]] = lambda _: ()
        self.rewrite: Callable[[bytes], bytes] = bytes
        self.single_octets = False
        self.slow: set[str] = set()
        self.halves: dict[tuple[str, str], Half] = {}
        self.silent_over: set[str] = set()
        self.queries: list[tuple[bytes, int]] = []
        self.questions: list[tuple[str, str, str]] = []
        self.asked = asyncio.Event()
        self.released = asyncio.Event()
        self.released.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        port = free_port() if self._port is None else self._port
        self._tcp = await asyncio.start_server(self._serve_tcp, "127.0.0.1", port)
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=("127.0.0.1", port))
        self.address = f"127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._udp.close()
        self._tcp.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def datagram(self, transport: asyncio.DatagramTransport, data: bytes, client: tuple[str, int]) -> None:
        """Take a question over UDP."""

        async def serve() -> None:
            answer = await self._answer("udp", data)
            half = self._half(data)
            if answer is not None and half is not None:
                answer = by_udp(half, data, answer)
            if answer is not None:
                for spoof in self.spoofs(answer):
                    transport.sendto(spoof, client)
                transport.sendto(self.rewrite(answer), client)

        self.queries.append((data, client[1]))
        task = asyncio.create_task(serve())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            size = int.from_bytes(await reader.readexactly(2))
            question = await reader.readexactly(size)
            answer = await self._answer("tcp", question)
            half = self._half(question)
            if answer is not None and half is not None:
                octets = by_tcp(half, question, answer)
                if octets is None:
                    await reader.read()  # until the other side has enough of it
                else:
                    writer.write(octets)
            elif answer is not None:
                answer = self.rewrite(answer)
                octets = len(answer).to_bytes(2) + answer
                step = 1 if self.single_octets or _asked_name(question) in self.slow else len(octets)
                with suppress(ConnectionError):  # who asked has left
                    for at in range(0, len(octets), step):
                        writer.write(octets[at : at + step])
                        await writer.drain()
                        await asyncio.sleep(0)
        finally:
            writer.close()

    def _half(self, query: bytes) -> Half | None:
        """In which way the question is answered by half, None for whole."""
        question = dns.message.from_wire(query).question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        if name.endswith(ENDLESS):
            return Half.ENDLESS
        return self.halves.get((name, dns.rdatatype.to_text(question.rdtype))) if self.halves else None

    async def _answer(self, transport: str, data: bytes) -> bytes | None:
        question = cast("dns.message.QueryMessage", dns.message.from_wire(data))
        name, record_type = question.question[0].name, question.question[0].rdtype
        text = name.to_text(omit_final_dot=True).lower()
        self.questions.append((transport, text, dns.rdatatype.to_text(record_type)))
        self.asked.set()
        await self.released.wait()
        if transport in self.silent_over:
            return None
        if self.garbage:
            return data[:2] + b"\xff" * 20
        response = dns.message.make_response(question, recursion_available=True)
        if self.rcode is not None or (question.edns >= 0 and not self.edns):
            response.set_rcode(dns.rcode.FORMERR if self.rcode is None else self.rcode)
            return response.to_wire()
        if not self._fill(response, name, record_type):
            return None
        octets = response.to_wire(max_size=65_535)
        if transport == "udp" and (self.truncate or text in self.slow or len(octets) > max(question.payload, 512)):
            response.flags |= dns.flags.TC
            for section in response.sections[1:]:
                section.clear()
            return response.to_wire()
        return octets

    def _fill(self, response: dns.message.Message, name: dns.name.Name, record_type: dns.rdatatype.RdataType) -> bool:
        """Put the records into the response; False for no answer at all."""
        for _ in range(8):  # a CNAME chain
            found = self.zone.get(name.to_text(omit_final_dot=True).lower())
            records = found if isinstance(found, str) else (found or {}).get(dns.rdatatype.to_text(record_type), ())
            if records == "TIMEOUT":
                return False
            if records == "SERVFAIL":
                response.set_rcode(dns.rcode.SERVFAIL)
                return True
            if records:
                response.answer.append(dns.rrset.from_rdata_list(name, self.ttl, _read(record_type, tuple(records))))
                return True
            if found is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
            alias = found.get("CNAME") if isinstance(found, Mapping) else None
            if not alias or isinstance(alias, str):
                break
            response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "CNAME", *alias))
            name = dns.name.from_text(alias[0])
        if not self.soa:
            return True
        soa = f"ns.invalid. hostmaster.invalid. 1 3600 600 86400 {self.ttl}"
        response.authority.append(dns.rrset.from_text(".", self.soa_ttl, "IN", "SOA", soa))
        return True


@cache
def _read(record_type: dns.rdatatype.RdataType, records: tuple[str, ...]) -> tuple[dns.rdata.Rdata, ...]:
    """Records; read once, because dnspython takes a while to read long ones."""
    return tuple(dns.rdata.from_text(dns.rdataclass.IN, record_type, record) for record in records)


def _asked_name(message: bytes) -> str:
    return dns.message.from_wire(message).question[0].name.to_text(omit_final_dot=True).lower()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.datagram(self._transport, data, addr)
