"""What happened in a run: one record per call of a backend, and events for whoever watches live.

Knows plain facts. Refuses to know how they are shown. Events cost nothing when nobody listens.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ramet.prompt import Prompt

__all__ = ["CallRecord", "Event", "Ink", "Listener", "Style", "current_listeners", "listening"]

Style = Literal["text", "role", "generated", "chosen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One finished (or failed) call. Token counts are None where the backend does not tell; `samples` is
    n of a generation, the number of choices of a selection. `seconds` runs from the moment the call was
    made to its end. `branch` is the branch's path: "0" is the program, "0.2-5" branch 5 of its fork 2.
    `incomplete`: a text (of any sample) was cut before it was what its constraint asks for."""

    kind: Literal["generate", "select"]
    name: str | None
    branch: str
    number: int
    location: str
    rid: str
    samples: int
    seconds: float
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    incomplete: bool = False
    error: str | None = None

    @property
    def cached_share(self) -> float | None:
        """Part of the prompt's tokens that came from the cache, 0 to 1."""
        if not self.prompt_tokens or self.cached_tokens is None:
            return None
        return self.cached_tokens / self.prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened, at `time` (seconds of `time.perf_counter`), in branch `branch` of run `run`.

    - `run_started` (`parent`: the run whose body started this one, or ""), `run_finished` (every chain of
      the run is idle and the body is done)
    - `call_started` (`name`, `number`, `location`), `call_finished` (the same and `record`)
    - `text`: `text` was appended in `style`; in a call with `name`, as it streams
    - `fork`: `count` branches begin here; their paths are `branches`
    - `join`: the branches `branches` have ended and were taken over
    - `failed`: the branch stopped with `error`
    """

    kind: Literal[
        "run_started",
        "call_started",
        "text",
        "call_finished",
        "fork",
        "join",
        "failed",
        "run_finished",
    ]
    run: str
    program: str
    branch: str
    time: float
    name: str | None = None
    number: int | None = None
    location: str = ""
    text: str = ""
    style: Style = "text"
    branches: tuple[str, ...] = ()
    record: CallRecord | None = None
    error: BaseException | None = None
    parent: str = ""

    @property
    def count(self) -> int:
        return len(self.branches)


Listener = Callable[[Event], None]
"""Called in the thread in which the event happens (the chain loop, or the program's): it must return
quickly and must not wait for the program. What it raises is logged and does not touch the program."""

current_listeners: contextvars.ContextVar[tuple[Listener, ...]] = contextvars.ContextVar(
    "ramet_listeners", default=()
)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Runs started inside the block, nested ones too, report to `listener`."""
    token = current_listeners.set((*current_listeners.get(), listener))
    try:
        yield
    finally:
        current_listeners.reset(token)


def tell(listeners: tuple[Listener, ...], event: Event) -> None:
    for listener in listeners:
        try:
            listener(event)
        except Exception:  # a view must not break what it looks at
            logging.getLogger("ramet").exception("a listener failed on %s", event.kind)


@dataclass(frozen=True, slots=True)
class Ink:
    """Which part of a prompt's text is not plain program text: characters `start` to `end`. A linked list
    from the last to the first, so that branches share it like the prompt."""

    before: Ink | None
    start: int
    end: int
    style: Style
    name: str | None

    @staticmethod
    def strokes(ink: Ink | None) -> list[Ink]:
        """In the order of the text."""
        found: list[Ink] = []
        while ink is not None:
            found.append(ink)
            ink = ink.before
        found.reverse()
        return found


def stroke(ink: Ink | None, before: Prompt, after: Prompt, style: Style, name: str | None) -> Ink:
    return Ink(ink, before.num_chars, after.num_chars, style, name)
