"""Operations that call the backend: a generation and a selection.

Knows the backend's protocol, and makes of every call a record and events. Announces nothing to readers of
variables: what a call gave is returned to `interpreter`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ramet.backend import Chunk, Completion, GenerateCall, Message, ScoreCall
from ramet.errors import BackendError
from ramet.lang import ir
from ramet.lang.choices import decide
from ramet.lang.lower import GenerateOp
from ramet.lang.record import CallRecord, Event
from ramet.lang.streaming import Increments, Piece
from ramet.prompt import Prompt, Text

if TYPE_CHECKING:
    from ramet.lang.chain import Chain, Step
    from ramet.lang.promise import Variable

__all__ = ["Values", "generate", "select"]

Values = tuple[tuple["Variable", Any, Any], ...]
"""(variable, its value, its meta information), of every variable that an operation gives."""


class _Call:
    """One call of the backend: its number and names, its record, its events."""

    def __init__(self, chain: Chain, step: Step, name: str | None, samples: int) -> None:
        self.chain, self.name, self.samples = chain, name, samples
        self.kind: Any = "select" if isinstance(step.op, ir.SglSelect) else "generate"
        self.number = chain.num_calls
        self.rid = chain.rid(self.number)
        self.location = str(step.where)
        self.started = time.perf_counter()
        chain.num_calls += 1
        self._tell("call_started")

    def finished(self, meta_infos: list[dict[str, Any]]) -> None:
        total = sum if self.kind == "select" else (lambda values: values[0])
        reasons = [meta.get("finish_reason") for meta in meta_infos] or [None]
        reason = reasons[0]
        self._close(
            prompt_tokens=_count(meta_infos, "prompt_tokens", total),
            cached_tokens=_count(meta_infos, "cached_tokens", total),
            completion_tokens=_count(meta_infos, "completion_tokens", sum),
            finish_reason=reason.get("type") if isinstance(reason, Mapping) else reason,
            incomplete=any(isinstance(r, Mapping) and r.get("incomplete") for r in reasons),
        )

    def failed(self, error: BaseException) -> None:
        self._close(error=f"{type(error).__name__}: {error}")

    def _close(self, **facts: Any) -> None:
        record = CallRecord(
            kind=self.kind,
            name=self.name,
            branch=self.chain.path,
            number=self.number,
            location=self.location,
            rid=self.rid,
            samples=self.samples,
            seconds=time.perf_counter() - self.started,
            **facts,
        )
        self.chain.add_record(record)
        self._tell("call_finished", record)

    def _tell(self, kind: Any, record: CallRecord | None = None) -> None:
        run = self.chain.run
        if run.listeners:
            facts = run.facts(self.chain.path)
            run.tell(
                Event(
                    kind=kind,
                    name=self.name,
                    number=self.number,
                    location=self.location,
                    record=record,
                    **facts,
                )
            )


def _count(
    meta_infos: list[dict[str, Any]], name: str, total: Callable[[list[int]], int]
) -> int | None:
    values = [meta[name] for meta in meta_infos if isinstance(meta.get(name), int)]
    return total(values) if values else None


async def generate(chain: Chain, step: Step) -> Values:
    op = step.op
    assert isinstance(op, GenerateOp)
    call = _Call(chain, step, op.name, op.params.n)
    feed = _Feed(chain, step, op) if chain.run.has_stream else None
    try:
        completions = await _complete(chain, call, op, feed)
        values = [_value(op, completion) for completion in completions]
        if feed is not None:
            appended = "".join(span.text for span in values[0][1])
            feed.finish(appended, completions[0].meta_info)
    except BaseException as error:  # a cancelled call is recorded, too
        call.failed(error)
        raise
    chain.write(values[0][1], "generated", op.name)
    call.finished([completion.meta_info for completion in completions])
    if step.variable is None:
        return ()
    texts = [value for value, _ in values]
    metas = [completion.meta_info for completion in completions]
    if op.params.n > 1:
        return ((step.variable, texts, metas),)
    return ((step.variable, texts[0], metas[0]),)


def _value(op: GenerateOp, completion: Completion) -> tuple[str, tuple[Any, ...]]:
    if op.typed is not None:
        return op.typed.value(completion, op.name)
    return completion.text, completion.spans


async def _complete(
    chain: Chain, call: _Call, op: GenerateOp, feed: _Feed | None
) -> list[Completion]:
    """`n` samples, in as many calls as the backend needs."""
    backend, most = chain.run.backend, chain.run.capabilities.max_n
    prompt = chain.position.prompt + (op.typed.prefix if op.typed is not None else "")
    messages = _messages(chain, prompt)
    calls = []
    for start in range(0, op.params.n, most):
        params = op.params
        changes: dict[str, Any] = {}
        if params.n > most:
            changes["n"] = min(most, params.n - start)
        if op.run_seed or (start and params.sampling_seed is not None):
            seed = chain.run.seed if op.run_seed else params.sampling_seed
            changes["sampling_seed"] = _derived(seed, chain.path, call.number, start)
        calls.append(
            GenerateCall(
                prompt=prompt,
                params=params.replace(**changes) if changes else params,
                messages=messages,
                rid=call.rid if not start else f"{call.rid}+{start}",
                **op.fields,
            )
        )
    feeds = [feed] + [None] * (len(calls) - 1)
    parts = await _together([backend.generate(c, f) for c, f in zip(calls, feeds)])
    completions = [completion for part in parts for completion in part]
    if len(completions) != op.params.n:
        raise BackendError(
            f"{type(backend).__name__} gave {len(completions)} completions instead of {op.params.n}"
        )
    return completions


def _derived(seed: int | None, path: str, number: int, start: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{path}/{number}/{start}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


async def _together(calls: list[Any]) -> list[Any]:
    """Results of all; the first failure cancels the others."""
    if len(calls) == 1:
        return [await calls[0]]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _messages(chain: Chain, prompt: Prompt) -> tuple[Message, ...]:
    """The closed role blocks; for a backend that sees nothing else, also what the open one holds."""
    p = chain.position
    if not chain.run.capabilities.chat_only or p.role is None:
        return p.messages
    text = prompt.text(since=p.role.start)
    return (*p.messages, {"role": p.role.role, "content": text}) if text else p.messages


class _Feed:
    """Passes a generation's chunks on to readers and listeners. Text of a typed value is passed on when
    it is complete, because the check may shorten it."""

    def __init__(self, chain: Chain, step: Step, op: GenerateOp) -> None:
        self.chain, self.op = chain, op
        self.log = step.variable.log if step.variable is not None else None
        self.increments = Increments()

    def __call__(self, chunk: Chunk) -> None:
        if self.op.typed is None:
            self._say(self.increments.chunk(chunk.text, chunk.meta_info))

    def finish(self, text: str, meta_info: dict[str, Any]) -> None:
        rest = self.increments.rest(text, meta_info)
        if rest is not None:
            self._say(rest)

    def _say(self, piece: Piece) -> None:
        if self.log is not None:
            self.log.append(piece)
        self.chain.say(piece, "generated", self.op.name)


async def select(chain: Chain, step: Step) -> Values:
    op = step.op
    assert isinstance(op, ir.SglSelect)
    call = _Call(chain, step, op.name, len(op.choices))
    try:
        scores = await chain.run.backend.score(
            ScoreCall(
                prompt=chain.position.prompt,
                choices=op.choices,
                unconditional=bool(
                    getattr(op.choices_method, "requires_unconditional_logprobs", False)
                ),
                messages=_messages(chain, chain.position.prompt),
                rid=call.rid,
            )
        )
        decision = decide(op.choices_method, op.choices, scores)
    except BaseException as error:
        call.failed(error)
        raise
    chain.write((Text(decision.decision),), "chosen", op.name)
    call.finished([score.meta_info for score in scores])
    if chain.run.has_stream:
        piece = Piece(decision.decision, decision.meta_info)
        if step.variable is not None and step.variable.log is not None:
            step.variable.log.append(piece)
        chain.say(piece, "chosen", op.name)
    if step.variable is None:
        return ()
    return ((step.variable, decision.decision, decision.meta_info),)
