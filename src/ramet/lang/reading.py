"""Reading a state while it grows: whole text or one variable, from threads and coroutines.

Knows which log holds what a reader asked for and where that reader stops. The view from outside ends with
the program; a reader within the program sees what was appended before it began to read.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ramet.errors import InvalidRequest
from ramet.lang.location import caller
from ramet.lang.streaming import Log, Piece, afollow_all, follow_all

if TYPE_CHECKING:
    from ramet.lang.chain import Chain
    from ramet.lang.promise import Variable
    from ramet.lang.state import ProgramState

__all__ = [
    "await_name",
    "group_async_iter",
    "group_iter",
    "text_async_iter",
    "text_iter",
    "text_of",
    "wait_for_name",
    "warn_once",
]

_warned: set[str] = set()


def warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        warnings.warn(text, stacklevel=4)


def wait_for_name(chain: Chain, variables: Mapping[str, Variable], name: str) -> None:
    """Wait until the running program has promised `name`, or is over."""
    if chain.log is not None:
        for _ in chain.log.follow():
            if name in variables:
                return


async def await_name(chain: Chain, variables: Mapping[str, Variable], name: str) -> None:
    if chain.log is not None:
        async for _ in chain.log.afollow():
            if name in variables:
                return


def text_iter(state: ProgramState, var_name: str | None) -> Iterator[str]:
    for piece in _pieces(state, var_name):
        if piece.text:
            yield piece.text


async def text_async_iter(
    state: ProgramState, var_name: str | None, return_meta_data: bool
) -> AsyncIterator[Any]:
    async for piece in _apieces(state, var_name):
        if return_meta_data and (piece.text or piece.meta_info):
            yield piece.text, piece.meta_info
        elif piece.text:
            yield piece.text


def _pieces(state: ProgramState, var_name: str | None) -> Iterator[Piece]:
    if not state._script.run.stream:
        if var_name is None:
            yield Piece(state.text())
        else:
            yield _whole(state.get_var(var_name), state.get_meta_info(var_name))
        return
    if var_name is not None:
        variable = state._find(var_name)
        assert variable.log is not None
        yield from variable.log.follow()
        if not variable.log.items:  # a value that no call gave: nothing was streamed
            yield _whole(state.get_var(var_name), None)
        return
    chain, stop = state._script.chain, _stop(state)
    chain.base.wait("text_iter", "use text_async_iter there")
    yield Piece(chain.base.result().text())
    assert chain.log is not None
    yield from chain.log.follow(stop)


async def _apieces(state: ProgramState, var_name: str | None) -> AsyncIterator[Piece]:
    if not state._script.run.stream:
        if var_name is None:
            yield Piece(await state.atext())
        else:
            yield _whole(await state.value(var_name), await state.ameta_info(var_name))
        return
    if var_name is not None:
        variable = await state._afind(var_name)
        assert variable.log is not None
        async for piece in variable.log.afollow():
            yield piece
        if not variable.log.items:
            yield _whole(await state.value(var_name), None)
        return
    chain, stop = state._script.chain, _stop(state)
    await chain.base.arrive()
    yield Piece(chain.base.result().text())
    assert chain.log is not None
    async for piece in chain.log.afollow(stop):
        yield piece


def _stop(state: ProgramState) -> object | None:
    """Where a reader of the whole text stops: at the end, or for a reader within the program (it would
    wait for itself) at what has been appended by now."""
    log = state._script.chain.log
    return None if state._outside or log is None or log.closed else state._mark(caller())


def _whole(value: Any, meta_info: Any) -> Piece:
    """A finished value as one piece; of several samples the first, as in a stream."""
    if isinstance(value, list) and isinstance(meta_info, list) and value:
        value, meta_info = value[0], meta_info[0]
    meta_info = dict(meta_info or {})
    return Piece(meta_info.get("text", value if isinstance(value, str) else str(value)), meta_info)


def text_of(name: str, value: Any, meta_info: Any) -> Any:
    """What the model wrote for a variable: the value itself, or of a typed one the text that it was."""
    if isinstance(meta_info, list) and isinstance(value, list):
        return [text_of(name, one, meta) for one, meta in zip(value, meta_info)]
    found = (meta_info or {}).get("text", value)
    if not isinstance(found, str):
        raise InvalidRequest("text", name, "has no text: the program set it to another value")
    return found


def group_iter(states: Sequence[ProgramState], var_name: str | None) -> Iterator[tuple[int, str]]:
    if not all(state._script.run.stream for state in states):
        for index, state in enumerate(states):
            for text in text_iter(state, var_name):
                yield index, text
        return
    for index, piece in follow_all(*_logs(states, var_name)):
        if piece.text:
            yield index, piece.text


async def group_async_iter(
    states: Sequence[ProgramState], var_name: str | None
) -> AsyncIterator[tuple[int, str]]:
    if not all(state._script.run.stream for state in states):
        for index, state in enumerate(states):
            async for text in text_async_iter(state, var_name, False):
                yield index, text
        return
    async for index, piece in afollow_all(*_logs(states, var_name)):
        if piece.text:
            yield index, piece.text


def _logs(
    states: Sequence[ProgramState], var_name: str | None
) -> tuple[list[Log], list[object | None]]:
    """The logs of a variable in each branch, or of each branch since the fork, and where to stop."""
    if var_name is not None:
        logs = [state._find(var_name).log for state in states]
        return [log for log in logs if log is not None], [None] * len(states)
    chains = [state._script.chain for state in states]
    return [chain.log for chain in chains if chain.log is not None], [_stop(s) for s in states]
