"""What happened in a run: one record per call of a backend, one per run, and events for whoever watches
live.

Knows plain facts. Refuses to know how they are shown. Events cost nothing when nobody listens. Times are
seconds since the run began, except those of events (`time.perf_counter`) and `RunRecord.wall`.
"""

from __future__ import annotations

import contextvars
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from ramet.prompt import Prompt

if TYPE_CHECKING:
    from ramet.lang.chain import Chain

__all__ = [
    "Branching",
    "CallRecord",
    "Enclosing",
    "Event",
    "Ink",
    "Listener",
    "RunRecord",
    "Style",
    "always_listening",
    "current_listeners",
    "listening",
    "stop_listening",
]

Style = Literal["text", "role", "generated", "chosen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One finished (or failed) call. Token counts are None where the backend does not tell; `samples` is
    n of a generation, the number of choices of a selection. `started` and `seconds` say when the call was
    made and how long it took. `branch` is the branch's path: "0" is the program, "0.2-5" branch 5 of its
    fork 2. `incomplete`: a text (of any sample) was cut before it was what its constraint asks for.

    Of the generated tokens, `forced_tokens` were the only legal ones and cost no step of the model;
    `drafted_tokens` were guessed, `accepted_tokens` of them rightly. `first_token_seconds` runs from the
    call to the first text. `retries` are the failed attempts before this outcome. `cost` is money, as the
    backend reports it (or as `ramet.lang.trace.Prices` reckons it)."""

    kind: Literal["generate", "select", "tool"]
    name: str | None
    branch: str
    number: int
    location: str
    rid: str
    samples: int
    seconds: float
    started: float = 0.0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    forced_tokens: int | None = None
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None
    first_token_seconds: float | None = None
    finish_reason: str | None = None
    incomplete: bool = False
    retries: int = 0
    cost: float | None = None
    error: str | None = None

    @property
    def ended(self) -> float:
        return self.started + self.seconds

    @property
    def error_type(self) -> str | None:
        """The error without its message, which may quote a prompt or an answer."""
        return None if self.error is None else self.error.partition(":")[0]

    @property
    def cached_share(self) -> float | None:
        """Part of the prompt's tokens that came from the cache, 0 to 1."""
        if not self.prompt_tokens or self.cached_tokens is None:
            return None
        return self.cached_tokens / self.prompt_tokens


@dataclass(frozen=True, slots=True)
class Branching:
    """A fork of `branch` into `branches`, or a join of these into it, `time` seconds into the run."""

    kind: Literal["fork", "join"]
    time: float
    branch: str
    branches: tuple[str, ...]
    location: str


MOST_NESTED = 4096  # runs that one run remembers to have started; a program may serve for months


@dataclass(slots=True, eq=False, kw_only=True)
class RunRecord:
    """What is written down of one run while it goes on. `ramet.lang.trace` makes of it what users see.

    `began` is a time of `time.perf_counter`, `wall` the same moment in Unix seconds; `seconds` is None
    until the run is over. `nested` are the runs that its body started, `num_nested_left_out` those beyond
    the first `MOST_NESTED`. `failures` has per branch the time and the error's type and message. What a
    branch wrote can be read as long as somebody holds the branch: this does only with `keeps_texts`.
    """

    id: str
    program: str
    model: str
    backend: str
    parent: str
    began: float
    wall: float
    keeps_texts: bool = False
    seconds: float | None = None
    calls: list[CallRecord] = field(default_factory=list)
    branchings: list[Branching] = field(default_factory=list)
    failures: dict[str, tuple[float, str]] = field(default_factory=dict)
    nested: list[RunRecord] = field(default_factory=list)
    num_nested_left_out: int = 0
    _chains: dict[str, weakref.ref[Chain]] = field(default_factory=dict)
    _kept: list[Chain] = field(default_factory=list)

    def add_chain(self, chain: Chain) -> None:
        self._chains[chain.path] = weakref.ref(chain)
        if self.keeps_texts:
            self._kept.append(chain)

    @property
    def chains(self) -> dict[str, Chain]:
        """The branches that are not gone, by their paths."""
        found = ((path, chain()) for path, chain in list(self._chains.items()))
        return {path: chain for path, chain in found if chain is not None}

    def chain(self, path: str) -> Chain | None:
        """The branch, or None if it is gone."""
        found = self._chains.get(path)
        return None if found is None else found()

    def add_nested(self, run: RunRecord) -> None:
        if len(self.nested) < MOST_NESTED:
            self.nested.append(run)
        else:
            self.num_nested_left_out += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened, at `time` (seconds of `time.perf_counter`), in branch `branch` of run `run`.

    - `run_started` (`parent`: the run whose body started this one, or ""), `run_finished` (every chain of
      the run is idle and the body is done); both with `run_record`
    - `call_started` (`name`, `number`, `location`, `call_kind`), `call_finished` (the same and `record`)
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
    run_record: RunRecord | None = None
    call_kind: str = ""

    @property
    def count(self) -> int:
        return len(self.branches)


Listener = Callable[[Event], None]
"""Called in the thread in which the event happens (the chain loop, or the program's): it must return
quickly and must not wait for the program. What it raises is logged and does not touch the program.

A listener may have attributes: `wants_text = False` (no `text` events for it alone, so that backends need
not stream), `keeps_texts = True` (the `RunRecord` holds every branch), and `inside` (`Enclosing`)."""


@runtime_checkable
class Enclosing(Protocol):
    """A listener with something around a run, a context variable set say."""

    def inside(self, run: str) -> AbstractContextManager[object]:
        """Entered around the body of the run, and in the context of its calls."""
        ...


current_listeners: contextvars.ContextVar[tuple[Listener, ...]] = contextvars.ContextVar(
    "ramet_listeners", default=()
)


def enclose(
    listeners: tuple[Listener, ...],
    run: str,
    enter: Callable[[AbstractContextManager[object]], object],
) -> None:
    """Enter what the listeners want to be around the run."""
    for listener in listeners:
        if isinstance(listener, Enclosing):
            try:
                enter(listener.inside(run))
            except Exception:  # a view must not break what it looks at
                logging.getLogger("ramet").exception("a listener failed around a run")


_always: tuple[Listener, ...] = ()


def always_listening(listener: Listener) -> None:
    """All runs of this process that start from now on report to `listener`."""
    global _always
    _always = (*_always, listener)


def stop_listening(listener: Listener) -> None:
    """The opposite of `always_listening`."""
    global _always
    _always = tuple(other for other in _always if other is not listener)


def listeners_now() -> tuple[Listener, ...]:
    """Those that a run started here reports to: a nested run has its parent's already."""
    found = current_listeners.get()
    return (*found, *(one for one in _always if one not in found)) if _always else found


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
    call: int | None = None  # the number of the call that made it, in its branch

    @staticmethod
    def strokes(ink: Ink | None) -> list[Ink]:
        """In the order of the text."""
        found: list[Ink] = []
        while ink is not None:
            found.append(ink)
            ink = ink.before
        found.reverse()
        return found


def stroke(
    ink: Ink | None,
    before: Prompt,
    after: Prompt,
    style: Style,
    name: str | None,
    call: int | None = None,
) -> Ink:
    return Ink(ink, before.num_chars, after.num_chars, style, name, call)
