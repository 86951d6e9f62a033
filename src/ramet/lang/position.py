"""A place in a program's text, with all that the operations before it have left behind.

Knows only values. Positions are immutable, so a fork hands one over and costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ramet.backend import Message
from ramet.lang.record import Ink
from ramet.prompt import EMPTY, Prompt

__all__ = ["OpenRole", "Position"]


@dataclass(frozen=True, slots=True)
class OpenRole:
    """A role block that has begun: `start` is the prompt after its prefix."""

    role: str
    start: Prompt
    suffix: str


@dataclass(frozen=True, slots=True)
class Position:
    """`messages` are the closed role blocks, `role` the open one."""

    prompt: Prompt = EMPTY
    ink: Ink | None = None
    messages: tuple[Message, ...] = ()
    role: OpenRole | None = None
