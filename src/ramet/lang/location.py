"""Where in the user's program an operation was asked for, and how that is said when it fails.

Knows stack frames and source lines. A place is taken at every operation, so taking it must cost about a
microsecond; the text around it is only looked up when something went wrong.
"""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType, TracebackType
from typing import NamedTuple

from ramet.errors import ProgramError

__all__ = ["Where", "again", "caller", "program_error", "raised_at"]

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Where(NamedTuple):
    """A line of a program."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def source(self) -> str:
        return linecache.getline(self.file, self.line).strip()


def caller() -> Where:
    """The innermost line outside this package that led to the call of this function."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    if frame is None:
        return Where("<unknown>", 0)
    return Where(frame.f_code.co_filename, frame.f_lineno)


def raised_at(error: BaseException) -> Where:
    """The innermost line outside this package on the way that `error` took."""
    found = Where("<unknown>", 0)
    step: TracebackType | None = error.__traceback__
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(_HERE):
            found = Where(step.tb_frame.f_code.co_filename, step.tb_lineno)
        step = step.tb_next
    return found


def program_error(where: Where, operation: str, cause: BaseException) -> ProgramError:
    """The error that readers get when `operation`, asked for at `where`, ended with `cause`."""
    said = str(cause) or "no further explanation"
    message = f"{operation} failed at {where}: {type(cause).__name__}: {said}"
    if where.source:
        message += f"\n    {where.source}"
    error = ProgramError(message, location=str(where), operation=operation)
    error.__cause__ = cause
    return error


def again(error: ProgramError) -> ProgramError:
    """A fresh copy to raise: many readers, in many threads, raise one failure, and an exception object
    carries the traceback of whoever raised it last."""
    copy = ProgramError(str(error), location=error.location, operation=error.operation)
    copy.__cause__ = error.__cause__
    return copy
