"""What earlier hops recorded: read tolerantly, believed only as far as trust reaches."""

from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mailauth.recorded import TrustedPass, recorded_results, trusted_pass
from gateway.mailauth.results import Arc, ArcResult, ArcSet


def test_results_are_read_with_their_properties() -> None:
    """Methods, versions, comments, quoted strings and odd white space (RFC 8601 2.2)."""
    value = (
        ' mx.example.org 1 ; spf=pass (it\\) says (so; really)) smtp.mailfrom = "a;b"@example.com;\r\n\tDKIM/1=Pass '
        'reason="good; signature" header.d=Example.com header.b=abc=;'
        "dmarc=pass(p=reject)header.from=example.com header.from=example.net; x"
    )
    spf, dkim, dmarc = recorded_results(value)
    assert (spf.method, spf.result, spf.properties) == ("spf", "pass", {"smtp.mailfrom": "a;b@example.com"})
    assert (dkim.method, dkim.result) == ("dkim", "pass")
    assert dkim.properties == {"reason": "good; signature", "header.d": "Example.com", "header.b": "abc="}
    assert dkim.domain("header.i", "header.d") == "example.com"
    assert dmarc.domain("header.from") == "example.com"
    assert dmarc.domain("smtp.mailfrom") is None


@pytest.mark.parametrize(
    "value",
    ["", "mx.example.org; none", "mx.example.org", "spf=pass", ";;;", "a;(spf=pass", 'a;"spf=pass', "a; =pass ="],
)
def test_what_records_nothing_gives_nothing_that_passes(value: str) -> None:
    """The first part is the authserv-id, and what is in comments and strings is no result."""
    assert not [each for each in recorded_results(value) if each.method and each.result == "pass"]


@given(st.text(alphabet='a=;()"\\. \t@', max_size=80))
@settings(max_examples=400)
def test_any_value_is_read(value: str) -> None:
    """Whatever stands there: results, perhaps none."""
    for result in recorded_results("x;" + value):
        assert isinstance(result.method, str)


def chain(*sets: tuple[str, str], oldest_pass: int | None = None, result: ArcResult = ArcResult.PASS) -> Arc:
    """A chain of sealers with what each recorded."""
    made = [
        ArcSet(instance=number, domain=domain, selector="s", authentication_results=f"mx.{domain}; {recorded}")
        for number, (domain, recorded) in enumerate(sets, 1)
    ]
    return Arc(result=result, oldest_pass=oldest_pass or len(made), sealer=made[-1].domain, sets=tuple(made))


GOOD = "dmarc=pass header.from=example.com"
BAD = "dmarc=fail header.from=example.com"
A, B, C = "a.example", "b.example", "c.example"


async def ask(arc: Arc, trusted: Collection[str]) -> TrustedPass | None:
    """Whether a chain helps example.com; sub-domains of it are aligned."""

    async def aligned(domain: str) -> bool:
        return domain.endswith("example.com")

    return await trusted_pass(
        arc, "example.com", is_trusted=trusted.__contains__, spf_aligned=aligned, dkim_aligned=aligned
    )


@pytest.mark.parametrize(
    ("arc", "trusted", "instance"),
    [
        pytest.param(chain((A, GOOD)), {A}, 1, id="the only sealer is trusted"),
        pytest.param(chain((A, GOOD)), {B}, None, id="the only sealer is not trusted"),
        pytest.param(chain((A, BAD)), {A}, None, id="the trusted sealer saw a failure"),
        pytest.param(chain((A, GOOD), (B, BAD)), {A, B}, 1, id="all sealers since are trusted"),
        pytest.param(chain((A, GOOD), (B, GOOD)), {A, B}, 2, id="the newest counts first"),
        pytest.param(chain((A, BAD), (B, GOOD)), {B}, 2, id="who sealed before does not matter"),
        pytest.param(chain((A, GOOD), (B, BAD)), {A}, None, id="the last sealer is not trusted and changed it"),
        pytest.param(chain((A, GOOD), (B, BAD)), {B}, None, id="the sealer that passed is not trusted"),
        pytest.param(chain((A, GOOD), (B, BAD), oldest_pass=1), {A}, 1, id="it is unchanged since the trusted one"),
        pytest.param(chain((A, GOOD), (B, BAD), (C, BAD), oldest_pass=2), {A, C}, None, id="changed in between"),
        pytest.param(chain((A, GOOD), (B, BAD), (C, BAD), oldest_pass=3), {A, B, C}, 1, id="changed by the trusted"),
    ],
)
async def test_a_set_counts_as_far_as_trust_or_its_own_signature_reaches(
    arc: Arc, trusted: Collection[str], instance: int | None
) -> None:
    """Its sealer is trusted, and so is everyone who changed the message since."""
    found = await ask(arc, trusted)
    assert (found and found.instance) == instance


async def test_zero_means_that_nothing_was_changed() -> None:
    """An oldest pass of 0: every message signature verifies (RFC 8617 5.2)."""
    sets = chain((A, GOOD), (B, BAD)).sets
    assert await ask(Arc(result=ArcResult.PASS, oldest_pass=0, sealer=B, sets=sets), {A}) is not None


async def test_a_signature_without_the_from_field_binds_nothing() -> None:
    """Under such a seal anybody can put another author; what an older signature covers still counts."""
    first, second = (replace(each, signs_from=False) for each in chain((A, GOOD), (B, GOOD)).sets)
    assert await ask(Arc(result=ArcResult.PASS, oldest_pass=0, sealer=B, sets=(first, second)), {A, B}) is None
    older = replace(first, signs_from=True)
    found = await ask(Arc(result=ArcResult.PASS, oldest_pass=0, sealer=B, sets=(older, second)), {A, B})
    assert found is not None
    assert found.instance == 1
    assert await ask(Arc(result=ArcResult.PASS, oldest_pass=2, sealer=B, sets=(older, second)), {A, B}) is None


@pytest.mark.parametrize("result", [ArcResult.NONE, ArcResult.FAIL, ArcResult.TEMPERROR])
async def test_a_chain_that_does_not_pass_proves_nothing(result: ArcResult) -> None:
    """Whatever its sets say."""
    assert await ask(chain((A, GOOD), result=result), {A}) is None


@pytest.mark.parametrize(
    ("recorded", "method"),
    [
        ("dmarc=pass", "dmarc"),
        ("dmarc=pass header.from=EXAMPLE.com", "dmarc"),
        ("dmarc=pass header.from=example.net", None),
        ("dmarc=none header.from=example.com; dkim=pass header.d=mail.example.com", "dkim"),
        ("dkim=pass header.i=@example.com", "dkim"),
        ("dkim=pass header.i=user@example.net header.d=example.com", "dkim"),
        ("dkim=pass header.d=example.net", None),
        ("dkim=fail header.d=example.com", None),
        ("dkim=pass", None),
        ("dkim=fail header.d=example.com; spf=pass smtp.mailfrom=user@example.com", "spf"),
        ("spf=pass smtp.mfrom=example.com", "spf"),
        ("spf=pass smtp.helo=example.com", None),
        ("spf=pass smtp.mailfrom=user@example.net", None),
        ("dmarc=fail header.from=example.com; spf=pass smtp.mailfrom=example.com", None),
        ("dmarc=fail header.from=example.net; spf=pass smtp.mailfrom=example.com", "spf"),
        ("spf=pass (smtp.mailfrom=example.com)", None),
        ("none", None),
    ],
)
async def test_dmarc_counts_or_else_an_aligned_pass(recorded: str, method: str | None) -> None:
    """A sealer that did not look at DMARC may have seen SPF or DKIM pass in alignment; its failure ends it."""
    found = await ask(chain((A, recorded)), {A})
    assert (found and found.method) == method


@pytest.mark.parametrize("piece", ["(", "()", '"', "\\", "a=", ";", "a=b ", " ", "=", '"a"', "(\\"])
def test_a_long_value_is_read_in_pieces_of_its_length(piece: str) -> None:
    """100 KB of anything are read; no result is larger than what it was made of."""
    value = "x;" + piece * (100_000 // len(piece))
    size = 0
    for result in recorded_results(value):
        size += len(result.method) + len(result.result) + sum(len(k) + len(v) for k, v in result.properties.items())
    assert size <= len(value)
