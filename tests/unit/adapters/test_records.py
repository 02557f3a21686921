"""The record sinks with real files, pipes and full disks."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.adapters import records as adapter
from gateway.adapters.records import LOOK_INTERVAL, FileSink, StdoutSink
from gateway.records import MessageRecord, encode
from tests.support.records import ACCEPTED, record

BIG = record(
    message=MessageRecord(size=1, declared_size=None, message_id="x" * 100_000, removed=[], mended=[], malformed=None)
)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: its reading and its writing end."""
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


def ids(path: Path) -> list[str]:
    """The ids of the records in a file."""
    return [json.loads(line)["id"] for line in path.read_bytes().splitlines()]


async def test_a_record_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    """Each record is one line, readable before the next is written, and not by everybody on the machine."""
    path = tmp_path / "records.jsonl"
    sink = FileSink(path)
    sink.write(ACCEPTED)
    assert path.read_bytes() == encode(ACCEPTED) + b"\n"
    sink.write(record(id="2"))
    assert ids(path) == [ACCEPTED.id, "2"]
    assert path.stat().st_mode & 0o007 == 0
    await sink.close()


def test_a_killed_worker_loses_no_record(tmp_path: Path) -> None:
    """A process that dies by SIGKILL right behind write has written the record."""
    path = tmp_path / "records.jsonl"
    program = (
        "import os, pathlib, signal, sys\n"
        "from gateway.adapters.records import FileSink\n"
        "from tests.support.records import ACCEPTED\n"
        "FileSink(pathlib.Path(sys.argv[1])).write(ACCEPTED)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, path], cwd=Path(__file__).parents[3], check=False)
    assert result.returncode == -signal.SIGKILL
    assert ids(path) == [ACCEPTED.id]


async def test_workers_append_to_one_file(tmp_path: Path) -> None:
    """Records of several writers stand side by side, whole, and what was in the file stays."""
    path = tmp_path / "records.jsonl"
    path.write_bytes(encode(record(id="old")) + b"\n")

    def work(name: str) -> None:
        sink = FileSink(path)
        for number in range(200):
            big = MessageRecord(size=1, declared_size=1, message_id="x" * 9000, removed=[], mended=[], malformed=None)
            sink.write(record(id=f"{name}.{number}", message=big))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ids(path)
    assert found[0] == "old"
    assert sorted(found[1:]) == sorted(f"{name}.{number}" for name in "abc" for number in range(200))


@pytest.mark.parametrize("how", ["renamed", "deleted", "replaced"])
async def test_a_rotated_file_is_opened_anew(tmp_path: Path, how: str) -> None:
    """Within a second of its rotation records go to the new file; until then to the old one; none is lost."""
    clock = Clock()
    path, old = tmp_path / "records.jsonl", tmp_path / "records.jsonl.1"
    sink = FileSink(path, clock=clock)
    sink.write(record(id="1"))
    os.link(path, old)
    path.unlink()
    if how == "renamed":
        clock.time += LOOK_INTERVAL / 2
        sink.write(record(id="2"))
        assert not path.exists()
    elif how == "replaced":
        path.touch()
    clock.time += LOOK_INTERVAL
    sink.write(record(id="3"))
    assert ids(old) == (["1", "2"] if how == "renamed" else ["1"])
    assert ids(path) == ["3"]
    assert sink.lost == 0
    await sink.close()


async def test_an_outage_is_logged_once_and_counted(tmp_path: Path) -> None:
    """Where the folder is missing, records are lost, counted and told once; when it is back, they are written again."""
    clock = Clock()
    path = tmp_path / "folder" / "records.jsonl"
    with capture_logs() as logs:
        sink = FileSink(path, clock=clock)
        for _ in range(3):
            sink.write(ACCEPTED)
            clock.time += LOOK_INTERVAL
        path.parent.mkdir()
        sink.write(ACCEPTED)
        sink.write(ACCEPTED)
    assert sink.lost == 3
    assert ids(path) == [ACCEPTED.id] * 2
    assert [(entry["log_level"], entry.get("lost")) for entry in logs] == [("error", None), ("warning", 3)]
    assert "No such file" in logs[0]["reason"]
    await sink.close()


async def test_a_full_device_stops_no_mail() -> None:
    """ENOSPC is an outage, not an exception."""
    with capture_logs() as logs:
        sink = FileSink(Path("/dev/full"))
        sink.write(ACCEPTED)
        sink.write(ACCEPTED)
        await sink.close()
    assert sink.lost == 2
    assert len(logs) == 1
    assert "No space left" in logs[0]["reason"]


async def test_a_file_that_is_a_full_pipe_does_not_block(tmp_path: Path) -> None:
    """A named pipe whose reader sleeps costs no time, and no record as long as there is room: each is whole."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sinks = [FileSink(path, queue_octets=len(encode(BIG)) + 5000) for _ in "ab"]
    with capture_logs():
        for sink in sinks:
            sink.write(BIG)  # more than a pipe holds
            sink.write(ACCEPTED)
            sink.write(BIG)  # more than may wait
            assert sink.lost == 1
        os.set_blocking(reader, True)
        with os.fdopen(reader, "rb") as lines:
            found = [json.loads(lines.readline())["id"] for _ in range(4)]
            for sink in sinks:
                await sink.close()
    assert found == [BIG.id] * 4 == [ACCEPTED.id] * 4
    assert [sink.lost for sink in sinks] == [1, 1]


async def test_standard_output_gets_every_record(pipe: tuple[int, int]) -> None:
    """Closing writes what still waits."""
    reading, writing = pipe
    sink = StdoutSink(writing)
    for number in range(20):
        sink.write(record(id=str(number)))
    await sink.close()
    os.close(writing)
    with os.fdopen(os.dup(reading), "rb") as lines:
        assert [json.loads(line)["id"] for line in lines] == [str(number) for number in range(20)]
    assert sink.lost == 0


async def test_a_slow_reader_costs_records_but_not_time(pipe: tuple[int, int]) -> None:
    """While the pipe is full a bounded number of records waits; those above are dropped, counted and told of once."""
    reading, writing = pipe
    capacity = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    os.write(writing, b"x" * (capacity - 1) + b"\n")
    line = len(encode(ACCEPTED)) + 1
    with capture_logs() as logs:
        sink = StdoutSink(writing, queue_octets=10 * line)
        for _ in range(15):
            sink.write(ACCEPTED)
        assert sink.lost == 5
        lines = os.fdopen(os.dup(reading), "rb")
        lines.readline()
        await sink.close()
        os.close(writing)
        assert lines.read() == (encode(ACCEPTED) + b"\n") * 10
        lines.close()
    assert [entry["log_level"] for entry in logs] == ["error", "warning"]
    assert logs[0]["reason"] == "the reader is too slow"


async def test_a_reader_that_never_reads_does_not_hold_up_the_end(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing gives up after its time-out and counts what was not written."""
    monkeypatch.setattr(adapter, "CLOSE_TIMEOUT", 0.05)
    reading, writing = pipe
    os.write(writing, b"x" * fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ))
    sink = StdoutSink(writing)
    sink.write(ACCEPTED)
    sink.write(ACCEPTED)
    with capture_logs():
        await sink.close()
        assert sink.lost == 2
        thread = sink._lines._thread
        assert thread is not None
        os.close(reading)  # ends the blocked write
        thread.join(10)
        assert not thread.is_alive()


async def test_a_closed_reader_stops_no_mail(pipe: tuple[int, int]) -> None:
    """Without a reader records are lost and counted; a non-blocking pipe is waited for."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    with capture_logs() as logs:
        sink = StdoutSink(writing)
        sink.write(BIG)
        with os.fdopen(os.dup(reading), "rb") as lines:
            assert lines.readline() == encode(BIG) + b"\n"
        os.close(reading)
        sink.write(ACCEPTED)
        await sink.close()
    assert sink.lost == 1
    assert re.search("Broken pipe", logs[0]["reason"])


async def test_workers_share_one_pipe(pipe: tuple[int, int]) -> None:
    """Lines above PIPE_BUF of several workers are not mixed: each waits for the other's to end."""
    reading, writing = pipe
    sinks = [StdoutSink(writing) for _ in range(3)]
    for number in range(5):
        for worker, sink in enumerate(sinks):
            sink.write(record(id=f"{worker}.{number}", message=BIG.message))
    found: list[str] = []

    def read() -> None:
        with os.fdopen(os.dup(reading), "rb") as lines:
            found.extend(json.loads(lines.readline())["id"] for _ in range(15))

    reader = threading.Thread(target=read)
    reader.start()
    for sink in sinks:
        await sink.close()
    reader.join()
    assert sorted(found) == sorted(f"{worker}.{number}" for worker in range(3) for number in range(5))
