"""What a program asked for and when: a backend between programs and an engine that keeps a record.

Knows the contract of backends and the engine's tokenizer; refuses to know workloads. While programs run
it only notes objects and times; `Recorder.trace` turns them into token ids afterwards, so that looking
does not change what is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ramet import Engine
from ramet.backend import ChoiceScore, Completion, GenerateCall, Hint, OnChunk, ScoreCall
from ramet.prompt import Tokens

__all__ = ["Client", "Recorder", "TracedCall"]

Ids = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TracedCall:
    """One sequence that went through the model. `prompt` and `output` are token ids, `output` what the
    program went on with; `generated` counts the tokens that were drawn. For a scored choice `prompt` is
    prompt and choice, and its tokens from `scored_from` on were scored.

    `started` and `seconds` are of the call, in seconds of `time.perf_counter`; `first_token` is the time
    from the call to its first token as the program could have seen it, None for a scored choice.
    """

    program: int
    prompt: Ids
    output: Ids
    generated: int
    scored_from: int | None
    started: float
    seconds: float
    first_token: float | None


@dataclass(slots=True)
class _Noted:
    program: int
    call: GenerateCall | ScoreCall
    started: float
    ended: float
    completions: list[Completion]


class Recorder:
    """One per run of a workload. `hints=False` keeps the announcements of forks from the engine;
    `serial=True` lets each program have one call at a time, so branches go one after the other."""

    def __init__(self, engine: Engine, *, hints: bool = True, serial: bool = False) -> None:
        self.engine, self.hints, self.serial = engine, hints, serial
        self._noted: list[_Noted] = []

    def client(self, program: int) -> Client:
        """The backend for the program with this number; programs it starts use it too."""
        return Client(self, program)

    def note(self, noted: _Noted) -> None:
        self._noted.append(noted)  # always on the one loop that runs all calls

    def trace(self) -> list[TracedCall]:
        """All finished calls in the order in which they began."""
        traced: list[TracedCall] = []
        for noted in sorted(self._noted, key=lambda n: n.started):
            if isinstance(noted.call, ScoreCall):
                traced += self._scores(noted, noted.call)
            else:
                traced += self._samples(noted)
        return traced

    def _samples(self, noted: _Noted) -> list[TracedCall]:
        prompt = _array(self.engine.tokenizer.encode_prompt(noted.call.prompt))
        return [self._sample(noted, prompt, c) for c in noted.completions]

    def _sample(self, noted: _Noted, prompt: Ids, completion: Completion) -> TracedCall:
        ids = [i for span in completion.spans if isinstance(span, Tokens) for i in span.ids]
        if not noted.call.prompt.num_spans:
            ids = ids[len(prompt) :]  # what the tokenizer begins with is a span of its own there
        meta = completion.meta_info
        seconds = noted.ended - noted.started
        return TracedCall(
            program=noted.program,
            prompt=prompt,
            output=np.array(ids, np.int64),
            generated=int(meta["completion_tokens"]),
            scored_from=None,
            started=noted.started,
            seconds=seconds,
            # The engine's two times leave out the way to it and back, which the program waits for too.
            first_token=seconds - (meta["e2e_latency"] - meta["first_token_latency"]),
        )

    def _scores(self, noted: _Noted, call: ScoreCall) -> list[TracedCall]:
        _, full, start = self.engine.tokenizer.choice_tokens(call.prompt, call.choices)
        nothing = np.empty(0, np.int64)
        seconds = noted.ended - noted.started
        given = [(_array(ids), start) for ids in full]
        alone = [(ids[start:], 0) for ids, _ in given] if call.unconditional else []
        return [
            TracedCall(noted.program, ids, nothing, 0, at, noted.started, seconds, None)
            for ids, at in (*given, *alone)
        ]


def _array(ids: Iterable[int]) -> Ids:
    """Of ids in whatever form the tokenizer keeps them."""
    return np.fromiter(ids, np.int64)


class Client:
    """A `ramet.backend.Backend` that passes everything on to the engine's endpoint."""

    def __init__(self, recorder: Recorder, program: int) -> None:
        self._recorder, self._program = recorder, program
        self._endpoint = recorder.engine.endpoint
        self._turn = asyncio.Lock() if recorder.serial else None

    @property
    def model_path(self) -> str:
        return self._endpoint.model_path

    @property
    def capabilities(self) -> Any:
        return self._endpoint.capabilities

    @property
    def chat_template(self) -> Any:
        return self._endpoint.chat_template

    def get_server_info(self) -> dict[str, Any]:
        return self._endpoint.get_server_info()

    def flush_cache(self) -> bool:
        return self._endpoint.flush_cache()

    def shutdown(self) -> None:
        """The engine belongs to whoever made it."""

    def hint(self, hint: Hint) -> None:
        if self._recorder.hints:
            self._endpoint.hint(hint)

    async def generate(
        self, call: GenerateCall, on_chunk: OnChunk | None = None
    ) -> list[Completion]:
        return await self._timed(call, lambda: self._endpoint.generate(call, on_chunk), lambda x: x)

    async def score(self, call: ScoreCall) -> list[ChoiceScore]:
        return await self._timed(call, lambda: self._endpoint.score(call), lambda _: [])

    async def _timed(
        self,
        call: GenerateCall | ScoreCall,
        make: Callable[[], Any],
        completions: Callable[[Any], list[Completion]],
    ) -> Any:
        async with self._turn or contextlib.nullcontext():
            started = time.perf_counter()
            result = await make()
            ended = time.perf_counter()
        self._recorder.note(_Noted(self._program, call, started, ended, completions(result)))
        return result
