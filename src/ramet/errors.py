"""Every error that Ramet raises on purpose.

Knows nothing but words. An error says what was wrong, with which value, and what to do; user-facing
errors also derive from the built-in class that Python programmers would expect to catch.
"""

from __future__ import annotations

__all__ = [
    "Aborted",
    "BackendError",
    "CannotTrace",
    "CheckpointError",
    "EngineClosed",
    "InvalidRequest",
    "NoBackend",
    "ProgramError",
    "RametError",
    "ResultError",
    "Unsupported",
]


class RametError(Exception):
    """Base of all errors that Ramet raises on purpose."""


class InvalidRequest(RametError, ValueError):
    """A value that the caller gave is wrong. Nothing was started.

    Attributes: `field` (the dotted name of the value), `value`, `problem`, `remedy`.
    """

    def __init__(self, field: str, value: object, problem: str, remedy: str = "") -> None:
        self.field, self.value, self.problem, self.remedy = field, value, problem, remedy
        try:
            shown = repr(value)
        except RecursionError:
            shown = f"a deep {type(value).__name__}"
        if len(shown) > 80:
            shown = shown[:77] + "..."
        message = f"{field}: {shown} {problem}"
        super().__init__(f"{message}; {remedy}" if remedy else message)


class CheckpointError(RametError, ValueError):
    """A model folder is missing, broken, or of a kind that Ramet does not run."""


class Unsupported(RametError, NotImplementedError):
    """A known feature that this backend (or this version) does not have."""


class BackendError(RametError, RuntimeError):
    """A backend failed while it worked on a call."""


class EngineClosed(BackendError):
    """The engine was shut down before or while it worked on a call."""


class Aborted(BackendError):
    """A call was aborted on purpose."""


class ResultError(BackendError):
    """No answer of the model was a value of the type that the program asked for.

    `text` is the last answer, `problem` what is wrong with it, `path` the place in it (such as
    `Order.items[0].price`; "" for the whole), `attempts` how many answers there were.
    """

    def __init__(self, message: str, *, text: str, problem: str, path: str, attempts: int) -> None:
        self.text, self.problem, self.path, self.attempts = text, problem, path, attempts
        super().__init__(message)


class NoBackend(RametError, RuntimeError):
    """A program was run with no backend to run on."""


class ProgramError(RametError, RuntimeError):
    """An operation of a program failed.

    `location` is "file:line" of the program text that asked for the operation, `operation` a short
    form of it. The original error is `__cause__`.
    """

    def __init__(self, message: str, *, location: str = "", operation: str = "") -> None:
        self.location, self.operation = location, operation
        super().__init__(message)


class CannotTrace(RametError, TypeError):
    """A program did something with a traced value that only a real value can do."""
