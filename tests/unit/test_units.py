"""Durations, sizes and rates as people write them."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from gateway.units import (
    Duration,
    Rate,
    Size,
    counted,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    rough_duration,
)


class Model(BaseModel):
    """Uses every unit."""

    wait: Duration = 0.0
    limit: Size = 0
    rate: Rate = Rate(1, 1.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5), ("10m", 600), ("10min", 600), ("1h30m", 5400), ("30d", 2_592_000), ("1.5h", 5400)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Each unit, and several in a row."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", 5, "5 s", "-5s", "s", "5y", True, None, "\u0665s", "5s "])
def test_what_is_no_duration_is_told(text: object) -> None:
    """A number without a unit is none, but for nought."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)
    assert parse_duration(0) == 0


@given(st.integers(0, 10**9))
def test_durations_round_trip(milliseconds: int) -> None:
    """What is written is read back."""
    assert round(parse_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "1s"), (0.4, "1s"), (59.6, "1m"), (394, "6m 34s"), (3605, "1h"), (3_023_999, "34d 23h"), (86_400, "1d")],
)
def test_people_are_told_the_two_largest_units(seconds: float, words: str) -> None:
    """Nobody wants to count three million seconds."""
    assert rough_duration(seconds) == words


@pytest.mark.parametrize(
    ("text", "octets"),
    [("512", 512), (512, 512), ("64KB", 64_000), ("64kB", 64_000), ("1.5MB", 1_500_000), ("10 MiB", 10_485_760)],
)
def test_sizes_are_read(text: object, octets: int) -> None:
    """Decimal and binary units, and plain octets."""
    assert parse_size(text) == octets


@pytest.mark.parametrize("text", ["", "-1", -1, "1TB", "MB", True, 1.5, None, "1e3"])
def test_what_is_no_size_is_told(text: object) -> None:
    """The text names what a size looks like."""
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@given(st.integers(0, 10**13))
def test_sizes_round_trip(octets: int) -> None:
    """What is written is read back."""
    assert parse_size(format_size(octets)) == octets


@given(st.integers(1, 10**6), st.integers(1, 1000), st.sampled_from(["s", "m", "h", "d"]))
def test_rates_round_trip(count: int, number: int, unit: str) -> None:
    """A rate is a count and a period; a period of one unit is written without the number."""
    rate = Rate.parse(f"{count}/{number}{unit}")
    assert Rate.parse(str(rate)) == rate
    assert str(Rate.parse(f"{count}/h")) == f"{count}/h"


MEANT = [
    *((parse_duration, written, right) for written, right in [
        (5, "5s"), ("5", "5s"), ("5 min", "5min"), ("5 minutes", "5m"), ("5sec", "5s"), ("2 Hours", "2h"),
        ("1day", "1d"),
    ]),
    *((parse_size, written, right) for written, right in [
        ("25M", "25MB"), ("25 m", "25MB"), ("1Gi", "1GiB"), ("64 kbytes", "64KB"),
    ]),
    *((Rate.parse, written, right) for written, right in [
        ("100/hour", "100/h"), ("100 / hour", "100/h"), ("10/5 min", "10/5min"), ("500M/day", "500MB/d"),
        ("3 per 2 minutes", "3/2m"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("read", "written", "right"), MEANT)
def test_a_wrong_form_is_answered_with_the_right_one(
    read: Callable[[object], object], written: object, right: str
) -> None:
    """What people write elsewhere is no value here, and the error says how to write it, in a form that is read."""
    with pytest.raises(ValueError, match=f"; write {re.escape(right)}$"):
        read(written)
    assert read(right)


@given(st.text("0123456789.kmgKMGibBsecondhuray /per", max_size=20))
def test_the_form_that_is_proposed_is_always_read(text: str) -> None:
    """Whatever was written, a proposal is no further error."""
    for read in (parse_duration, parse_size, Rate.parse):
        try:
            read(text)
        except ValueError as error:
            proposal = re.search(r"; write (.+)$", str(error))
            assert proposal is None or re.match(r"0+(?![1-9.])", proposal[1]) or read(proposal[1]) is not None


@pytest.mark.parametrize("read", [parse_duration, parse_size, Rate.parse])
@pytest.mark.parametrize("digits", [20, 30, 400, 5000])
def test_an_absurd_number_is_told_as_any_other_mistake(read: Callable[[object], object], digits: int) -> None:
    """However many digits, no unit raises anything but ValueError, or gives more than a counter can hold."""
    number = "9" * digits
    for text in (f"{number}w", f"{number}GB", f"{number}/h", f"1/{number}w", f"{number}GB/h", f"{number}.5w"):
        with pytest.raises(ValueError, match=r"is (not a|too) (duration|size|rate|long|large)"):
            read(text)


def test_the_largest_that_can_be_meant_are_taken() -> None:
    """A hundred years and eight exabytes."""
    assert parse_duration("36525d") == 36525 * 86400
    assert parse_size(2**63 - 1) == 2**63 - 1
    assert str(Rate.parse("9000000000/36500d")) == "9000000000/36500d"


@pytest.mark.parametrize("text", ["0/h", "5/0s", "5", "5/", "/h", "5/y", 5])
def test_what_is_no_rate_is_told(text: object) -> None:
    """Nothing in no time is no rate."""
    with pytest.raises(ValueError, match="not a rate"):
        Rate.parse(text)


def test_models_take_them_and_schemas_show_how_they_are_written() -> None:
    """Options hold seconds and octets, and write rates as text."""
    model = Model.model_validate({"wait": "5s", "limit": "1KB", "rate": "10/5m"})
    assert (model.wait, model.limit, model.rate) == (5.0, 1000, Rate(10, 300.0))
    assert model.model_dump(mode="json")["rate"] == "10/5m"
    assert set(Model.model_json_schema()["properties"]) == {"wait", "limit", "rate"}
    with pytest.raises(ValidationError, match="not a rate"):
        Model.model_validate({"rate": "soon"})


@pytest.mark.parametrize(
    ("count", "noun", "plural", "text"),
    [(0, "entry", "entries", "0 entries"), (1, "entry", "entries", "1 entry"), (2, "entry", "entries", "2 entries"),
     (1, "worker", "", "1 worker"), (12, "worker", "", "12 workers")],
)  # fmt: skip
def test_what_is_counted_reads_right(count: int, noun: str, plural: str, text: str) -> None:
    """One is one, and none or several are not."""
    assert counted(count, noun, plural) == text
