"""Running a function that a model called: where, for how long, and what becomes of its end.

Knows threads, loops and time. Refuses to know models: it gets a tool and arguments that fit, and gives back
a value or a `ToolError`, never an exception of the function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ramet.lang.record import current_listeners
from ramet.lang.run import Run, current_run
from ramet.lang.runtime import async_body, body_loop, start_body
from ramet.lang.tools import Tool, ToolError

__all__ = ["outcome"]


async def outcome(
    run: Run, tool: Tool, arguments: Mapping[str, Any], timeout: float
) -> tuple[Any, ToolError | None]:
    """What the function returned, or why it did not. A thread cannot be ended: a `def` that takes too long
    runs on, and nobody waits for it."""

    def inside() -> None:
        current_run.set(
            run
        )  # in a copy of the context: programs that a tool runs belong to this run
        current_listeners.set(run.listeners)
        async_body.set(tool.is_async)

    async def coroutine() -> Any:
        inside()
        return await tool.function(**arguments)

    def function() -> Any:
        inside()
        return tool.function(**arguments)

    future = (
        asyncio.run_coroutine_threadsafe(coroutine(), body_loop())
        if tool.is_async
        else start_body(function)
    )
    waiting = asyncio.wrap_future(future)
    try:
        done, _ = await asyncio.wait({waiting}, timeout=timeout)
    except asyncio.CancelledError:
        waiting.cancel()
        raise
    if not done:
        waiting.cancel()
        return None, ToolError("timeout", f"{tool.name} took longer than {timeout:g} s")
    try:
        return waiting.result(), None
    except BaseException as error:  # whatever a stranger's function raises, sys.exit() too
        return None, ToolError("raised", f"{type(error).__name__}: {error}", error)
