"""The grammar of commands: addresses, parameters, sizes, mechanisms."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.smtp import grammar, reply
from gateway.smtp.grammar import GrammarError
from gateway.smtp.path import NULL_REVERSE_PATH, Mailbox, Parameter
from gateway.smtp.reply import Reply

ALL_OFFERED = frozenset({"8BITMIME", "SMTPUTF8", "DSN", "SIZE", "AUTH"})

TAKEN = [
    ("a@b.example", Mailbox("a@b.example", "a", "b.example")),
    ("A.B+c@EXAMPLE.org", Mailbox("A.B+c@EXAMPLE.org", "A.B+c", "example.org")),
    ("!#$%&'*+-/=?^_`{|}~@x", Mailbox("!#$%&'*+-/=?^_`{|}~@x", "!#$%&'*+-/=?^_`{|}~", "x")),
    ("a@1-2--3.x", Mailbox("a@1-2--3.x", "a", "1-2--3.x")),
    ('""@x.y', Mailbox('""@x.y', "", "x.y")),
    ('"a b"@x.y', Mailbox('"a b"@x.y', "a b", "x.y")),
    ('"a\\"b\\\\c\\d"@x.y', Mailbox('"a\\"b\\\\c\\d"@x.y', 'a"b\\cd', "x.y")),
    ('"a@b>c"@x.y', Mailbox('"a@b>c"@x.y', "a@b>c", "x.y")),
    ("@r.one:a@x.y", Mailbox("a@x.y", "a", "x.y", ("r.one",))),
    ("@r.one,@r.two:a@x.y", Mailbox("a@x.y", "a", "x.y", ("r.one", "r.two"))),
    ("a@[192.0.2.1]", Mailbox("a@[192.0.2.1]", "a", "[192.0.2.1]")),
    ("a@[192.000.002.01]", Mailbox("a@[192.000.002.01]", "a", "[192.0.2.1]")),
    ("a@[IPv6:2001:DB8::1]", Mailbox("a@[IPv6:2001:DB8::1]", "a", "[ipv6:2001:db8::1]")),
    ("a@[ipv6:::ffff:192.0.2.1]", Mailbox("a@[ipv6:::ffff:192.0.2.1]", "a", "[ipv6:::ffff:c000:201]")),
    ("a@[X400:c=de]", Mailbox("a@[X400:c=de]", "a", "[x400:c=de]")),
    ("\u00fc@x.y", Mailbox("\u00fc@x.y", "\u00fc", "x.y")),
    ('"\u00fc "@x.y', Mailbox('"\u00fc "@x.y', "\u00fc ", "x.y")),
    ("a@b\u00fccher.example", Mailbox("a@b\u00fccher.example", "a", "xn--bcher-kva.example")),
    ("a@B\u00dcCHER.EXAMPLE", Mailbox("a@B\u00dcCHER.EXAMPLE", "a", "xn--bcher-kva.example")),
    ("a@stra\u00dfe.example", Mailbox("a@stra\u00dfe.example", "a", "xn--strae-oqa.example")),
    ("l" * 64 + "@x.y", Mailbox("l" * 64 + "@x.y", "l" * 64, "x.y")),
    ("a@" + "b" * 63, Mailbox("a@" + "b" * 63, "a", "b" * 63)),
    ("a@" + ".".join(["b" * 63] * 3) + "." + "c" * 60, None),
]

REFUSED = [
    "",
    "a",
    "@",
    "a@",
    "@b",
    "a@b@c",
    ".a@b",
    "a.@b",
    "a..b@c",
    "a b@c",
    "a@b c",
    "a@-b",
    "a@b-",
    "a@b..c",
    "a@b.",
    "a@.b",
    "a@b_c",
    '"a@b',
    '"a"b@c',
    '"a\\"@b',
    '"a\tb"@c',
    "a(b)@c",
    "a@[192.0.2]",
    "a@[192.0.2.256]",
    "a@[2001:db8::]x",
    "a@[IPv6:1::2::3]",
    "a@[IPv6:1:2:3:4:5:6:7::]",
    "a@[IPv6:fe80::1%eth0]",
    "a@[IPv6:]",
    "a@[nothing]",
    "a@[tag:]",
    "a@[-:x y]",
    "a@[]",
    "a@[192.0.2.1",
    "@r.one a@b",
    "@r.one,:a@b",
    "r.one:a@b",
    "l" * 65 + "@x.y",
    '"' + "l" * 63 + '"@x.y',
    "\u00fc" * 33 + "@x.y",
    "a@" + "b" * 64,
    "a@" + ".".join(["b" * 63] * 3) + "." + "c" * 61,
    "@" + ".".join(["r" * 60] * 4) + ":" + "a" * 8 + "@x.y",
    "a@\u00fc-.example",
    "a@x\u2028y.example",
    "a@" + "\u00fc" * 70,
]


@pytest.mark.parametrize(("text", "mailbox"), TAKEN)
def test_an_address_by_rfc_5321_is_taken(text: str, mailbox: Mailbox | None) -> None:
    """MAIL and RCPT read the same mailbox, with or without parameters behind it."""
    if mailbox is None:  # too long to write out: 254 octets and all within limits
        assert len(text) == 254
        mailbox = Mailbox(text, text[0], text[2:])
    assert grammar.parse_mail(f"FROM:<{text}>") == (mailbox, ())
    assert grammar.parse_rcpt(f"to:  <{text}>") == (mailbox, ())
    assert grammar.parse_rcpt(f"TO:<{text}>  X=y  Z") == (mailbox, (Parameter("X", "y"), Parameter("Z", None)))
    if not mailbox.source_route:
        assert grammar.parse_mailbox(text) == mailbox


@pytest.mark.parametrize("text", REFUSED)
def test_what_rfc_5321_forbids_is_refused(text: str) -> None:
    """An address out of grammar or over a length limit gets 501 with the enhanced code of its role."""
    if text:
        with pytest.raises(GrammarError) as mail:
            grammar.parse_mail(f"FROM:<{text}>")
        assert mail.value.reply is reply.BAD_SENDER_ADDRESS
    with pytest.raises(GrammarError) as rcpt:
        grammar.parse_rcpt(f"TO:<{text}>")
    assert rcpt.value.reply is reply.BAD_RECIPIENT_ADDRESS
    with pytest.raises(GrammarError):
        grammar.parse_mailbox(text)


def test_the_null_reverse_path_is_for_mail_only() -> None:
    """``<>`` is MAIL's null reverse-path and no recipient."""
    assert grammar.parse_mail("FROM:<>") == (NULL_REVERSE_PATH, ())
    assert grammar.parse_mail("From: <> SIZE=1") == (NULL_REVERSE_PATH, (Parameter("SIZE", "1"),))
    with pytest.raises(GrammarError):
        grammar.parse_rcpt("TO:<>")


def test_postmaster_without_a_domain_is_for_rcpt_only() -> None:
    """``<Postmaster>`` in any case is a recipient (RFC 5321 4.5.1) and no sender."""
    assert grammar.parse_rcpt("TO:<PostMaster>") == (Mailbox("PostMaster", "PostMaster", ""), ())
    with pytest.raises(GrammarError):
        grammar.parse_mail("FROM:<postmaster>")


@pytest.mark.parametrize(
    ("argument", "refusal"),
    [
        ("", reply.SYNTAX_ERROR),
        ("FROM", reply.SYNTAX_ERROR),
        ("FROM <a@b>", reply.SYNTAX_ERROR),
        ("FROM :<a@b>", reply.SYNTAX_ERROR),
        ("TO:<a@b>", reply.SYNTAX_ERROR),
        ("FROM:", reply.BAD_SENDER_ADDRESS),
        ("FROM:a@b", reply.BAD_SENDER_ADDRESS),
        ("FROM:\t<a@b>", reply.BAD_SENDER_ADDRESS),
        ("FROM:<a@b", reply.BAD_SENDER_ADDRESS),
        ("FROM:<a@b>SIZE=1", reply.BAD_SENDER_ADDRESS),
        ("FROM:<a@b> <c@d>", reply.SYNTAX_ERROR),
        ("FROM:<a@b> SIZE", None),
        ("FROM:<a@b> SIZE=", reply.SYNTAX_ERROR),
        ("FROM:<a@b> SIZE=1=2", reply.SYNTAX_ERROR),
        ("FROM:<a@b> -X=1", reply.SYNTAX_ERROR),
        ("FROM:<a@b> X=1 x=2", reply.SYNTAX_ERROR),
        ("FROM:<a@b> X=\x01", reply.SYNTAX_ERROR),
        ("FROM:<a@b> " + " ".join(f"X{n}" for n in range(20)), None),
        ("FROM:<a@b> " + " ".join(f"X{n}" for n in range(21)), reply.SYNTAX_ERROR),
    ],
)
def test_the_frame_of_mail(argument: str, refusal: Reply | None) -> None:
    """FROM, colon, path and parameters stand where RFC 5321 4.1.1.2 puts them; duplicates and too many are refused."""
    if refusal is None:
        assert grammar.parse_mail(argument)[0] == Mailbox("a@b", "a", "b")
        return
    with pytest.raises(GrammarError) as caught:
        grammar.parse_mail(argument)
    assert caught.value.reply is refusal


@pytest.mark.parametrize(
    ("argument", "refusal"),
    [
        ("", reply.SYNTAX_ERROR),
        ("TO <a@b>", reply.SYNTAX_ERROR),
        ("FROM:<a@b>", reply.SYNTAX_ERROR),
        ("TO:", reply.BAD_RECIPIENT_ADDRESS),
        ("to:a@b", reply.BAD_RECIPIENT_ADDRESS),
        ("TO:<postmaster>X", reply.BAD_RECIPIENT_ADDRESS),
    ],
)
def test_the_frame_of_rcpt(argument: str, refusal: Reply) -> None:
    """TO, colon, path and parameters stand where RFC 5321 4.1.1.3 puts them."""
    with pytest.raises(GrammarError) as caught:
        grammar.parse_rcpt(argument)
    assert caught.value.reply is refusal


def test_spaces_between_parameters_are_no_parameters() -> None:
    """More than one space before a parameter is taken, and is not counted against the limit."""
    assert grammar.parse_mail("FROM:<>" + " " * 40 + "X" + " " * 40 + "Y", 2)[1] == (
        Parameter("X", None),
        Parameter("Y", None),
    )


def test_an_address_in_a_configuration_has_no_route() -> None:
    """Source routes are for the wire only."""
    with pytest.raises(GrammarError):
        grammar.parse_mailbox("@r.one:a@b")


@pytest.mark.parametrize(
    ("parameter", "is_good"),
    [
        ("SIZE=0", True),
        ("SIZE=" + "9" * 20, True),
        ("SIZE=" + "9" * 21, False),
        ("SIZE=-1", False),
        ("SIZE=\u0661", False),
        ("SIZE", False),
        ("body=7bit", True),
        ("BODY=8BITMIME", True),
        ("BODY=9BIT", False),
        ("BODY", False),
        ("SMTPUTF8", True),
        ("SMTPUTF8=yes", False),
        ("RET=full", True),
        ("RET=HDRS", True),
        ("RET=BODY", False),
        ("ENVID=QQ314159", True),
        ("ENVID=a+3Db", True),
        ("ENVID=a+3db", False),
        ("ENVID=a+b", False),
        ("ENVID=" + "e" * 100, True),
        ("ENVID=" + "e" * 101, False),
        ("ENVID", False),
        ("AUTH=<>", True),
        ("AUTH=e+3Dmc2@example.com", True),
        ("AUTH=a<>", True),
        ("AUTH=a+", False),
        ("AUTH", False),
    ],
)
def test_parameters_of_mail(parameter: str, is_good: bool) -> None:  # noqa: FBT001 - a table of verdicts
    """Each parameter's value is held to the grammar of its own RFC."""
    _, parameters = grammar.parse_mail(f"FROM:<> {parameter}")
    if is_good:
        grammar.check_parameters(parameters, grammar.MAIL_PARAMETERS, ALL_OFFERED)
        return
    with pytest.raises(GrammarError) as caught:
        grammar.check_parameters(parameters, grammar.MAIL_PARAMETERS, ALL_OFFERED)
    assert caught.value.reply is reply.SYNTAX_ERROR


@pytest.mark.parametrize(
    ("parameter", "is_good"),
    [
        ("NOTIFY=NEVER", True),
        ("NOTIFY=success,Delay,FAILURE", True),
        ("NOTIFY=NEVER,DELAY", False),
        ("NOTIFY=DELAY,", False),
        ("NOTIFY", False),
        ("ORCPT=rfc822;a@b", True),
        ("ORCPT=rfc822;a+2Bb@c", True),
        ("ORCPT=rfc822;a+2bb@c", False),
        ("ORCPT=rfc822;\u00fc@b", False),
        ("ORCPT=rfc822", False),
        ("ORCPT=;a@b", False),
        ("ORCPT=utf-8;\u00fc@b", True),
        ("ORCPT=utf-8;\\x{FC}@b", True),
        ("ORCPT=utf-8;\\x{}@b", False),
        ("ORCPT=rfc822;" + "a" * 493, True),
        ("ORCPT=rfc822;" + "a" * 494, False),
    ],
)
def test_parameters_of_rcpt(parameter: str, is_good: bool) -> None:  # noqa: FBT001 - a table of verdicts
    """NOTIFY and ORCPT are held to RFC 3461 and RFC 6533."""
    _, parameters = grammar.parse_rcpt(f"TO:<a@b> {parameter}")
    if is_good:
        grammar.check_parameters(parameters, grammar.RCPT_PARAMETERS, ALL_OFFERED)
        return
    with pytest.raises(GrammarError) as caught:
        grammar.check_parameters(parameters, grammar.RCPT_PARAMETERS, ALL_OFFERED)
    assert caught.value.reply is reply.SYNTAX_ERROR


@pytest.mark.parametrize(
    ("parameter", "offered"),
    [
        ("X=1", ALL_OFFERED),
        ("NOTIFY=NEVER", ALL_OFFERED),
        ("BODY=BINARYMIME", ALL_OFFERED),
        ("BODY=8BITMIME", frozenset({"SIZE"})),
        ("SMTPUTF8", frozenset({"SIZE"})),
        ("RET=FULL", frozenset({"SIZE"})),
        ("ENVID=x", frozenset({"SIZE"})),
        ("AUTH=<>", frozenset({"SIZE"})),
    ],
)
def test_a_parameter_that_is_not_offered_gets_555(parameter: str, offered: frozenset[str]) -> None:
    """Unknown parameters, and those of extensions that are not offered, are not recognized (RFC 5321 4.1.1.11)."""
    _, parameters = grammar.parse_mail(f"FROM:<> {parameter}")
    with pytest.raises(GrammarError) as caught:
        grammar.check_parameters(parameters, grammar.MAIL_PARAMETERS, offered)
    assert caught.value.reply is reply.UNSUPPORTED_PARAMETER


def test_hello_takes_any_printable_name() -> None:
    """HELO takes names that are no domains, but no spaces, no control or non-ASCII characters and no overlong names."""
    for name in ("mx.example", "[192.0.2.1]", "under_score", "x" * 255):
        assert grammar.parse_hello(name) == name
    for name in ("", "a b", "a\tb", "\u00fc", "x" * 256, "a\x00"):
        with pytest.raises(GrammarError):
            grammar.parse_hello(name)


def test_bdat_sizes() -> None:
    """BDAT takes 1 to 20 digits and an optional LAST, and nothing else."""
    assert grammar.parse_bdat("0") == (0, False)
    assert grammar.parse_bdat("86 LAST") == (86, True)
    assert grammar.parse_bdat("86 last") == (86, True)
    for argument in ("", "x", "-1", "1x", "1 FIRST", "1 LAST X", "9" * 21, "\u0661"):
        with pytest.raises(GrammarError):
            grammar.parse_bdat(argument)


def test_auth_arguments() -> None:
    """AUTH takes a mechanism and base64, ``=`` for an empty initial response."""
    assert grammar.parse_auth("plain") == ("PLAIN", None)
    assert grammar.parse_auth("PLAIN =") == ("PLAIN", b"=")
    assert grammar.parse_auth("PLAIN AGEAYg==") == ("PLAIN", b"AGEAYg==")
    for argument in ("", "PLAIN A", "PLAIN AA=A", "PLAIN *", "PLAIN AAAA AAAA", "x" * 21, "PLA IN"):
        with pytest.raises(GrammarError):
            grammar.parse_auth(argument)


def test_domains_are_compared_as_a_labels() -> None:
    """A domain name has one form for comparison, however it is written; what is no domain name is refused."""
    assert grammar.parse_domain("B\u00dccher.Example") == "xn--bcher-kva.example"
    assert grammar.parse_domain("XN--BCHER-KVA.example") == "xn--bcher-kva.example"
    for text in ("", "a..b", "[192.0.2.1]", "a b", "-a", "\u2028"):
        with pytest.raises(GrammarError):
            grammar.parse_domain(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """No argument raises anything but GrammarError."""
    for parse in (
        lambda: grammar.parse_mail(f"FROM:<{text}>"),
        lambda: grammar.parse_mail(text),
        lambda: grammar.parse_rcpt(f"TO:<a@{text}> X"),
        lambda: grammar.parse_rcpt(f"TO:<a@b> {text}"),
        lambda: grammar.parse_bdat(text),
        lambda: grammar.parse_auth(text),
    ):
        with contextlib.suppress(GrammarError):
            parse()
