"""The log: what comes out, and that nothing a client sent can pass for something else."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gateway import log
from tests.support.log_output import Output, restored_log

HOSTILE = 'x\r\n2026-11-21T00:00:00Z info    lychgate: fine\x1b[2J\u202e\x85\udcff"='


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with restored_log():
        yield


@pytest.fixture
def output() -> Iterator[Output]:
    """A file that the log is written to."""
    with Output() as made:
        yield made


def fail(text: str) -> None:
    """Raise an exception with a text."""
    raise ValueError(text)


def lines(line_format: str, level: str = "info", **fields: Any) -> list[str]:
    """The lines that one event makes."""
    with Output() as output:
        log.configure(level, line_format, descriptor=output.descriptor)
        structlog.get_logger("lychgate.test").info("something happened", **fields)
        return output.lines()


def test_json_is_one_object_a_line() -> None:
    """Time, level, logger and event come first; fields keep their types."""
    (line,) = lines("json", count=3, share=0.5, on=True, name=None, words=["a", "b"], data=b"\xff", more={"k": 1})
    data = json.loads(line)
    assert list(data)[:4] == ["timestamp", "level", "logger", "event"]
    del data["timestamp"]
    assert data == {
        "level": "info",
        "logger": "lychgate.test",
        "event": "something happened",
        "count": 3,
        "share": 0.5,
        "on": True,
        "name": None,
        "words": ["a", "b"],
        "data": "\\xff",
        "more": {"k": 1},
    }


def test_text_is_one_readable_line() -> None:
    """Values stand bare where that is clear and in quotes where it is not."""
    (line,) = lines("text", session="0K3F", text="two words", empty="", port=25)
    assert line.split(" ", 1)[1] == (
        'info    lychgate.test: something happened session=0K3F text="two words" empty="" port=25'
    )


@pytest.mark.parametrize("line_format", ["json", "text"])
def test_what_a_client_sent_stays_on_its_line(line_format: str) -> None:
    """Line ends, escapes, direction marks and octets that are no UTF-8 never reach the log as they came."""
    found = lines(line_format, helo=HOSTILE, evidence={HOSTILE: [HOSTILE]})
    assert len(found) == 1
    assert found[0].isprintable()
    assert "\\x1b" in found[0]
    assert "\\u202e" in found[0]
    assert "\\xff" in found[0]


@pytest.mark.parametrize("line_format", ["json", "text"])
def test_no_line_of_a_traceback_passes_for_an_event(output: Output, line_format: str) -> None:
    """An exception whose text holds what a client sent is shown, every line of it marked."""
    log.configure("info", line_format, descriptor=output.descriptor)
    try:
        fail(HOSTILE)
    except ValueError:
        structlog.get_logger("lychgate.test").exception("it broke")
    first, *rest = output.lines()
    assert "it broke" in first
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)
    assert bool(rest) is (line_format == "text")
    assert "ValueError" in "".join([first, *rest])


def test_lines_of_libraries_come_out_the_same(output: Output) -> None:
    """A library that logs by ``logging`` makes events too, with escapes."""
    log.configure("info", "json", descriptor=output.descriptor)
    logging.getLogger("asyncio").warning("odd %s", "a\nb")
    data = json.loads(output.lines()[0])
    assert (data["logger"], data["level"], data["event"]) == ("asyncio", "warning", "odd a\\nb")


def test_the_level_holds(output: Output) -> None:
    """Less important lines are left out, and a second call changes that for loggers that exist."""
    logger = structlog.get_logger("lychgate.test")
    log.configure("warning", "text", descriptor=output.descriptor)
    logger.info("hidden")
    logging.getLogger("other").info("hidden")
    logger.warning("first")
    log.configure("info", "text", descriptor=output.descriptor)
    logger.info("second")
    assert [line.rsplit(" ", 1)[1] for line in output.lines()] == ["first", "second"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_auto_is_text_on_a_terminal(is_terminal: bool) -> None:  # noqa: FBT001 - a table's column
    """Elsewhere it is JSON."""
    with Output(is_terminal=is_terminal) as output:
        log.configure("info", "auto", descriptor=output.descriptor)
        structlog.get_logger("lychgate.test").info("hello")
        assert output.lines()[0].startswith("{") is not is_terminal


@pytest.mark.parametrize(("level", "line_format"), [("loud", "json"), ("info", "xml")])
def test_settings_that_do_not_exist(level: str, line_format: str) -> None:
    """An unknown level or format is an error."""
    with pytest.raises(ValueError, match=r"loud|xml"):
        log.configure(level, line_format)


def test_lines_that_clients_cause_push_out_none_that_matters() -> None:
    """Where nobody reads, lines below ``warning`` leave half of the room to others; all that is lost is counted."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"x" * 4095 + b"\n")
    log.configure("info", "json", descriptor=writing, waiting=10_000)
    logger = structlog.get_logger("lychgate.test")
    for _ in range(200):
        logger.info("something usual")
    lost = log.lost()
    logger.error("something that matters")
    assert log.lost() == lost > 100
    with os.fdopen(reading, "rb") as lines:
        assert lines.readline() == b"x" * 4095 + b"\n"
        found = [json.loads(lines.readline()) for _ in range(200 - lost + 2)]
    log.finish(30)
    os.close(writing)
    assert [line["lost"] for line in found if line["event"] == "log lines were lost"] == [lost]
    assert [line["event"] for line in found if line["level"] == "error"] == ["something that matters"]
