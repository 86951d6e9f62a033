"""Many streamed runs of one program, read as one stream.

Knows how many may run together, and which run a piece of text belongs to. A run that fails ends its own
pieces; the others go on.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, overload

from ramet.lang.job import Job
from ramet.lang.promise import Variable
from ramet.lang.runtime import Wake, arrival, block_until, refuse_to_block
from ramet.lang.state import ProgramState
from ramet.lang.streaming import Log, Reader

if TYPE_CHECKING:
    from ramet.backend import Backend
    from ramet.lang.program import Prepared, SglFunction

__all__ = ["StreamedBatch", "stream_batch"]


class StreamedBatch(Sequence[ProgramState]):
    """The states of a batch, in its order, while the programs run. Reading a state waits for its program."""

    def __init__(self, jobs: Sequence[Job], most: int) -> None:
        self._states = [job.result for job in jobs]
        self._waiting = deque((job, contextvars.copy_context()) for job in jobs)
        self._lock = threading.Lock()
        for _ in range(min(most, len(jobs))):
            self._start_next()

    def _start_next(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                job, context = self._waiting.popleft()
            context.run(job.start)
            if not job.run.over.register(self._start_next):
                return  # it is called when this one is over

    def text_iter(self, var_name: str | None = None) -> Iterator[tuple[int, str]]:
        """Pairs (number in the batch, piece) of all programs, as pieces come: of the whole texts, or of one
        variable. Ends when all have ended; whether one failed, its state says."""
        reader = _BatchReader(self._states, var_name)
        while not reader.over():
            yield from reader.news()
            if not reader.over():
                refuse_to_block("text_iter", "use text_async_iter there")
                block_until(reader.register)

    async def text_async_iter(self, var_name: str | None = None) -> AsyncIterator[tuple[int, str]]:
        """`text_iter` for coroutines."""
        reader = _BatchReader(self._states, var_name)
        while not reader.over():
            for pair in reader.news():
                yield pair
            if not reader.over():
                await arrival(reader.register)

    def cancel(self) -> None:
        """End all that run; those that have not begun end at their first call."""
        for state in self._states:
            state.cancel()

    @overload
    def __getitem__(self, index: int) -> ProgramState: ...
    @overload
    def __getitem__(self, index: slice) -> list[ProgramState]: ...
    def __getitem__(self, index: int | slice) -> ProgramState | list[ProgramState]:
        return self._states[index]

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        with self._lock:
            waiting = len(self._waiting)
        return f"StreamedBatch({len(self)} programs, {waiting} not yet started)"


class _BatchReader:
    """One reader's place in the logs of many runs. Which log a variable's pieces are in is known when its
    program has promised it."""

    def __init__(self, states: Sequence[ProgramState], var_name: str | None) -> None:
        logs = [log for state in states if (log := state._script.chain.log) is not None]
        self._name = var_name
        self._reader = Reader(logs, [None] * len(logs))
        self._owners = list(range(len(logs)))
        self._num_programs = len(logs)

    def news(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for index, piece in self._reader.news():
            if self._name is None or index >= self._num_programs:
                if piece.text:
                    found.append((self._owners[index], piece.text))
            elif isinstance(piece.mark, Variable) and piece.mark.name == self._name:
                self._follow(index, piece.mark.log)
        return found

    def _follow(self, owner: int, log: Log | None) -> None:
        if log is not None and owner not in self._owners[self._num_programs :]:
            self._reader.add(log)
            self._owners.append(owner)

    def over(self) -> bool:
        return self._reader.over()

    def register(self, wake: Wake) -> bool:
        return self._reader.register(wake)


def stream_batch(
    program: SglFunction, batch: Sequence[Prepared], backend: Backend, most: int
) -> StreamedBatch:
    return StreamedBatch([program._job(item, backend) for item in batch], most)
