"""LDAP search filters as text, against the encodings that RFC 4511 4.5.1 defines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup import ber
from gateway.lookup.ldap_filter import SearchFilter


def shown(octets: bytes) -> str:
    """An encoded filter as text with every octet of a value that is no letter, digit or one of ``@.-`` escaped."""
    ((tag, content),) = ber.elements(octets)
    return _shown(tag, content)


def _shown(tag: int, content: bytes) -> str:
    match tag:
        case 0xA0 | 0xA1:
            return "(" + "&|"[tag - 0xA0] + "".join(_shown(*inner) for inner in ber.elements(content)) + ")"
        case 0xA2:
            return "(!" + "".join(_shown(*inner) for inner in ber.elements(content)) + ")"
        case 0xA3 | 0xA5 | 0xA6 | 0xA8:
            (_, name), (_, value) = ber.elements(content)
            operator = {0xA3: "=", 0xA5: ">=", 0xA6: "<=", 0xA8: "~="}[tag]
            return f"({name.decode()}{operator}{_escaped(value)})"
        case 0x87:
            return f"({content.decode()}=*)"
        case 0xA4:
            (_, name), (_, pieces) = ber.elements(content)
            found = list(ber.elements(pieces))
            first = "" if found[0][0] == 0x80 else "*"
            last = "" if found[-1][0] == 0x82 else "*"
            return f"({name.decode()}={first}{'*'.join(_escaped(value) for _, value in found)}{last})"
        case 0xA9:
            parts = dict(ber.elements(content))
            by_dn = ":dn" if 0x84 in parts else ""
            rule = ":" + parts[0x81].decode() if 0x81 in parts else ""
            return f"({parts.get(0x82, b'').decode()}{by_dn}{rule}:={_escaped(parts[0x83])})"
    raise AssertionError(hex(tag))


def _escaped(value: bytes) -> str:
    return "".join(
        chr(o) if chr(o).isascii() and (chr(o).isalnum() or chr(o) in "@.-") else f"\\{o:02x}" for o in value
    )


def encoded(text: str, local_part: str = "alice", domain: str = "example.com") -> str:
    """What a filter about an address comes to."""
    return shown(SearchFilter.parse(text).encoded(local_part, domain))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("(mail=%s)", "(mail=alice@example.com)"),
        ("(&(objectClass=person)(mail=%s))", "(&(objectClass=person)(mail=alice@example.com))"),
        ("(|(mail=%s)(alias=%u@%d))", "(|(mail=alice@example.com)(alias=alice@example.com))"),
        ("(!(disabled=TRUE))", "(!(disabled=TRUE))"),
        ("(&(a=1)(|(b=2)(!(c=3))))", "(&(a=1)(|(b=2)(!(c=3))))"),
        ("(mail=*)", "(mail=*)"),
        ("(proxyAddresses=smtp:%s)", "(proxyAddresses=smtp\\3aalice@example.com)"),
        ("(cn=a*)", "(cn=a*)"),
        ("(cn=*z)", "(cn=*z)"),
        ("(cn=*%u*)", "(cn=*alice*)"),
        ("(cn=a*b*c)", "(cn=a*b*c)"),
        ("(n>=5)", "(n>=5)"),
        ("(n<=5)", "(n<=5)"),
        ("(cn~=al)", "(cn~=al)"),
        ("(cn=)", "(cn=)"),
        ("(cn=\\2a\\28\\29\\5c)", "(cn=\\2a\\28\\29\\5c)"),
        ("(cn=Jörg)", "(cn=J\\c3\\b6rg)"),
        ("(cn;lang-de=x)", "(cn;lang-de=x)"),
        ("(1.2.840=x)", "(1.2.840=x)"),
        ("(member:1.2.840.113556.1.4.1941:=cn-x)", "(member:1.2.840.113556.1.4.1941:=cn-x)"),
        ("(ou:dn:=people)", "(ou:dn:=people)"),
        ("(:caseExactMatch:=x)", "(:caseExactMatch:=x)"),
        ("(dc=%2)", "(dc=example)"),
    ],
)
def test_filters_are_encoded(text: str, wanted: str) -> None:
    """Every form of RFC 4515 becomes its form of RFC 4511."""
    assert encoded(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no filter"),
        ("mail=%s", "begins with"),
        ("(mail=%s", "a '\\)' is missing"),
        ("(mail=%s))", "stands behind"),
        ("(&)", "need a filter"),
        ("(!)", "begins with"),
        ("(!(a=1)(b=2))", "is missing"),
        ("(mail%s)", "is not an attribute"),
        ("(=x)", "is not an attribute"),
        ("(a b=x)", "is not an attribute"),
        ("(mail=%x)", "%x"),
        ("(mail=\\zz)", "two hexadecimal"),
        ("(mail=\\2)", "two hexadecimal"),
        ("(mail>=a*)", "stands behind"),
        ("(mail=a**b)", "side by side"),
        ("(:=x)", "needs an attribute"),
        ("(" * 40, "is not an attribute"),
        ("(!" * 40 + "(a=1)" + ")" * 40, "deep"),
    ],
)
def test_what_is_no_filter_is_told(text: str, message: str) -> None:
    """A configuration with it is refused, with words that say what is wrong."""
    with pytest.raises(ValueError, match=message):
        SearchFilter.parse(text)


@given(st.text(st.characters(codec="utf-8")))
def test_no_address_changes_the_filter(local_part: str) -> None:
    """Whatever stands in an address is the value, octet by octet; what is searched for stays the same."""
    octets = SearchFilter.parse("(&(mail=%u)(active=1))").encoded(local_part, "example.com")
    ((_, both),) = ber.elements(octets)
    (_, first), (_, second) = ber.elements(both)
    assert [value for _, value in ber.elements(first)] == [b"mail", local_part.encode()]
    assert [value for _, value in ber.elements(second)] == [b"active", b"1"]


@given(st.text(st.sampled_from("()&|!=*\\%su1ab~<>:")))
def test_any_text_is_a_filter_or_an_error(text: str) -> None:
    """Nothing else comes of it; and what is a filter can be encoded."""
    try:
        found = SearchFilter.parse(text)
    except ValueError:
        return
    assert list(ber.elements(found.encoded("a", "b.c.d.e.f.g.h.i.j")))
