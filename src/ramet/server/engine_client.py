"""The engine as the HTTP side knows it: asked, heard, and started again when it has ended.

Knows frames and the samples they are about. Refuses to know HTTP and protocols; processes are
`engine_life.py`'s. Whatever becomes of the engine, every generation ends: with its samples, or with a
`Failure`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ramet.engine.prompt_ids import PromptIds
from ramet.engine.request import LogprobOptions
from ramet.errors import InvalidRequest
from ramet.kernels.plan import IntArray
from ramet.server.engine_life import EngineLife
from ramet.server.exchange import Call, Failure
from ramet.server.generation import Generation, Refused
from ramet.server.messages import (
    Abort,
    Ask,
    Failed,
    Hello,
    News,
    Part,
    Question,
    Ready,
    Reply,
    Scoring,
    Submit,
    WireError,
    frame,
    packed_ids,
)

__all__ = ["EngineClient", "EngineFailed", "EngineState"]

EngineState = Literal["starting", "ready", "stopped"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # between an end and the next start, in seconds
_STEADY_SECONDS = 10.0  # an engine that was ready for so long starts again at once
_LOADING_SECONDS = 60.0  # that an engine may be silent while it loads: it has other things to do


class EngineFailed(Exception):
    """The engine's process ended before it was ready. The message is for whoever starts the server."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A generation that runs. `names`: (owner, name) of each of its calls."""

    generation: Generation
    names: list[tuple[str, str]]
    owner: str
    kind: str


class EngineClient:
    """`options` go to `ramet.Engine`. `stall_seconds`: an engine that says nothing for so long is ended and
    started again; while it loads it may be silent for `loading_seconds`. `public(ids)` says how many
    leading tokens of a prompt all tenants share."""

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        stall_seconds: float = 120.0,
        loading_seconds: float = _LOADING_SECONDS,
        public: Callable[[IntArray], int] = lambda _ids: 0,
        command: Sequence[str] = (sys.executable, "-P", "-m", "ramet.server.engine_process"),
        on_event: Callable[[str, dict[str, Any]], None] = lambda _event, _facts: None,
    ) -> None:
        self.options, self.stall_seconds, self.public = dict(options), stall_seconds, public
        self.loading_seconds = max(stall_seconds, loading_seconds)
        self.state: EngineState = "starting"
        self.facts: Ready | None = None
        self.pid: int | None = None
        self.num_starts = 0
        self._command, self._on_event = list(command), on_event
        self._keys = itertools.count(1)
        self._held: dict[int, _Held] = {}
        self._by_name: dict[tuple[str, str], tuple[int, int]] = {}  # (owner, name) -> (key, part)
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None  # while it is ready
        self._keeper: asyncio.Task[None] | None = None
        self._complaint = ""  # the engine's own, about its start

    # -- life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the model is loaded. Raises `EngineFailed`."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(first))
        await first

    async def close(self) -> None:
        """End the process; whoever waits gets a failure. Calling it twice does nothing."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        self.state = "stopped"

    async def _keep(self, first: asyncio.Future[None]) -> None:
        """Start the process, and again whenever it has ended."""
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                why = await self._live(first)
            except OSError as error:  # no process could be started
                why = str(error)
            if not first.done():
                first.set_exception(EngineFailed(self._complaint or why))
                return
            self._tell_event("engine ended", {"why": self._complaint or why})
            steady = time.monotonic() - began > _STEADY_SECONDS
            pause = _FIRST_PAUSE if steady else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _live(self, first: asyncio.Future[None]) -> str:
        """One life of the process; returns why it ended."""
        self._complaint = ""
        life = await EngineLife.begin(self._command, {"options": self.options})
        self.pid = life.pid
        self.num_starts += 1
        try:
            return await life.listen(
                lambda message: self._hear(message, life.writer, first),
                self.stall_seconds,
                self.loading_seconds,
            )
        finally:
            self._lost()
            await life.end()

    def _tell_event(self, event: str, facts: dict[str, Any]) -> None:
        try:
            self._on_event(event, facts)
        except Exception as error:  # a listener's fault is not the engine's
            warnings.warn(f"a listener of {event!r} raised {error!r}", stacklevel=1)

    def _lost(self) -> None:
        """The process is gone, or about to: everybody who waits is told."""
        self.state, self._writer, self.pid = "starting", None, None
        failure = self.unavailable("the engine ended while it worked on this request")
        for key in list(self._held):
            self._held[key].generation.fail(failure)
            self._forget(key)
        for question in self._questions.values():
            if not question.done():
                question.set_exception(Refused(failure))
        self._questions.clear()

    @staticmethod
    def unavailable(message: str) -> Failure:
        return Failure(status=503, message=f"{message}; try again", retry_after=2.0)

    # -- what it says --------------------------------------------------------------------------------

    def _hear(
        self, message: Any, writer: asyncio.StreamWriter, first: asyncio.Future[None]
    ) -> None:
        if isinstance(message, News):
            for update in message.updates:
                held = self._held.get(update.key)
                if held is not None:
                    held.generation.update(update)
                    if held.generation.over:
                        self._forget(update.key)
        elif isinstance(message, Failed):
            self._fail(message)
        elif isinstance(message, Reply):
            question = self._questions.pop(message.key, None)
            if question is not None and not question.done():
                question.set_result(message.value)
        elif isinstance(message, Ready):
            self.facts, self._writer, self.state = message, writer, "ready"
            self._tell_event("engine ready", {"pid": self.pid})
            if not first.done():
                first.set_result(None)
        elif isinstance(message, Hello) and message.pid != self.pid:
            raise WireError("somebody else says hello")

    def _fail(self, message: Failed) -> None:
        failure = Failure(status=message.status, message=message.message, field=message.field)
        if not message.key:
            self._complaint = message.message
        held = self._held.get(message.key)
        if held is not None:
            held.generation.fail(failure)
            self._forget(message.key)
        question = self._questions.pop(message.key, None)
        if question is not None and not question.done():
            question.set_exception(Refused(failure))

    def _forget(self, key: int) -> None:
        if (held := self._held.pop(key, None)) is not None:
            for name in held.names:
                self._by_name.pop(name, None)

    # -- what is wanted of it ------------------------------------------------------------------------

    @property
    def num_generations(self) -> int:
        return len(self._held)

    def generate(
        self,
        calls: Sequence[Call],
        *,
        salt: str = "",
        owner: str = "",
        kind: str = "",
        stream: bool,
        on_over: Callable[[], None] = lambda: None,
        on_begun: Callable[[], None] = lambda: None,
    ) -> Generation:
        """Submit `calls` together. `owner`: whose they are, and whose name a `rid` is. `kind`: what
        they came as, for who watches. `on_begun` and `on_over`: see `Generation`. Raises `Refused` where
        there is no engine, or for a `rid` in use, and `InvalidRequest` for token ids that the model has not; then nothing was begun."""
        writer = self._connection()
        key = next(self._keys)
        names = [call.rid or uuid.uuid4().hex for call in calls]
        owned = [(owner, name) for name in names]
        self._refuse_names_in_use(owned)
        parts = [self._part(f"{key}/{i}", call, salt) for i, call in enumerate(calls)]
        try:
            submitted = frame(Submit(key, parts, stream))
        except WireError as error:
            failure = Failure(status=400, message=f"the engine cannot be asked this: {error}")
            raise Refused(failure) from None
        generation = Generation(calls, names, lambda: self._abort(key), on_over, on_begun)
        if generation.over:
            return generation
        self._held[key] = _Held(generation, owned, owner, kind)
        self._by_name.update({name: (key, i) for i, name in enumerate(owned)})
        writer.write(submitted)
        return generation

    def owner_of(self, name: str) -> str | None:
        """Of a request by the engine's own name for it."""
        held = self._held.get(_key_of(name))
        return None if held is None else held.owner

    def kind_of(self, name: str) -> str:
        held = self._held.get(_key_of(name))
        return "" if held is None else held.kind

    def _connection(self) -> asyncio.StreamWriter:
        writer = self._writer
        if writer is None or writer.is_closing():
            raise Refused(self.unavailable("the engine is starting"))
        return writer

    def _refuse_names_in_use(self, names: Sequence[tuple[str, str]]) -> None:
        if len(set(names)) == len(names) and self._by_name.keys().isdisjoint(names):
            return
        seen = set(self._by_name)
        for name in names:
            if name in seen:
                problem = f"rid: {name[1]!r} is the id of a running request; choose another"
                raise Refused(Failure(status=400, message=problem, field="rid"))
            seen.add(name)

    def _part(self, name: str, call: Call, salt: str) -> Part:
        """`name` is the engine's: two tenants may use the same `rid`."""
        ids = _array(call.ids)
        size = self.facts.vocab_size if self.facts is not None else 0
        if ids.size and not 0 <= ids.min() <= ids.max() < size:
            wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
            problem = f"is no token id of this model (0 to {size - 1})"
            raise InvalidRequest("input_ids", wrong, problem)
        return Part(
            name,
            packed_ids(ids),
            call.params.to_dict(),
            _scoring(call.logprobs),
            salt,
            self.public(ids) if salt else 0,
            call.token_text,
            call.spans,
        )

    def _abort(self, key: int) -> None:
        self._forget(key)
        self._tell(Abort(key))

    def _tell(self, message: Abort) -> bool:
        """False where there is no engine: then there is nothing to end."""
        writer = self._writer
        if writer is None or writer.is_closing():
            return False
        writer.write(frame(message))
        return True

    def stop(self, rid: str, owner: str) -> bool:
        """End a call by the name that its client gave it or was told; its response says that it was
        aborted. Of several samples each is `rid#i`, and they end together."""
        for name in (rid, rid.rpartition("#")[0]):
            if (found := self._by_name.get((owner, name))) is not None:
                return self._tell(Abort(found[0], told=True, part=found[1]))
        return False

    def stop_all(self, owner: str | None = None) -> int:
        """`stop` for all requests, or all of one owner. Returns how many exchanges that were."""
        keys = [key for key, held in self._held.items() if owner in (None, held.owner)]
        return sum(self._tell(Abort(key, told=True)) for key in keys)

    async def ask(self, what: Question, argument: int = 0) -> Any:
        """Raises `Refused` where there is no engine."""
        writer = self._connection()
        key = next(self._keys)
        question: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions[key] = question
        writer.write(frame(Ask(key, what, argument)))
        try:
            return await question
        finally:
            self._questions.pop(key, None)


def _key_of(name: str) -> int:
    """Of a request's name in the engine: see `EngineClient.generate`."""
    key = name.partition("/")[0]
    return int(key) if key.isdecimal() else 0


def _array(ids: Any) -> IntArray:
    if isinstance(ids, PromptIds):
        return ids.buffer().view
    return np.asarray(ids, np.int64)


def _scoring(options: LogprobOptions) -> Scoring | None:
    if not options.output and options.prompt_start is None:
        return None
    return Scoring(options.output, options.prompt_start, options.top, list(options.token_ids))
