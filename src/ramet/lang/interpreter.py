"""What every operation does. `execute` is the one place where operations are carried out, whoever ordered
them: a running program or a compiled graph.

Knows the backend's protocol, positions and variables. Operations that need no waiting are plain functions
(`IMMEDIATE`); a chain may call them in the thread of the program.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ramet.backend import Chunk, Completion, GenerateCall, Hint, Message, ScoreCall
from ramet.errors import BackendError, InvalidRequest, ProgramError, Unsupported
from ramet.lang import ir
from ramet.lang.choices import decide
from ramet.lang.lower import GenerateOp
from ramet.lang.position import OpenRole, Position
from ramet.lang.record import CallRecord, Event, Ink
from ramet.lang.runtime import post
from ramet.lang.streaming import Increments, Piece
from ramet.prompt import Prompt, Text

if TYPE_CHECKING:
    from ramet.lang.chain import Chain, Step
    from ramet.lang.promise import Variable

__all__ = ["IMMEDIATE", "Mark", "Outcome", "Stop", "describe", "execute", "execute_now"]


@dataclass(frozen=True, slots=True)
class Mark(ir.SglExpr):
    """Nothing but a place: whoever asked for it learns that all before it is done."""


@dataclass(frozen=True, slots=True)
class Stop(ir.SglExpr):
    """The program ends here with an error that did not come from an operation."""

    error: ProgramError


Values = tuple[tuple["Variable", Any, Any], ...]
"""(variable, its value, its meta information), of every variable that an operation gives."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation has led to. Whoever executes it announces this (`Step.announce`), when the chain is
    ready for the next operation: a reader that wakes up finds the chain idle."""

    position: Position
    values: Values = ()


async def execute(chain: Chain, step: Step) -> Outcome:
    """Carry out one operation. What it raises is the operation's failure."""
    waiting = _WAITING.get(type(step.op))
    if waiting is None:
        return execute_now(chain, step)
    values = await waiting(chain, step)
    return Outcome(chain.position, values)


def execute_now(chain: Chain, step: Step) -> Outcome:
    """`execute` for an operation in `IMMEDIATE`."""
    values = IMMEDIATE[type(step.op)](chain, step)
    return Outcome(chain.position, values or ())


def describe(op: ir.SglExpr) -> str:
    """A short form for error messages."""
    match op:
        case GenerateOp(name=name) | ir.SglGen(name=name):
            return f"gen({name!r})" if name is not None else "gen()"
        case ir.SglSelect(name=name):
            return f"select({name!r})" if name is not None else "select()"
        case ir.SglRoleBegin(role=role) | ir.SglRoleEnd(role=role):
            return f"role {role!r}"
        case ir.SglVarScopeBegin(name=name) | ir.SglVarScopeEnd(name=name):
            return f"var_scope({name!r})"
        case ir.SglConstantText():
            return "appending text"
        case ir.SglFork(number=number):
            return f"fork({number})"
        case ir.SglJoin(mode=mode):
            return f"join({mode!r})"
        case _:
            return repr(op)


# Operations that need no waiting


def _text(chain: Chain, step: Step) -> None:
    assert isinstance(step.op, ir.SglConstantText)
    chain.put(step.op.value)


def _role_begin(chain: Chain, step: Step) -> None:
    assert isinstance(step.op, ir.SglRoleBegin)
    system = chain.run.template.default_system_prompt
    if step.op.role != "system" and not chain.position.messages and system is not None:
        _open_role(chain, "system")
        chain.put(system)
        _close_role(chain)
    _open_role(chain, step.op.role)


def _open_role(chain: Chain, role: str) -> None:
    prefix, suffix = chain.run.template.get_prefix_and_suffix(role, chain.position.messages)
    chain.put(prefix, "role")
    p = chain.position
    chain.position = Position(p.prompt, p.ink, p.messages, OpenRole(role, p.prompt, suffix))


def _role_end(chain: Chain, _step: Step) -> None:
    _close_role(chain)


def _close_role(chain: Chain) -> None:
    p = chain.position
    if p.role is None:
        raise InvalidRequest("role", None, "ends but none is open")
    message = {"role": p.role.role, "content": p.prompt.text(since=p.role.start).lstrip()}
    chain.position = Position(p.prompt, p.ink, (*p.messages, message), None)
    chain.put(p.role.suffix, "role")


def _scope_begin(chain: Chain, step: Step) -> None:
    assert isinstance(step.op, ir.SglVarScopeBegin)
    chain.scopes[step.op.name] = chain.position.prompt


def _scope_end(chain: Chain, step: Step) -> Values:
    assert isinstance(step.op, ir.SglVarScopeEnd)
    assert step.variable is not None
    text = chain.position.prompt.text(since=chain.scopes.pop(step.op.name))
    return ((step.variable, text, None),)


def _mark(chain: Chain, step: Step) -> None:
    if chain.log is not None:
        chain.log.append(Piece(mark=step.reached))


def _stop(_chain: Chain, step: Step) -> None:
    assert isinstance(step.op, Stop)
    raise step.op.error


def _fork(chain: Chain, step: Step) -> None:
    prompt = chain.position.prompt
    if len(step.branches) > 1 and prompt.num_chars:
        _hint(
            chain, Hint(kind="will_fork", prompt=prompt, count=len(step.branches), rid=chain.run.id)
        )
    if chain.run.listeners:
        paths = tuple(branch.path for branch in step.branches)
        chain.run.tell(Event(kind="fork", branches=paths, **chain.run.facts(chain.path)))
    for branch in step.branches:
        branch.open(chain.position)


def _commit(chain: Chain, _step: Step) -> None:
    _hint(chain, Hint(kind="prefetch", prompt=chain.position.prompt, rid=chain.run.id))


def _hint(chain: Chain, hint: Hint) -> None:
    post(chain.run.backend.hint, hint)  # on the chain loop, before any call that follows


def _later(_chain: Chain, step: Step) -> None:
    raise Unsupported(f"{describe(step.op)} is not supported by this version of Ramet")


# Operations that wait


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
        reason = meta_infos[0].get("finish_reason") if meta_infos else None
        self._close(
            prompt_tokens=_count(meta_infos, "prompt_tokens", total),
            cached_tokens=_count(meta_infos, "cached_tokens", total),
            completion_tokens=_count(meta_infos, "completion_tokens", sum),
            finish_reason=reason.get("type") if isinstance(reason, Mapping) else reason,
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


async def _generate(chain: Chain, step: Step) -> Values:
    op = step.op
    assert isinstance(op, GenerateOp)
    call = _Call(chain, step, op.name, op.params.n)
    feed = _Feed(chain, step, op) if chain.run.has_stream else None
    try:
        completions = await _complete(chain, call, op, feed)
        values = [_value(op, completion) for completion in completions]
        if feed is not None:
            feed.finish(values[0][0], completions[0].meta_info)
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


async def _select(chain: Chain, step: Step) -> Values:
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


async def _join(chain: Chain, step: Step) -> Values:
    op = step.op
    assert isinstance(op, ir.SglJoin)
    for index, branch in enumerate(step.branches):
        await branch.ended.arrive()
        if branch.log is not None:
            branch.log.close()
        if branch.ended.error is not None and not op.return_exceptions:
            raise _branch_failed(step, index, branch.ended.error)
    if chain.run.listeners:
        paths = tuple(branch.path for branch in step.branches)
        chain.run.tell(Event(kind="join", branches=paths, **chain.run.facts(chain.path)))
    if op.mode != "gather_variable":
        for branch in step.branches:
            if branch.ended.error is None:
                _take_text(chain, branch)
    for _, sources in step.gathered:
        for source in sources:
            await source.promise.arrive()  # a set_var of another thread may be a moment behind
    return tuple(
        (
            variable,
            [source.promise.error or source.promise.result() for source in sources],
            [source.meta_info for source in sources],
        )
        for variable, sources in step.gathered
    )


def _branch_failed(step: Step, index: int, error: ProgramError) -> ProgramError:
    found = ProgramError(
        f"branch {index} of {len(step.branches)}, joined at {step.where}: {error}",
        location=error.location,
        operation=error.operation,
    )
    found.__cause__ = error
    return found


def _take_text(chain: Chain, branch: Chain) -> None:
    """Append what the branch appended since the fork, as the spans that it was."""
    p, theirs = chain.position, branch.position
    shift = p.prompt.num_chars - branch.start.num_chars
    prompt = p.prompt.extend(theirs.prompt.spans(since=branch.start))
    ink = p.ink
    for old in Ink.strokes(theirs.ink):
        if old.start >= branch.start.num_chars:
            ink = Ink(ink, old.start + shift, old.end + shift, old.style, old.name)
    chain.position = Position(prompt, ink, p.messages, p.role)
    if chain.run.has_stream:
        chain.say(Piece(prompt.text(since=p.prompt)))


IMMEDIATE: dict[type[ir.SglExpr], Callable[[Chain, Step], Values | None]] = {
    ir.SglConstantText: _text,
    ir.SglRoleBegin: _role_begin,
    ir.SglRoleEnd: _role_end,
    ir.SglVarScopeBegin: _scope_begin,
    ir.SglVarScopeEnd: _scope_end,
    ir.SglFork: _fork,
    ir.SglCommitLazy: _commit,
    ir.SglImage: _later,
    ir.SglVideo: _later,
    ir.SglSeparateReasoning: _later,
    Mark: _mark,
    Stop: _stop,
}

_WAITING: dict[type[ir.SglExpr], Callable[[Chain, Step], Awaitable[Values]]] = {
    GenerateOp: _generate,
    ir.SglSelect: _select,
    ir.SglJoin: _join,
}


def __getattr__(name: str) -> Any:
    """The old places of two names that programs import from here."""
    if name == "ProgramState":
        from ramet.lang.state import ProgramState

        return ProgramState
    if name == "StreamExecutor":
        from ramet.lang.executor_view import StreamExecutor

        return StreamExecutor
    if name == "ProgramStateGroup":
        from ramet.lang.group import ProgramStateGroup

        return ProgramStateGroup
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
