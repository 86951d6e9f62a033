"""How a command ends: its exit code, and a failure in a few lines without a stack of frames.

Knows exceptions and source lines. The whole traceback is one option away.
"""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path

from ramet.errors import ProgramError, RametError

__all__ = ["CANCELLED", "FAILED", "OK", "USAGE", "UsageError", "describe_failure", "place_in"]

OK, FAILED, USAGE, CANCELLED = 0, 1, 2, 130


class UsageError(RametError, ValueError):
    """The command line asks for something that is not there."""


def describe_failure(error: BaseException, file: Path | None, full: bool = False) -> str:
    """One line for the cause, and the line of the program's `file` that led to it."""
    if full:
        return "".join(traceback.format_exception(error)).rstrip()
    if isinstance(error, ProgramError):
        return str(error)  # names its line already
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg}\n  at {error.filename}:{error.lineno}"
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    place = place_in(error, file)
    return f"{cause}\n  at {place}" if place else cause


def place_in(error: BaseException, file: Path | None) -> str:
    """ "file:line" and its text: the innermost line of `file` on the error's way, or "" if none was."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if file is not None and Path(name) == file:
            found = f"{name}:{line}\n    {linecache.getline(name, line).strip()}"
    return found
