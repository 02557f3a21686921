"""Asking the workers of the running service, by their control sockets (``gateway/doors/control.py``)."""

import json
import socket
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console

from gateway.cli.common import ExitCode
from gateway.config.model import Config

ANSWER_WITHIN: Final = 15.0
"""Seconds a worker may take: a busy one is late, one that hangs must not hold up the command."""


def ask_workers(config: Config, request: dict[str, Any]) -> dict[int, Any]:
    """The reply of every worker, by process id.

    Raises:
        typer.Exit: There is no service to be asked, or a worker refused; with ``ExitCode.CONFIG``.
    """
    folder = config.runtime_folder
    if folder is None:
        raise _failed("the configuration names no runtime_folder, by which the workers could be asked")
    replies: dict[int, Any] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.match("worker-*.sock"))
    except OSError as error:
        raise _failed(f"can't look into {folder}: {error.strerror}") from error
    for path in paths:
        pid = int(path.stem.removeprefix("worker-"))
        try:
            replies[pid] = _ask(path, request)
        except (ConnectionRefusedError, FileNotFoundError):  # it has ended
            continue
        except (OSError, ValueError) as error:
            raise _failed(f"worker {pid} can't be asked: {error}") from error
    if not replies:
        raise _failed(f"no service is running with the runtime_folder {folder}")
    return replies


def _ask(path: Path, request: dict[str, Any]) -> Any:
    """One worker's reply.

    Raises:
        OSError: It can't be asked.
        ValueError: It refused, or what it says is no reply.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_WITHIN)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as file:
            answer = json.loads(file.readline())
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["reply"]


def _failed(reason: str) -> typer.Exit:
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"lychgate: {reason}")
    return typer.Exit(ExitCode.CONFIG)
