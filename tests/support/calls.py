"""What a piece of work costs, counted in calls by the interpreter itself: the same on every machine."""

import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self


class CallCount:
    """Counts the functions that are called in its block, of Python's own too; of this thread only.

    Attributes:
        count: How many so far.
    """

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        self._before = sys.getprofile()
        sys.setprofile(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.setprofile(self._before)

    def _note(self, _frame: FrameType, event: str, _argument: object) -> None:
        self.count += event in {"call", "c_call"}


def calls(work: Callable[[], object]) -> int:
    """How many functions a piece of work calls."""
    with CallCount() as counted:
        work()
    return counted.count
