"""A ``Resolver`` that answers from a mapping instead of the network: for tests, ``explain`` and trying out a policy.

The mapping is what YAML gives::

    example.com:
      MX: [10 mx.example.com]          # or [[10, mx.example.com]]
      TXT: ["v=spf1 mx -all"]          # a list in the list: the strings of one record; or '"v=spf1" " -all"'
    mx.example.com: {A: [192.0.2.25], AAAA: TIMEOUT}
    192.0.2.25: {PTR: [mx.example.com]}    # short for 25.2.0.192.in-addr.arpa
    broken.example.com: SERVFAIL

One record needs no list. A value may be the word ``SERVFAIL`` or ``TIMEOUT``, for a type or for the whole name, or for
a type ``NXDOMAIN``, which broken name servers say of a name that has records of other types. A name that is not there
does not exist (NXDOMAIN), unless there are names below it (no data, RFC 8020). CNAMEs are followed, at most 8 in a row.
Wildcards, delegation and time-to-live are not modelled.

Raises ``ValueError`` that names the place for whatever else the mapping holds.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, Self, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gateway.address import address_text
from gateway.resolver import Answer, RecordType, Status

MAX_CNAMES: Final = 8
"""CNAMEs that are followed in a row, then SERVFAIL, as recursive servers do against loops."""

_TTL: Final = 3600.0
_FAULTS: Final = {"SERVFAIL": Status.SERVFAIL, "TIMEOUT": Status.TIMEOUT}
_MAX_PREFERENCE: Final = 65535  # RFC 1035 3.3.9: a 16-bit integer

_Name: TypeAlias = Status | dict[RecordType, Answer]


class ZoneResolver:
    """Answers DNS questions from a mapping of names to types to records."""

    def __init__(self, zone: Mapping[str, object]) -> None:
        if not isinstance(zone, Mapping):
            raise ValueError("a zone is a mapping of names, such as {example.com: {A: [192.0.2.1]}}")  # noqa: TRY004 - as all others here
        self._names: dict[str, _Name] = {}
        self._parents: set[str] = set()
        for key, value in zone.items():
            name = _zone_name(key)
            if name in self._names:
                raise ValueError(f"{key}: the name is there twice")
            self._names[name] = _read_name(str(key), value)
            while "." in name:
                name = name.partition(".")[2]
                self._parents.add(name)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a zone from a YAML file.

        Raises:
            ValueError: It can't be read, is not YAML or not a zone; the text names the file.
        """
        try:
            zone = YAML(typ="safe", pure=True).load(file.read_bytes())
        except OSError as error:
            raise ValueError(f"can't read {file}: {error.strerror or error}") from None
        except (YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: not YAML: {error}") from None
        try:
            return cls({} if zone is None else zone)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    async def lookup(self, name: str, record_type: RecordType) -> Answer:
        """Answer one question."""
        return self._answer(name, record_type)

    def known(self, name: str, record_type: RecordType) -> Answer | None:
        """The answer: a mapping has them all at hand."""
        return self._answer(name, record_type)

    def _answer(self, name: str, record_type: RecordType) -> Answer:
        name = name.lower().removesuffix(".")
        for _ in range(MAX_CNAMES + 1):
            known = self._names.get(name)
            if known is None:
                return Answer(Status.NO_DATA if name in self._parents else Status.NXDOMAIN)
            if isinstance(known, Status):
                return Answer(known)
            answer = known.get(record_type)
            if answer is not None:
                return answer
            alias = known.get(RecordType.CNAME)
            if alias is None:
                return Answer(Status.NO_DATA)
            if alias.status is not Status.FOUND:
                return alias
            name = alias.records[0].lower()
        return Answer(Status.SERVFAIL)


def _zone_name(key: object) -> str:
    if not isinstance(key, str):
        raise ValueError(f"{key!r}: a name must be text; put it in quotes")  # noqa: TRY004 - as all others here
    if key.startswith("*."):
        raise ValueError(f"{key}: wildcards are not supported; write the names that are asked for")
    try:
        return ip_address(key).reverse_pointer
    except ValueError:
        return _domain(key, key).lower()


def _read_name(name: str, value: object) -> _Name:
    if isinstance(value, str) and value in _FAULTS:
        return _FAULTS[value]
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: write types with records, such as {{A: [192.0.2.1]}}, or SERVFAIL or TIMEOUT")  # noqa: TRY004 - as all others here
    answers: dict[RecordType, Answer] = {}
    for type_name, records in value.items():
        where = f"{name}: {type_name}"
        if records == Status.NXDOMAIN.name and type_name in RecordType.__members__:
            answers[RecordType(type_name)] = Answer(Status.NXDOMAIN)
            continue
        if type_name not in RecordType.__members__:
            raise ValueError(f"{where}: not a type; there are {', '.join(RecordType)}")
        answers[RecordType(type_name)] = _read_records(where, RecordType(type_name), records)
    if RecordType.CNAME in answers and (len(answers) > 1 or len(answers[RecordType.CNAME].records) > 1):
        raise ValueError(f"{name}: a CNAME stands alone (RFC 1034 3.6.2)")
    return answers


def _read_records(where: str, record_type: RecordType, value: object) -> Answer:
    if isinstance(value, str) and value in _FAULTS:
        return Answer(_FAULTS[value])
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries:
        raise ValueError(f"{where}: no records; leave the type out")
    return Answer(Status.FOUND, tuple(_READERS[record_type](where, entry) for entry in entries), _TTL)


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {value!r} is not text; put it in quotes")  # noqa: TRY004 - as all others here
    return value


def _domain(where: str, value: object) -> str:
    name = _text(where, value)
    if name == ".":
        return name
    name = name.removesuffix(".")
    if not name or not name.isascii() or any(not label or " " in label for label in name.split(".")):
        raise ValueError(f"{where}: {value!r} is not a domain name in A-labels")
    return name


def _ipv4(where: str, value: object) -> str:
    try:
        return str(IPv4Address(_text(where, value)))
    except ValueError:
        raise ValueError(f"{where}: {value!r} is not an IPv4 address") from None


def _ipv6(where: str, value: object) -> str:
    try:
        return address_text(IPv6Address(_text(where, value)))
    except ValueError:
        raise ValueError(f"{where}: {value!r} is not an IPv6 address") from None


def _mx(where: str, value: object) -> str:
    parts: Sequence[object] = (
        value.split() if isinstance(value, str) else value if isinstance(value, list | tuple) else ()
    )
    if len(parts) == 2 and str(parts[0]).isdecimal() and int(str(parts[0])) <= _MAX_PREFERENCE:  # noqa: PLR2004 - preference, exchange
        return f"{int(str(parts[0]))} {_domain(where, parts[1])}"
    raise ValueError(f"{where}: {value!r} is not a preference and a name, such as '10 mx.example.com'")


_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")


def _txt(where: str, value: object) -> str:
    """The strings as one; also as they stand in a zone file, in quotes (RFC 1035 5.1)."""
    strings = value if isinstance(value, list | tuple) else [value]
    return "".join(_unquoted(_text(where, string)) for string in strings).encode().decode("latin-1")


def _unquoted(text: str) -> str:
    if not text.startswith('"') or _QUOTED.sub("", text).strip():
        return text
    return "".join(_ESCAPED.sub(r"\1", string) for string in _QUOTED.findall(text))


_READERS: Final[Mapping[RecordType, Callable[[str, object], str]]] = {
    RecordType.A: _ipv4,
    RecordType.AAAA: _ipv6,
    RecordType.CNAME: _domain,
    RecordType.MX: _mx,
    RecordType.NS: _domain,
    RecordType.PTR: _domain,
    RecordType.SOA: _text,
    RecordType.TXT: _txt,
}
