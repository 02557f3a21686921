"""Two processes append records to one file on a disk that fills up, gets room, and fills up again.

Each has a descriptor of its own, as workers have. What stands in the file at the end and what was counted as lost are
together what was handed over, and every line that is no record is a fragment that was counted.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import unavailable

ROOT = Path(__file__).parents[2]
ROUNDS, RECORDS = 12, 30
BALLAST = 24_576

WORKER = """
import json, pathlib, resource, sys
from gateway import log
from gateway.adapters.records import FileSink
from gateway.records import MessageRecord
from tests.support.records import record

log.configure()
name, path = sys.argv[1], pathlib.Path(sys.argv[2])
sink = FileSink(path)
count = 0
for command in sys.stdin:
    kind, number = command.split()
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), resource.RLIM_INFINITY))
    else:
        for _ in range(int(number)):
            text = "x" * (count * 379 % 1500)
            message = MessageRecord(size=1, declared_size=1, message_id=text, removed=[], mended=[], malformed=None)
            sink.write(record(id=f"{name}.{count}", message=message))
            count += 1
    print(json.dumps([count, sink.lost]), flush=True)
"""

DRIVER = """
import json, pathlib, sys
from tests.faults.test_records import drive

print(json.dumps(drive(pathlib.Path(sys.argv[1]), on_disk=True)))
"""


def drive(folder: Path, *, on_disk: bool) -> dict[str, Any]:
    """Let two workers write, and give room now and then.

    Returns:
        ``answers``, how many records each has handed over and lost, and the ``lines`` of the file.
    """
    path = folder / "records.jsonl"
    ballast = [folder / f"ballast-{number}" for number in range(ROUNDS if on_disk else 0)]
    for each in ballast:
        each.write_bytes(b"b" * BALLAST)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, name, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        for name in "ab"
    ]

    def tell(command: str, to: list[subprocess.Popen[str]]) -> list[list[int]]:
        """Give a command to these at once; returns what each has handed over and lost so far."""
        for worker in to:
            assert worker.stdin is not None
            print(command, file=worker.stdin, flush=True)
        return [json.loads(worker.stdout.readline()) for worker in to if worker.stdout is not None]

    answers: list[list[int]] = []
    for round_number in range(1, ROUNDS + 1):
        if on_disk:
            ballast.pop().unlink()
        else:
            tell(f"limit {round_number * BALLAST + 17}", workers)
        tell(f"write {RECORDS}", workers)  # both at the same time
        answers = [tell("write 1", [worker])[0] for worker in (workers if round_number % 2 else workers[::-1])]
    for worker in workers:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.close()
        worker.wait()
        worker.stdout.close()
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    return {"answers": answers, "lines": [line.decode() for line in lines]}


def parsed(lines: list[str]) -> tuple[list[str], list[str]]:
    """The ids of the records, and the lines that are none."""
    ids, fragments = [], []
    for line in lines:
        try:
            ids.append(json.loads(line)["id"])
        except ValueError:
            fragments.append(line)
    return ids, fragments


@pytest.mark.parametrize("fault", ["a full disk", "a limit on the file's size"])
def test_every_record_is_in_the_file_or_counted(fault: str, tmp_path: Path) -> None:
    """None is glued to another worker's fragment, and none is counted twice."""
    if fault == "a full disk":
        namespace = ["unshare", "-rm", "sh", "-c"]
        if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
            unavailable("may not have a file system view of its own (unshare -rm)")
        mounted = f'mount -t tmpfs -o size={(ROUNDS + 1) * BALLAST} none "$0" && exec "$@"'
        command = [*namespace, mounted, str(tmp_path), sys.executable, "-c", DRIVER, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
    else:
        result = drive(tmp_path, on_disk=False)
    handed, lost = (sum(column) for column in zip(*result["answers"], strict=True))
    ids, fragments = parsed(result["lines"])
    assert handed == 2 * ROUNDS * (RECORDS + 1)
    assert len(set(ids)) == len(ids)
    assert len(ids) + lost == handed
    assert ids
    assert 1 <= len(fragments) <= lost
    assert all(fragments)  # no empty line


def test_a_file_that_may_only_be_written(tmp_path: Path) -> None:
    """A process that may not read the file can't see others' fragments: each record begins a line of its own."""
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"fragment')
    path.chmod(0o222)
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == os.geteuid() and os.geteuid() == 0:
            folder.chmod(folder.stat().st_mode | 0o111)
    program = (
        "import pathlib, sys\n"
        "from gateway.adapters.records import FileSink\n"
        "from tests.support.records import ACCEPTED\n"
        "import os\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "FileSink(pathlib.Path(sys.argv[1])).write(ACCEPTED)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=True)
    path.chmod(0o644)
    fragment, line = path.read_bytes().removesuffix(b"\n").split(b"\n")
    assert fragment == b'{"fragment'
    assert json.loads(line)["kind"] == "transaction"
