"""Many runs of one program at a time.

Knows how many may run together and that their states come back in order. Programs with `def` bodies need a
thread each while they run, those with `async def` bodies only a task. Whoever stops reading ends the rest.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ramet.backend import Backend
from ramet.errors import InvalidRequest
from ramet.lang.defaults import resolve_backend
from ramet.lang.progress import Progress
from ramet.lang.run import Run
from ramet.lang.runtime import auto_threads, body_loop

if TYPE_CHECKING:
    from ramet.lang.program import Prepared, SglFunction
    from ramet.lang.state import ProgramState

__all__ = ["arun_batch", "most_at_a_time", "run_batch"]


def run_batch(
    program: SglFunction, batch: Sequence[Prepared], num_threads: int | str, progress_bar: bool
) -> Iterator[ProgramState]:
    """States in the order of `batch`. Everything that can be wrong is found before this returns."""
    most = most_at_a_time("num_threads", num_threads)
    if not batch:
        return iter(())
    backend = resolve_backend(batch[0].options.backend)
    runs: list[Run] = []
    if program.is_async:
        return _states(_start_tasks(program, batch, backend, most, runs), runs, progress_bar)
    if most == 1:
        return _one_after_the_other(program, batch, backend, progress_bar)
    return _in_threads(program, batch, backend, min(most, len(batch)), runs, progress_bar)


def most_at_a_time(field: str, value: int | str) -> int:
    if value == "auto":
        return auto_threads()
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRequest(field, value, 'is neither "auto" nor at least 1')
    return value


def _complete(program: SglFunction, item: Prepared, backend: Backend, runs: list[Run]) -> Any:
    """One run in this thread, to the end of all that it started."""
    job = program._job(item, backend)
    runs.append(job.run)
    job.call_guarded()
    job.run.over.wait("run_batch()", "write `await f.arun_batch(...)`")
    return job.result


def _one_after_the_other(
    program: SglFunction, batch: Sequence[Prepared], backend: Backend, progress_bar: bool
) -> Iterator[ProgramState]:
    runs: list[Run] = []
    with Progress(len(batch), progress_bar) as progress:
        try:
            for item in batch:
                yield _complete(program, item, backend, runs)
                progress.advance()
        finally:
            _cancel(runs)


def _in_threads(
    program: SglFunction,
    batch: Sequence[Prepared],
    backend: Backend,
    most: int,
    runs: list[Run],
    progress_bar: bool,
) -> Iterator[ProgramState]:
    pool = ThreadPoolExecutor(most, thread_name_prefix="ramet-batch")
    try:
        futures = [
            pool.submit(contextvars.copy_context().run, _complete, program, item, backend, runs)
            for item in batch
        ]
        yield from _states(futures, runs, progress_bar)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_tasks(
    program: SglFunction,
    batch: Sequence[Prepared],
    backend: Backend,
    most: int,
    runs: list[Run],
) -> list[Future[ProgramState]]:
    """`async def` bodies, on the loop for bodies."""
    gate = asyncio.Semaphore(most)
    return [
        asyncio.run_coroutine_threadsafe(
            _acomplete(program, item, backend, gate, runs), body_loop()
        )
        for item in batch
    ]


async def _acomplete(
    program: SglFunction,
    item: Prepared,
    backend: Backend,
    gate: asyncio.Semaphore,
    runs: list[Run],
) -> ProgramState:
    async with gate:
        job = program._job(item, backend)
        runs.append(job.run)
        return await job.acomplete()


def _states(
    futures: Sequence[Future[ProgramState]], runs: list[Run], progress_bar: bool
) -> Iterator[ProgramState]:
    with Progress(len(futures), progress_bar) as progress:
        for future in futures:
            future.add_done_callback(lambda _: progress.advance())
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
            _cancel(runs)


def _cancel(runs: list[Run]) -> None:
    for run in list(runs):
        if not run.over.done:
            run.cancel("the batch was given up")


async def arun_batch(
    program: SglFunction, batch: Sequence[Prepared], max_concurrency: int | str, progress_bar: bool
) -> AsyncIterator[ProgramState]:
    """States in the order of `batch`, on the caller's loop."""
    most = most_at_a_time("max_concurrency", max_concurrency)
    if not batch:
        return
    backend = await program._abackend(batch[0].options)
    gate, runs = asyncio.Semaphore(most), list[Run]()
    make: Callable[[Any], asyncio.Task[Any]] = asyncio.get_running_loop().create_task
    tasks = [make(_acomplete(program, item, backend, gate, runs)) for item in batch]
    with Progress(len(tasks), progress_bar) as progress:
        for task in tasks:
            task.add_done_callback(lambda _: progress.advance())
        try:
            for task in tasks:
                yield await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
