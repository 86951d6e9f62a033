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

from ramet.backend import Chunk, Completion, GenerateCall, Message, OnChunk, ScoreCall
from ramet.errors import BackendError
from ramet.lang import ir
from ramet.lang.choices import ChoicesDecision, decide
from ramet.lang.lower import GenerateOp
from ramet.lang.media import content_of
from ramet.lang.record import CallRecord, Event
from ramet.lang.streaming import Increments, Piece
from ramet.prompt import Prompt, Text

if TYPE_CHECKING:
    from ramet.lang.chain import Chain, Step
    from ramet.lang.promise import Variable

__all__ = ["Call", "Feed", "Values", "complete", "generate", "messages_of", "select"]

Values = tuple[tuple["Variable", Any, Any], ...]
"""(variable, its value, its meta information), of every variable that an operation gives."""


class Call:
    """One call of the backend: its number and names, its record, its events."""

    def __init__(
        self, chain: Chain, step: Step, name: str | None, samples: int, kind: str = "generate"
    ) -> None:
        self.chain, self.name, self.samples = chain, name, samples
        self.kind: Any = kind
        self.number = chain.num_calls
        self.rid = chain.rid(self.number)
        self.location = str(step.where)
        self.started = time.perf_counter()
        self.first_text: float | None = None  # when it came, if anyone watched
        chain.num_calls += 1
        self._tell("call_started")

    def finished(self, meta_infos: list[dict[str, Any]], error: str | None = None) -> None:
        """`error`: why the answer, which came, was of no use."""
        total = sum if self.kind == "select" else (lambda values: values[0])
        reasons = [meta.get("finish_reason") for meta in meta_infos] or [None]
        reason = reasons[0]
        self._close(
            prompt_tokens=_count(meta_infos, "prompt_tokens", total),
            cached_tokens=_count(meta_infos, "cached_tokens", total),
            completion_tokens=_count(meta_infos, "completion_tokens", sum),
            finish_reason=reason.get("type") if isinstance(reason, Mapping) else reason,
            incomplete=any(isinstance(r, Mapping) and r.get("incomplete") for r in reasons),
            forced_tokens=_count(meta_infos, "forced_tokens", sum),
            drafted_tokens=_count(meta_infos, "drafted_tokens", sum),
            accepted_tokens=_count(meta_infos, "accepted_tokens", sum),
            first_token_seconds=self._first_token(meta_infos),
            retries=max((_retries(meta) for meta in meta_infos), default=0),
            cost=_cost(meta_infos),
            error=error,
        )

    def _first_token(self, meta_infos: list[dict[str, Any]]) -> float | None:
        told = [meta["first_token_latency"] for meta in meta_infos if "first_token_latency" in meta]
        if told:
            return float(min(told))
        return None if self.first_text is None else self.first_text - self.started

    def failed(self, error: BaseException) -> None:
        retries = getattr(error, "retries", 0)
        told = f"{type(error).__name__}: {error}"
        self._close(error=told, retries=retries if isinstance(retries, int) else 0)

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
            started=self.started - self.chain.run.began,
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
                    call_kind=self.kind,
                    **facts,
                )
            )


def _count(
    meta_infos: list[dict[str, Any]], name: str, total: Callable[[list[int]], int]
) -> int | None:
    if len(meta_infos) == 1:  # nearly always, and this is done for every call
        value = meta_infos[0].get(name)
        return value if isinstance(value, int) else None
    values = [meta[name] for meta in meta_infos if isinstance(meta.get(name), int)]
    return total(values) if values else None


def _retries(meta_info: dict[str, Any]) -> int:
    """Failed attempts, which a backend tells as their number or as a list of what went wrong."""
    told = meta_info.get("retries", 0)
    return len(told) if isinstance(told, list) else told if isinstance(told, int) else 0


def _cost(meta_infos: list[dict[str, Any]]) -> float | None:
    """Money for the call: samples of one response (equal `id`) repeat what all of it cost."""
    if not any("cost" in meta for meta in meta_infos):
        return None
    told = {
        meta.get("id", index): meta["cost"]
        for index, meta in enumerate(meta_infos)
        if isinstance(meta.get("cost"), (int, float))
    }
    return float(sum(told.values())) if told else None


async def generate(chain: Chain, step: Step) -> Values:
    op = step.op
    assert isinstance(op, GenerateOp)
    call = Call(chain, step, op.name, op.params.n)
    feed = Feed(chain, step, op, call) if chain.run.has_stream else None
    try:
        completions = await complete(chain, call, op, feed)
        values = [_value(op, completion) for completion in completions]
        if feed is not None:
            appended = "".join(span.text for span in values[0][1])
            feed.finish(appended, completions[0].meta_info)
    except BaseException as error:  # a cancelled call is recorded, too
        call.failed(error)
        raise
    chain.write(values[0][1], "generated", op.name, call.number)
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


async def complete(
    chain: Chain,
    call: Call,
    op: GenerateOp,
    feed: OnChunk | None,
    place: tuple[Prompt, tuple[Message, ...]] | None = None,
) -> list[Completion]:
    """`n` samples, in as many calls as the backend needs. `place`: a prompt and its messages other than
    the chain's position."""
    backend, most = chain.run.backend, chain.run.capabilities.max_n
    prompt = chain.position.prompt + (op.typed.prefix if op.typed is not None else "")
    messages = messages_of(chain, prompt)
    if place is not None:
        prompt, messages = place
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


def messages_of(chain: Chain, prompt: Prompt) -> tuple[Message, ...]:
    """The closed role blocks; for a backend that sees nothing else, also what the open one holds."""
    p = chain.position
    if not chain.run.capabilities.chat_only or p.role is None:
        return p.messages
    content = content_of(prompt, p.role.start, strip=False)
    return (*p.messages, {"role": p.role.role, "content": content}) if content else p.messages


class Feed:
    """Passes a generation's chunks on to readers and listeners. Text of a typed value is passed on when
    it is complete, because the check may shorten it."""

    def __init__(self, chain: Chain, step: Step, op: GenerateOp, call: Call) -> None:
        self.chain, self.op, self.call = chain, op, call
        self.log = step.variable.log if step.variable is not None else None
        self.increments = Increments()

    def __call__(self, chunk: Chunk) -> None:
        if self.call.first_text is None and chunk.text:
            self.call.first_text = time.perf_counter()
        if self.op.typed is None and (self.op.result is None or self.op.result.live):
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
    call = Call(chain, step, op.name, len(op.choices), "select")
    try:
        decision, metas = await _decision(chain, call, op)
    except BaseException as error:
        call.failed(error)
        raise
    chain.write((Text(decision.decision),), "chosen", op.name, call.number)
    call.finished(metas)
    if chain.run.has_stream:
        piece = Piece(decision.decision, decision.meta_info)
        if step.variable is not None and step.variable.log is not None:
            step.variable.log.append(piece)
        chain.say(piece, "chosen", op.name)
    if step.variable is None:
        return ()
    return ((step.variable, decision.decision, decision.meta_info),)


async def _decision(
    chain: Chain, call: Call, op: ir.SglSelect
) -> tuple[ChoicesDecision, list[dict[str, Any]]]:
    """What was picked, and the meta information of what it took."""
    asked = ScoreCall(
        prompt=chain.position.prompt,
        choices=op.choices,
        unconditional=bool(getattr(op.choices_method, "requires_unconditional_logprobs", False)),
        messages=messages_of(chain, chain.position.prompt),
        rid=call.rid,
    )
    foreign = getattr(chain.run.backend, "decide", None)  # a backend that gives no scores
    if foreign is not None:
        decision: ChoicesDecision = await foreign(asked, op.choices_method)
        return decision, [decision.meta_info]
    scores = await chain.run.backend.score(asked)
    return decide(op.choices_method, op.choices, scores), [score.meta_info for score in scores]
