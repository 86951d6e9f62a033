"""What every operation does. `execute` is the one place where operations are carried out, whoever ordered
them: a running program or a compiled graph.

Knows positions and branches; `calls` knows the backend. Operations that need no waiting are plain functions
(`IMMEDIATE`); a chain may call them in the thread of the program.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ramet.backend import Hint
from ramet.errors import InvalidRequest, ProgramError
from ramet.lang import blocks, calls, ir, results, speculation, tool_calls
from ramet.lang.calls import Values
from ramet.lang.lower import GenerateOp
from ramet.lang.media import content_of, read_image, read_video
from ramet.lang.position import OpenRole, Position
from ramet.lang.reasoning import reasoning_of
from ramet.lang.record import Branching, Event, Ink
from ramet.lang.runtime import post
from ramet.lang.streaming import Piece

if TYPE_CHECKING:
    from ramet.lang.chain import Chain, Step

__all__ = ["IMMEDIATE", "Mark", "Outcome", "Stop", "describe", "execute", "execute_now"]


@dataclass(frozen=True, slots=True)
class Mark(ir.SglExpr):
    """Nothing but a place: whoever asked for it learns that all before it is done."""


@dataclass(frozen=True, slots=True)
class Stop(ir.SglExpr):
    """The program ends here with an error that did not come from an operation."""

    error: ProgramError


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
        case blocks.Block():
            return "an assistant block"
        case ir.SglJoin(mode=mode):
            return f"join({mode!r})"
        case _:
            return repr(op)


# Operations that need no waiting


def _text(chain: Chain, step: Step) -> None:
    assert isinstance(step.op, ir.SglConstantText)
    chain.put(step.op.value)


def _media(chain: Chain, step: Step) -> None:
    """The file is read when the program gets there, in the thread that comes first."""
    token = getattr(chain.run.template, "image_token", "<image>")
    if isinstance(step.op, ir.SglVideo):
        media = read_video(step.op.path, step.op.num_frames, token)
    else:
        assert isinstance(step.op, ir.SglImage)
        media = read_image(step.op.path, token)
    chain.write((media,))
    if chain.run.has_stream:
        chain.say(Piece(token))


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
    message = {"role": p.role.role, "content": content_of(p.prompt, p.role.start)}
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
    _note_branching(chain, step, "fork")
    for branch in step.branches:
        branch.open(chain.position)


def _note_branching(chain: Chain, step: Step, kind: Literal["fork", "join"]) -> None:
    run = chain.run
    facts = run.facts(chain.path)
    paths = tuple(branch.path for branch in step.branches)
    now = facts["time"] - run.began
    run.record.branchings.append(Branching(kind, now, chain.path, paths, str(step.where)))
    if run.listeners:
        run.tell(Event(kind=kind, branches=paths, **facts))


def _separate(_chain: Chain, step: Step) -> Values:
    """The generations before this have found their reasoning."""
    return tuple(
        (variable, reasoning_of(source.meta_info), None) for variable, (source,) in step.gathered
    )


def _commit(chain: Chain, _step: Step) -> None:
    _hint(chain, Hint(kind="prefetch", prompt=chain.position.prompt, rid=chain.run.id))


def _hint(chain: Chain, hint: Hint) -> None:
    post(chain.run.backend.hint, hint)  # on the chain loop, before any call that follows


# Generating


async def _generate(chain: Chain, step: Step) -> Values:
    assert isinstance(step.op, GenerateOp)
    how = results.generate if step.op.result is not None else calls.generate
    return await speculation.generate(chain, step, how)


# Joining


async def _join(chain: Chain, step: Step) -> Values:
    op = step.op
    assert isinstance(op, ir.SglJoin)
    for index, branch in enumerate(step.branches):
        await branch.ended.arrive()
        if branch.log is not None:
            branch.log.close()
        if branch.ended.error is not None and not op.return_exceptions:
            raise _branch_failed(step, index, branch.ended.error)
    _note_branching(chain, step, "join")
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
            ink = Ink(
                ink, old.start + shift, old.end + shift, old.style, old.name
            )  # no call of ours
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
    ir.SglImage: _media,
    ir.SglVideo: _media,
    ir.SglSeparateReasoning: _separate,
    Mark: _mark,
    Stop: _stop,
}

_WAITING: dict[type[ir.SglExpr], Callable[[Chain, Step], Awaitable[Values]]] = {
    GenerateOp: _generate,
    blocks.Block: blocks.execute,
    tool_calls.ToolsOp: tool_calls.use,
    ir.SglSelect: calls.select,
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
