"""Asking the processes of the running service, by their control sockets (``gateway/doors/control.py``)."""

import json
import socket
from pathlib import Path
from typing import Any, Final

import typer

from gateway.cli.common import ExitCode
from gateway.cli.screen import complain
from gateway.config.model import Config
from gateway.doors.control import SUPERVISOR

ANSWER_WITHIN: Final = 15.0
"""Seconds a worker may take: a busy one is late, one that hangs must not hold up the command."""


def ask_workers(config: Config, request: dict[str, Any]) -> dict[int, Any]:
    """The reply of every worker, by process id.

    Raises:
        typer.Exit: There is no service to be asked, or a worker refused; with ``ExitCode.CONFIG``.
    """
    folder = _folder(config)
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


def ask_supervisor(config: Config, request: dict[str, Any], within: float) -> Any:
    """The supervisor's reply, within so many seconds.

    Raises:
        typer.Exit: There is none to be asked, or it refused; with ``ExitCode.CONFIG``. It did not answer in time; with
            ``ExitCode.UNKNOWN``.
    """
    path = _folder(config) / SUPERVISOR
    try:
        return _ask(path, request, within)
    except (ConnectionRefusedError, FileNotFoundError):
        raise _failed(f"no service answers at {path}: none is running, or one that must be restarted first") from None
    except TimeoutError:
        reason = f"the service has not answered within {within:g} s; what becomes of it, its log tells"
        raise _failed(reason, ExitCode.UNKNOWN) from None
    except ValueError as error:
        raise _failed(str(error)) from error
    except OSError as error:
        raise _failed(f"the service can't be asked at {path}: {error.strerror or error}") from error


def _folder(config: Config) -> Path:
    if config.runtime_folder is None:
        raise _failed("the configuration names no runtime_folder, by which the service could be asked")
    return config.runtime_folder


def _ask(path: Path, request: dict[str, Any], within: float = ANSWER_WITHIN) -> Any:
    """One process's reply.

    Raises:
        OSError: It can't be asked, or it ended before it answered.
        ValueError: It refused, or what it says is no reply.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(within)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as file:
            line = file.readline()
    if not line:
        raise ConnectionError("it ended without an answer")
    answer = json.loads(line)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["reply"]


def _failed(reason: str, code: ExitCode = ExitCode.CONFIG) -> typer.Exit:
    complain(f"lychgate: {reason}")
    return typer.Exit(code)
