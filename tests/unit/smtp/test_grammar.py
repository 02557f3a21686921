"""The grammar of commands: addresses, parameters, sizes, mechanisms."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.smtp import grammar, reply
from gateway.smtp.grammar import AddressSyntax, GrammarError
from gateway.smtp.path import NULL_REVERSE_PATH, Mailbox, Parameter
from gateway.smtp.reply import Reply

LENIENT, STRICT = AddressSyntax.LENIENT, AddressSyntax.STRICT

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

ODD = [
    ("<a..b@x.y>", Mailbox('"a..b"@x.y', "a..b", "x.y")),
    ("<.a@x.y>", Mailbox('".a"@x.y', ".a", "x.y")),
    ("<a.@x.y>", Mailbox('"a."@x.y', "a.", "x.y")),
    ("<..A...b..@X.y>", Mailbox('"..A...b.."@X.y', "..A...b..", "x.y")),
    ("<a..b%c!d@x.y>", Mailbox('"a..b%c!d"@x.y', "a..b%c!d", "x.y")),
    ("<\u00fc..b@x.y>", Mailbox('"\u00fc..b"@x.y', "\u00fc..b", "x.y")),
    ("<@r.one:a..b@x.y>", Mailbox('"a..b"@x.y', "a..b", "x.y", ("r.one",))),
    ("<a.@[192.0.2.1]>", Mailbox('"a."@[192.0.2.1]', "a.", "[192.0.2.1]")),
    ("<a@B_c.example>", Mailbox("a@B_c.example", "a", "b_c.example")),
    ("<a@_b-c_._.example>", Mailbox("a@_b-c_._.example", "a", "_b-c_._.example")),
    ("<.a@b_c.example>", Mailbox('".a"@b_c.example', ".a", "b_c.example")),
    ("<" + "l" * 65 + "@x.y>", Mailbox("l" * 65 + "@x.y", "l" * 65, "x.y")),
    ("<" + "l" * 250 + "@x.y>", Mailbox("l" * 250 + "@x.y", "l" * 250, "x.y")),
    ("<" + "l" * 247 + ".@x.y>", Mailbox('"' + "l" * 247 + '."@x.y', "l" * 247 + ".", "x.y")),
    ('<"' + "l" * 248 + '"@x.y>', Mailbox('"' + "l" * 248 + '"@x.y', "l" * 248, "x.y")),
    ("<" + "\u00fc" * 125 + "@x.y>", Mailbox("\u00fc" * 125 + "@x.y", "\u00fc" * 125, "x.y")),
    ("a@x.y", Mailbox("a@x.y", "a", "x.y")),
    ("a..b@b_c.example", Mailbox('"a..b"@b_c.example', "a..b", "b_c.example")),
    ('"a b>"@x.y', Mailbox('"a b>"@x.y', "a b>", "x.y")),
    ("a@[192.0.2.1]", Mailbox("a@[192.0.2.1]", "a", "[192.0.2.1]")),
    ("a@b\u00fccher.example", Mailbox("a@b\u00fccher.example", "a", "xn--bcher-kva.example")),
    ("l" * 250 + "@x.y", Mailbox("l" * 250 + "@x.y", "l" * 250, "x.y")),
]
"""Paths that are taken leniently and refused strictly."""

ODD_AND_REFUSED = [
    "<.@b>",
    "<..@b>",
    "<@b>",
    "<a..b>",
    "<postmaster.>",
    "<post..master>",
    "<a@b..c>",
    "<a@.b>",
    "<a@b_.>",
    "<a@-b_c>",
    "<a@b_->",
    "<a@\u00fc_b>",
    "<a@_\u00fc.example>",
    "<@b_c:a@d>",
    "<a.b.@c@d>",
    '<a."b"@c>',
    '<.."b"@c>',
    '<"a"..b@c>',
    "<a\\.b@c>",
    "<a. b@c>",
    "<a@b_ c>",
    "<" + "l" * 251 + "@x.y>",
    "<" + "\u00fc" * 100 + "@" + "l" * 51 + ".xy>",  # 257 octets, 157 characters
    "<" + "l" * 248 + ".@x.y>",
    '<"' + "l" * 249 + '"@x.y>',
    "<@r:" + "l" * 249 + "@x.y>",
    "l" * 251 + "@x.y",
    "<a@b",
    "a@b>",
    "<a@b>>",
    "<<a@b>>",
    "<>a@b",
    "a@b<>",
    "x <a@b>",
    "<a@b> (x)",
    "(x)a@b",
    "@r:a@b",
    "a@b,c@d",
    "a@b;c@d",
    "<a@b,c@d>",
    "a",
    "@b",
    "a@",
    "\ta@b",
    '"a@b',
    "mailto:a@b",
]
"""Paths that neither way of reading takes."""

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
    behind = (Parameter("X", "y"), Parameter("Z", None))
    for syntax in AddressSyntax:
        assert grammar.parse_mail(f"FROM:<{text}>", syntax=syntax) == (mailbox, ())
        assert grammar.parse_rcpt(f"to:  <{text}>", syntax=syntax) == (mailbox, ())
        assert grammar.parse_rcpt(f"TO:<{text}>  X=y  Z", syntax=syntax) == (mailbox, behind)
        if not mailbox.source_route:
            assert grammar.parse_mailbox(text, syntax) == mailbox


@pytest.mark.parametrize("text", REFUSED)
def test_what_rfc_5321_forbids_is_refused(text: str) -> None:
    """An address out of grammar or over a length limit gets 501 with the enhanced code of its role."""
    if text:
        with pytest.raises(GrammarError) as mail:
            grammar.parse_mail(f"FROM:<{text}>", syntax=STRICT)
        assert mail.value.reply is reply.BAD_SENDER_ADDRESS
    with pytest.raises(GrammarError) as rcpt:
        grammar.parse_rcpt(f"TO:<{text}>", syntax=STRICT)
    assert rcpt.value.reply is reply.BAD_RECIPIENT_ADDRESS
    with pytest.raises(GrammarError):
        grammar.parse_mailbox(text, STRICT)


@pytest.mark.parametrize(("path", "mailbox"), ODD)
def test_a_lenient_listener_takes_what_honest_senders_send(path: str, mailbox: Mailbox) -> None:
    """An odd path is read as one mailbox, with or without parameters behind it; a strict listener refuses it."""
    parameters = (Parameter("X", "y"),)
    assert grammar.parse_mail(f"FROM:{path}") == (mailbox, ())
    assert grammar.parse_mail(f"FROM: {path} X=y") == (mailbox, parameters)
    assert grammar.parse_rcpt(f"TO:{path}  X=y") == (mailbox, parameters)
    with pytest.raises(GrammarError) as mail:
        grammar.parse_mail(f"FROM:{path}", syntax=STRICT)
    assert mail.value.reply is reply.BAD_SENDER_ADDRESS
    with pytest.raises(GrammarError) as rcpt:
        grammar.parse_rcpt(f"TO:{path} X=y", syntax=STRICT)
    assert rcpt.value.reply is reply.BAD_RECIPIENT_ADDRESS


@pytest.mark.parametrize(("path", "mailbox"), ODD)
def test_what_is_forwarded_of_an_odd_path_is_read_in_one_way(path: str, mailbox: Mailbox) -> None:
    """The written form is a path within 256 octets, and reads as the same mailbox again."""
    forwarded = f"<{mailbox.text}>"
    assert len(forwarded.encode()) <= grammar.MAX_PATH, path
    read = grammar.parse_rcpt(f"TO:{forwarded}")[0]
    assert (read.text, read.local_part, read.domain) == (mailbox.text, mailbox.local_part, mailbox.domain)
    if "_" not in mailbox.domain and len(mailbox.local_part.encode()) <= 60:
        assert grammar.parse_rcpt(f"TO:{forwarded}", syntax=STRICT)[0] == read


@pytest.mark.parametrize("syntax", AddressSyntax)
@pytest.mark.parametrize("path", ODD_AND_REFUSED)
def test_what_has_no_one_reading_is_refused_by_all(path: str, syntax: AddressSyntax) -> None:
    """Half a pair of brackets, names, comments, lists, routes without brackets and overlong paths get 501."""
    with pytest.raises(GrammarError) as mail:
        grammar.parse_mail(f"FROM:{path}", syntax=syntax)
    assert mail.value.reply in {reply.BAD_SENDER_ADDRESS, reply.SYNTAX_ERROR}
    with pytest.raises(GrammarError) as rcpt:
        grammar.parse_rcpt(f"TO:{path}", syntax=syntax)
    assert rcpt.value.reply in {reply.BAD_RECIPIENT_ADDRESS, reply.SYNTAX_ERROR}


def test_the_null_reverse_path_is_for_mail_only() -> None:
    """``<>`` is MAIL's null reverse-path and no recipient."""
    assert grammar.parse_mail("FROM:<>") == (NULL_REVERSE_PATH, ())
    assert grammar.parse_mail("From: <> SIZE=1") == (NULL_REVERSE_PATH, (Parameter("SIZE", "1"),))
    with pytest.raises(GrammarError):
        grammar.parse_rcpt("TO:<>")


def test_postmaster_without_a_domain_is_for_rcpt_only() -> None:
    """``<Postmaster>`` in any case is a recipient (RFC 5321 4.5.1) and no sender."""
    postmaster = Mailbox("PostMaster", "PostMaster", "")
    for syntax in AddressSyntax:
        assert grammar.parse_rcpt("TO:<PostMaster>", syntax=syntax) == (postmaster, ())
        with pytest.raises(GrammarError):
            grammar.parse_mail("FROM:<postmaster>", syntax=syntax)
    assert grammar.parse_rcpt("TO: PostMaster  X") == (postmaster, (Parameter("X", None),))
    for refused in ("MAIL FROM:postmaster", "RCPT TO:postmaster@", "RCPT TO:<postmaster", "RCPT TO:webmaster"):
        verb, _, argument = refused.partition(" ")
        with pytest.raises(GrammarError):
            (grammar.parse_mail if verb == "MAIL" else grammar.parse_rcpt)(argument)
    with pytest.raises(GrammarError):
        grammar.parse_rcpt("TO:postmaster", syntax=STRICT)


@pytest.mark.parametrize(
    ("argument", "refusal"),
    [
        ("", reply.SYNTAX_ERROR),
        ("FROM", reply.SYNTAX_ERROR),
        ("FROM <a@b>", reply.SYNTAX_ERROR),
        ("FROM :<a@b>", reply.SYNTAX_ERROR),
        ("TO:<a@b>", reply.SYNTAX_ERROR),
        ("FROM:", reply.BAD_SENDER_ADDRESS),
        ("FROM:a@b", None),
        ("FROM: a@b  SIZE=1", None),
        ("FROM:a@bSIZE=1", reply.BAD_SENDER_ADDRESS),
        ("FROM:SIZE=1", reply.BAD_SENDER_ADDRESS),
        ("FROM:a@b c@d", reply.SYNTAX_ERROR),
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
        ("to:a b@c", reply.BAD_RECIPIENT_ADDRESS),
        ("to:a@b b@c", reply.SYNTAX_ERROR),
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
    assert grammar.parse_domain("A_b.Example") == "a_b.example"
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


PIECES = st.lists(
    st.sampled_from(
        ["a", "b", "L" * 30, "..", ".", "_", "-", "@", '"', "\\", "<", ">", " ", ":", ",", "%", "!", "x.y", "\u00fc"]
    )
).map("".join)


@given(st.one_of(PIECES, PIECES.map(lambda text: f"<{text}@x_y.example>"), PIECES.map(lambda text: f"{text}@x.y")))
def test_lenient_reads_what_strict_reads_and_says_it_strictly(path: str) -> None:
    """What is taken strictly is read the same leniently; what is taken only leniently is forwarded in one reading."""
    for parse, verb in ((grammar.parse_mail, "FROM"), (grammar.parse_rcpt, "TO")):
        try:
            lenient = parse(f"{verb}:{path}", syntax=LENIENT)[0]
        except GrammarError:
            with pytest.raises(GrammarError):
                parse(f"{verb}:{path}", syntax=STRICT)
            continue
        with contextlib.suppress(GrammarError):
            assert parse(f"{verb}:{path}", syntax=STRICT)[0] == lenient
        if isinstance(lenient, Mailbox) and lenient.domain:
            again = grammar.parse_mailbox(lenient.text)
            assert (again.text, again.local_part, again.domain) == (lenient.text, lenient.local_part, lenient.domain)
            if "_" not in lenient.domain and len(lenient.text) - len(lenient.domain) <= grammar.MAX_LOCAL_PART // 2:
                assert grammar.parse_mailbox(lenient.text, STRICT) == again
