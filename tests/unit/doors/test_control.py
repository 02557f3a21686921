"""The control sockets of workers that begin at the same time."""

import os
import socket
import stat
from pathlib import Path

from gateway.doors import control
from gateway.doors.control import ControlDoor


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
