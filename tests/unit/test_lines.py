"""Lines for a slow reader: real pipes that are full, forks, and processes that are killed."""

import fcntl
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.lines import TOO_SLOW, LineStream, LineWriter

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pipe() -> Iterator[tuple[io.BufferedReader, int]]:
    """A pipe as small as one can be: its reading end and its writing end."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(reading, "rb") as lines:
        yield lines, writing
    os.close(writing)


def test_what_is_lost_is_said_once_there_is_room(pipe: tuple[io.BufferedReader, int]) -> None:
    """Reasons when it begins; the count, in a line of its own, when half of the room is free."""
    lines, writing = pipe
    begun: list[str] = []
    writer = LineWriter(writing, room=4000, name="test", begins=begun.append, ends=lambda lost: b"lost %d\n" % lost)
    os.write(writing, b"x" * 4095 + b"\n")
    for number in range(60):
        writer.put(b"%099d\n" % number)
    assert (writer.lost, begun) == (20, [TOO_SLOW])
    assert lines.readline() == b"x" * 4095 + b"\n"
    assert writer.flush(30)
    os.set_blocking(lines.fileno(), False)
    found = lines.read().split(b"\n")
    assert [line for line in found if b"lost" in line] == [b"lost 20"]
    assert 19 <= found.index(b"lost 20") <= 22
    assert found[-1] == b""
    assert len(found) == 42
    writer.close(30)


def test_a_share_of_the_room(pipe: tuple[io.BufferedReader, int]) -> None:
    """Lines that may use half of it leave the other half to others."""
    lines, writing = pipe
    os.write(writing, b"x" * 4096)
    writer = LineWriter(writing, room=1000, name="test")
    for _ in range(10):
        writer.put(b"x" * 99 + b"\n", share=0.5)
    assert writer.lost == 5
    for _ in range(10):
        writer.put(b"x" * 99 + b"\n")
    assert writer.lost == 10
    assert len(lines.read(4096 + 10 * 100)) == 5096
    writer.close(30)


def test_the_descriptor_stays_as_it_is(pipe: tuple[io.BufferedReader, int]) -> None:
    """It is never made non-blocking: other processes have it, too."""
    lines, writing = pipe
    writer = LineWriter(writing, room=1000, name="test")
    writer.put(b"one\n")
    assert lines.readline() == b"one\n"
    assert os.get_blocking(writing)
    writer.close(30)
    writer.put(b"two\n")
    assert writer.lost == 1


def test_a_pipe_without_a_reader_is_not_waited_for() -> None:
    """What is written there is lost at once."""
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(writing, room=1000, name="test")
    writer.put(b"one\n")
    assert writer.flush(30)
    assert writer.lost == 1
    writer.close(30)
    os.close(writing)


def test_a_system_without_threads_loses_lines(
    pipe: tuple[io.BufferedReader, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And writes again when it has one."""
    lines, writing = pipe
    writer = LineWriter(writing, room=1000, name="test")

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        writer.put(b"one\n")
    assert writer.lost == 1
    writer.put(b"two\n")
    assert lines.readline() == b"two\n"
    writer.close(30)


def test_a_stream_hands_over_whole_lines(pipe: tuple[io.BufferedReader, int]) -> None:
    """Pieces are put together; a flush lets go what is there."""
    lines, writing = pipe
    writer = LineWriter(writing, room=1000, name="test")
    stream = LineStream(writer)
    print("a", "b\udcff", "c", file=stream)
    stream.write("beg")
    assert writer.flush(30)
    assert lines.readline() == b"a b\\udcff c\n"
    stream.write("un\n")
    assert lines.readline() == b"begun\n"
    stream.write("rest")
    stream.flush()
    assert lines.read(4) == b"rest"
    writer.close(30)


PROGRAM = textwrap.dedent(
    """
    import os, signal, sys, time
    from gateway.lines import LineWriter
    writer = LineWriter(1, room=100_000, name="test")
    for number in range(30):
        writer.put(b"parent %0500d\\n" % number)
    pid = os.fork()
    if not pid:
        writer.put(b"child\\n")
        print("forked", file=sys.stderr, flush=True)
        writer.flush(60)
        os._exit(0)
    if sys.argv[1] == "killed":
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    writer.flush(60)
    """
)


@pytest.mark.parametrize("parent", ["stays", "killed"])
def test_a_fork_while_the_parent_writes(parent: str) -> None:
    """The child writes its own lines and none of the parent's; the lock of a parent that is killed is free."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-c", PROGRAM, parent]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, text=True
    ) as process:
        os.close(writing)
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "forked\n"
        if parent == "killed":
            print("go on", file=process.stdin, flush=True)
            assert process.wait(60) == -signal.SIGKILL
        with os.fdopen(reading, "rb") as lines:
            found = lines.read().split(b"\n")
        assert found.count(b"child") == 1 or (parent == "killed" and found[-2].endswith(b"child"))
        parents = [line for line in found if line.startswith(b"parent")]
        assert len(set(parents)) == len(parents)
        assert parent == "killed" or len(parents) == 30


def test_signals_are_left_to_the_other_threads() -> None:
    """A process that waits for a signal, which it has blocked since, gets it, though the writer's thread is older."""
    program = (
        "import os, signal\n"
        "from gateway.lines import LineWriter\n"
        "LineWriter(1, room=1000, name='test').put(b'x\\n')\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, stdout=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0
