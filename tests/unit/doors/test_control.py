"""The control sockets: of workers that begin at the same time, and what comes over them."""

import asyncio
import json
import os
import resource
import selectors
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.doors import control
from gateway.doors.control import CLIENTS, SUPERVISOR, Command, ControlDoor, Nothing
from gateway.doors.supervisor import Asker, SupervisorDoor


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in folder.iterdir()}


async def test_a_socket_that_has_its_name_is_not_taken_for_one_that_was_left_behind(tmp_path: Path) -> None:
    """A worker that begins sweeps away sockets that nobody listens on: another's listens before it can be seen."""
    other = tmp_path / "worker-1.sock"
    with control._listening(other):
        assert stat.S_IMODE(other.stat().st_mode) == 0o600
        door = ControlDoor(tmp_path, {})
        await door.open()
        assert names(tmp_path) == {other.name, door.path.name}
        await door.close()


async def test_a_socket_that_was_left_behind_is_swept_away(tmp_path: Path) -> None:
    """Its process was killed: nobody listens, and the name may be taken again."""
    left = [
        tmp_path / "worker-1.sock",
        tmp_path / f"worker-{os.getpid()}.sock",
        tmp_path / f".worker-{os.getpid()}.sock",
    ]
    for path in left:
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(path))
    door = ControlDoor(tmp_path, {})
    await door.open()
    assert names(tmp_path) == {door.path.name}
    await door.close()
    assert names(tmp_path) == set()


# What comes over the socket.


class Number(msgspec.Struct):
    """A request with a number."""

    number: int


def fault(_request: Number) -> None:
    """A command that is broken."""
    raise RecursionError("out of order")


COMMANDS = {
    "double": Command(Number, lambda request: 2 * request.number),
    "nothing": Command(Nothing, lambda _request: "done"),
    "fault": Command(Number, fault),
    "set": Command(Nothing, lambda _request: object()),
}
ANSWERS = {
    b'{"command": "double", "number": 2, "more": []}': {"reply": 4},
    b'{"command": "nothing"}': {"reply": "done"},
    b'{"command": "double", "number": "2"}': {"error": "a wrong request: Expected `int`, got `str` - at `$.number`"},
    b'{"command": "double"}': {"error": "a wrong request: Object missing required field `number`"},
    b'{"command": ["double"]}': {"error": "a wrong request: Expected `str`, got `array` - at `$.command`"},
    b"[]": {"error": "a wrong request: Expected `object`, got `array`"},
    b'{"command": "fault", "number": 1}': {"error": "RecursionError: out of order"},
    b'{"command": "set"}': {"error": "TypeError: Object of type object is not JSON serializable"},
    b'{"command": "halve"}': {"error": "no command 'halve'"},
    b"": {"error": "no request"},
    b"{": {"error": "no request"},
    b"\xff": {"error": "no request"},
    b'{"command": ' + b"[" * 60_000: {"error": "no request"},
    b'{"command": "double", "number": NaN}': {"error": "a wrong request: Expected `int`, got `float` - at `$.number`"},
    b'{"command": "double", "number": ' + b"9" * 10_000 + b"}": {"error": "no request"},
    b'{"command": "\\udcff"}': {"error": "no command '\\udcff'"},
    b'{"more": ' + b"[" * 60_000: {"error": "no request"},
    b'{"command": "double", "number": 1, "more": ' + b"[" * 30_000 + b"]" * 30_000 + b"}": {"error": "no request"},
}


@pytest.mark.parametrize("line", ANSWERS, ids=lambda line: line[:30])
async def test_whatever_is_asked_is_answered(tmp_path: Path, supervisor: "Selecting", line: bytes) -> None:
    """By a worker, and by the supervisor, with the same words."""
    door = ControlDoor(tmp_path, COMMANDS)
    await door.open()
    with capture_logs():
        assert json.loads(await asked(door.path, line)) == ANSWERS[line]
    await door.close()
    with capture_logs(), supervisor.connected() as asker:
        asker.sendall(line + b"\n")
        assert json.loads(supervisor.answer(asker)) == ANSWERS[line]


async def asked(path: Path, line: bytes) -> bytes:
    """A worker's answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line + b"\n")
    answer = await reader.readline()
    writer.close()
    return answer


class Selecting:
    """The supervisor's door, and what it selects by."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / SUPERVISOR)
        self.selector = selectors.PollSelector()
        self.waiting: list[Asker] = []
        commands = {name: Command(command.request, partial(self.run, command)) for name, command in COMMANDS.items()}
        later = Command(Nothing, lambda _request, asker: self.waiting.append(asker))
        self.door = SupervisorDoor(self.selector, {**commands, "later": later})
        self.door.open(folder)

    def run(self, command: Command, request: msgspec.Struct, asker: Asker) -> None:
        """Answer at once."""
        asker.reply(command.run(request))

    def connected(self) -> socket.socket:
        """A client."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(self.path)
        return client

    def turn(self) -> bool:
        """See to what is ready; returns whether anything was."""
        ready = self.selector.select(0)
        for key, _ in ready:
            if self.selector.get_map().get(key.fd) == key:
                key.data()
        return bool(ready)

    def settle(self) -> None:
        """See to everything."""
        while self.turn():
            pass

    def answer(self, client: socket.socket) -> bytes:
        """What a client is told."""
        self.settle()
        return b"".join(iter(partial(client.recv, 65536), b""))


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Selecting]:
    """An open door."""
    made = Selecting(tmp_path)
    yield made
    made.door.close()


def test_without_descriptors_the_door_rests_and_then_goes_on(supervisor: Selecting) -> None:
    """Nobody is accepted, nothing is looked at over and over, and later who has waited is answered."""
    with supervisor.connected() as asker:
        asker.sendall(b'{"command": "double", "number": 4}\n')
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with capture_logs() as logs:
                assert supervisor.turn()
                assert not supervisor.turn()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [line["event"] for line in logs] == ["accept failed"]
        assert supervisor.door.due < float("inf")
        supervisor.door.expire(supervisor.door.due)
        assert json.loads(supervisor.answer(asker)) == {"reply": 8}


def test_a_request_comes_an_octet_at_a_time(supervisor: Selecting) -> None:
    """It is carried out when it is whole; nobody waits for the rest of it."""
    with supervisor.connected() as slow, supervisor.connected() as quick:
        for octet in b'{"command": "nothing"}':
            slow.sendall(bytes([octet]))
            supervisor.settle()
        quick.sendall(b'{"command": "nothing"}\n')
        assert supervisor.answer(quick) == b'{"reply": "done"}\n'
        slow.sendall(b"\nmore")
        assert supervisor.answer(slow) == b'{"reply": "done"}\n'


def test_who_says_nothing_leaves_when_others_come_or_its_time_is_over(supervisor: Selecting) -> None:
    """The one that has been silent for longest makes room; all of them go at their time; who waits for us stays."""
    with ExitStack() as stack:
        waits = stack.enter_context(supervisor.connected())
        waits.sendall(b'{"command": "later"}\n')
        supervisor.settle()
        silent = []
        for _ in range(CLIENTS):
            silent.append(stack.enter_context(supervisor.connected()))
            supervisor.settle()
        assert silent[0].recv(1) == b""
        assert len(supervisor.door._askers) == CLIENTS
        while supervisor.door.due < float("inf"):
            supervisor.door.expire(supervisor.door.due)
        assert [client.recv(1) for client in silent[1:]] == [b""] * (CLIENTS - 1)
        supervisor.waiting[0].reply("now")
        assert supervisor.answer(waits) == b'{"reply": "now"}\n'


def test_who_reads_nothing_is_not_waited_for(supervisor: Selecting) -> None:
    """A long answer goes out as it is taken, and its reader is dropped at its time."""
    with supervisor.connected() as reads, supervisor.connected() as sleeps:
        for client in (reads, sleeps):
            client.sendall(b'{"command": "later"}\n')
            supervisor.settle()
        for asker in supervisor.waiting:
            asker.reply("x" * 3_000_000)
        length = 0
        while supervisor.turn() or length < 3_000_000:
            length += len(reads.recv(65536))
        assert len(supervisor.door._askers) == 1
        supervisor.door.expire(supervisor.door.due)
        assert not supervisor.door._askers


def test_a_socket_whose_owner_accepts_nobody_is_not_waited_for(tmp_path: Path) -> None:
    """Its queue is full: whoever looks whether it was left behind goes on at once, and leaves it."""
    path = tmp_path / "worker-1.sock"
    with socket.socket(socket.AF_UNIX) as stuck, ExitStack() as stack:
        stuck.bind(str(path))
        stuck.listen(0)
        with suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        control.sweep(path)
        assert path.exists()
