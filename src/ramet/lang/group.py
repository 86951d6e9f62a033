"""The branches of one fork, and their join.

Knows several states and the one that they came from. A failed branch never hangs a join: the parent
learns of it, and the other branches stay readable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from ramet.errors import InvalidRequest
from ramet.lang import ir, reading
from ramet.lang.chain import Step
from ramet.lang.interpreter import Mark
from ramet.lang.location import Where, caller
from ramet.lang.position import Position
from ramet.lang.promise import Promise, Variable
from ramet.lang.runtime import in_async_body

if TYPE_CHECKING:
    from ramet.lang.state import ProgramState

__all__ = ["ProgramStateGroup"]

_MODES = {
    "gather_variable": "gather_variable",
    "concate_and_append": "concatenate_and_append",
    "concatenate_and_append": "concatenate_and_append",
}

_Gathered = tuple[tuple[Variable, list[Variable]], ...]


class ProgramStateGroup:
    """A sequence of states. `group += x` appends text or an expression to all, `f(i)` of a function to
    branch i, item i of a list to branch i."""

    __slots__ = ("_joined_at", "_parent", "_states")

    def __init__(self, states: list[ProgramState], parent: ProgramState) -> None:
        self._states, self._parent = states, parent
        self._joined_at: Where | None = None

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[ProgramState]:
        return iter(self._states)

    def __getitem__(self, index: int) -> ProgramState:
        return self._states[index]

    def __setitem__(self, index: int, state: ProgramState) -> None:
        if state is not self._states[index]:  # `group[i] += x` puts back what it took out
            raise InvalidRequest("group[i]", state, "is another state", "append with group[i] += x")

    def __iadd__(self, other: Any) -> ProgramStateGroup:
        where = caller()
        if isinstance(other, (str, ir.SglExpr)):
            items = [other] * len(self)
        elif callable(other):
            items = [other(index) for index in range(len(self))]
        elif isinstance(other, (list, tuple)):
            items = list(other)
        else:
            raise InvalidRequest(
                "group += ...", other, "is neither text, an expression, a function nor a list"
            )
        if len(items) != len(self):
            raise InvalidRequest(
                "group += ...", f"{len(items)} items", f"do not fit {len(self)} branches"
            )
        for state, item in zip(self._states, items):
            state._append(item, where)
        return self

    def join(
        self,
        mode: str = "gather_variable",
        *,
        wait: bool | None = None,
        return_exceptions: bool = False,
    ) -> None:
        """Take the branches over into the state that they were forked from.

        `gather_variable`: each variable that the parent does not have becomes a list, one entry per branch
        that has it, in order (meta information likewise). `concatenate_and_append` (also spelt
        `concate_and_append`): the branches' texts since the fork are appended in order.

        Waits and raises `ProgramError` if a branch failed, naming it. `wait=False` only queues the join:
        the parent goes on when the branches are done, and whoever reads it learns of failures (so in an
        `async def` program; there, `await group.ajoin()` waits). With `return_exceptions` the errors of
        failed branches take the place of their values.
        """
        reached = self._queue(mode, return_exceptions, caller())
        if wait if wait is not None else not in_async_body():
            reached.wait("join()", "write `await group.ajoin()`")
            reached.result()

    async def ajoin(
        self, mode: str = "gather_variable", *, return_exceptions: bool = False
    ) -> None:
        """`join` for coroutines."""
        reached = self._queue(mode, return_exceptions, caller())
        await reached.arrive()
        reached.result()

    def _queue(self, mode: str, return_exceptions: bool, where: Where) -> Promise[Position]:
        if mode not in _MODES:
            raise InvalidRequest("mode", mode, "is not a way to join", f"use {' or '.join(_MODES)}")
        if self._joined_at is not None:
            raise InvalidRequest("join", mode, f"comes after the join at {self._joined_at}")
        self._check_scopes()
        self._joined_at = where
        for state in self._states:
            script = state._script
            script.chain.submit(Step(Mark(), where, reached=script.chain.ended))
            script.joined = True
        parent = self._parent._script
        reached: Promise[Position] = Promise()
        op = ir.SglJoin(_MODES[mode], return_exceptions)
        gathered = self._gather() if op.mode == "gather_variable" else ()
        chains = tuple(state._script.chain for state in self._states)
        parent.chain.submit(Step(op, where, None, reached, chains, gathered))
        return reached

    def _check_scopes(self) -> None:
        for index, state in enumerate(self._states):
            for name in state._script.scopes:
                raise InvalidRequest(
                    "join", name, f"is a var_scope that is still open in branch {index}"
                )

    def _gather(self) -> _Gathered:
        """The new variables of the parent, each with those of the branches that it is made of."""
        parent = self._parent._script
        before = set(parent.variables)
        sources: dict[str, list[Variable]] = {}
        for state in self._states:
            for name, variable in state._script.variables.items():
                if name not in before:
                    sources.setdefault(name, []).append(variable)
        return tuple((parent.promise(name), found) for name, found in sources.items())

    def text_iter(self, var_name: str | None = None) -> Iterator[tuple[int, str]]:
        """Pairs (branch, piece) of all branches, as pieces come."""
        return reading.group_iter(self._states, var_name)

    def text_async_iter(self, var_name: str | None = None) -> AsyncIterator[tuple[int, str]]:
        """`text_iter` for coroutines."""
        return reading.group_async_iter(self._states, var_name)

    def __repr__(self) -> str:
        return f"ProgramStateGroup({len(self)} branches of {self._parent._script.chain.path})"
