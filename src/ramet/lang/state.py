"""The state `s` of a program: what the program says to it and reads from it.

Knows the order in which the program speaks: names are promised, roles and scopes opened and closed, and
wrong values refused at the very line, long before anything is executed. What the operations do is the
business of `interpreter`, when they run that of `chain`. Appending never waits; reading waits for exactly
the value that is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, overload

from ramet.errors import InvalidRequest, ProgramError
from ramet.lang import ir, reading, show
from ramet.lang.chain import Chain, Step
from ramet.lang.group import ProgramStateGroup
from ramet.lang.interpreter import Mark, Stop
from ramet.lang.location import Where, again, caller, program_error, raised_at
from ramet.lang.lower import lower_gen, lower_media, lower_select
from ramet.lang.position import Position
from ramet.lang.promise import Promise, Variable
from ramet.lang.record import CallRecord
from ramet.lang.run import Run
from ramet.lang.streaming import Piece
from ramet.lang.tool_calls import lower_tools
from ramet.lang.tools import SglTools
from ramet.lang.trace import Prices, Trace, trace_of

__all__ = ["ProgramState", "Script"]


@dataclass(slots=True)
class Script:
    """What a program has said to one branch so far, in its own order. `body` is set when the program's
    function has returned (at once for a branch)."""

    run: Run
    chain: Chain
    variables: dict[str, Variable] = field(default_factory=dict)
    role: tuple[str, Where] | None = None
    scopes: dict[str, Variable] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    num_forks: int = 0
    joined: bool = False
    body: Promise[Any] = field(default_factory=Promise)

    def promise(self, name: str) -> Variable:
        """Bind `name` from here on, in the program's order, to a value that comes later."""
        variable = Variable(name, self.run.stream)
        self.variables[name] = variable
        if self.chain.log is not None:
            self.chain.log.append(Piece(mark=variable))
        return variable

    def branch(self, chain: Chain) -> Script:
        return Script(self.run, chain, dict(self.variables), self.role, arguments=self.arguments)


class ProgramState:
    """Append with `+=`; read variables with `s["name"]`. Every method that waits has a twin to await:
    `value` for `s["name"]`, `atext`, `amessages`, `ameta_info`, `settled` for `sync`, `aerror`.

    `outside` is a view for whoever started a streamed run: it waits for the program's body, too.
    """

    __slots__ = ("_outside", "_script")

    def __init__(self, script: Script, *, outside: bool = False) -> None:
        self._script = script
        self._outside = outside

    # Appending

    def __iadd__(self, other: Any) -> ProgramState:
        self._append(other, caller())
        return self

    def _append(self, other: Any, where: Where) -> None:
        if isinstance(other, str):
            self._submit(ir.SglConstantText(other), where)
        elif isinstance(other, ir.SglExprList):
            for expr in other.expr_list:
                self._submit(expr, where)
        elif isinstance(other, ir.SglExpr):
            self._submit(other, where)
        elif isinstance(other, (list, tuple)):
            for item in other:
                self._append(item, where)
        else:
            raise InvalidRequest(
                "s += ...", other, "is neither text nor an expression", "convert it with str()"
            )

    def _submit(self, op: ir.SglExpr, where: Where) -> None:
        script = self._script
        self._check_not_joined(op)
        if isinstance(op, ir.SglGen):
            lowered: ir.SglExpr = lower_gen(script.run, op)
            step = Step(lowered, where, self._promised(op.name))
        elif isinstance(op, ir.SglSelect):
            step = Step(lower_select(script.run, op), where, self._promised(op.name))
        elif isinstance(op, SglTools):
            step = Step(lower_tools(script.run, op), where, self._promised(op.name))
        elif isinstance(op, (ir.SglRoleBegin, ir.SglRoleEnd)):
            self._turn(op, where)
            step = Step(op, where)
        elif isinstance(op, (ir.SglVarScopeBegin, ir.SglVarScopeEnd)):
            step = Step(op, where, self._scope(op, where))
        elif isinstance(
            op, (ir.SglArgument, ir.SglVariable, ir.SglGetForkItem, ir.SglFork, ir.SglJoin)
        ):
            raise InvalidRequest("s += ...", op, "occurs in graphs only", "append the value itself")
        elif isinstance(op, (ir.SglImage, ir.SglVideo)):
            step = Step(lower_media(script.run, op), where)
        elif isinstance(op, ir.SglSeparateReasoning):
            step = Step(op, where, gathered=self._reasonings(op))
        else:
            step = Step(op, where)
        script.chain.submit(step)
        if script.run.eager:
            self._wait_for_mark(where)

    def _check_not_joined(self, what: object) -> None:
        if self._script.joined:
            raise InvalidRequest(
                "s += ...", what, "comes after the branch was joined", "go on with the parent"
            )

    def _promised(self, name: str | None) -> Variable | None:
        return None if name is None else self._script.promise(name)

    def _reasonings(
        self, op: ir.SglSeparateReasoning
    ) -> tuple[tuple[Variable, list[Variable]], ...]:
        """The variables for reasoning, each with the one whose generation it belongs to."""
        script = self._script
        return tuple(
            (script.promise(f"{name}_reasoning_content"), [script.variables[name]])
            for name in op.names
        )

    def _turn(self, op: ir.SglRoleBegin | ir.SglRoleEnd, where: Where) -> None:
        """Roles do not nest, and end where they began."""
        opened = self._script.role
        if isinstance(op, ir.SglRoleBegin):
            if opened is not None:
                raise InvalidRequest(
                    "role", op.role, f"begins inside the role {opened[0]!r}, open since {opened[1]}"
                )
            self._script.role = (op.role, where)
            return
        if opened is None or opened[0] != op.role:
            now = f"{opened[0]!r} is, since {opened[1]}" if opened is not None else "none is"
            raise InvalidRequest("role", op.role, f"ends at {where} but is not open; {now}")
        self._script.role = None

    def _scope(self, op: ir.SglVarScopeBegin | ir.SglVarScopeEnd, where: Where) -> Variable | None:
        script = self._script
        if isinstance(op, ir.SglVarScopeBegin):
            if op.name in script.scopes:
                raise InvalidRequest("var_scope", op.name, "is open already", "use another name")
            variable = script.scopes[op.name] = script.promise(op.name)
            variable.open_at = where
            return None
        if op.name not in script.scopes:
            raise InvalidRequest("var_scope", op.name, "ends but was not begun")
        variable = script.scopes.pop(op.name)
        variable.open_at = None
        return variable

    # Roles and scopes

    def system(self, expr: Any = None) -> Any:
        """Append a block; without an argument, open one for a `with` statement."""
        return self._block("system", expr)

    def user(self, expr: Any = None) -> Any:
        """Append a block; without an argument, open one for a `with` statement."""
        return self._block("user", expr)

    def assistant(self, expr: Any = None) -> Any:
        """Append a block; without an argument, open one for a `with` statement."""
        return self._block("assistant", expr)

    def _block(self, role: str, expr: Any) -> _Block | None:
        begin, end = ir.SglRoleBegin(role), ir.SglRoleEnd(role)
        if expr is None:
            return _Block(self, begin, end)
        self._append([begin, expr, end], caller())
        return None

    def var_scope(self, name: str) -> _Block:
        """`with s.var_scope("v"):` makes `s["v"]` the text that is appended inside."""
        return _Block(self, ir.SglVarScopeBegin(name), ir.SglVarScopeEnd(name))

    # Branches

    def fork(
        self, size: int = 1, position_ids_offset: list[int] | None = None
    ) -> ProgramStateGroup:
        """`size` branches that go on from here, each on its own. Costs nothing and never waits.

        `position_ids_offset` is accepted and has no effect: all branches continue at this position."""
        where, script = caller(), self._script
        self._check_not_joined(f"fork({size})")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InvalidRequest("size", size, "is not a number of branches", "use 1 or more")
        if position_ids_offset is not None:
            reading.warn_once(
                "position_ids_offset has no effect: branches continue at this position"
            )
        stem = f"{script.chain.path}.{script.num_forks}"
        script.num_forks += 1
        chains = tuple(Chain(script.run, f"{stem}-{i}", held=True) for i in range(size))
        script.chain.submit(Step(ir.SglFork(size), where, branches=chains))
        states = [ProgramState(script.branch(chain)) for chain in chains]
        for state in states:
            state._script.body.set(None)
        return ProgramStateGroup(states, self)

    def copy(self, position_ids_offset: list[int] | None = None) -> _Copy:
        """`with s.copy() as t:` works on one branch and joins it at the end."""
        return _Copy(self, position_ids_offset)

    # Reading

    def __getitem__(self, name: str) -> Any:
        return self.get_var(name)

    def get_var(self, name: str) -> Any:
        """The variable's value. `KeyError` at once if no such name was promised; `ProgramError` if what
        should give the value failed."""
        variable = self._find(name)
        variable.promise.wait(f"s[{name!r}]", f"write `await s.value({name!r})`")
        return variable.promise.result()

    async def value(self, name: str) -> Any:
        """`s[name]` for coroutines."""
        variable = await self._afind(name)
        await variable.promise.arrive()
        return variable.promise.result()

    def __contains__(self, name: object) -> bool:
        return name in self._script.variables

    def __setitem__(self, name: str, value: Any) -> None:
        self.set_var(name, value)

    def set_var(self, name: str, value: Any) -> None:
        """Bind `name` to any value, at once."""
        self._script.promise(name).set(value)

    def get_meta_info(self, name: str, timeout: float | None = None) -> Any:
        """What the backend told about the call that gave the variable (a list for n > 1); None for a
        variable that no call gave. Raises `TimeoutError` after `timeout` seconds."""
        variable = self._find(name)
        what, instead = f"get_meta_info({name!r})", f"write `await s.ameta_info({name!r})`"
        variable.promise.wait(what, instead, timeout)
        variable.promise.result()
        return variable.meta_info

    async def ameta_info(self, name: str) -> Any:
        await self.value(name)
        return self._script.variables[name].meta_info

    def _find(self, name: str) -> Variable:
        self._script.chain.release()
        if self._outside and name not in self._script.variables:
            reading.wait_for_name(self._script.chain, self._script.variables, name)
        return self._known(name)

    async def _afind(self, name: str) -> Variable:
        self._script.chain.release()
        if self._outside and name not in self._script.variables:
            await reading.await_name(self._script.chain, self._script.variables, name)
        return self._known(name)

    def _known(self, name: str) -> Variable:
        variable = self._script.variables.get(name)
        if variable is None:
            if self._script.chain.error is not None:
                raise again(self._script.chain.error)
            known = ", ".join(map(repr, self._script.variables)) or "none"
            raise KeyError(f"no variable {name!r} in this state; there are: {known}")
        if variable.open_at is not None and not self._outside:
            raise InvalidRequest(
                f"s[{name!r}]",
                "var_scope",
                f"is still open, begun at {variable.open_at}",
                "read it after the end of the scope",
            )
        return variable

    @overload
    def text(self) -> str: ...
    @overload
    def text(self, name: str) -> Any: ...
    def text(self, name: str | None = None) -> Any:
        """The whole text, role markers included, up to here; with `name`, the text that the model wrote for
        that variable, whatever its value (a list for n > 1)."""
        if name is not None:
            return reading.text_of(name, self.get_var(name), self.get_meta_info(name))
        return self._position("text()", "write `await s.atext()`").prompt.text()

    @overload
    async def atext(self) -> str: ...
    @overload
    async def atext(self, name: str) -> Any: ...
    async def atext(self, name: str | None = None) -> Any:
        if name is not None:
            return reading.text_of(name, await self.value(name), await self.ameta_info(name))
        return (await self._aposition()).prompt.text()

    def messages(self) -> list[dict[str, Any]]:
        """The closed role blocks in OpenAI form."""
        position = self._position("messages()", "write `await s.amessages()`")
        return [dict(message) for message in position.messages]

    async def amessages(self) -> list[dict[str, Any]]:
        return [dict(message) for message in (await self._aposition()).messages]

    def sync(self) -> None:
        """Wait until all that was appended is done. Raises the error that stopped the state."""
        self._position("sync()", "write `await s.settled()`")

    async def settled(self) -> None:
        """`sync` for coroutines."""
        await self._aposition()

    def error(self) -> ProgramError | None:
        """Wait like `sync`; the error that stopped the state, or None."""
        try:
            self.sync()
        except ProgramError as error:
            return error
        return None

    async def aerror(self) -> ProgramError | None:
        try:
            await self.settled()
        except ProgramError as error:
            return error
        return None

    def _mark(self, where: Where) -> Promise[Position]:
        reached: Promise[Position] = Promise()
        self._script.chain.submit(Step(Mark(), where, reached=reached))
        return reached

    def _position(self, what: str, instead: str) -> Position:
        if self._outside:
            self._script.body.wait(what, instead)
        reached = self._mark(caller())
        reached.wait(what, instead)
        return reached.result()

    async def _aposition(self) -> Position:
        where = caller()
        if self._outside:
            await self._script.body.arrive()
        reached = self._mark(where)
        await reached.arrive()
        return reached.result()

    def _wait_for_mark(self, where: Where) -> None:
        self._mark(where).wait("use_thread=False", "leave it out in an async program")

    # Streaming

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        """New pieces of the whole text, or of one variable, as they come. Any number of readers may
        follow; each gets everything. Without `stream=True` there is one piece, at the end."""
        return reading.text_iter(self, var_name)

    def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False
    ) -> AsyncIterator[Any]:
        """`text_iter` for coroutines. With `return_meta_data`, pairs (piece, meta_info) in which per-token
        lists hold each token once and `output_token_logprobs_length` is the running total."""
        return reading.text_async_iter(self, var_name, return_meta_data)

    # The run

    @property
    def ret_value(self) -> Any:
        """What the program's function returned (None before it has)."""
        if self._outside:
            self._script.body.wait("ret_value", "await the program first")
        return self._script.body.result() if self._script.body.done else None

    def cancel(self) -> None:
        """End all calls of the run that this state belongs to; readers get an error."""
        self._script.run.cancel()

    @property
    def calls(self) -> list[CallRecord]:
        """Records of the calls of this branch that have ended so far."""
        return list(self._script.chain.calls)

    def all_calls(self) -> list[CallRecord]:
        """`calls`, and those of all branches that were forked from here, in the order of their ends."""
        path = self._script.chain.path
        found = list(self._script.run.calls)
        return [r for r in found if r.branch == path or r.branch.startswith(path + ".")]

    @property
    def trace(self) -> Trace:
        """What has happened by now in this branch, in those forked from it and, for a program's own state,
        in the runs that it started: calls, tokens, times, totals. Holds no texts."""
        return self.get_trace()

    def get_trace(self, *, texts: bool = False, prices: Prices | None = None) -> Trace:
        """`trace`; with `texts` also those of all branches that are still held, and whole error messages.
        With `prices` calls have a `cost` where the backend reports none."""
        script = self._script
        found = trace_of(script.run.record, script.chain.path, texts=texts)
        return found if prices is None else found.priced(prices)

    @property
    def stream_executor(self) -> Any:
        """A view with the names of SGLang's executor."""
        from ramet.lang.executor_view import StreamExecutor

        return StreamExecutor(self)

    def fail(self, error: BaseException) -> None:
        """Record that the program's function raised: all later reads raise it."""
        if isinstance(error, ProgramError):
            failure = error
        else:
            name = self._script.run.program
            failure = program_error(raised_at(error), f"the body of {name}()", error)
        where = Where("", 0)
        self._script.chain.submit(Step(Stop(failure), where))

    # Showing

    def __repr__(self) -> str:
        try:
            return f"ProgramState({self.text()})"
        except Exception as error:  # a debugger's view of a broken state is still a view
            text = self._script.chain.position.prompt.text()
            return f"ProgramState({text}) <{type(error).__name__}: {error}>"

    def show(self) -> None:
        """Print the text with what was generated, chosen and marked in colours, and a table of calls."""
        print(show.ansi(self._script.chain, self.all_calls()))

    def __rich__(self) -> Any:
        return show.rich_text(self._script.chain, self.all_calls())

    def _repr_html_(self) -> str:
        return show.html(self._script.chain, self.all_calls())


class _Block:
    """A `with` statement around two operations."""

    __slots__ = ("_begin", "_end", "_state")

    def __init__(self, state: ProgramState, begin: ir.SglExpr, end: ir.SglExpr) -> None:
        self._state, self._begin, self._end = state, begin, end

    def __enter__(self) -> None:
        self._state._submit(self._begin, caller())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._state._submit(self._end, caller())


class _Copy:
    """One branch for the length of a `with` statement."""

    __slots__ = ("_group", "_offset", "_state")

    def __init__(self, state: ProgramState, offset: list[int] | None) -> None:
        self._state, self._offset = state, offset

    def __enter__(self) -> ProgramState:
        self._group = self._state.fork(1, self._offset)
        return self._group[0]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._group.join()
