"""Compiling constraints beside an engine: once per source, off the step loop, within limits.

`compile` and `acompile` wait; the work is done by few threads of low priority, large sources by a process
of its own that can be killed (`workshop`). What is found is kept: constraints and refusals in memory, least
recently used out, automata also on disk. Knows who waits for what; how a source becomes a constraint is
`product`'s business.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ramet.constraints import product
from ramet.constraints.limits import DEFAULT, ConstraintLimits
from ramet.constraints.matcher import Constraint
from ramet.constraints.product import Product
from ramet.constraints.regular import RegularConstraint
from ramet.constraints.trie import TokenTrie
from ramet.constraints.vocabulary import Vocabulary
from ramet.constraints.workshop import Workshop
from ramet.errors import BackendError, InvalidRequest

__all__ = ["Compiler"]

KEPT = 512  # sources remembered, refused ones among them
KEPT_BYTES = 256 << 20  # of automata and masks
KEPT_FILES = 1000  # on disk, some kilobytes each
PATIENCE = 10.0  # seconds: for one's own source and for those of others before it


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An `InvalidRequest` to raise anew for everyone who asks."""

    field: str
    value: object
    problem: str
    remedy: str

    def error(self) -> InvalidRequest:
        return InvalidRequest(self.field, self.value, self.problem, self.remedy)


_Answer = Constraint | _Refusal


class Compiler:
    """For one vocabulary, which is made when it is first needed. `folder`: where automata are kept on disk;
    None: nowhere. Threads of any kind may call."""

    def __init__(
        self,
        vocabulary: Callable[[], Vocabulary],
        limits: ConstraintLimits = DEFAULT,
        folder: Path | None = None,
    ) -> None:
        self.limits, self._folder = limits, folder
        self._make_vocabulary = vocabulary
        self._lock = threading.Lock()
        self._done: OrderedDict[bytes, _Answer] = OrderedDict()
        self._running: dict[bytes, concurrent.futures.Future[_Answer]] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(
            2, "ramet-compile", initializer=lower_priority
        )
        self._workshop = Workshop(limits)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        return self._make_vocabulary()

    @functools.cached_property
    def _trie(self) -> TokenTrie:
        return TokenTrie(self.vocabulary)

    def compile(self, kind: str, source: str) -> Constraint:
        """The constraint of a `regex`, `json_schema`, `ebnf` or `structural_tag`. Raises `InvalidRequest`
        naming `kind` for what is wrong, unsupported, or too much."""
        future = self._submit(kind, source)
        try:
            answer = future.result(PATIENCE)
        except concurrent.futures.TimeoutError:
            answer = self._late(kind, source)
        return _given(answer)

    async def acompile(self, kind: str, source: str) -> Constraint:
        """`compile` for coroutines."""
        future = self._submit(kind, source)
        if not future.done():
            waiting = asyncio.wrap_future(future)
            try:
                await asyncio.wait_for(asyncio.shield(waiting), PATIENCE)
            except TimeoutError:
                return _given(self._late(kind, source))
        return _given(future.result())

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._workshop.close()

    # -- who waits for what ----------------------------------------------------------------------------

    def _submit(self, kind: str, source: str) -> concurrent.futures.Future[_Answer]:
        key = hashlib.sha256(f"{kind}\0{source}".encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if key in self._done:
                self._done.move_to_end(key)
                return _completed(self._done[key])
            if key in self._running:
                return self._running[key]
            try:
                future = self._pool.submit(self._answer, key, kind, source)
            except RuntimeError as error:
                raise BackendError("the engine was shut down") from error
            self._running[key] = future
        return future

    def _answer(self, key: bytes, kind: str, source: str) -> _Answer:
        answer: _Answer
        try:
            answer = self._compile(kind, source)
        except InvalidRequest as error:
            answer = _Refusal(error.field, _beginning(error.value), error.problem, error.remedy)
        finally:
            with self._lock:
                self._running.pop(key, None)
        with self._lock:
            self._keep(key, answer)
        return answer

    def _keep(self, key: bytes, answer: _Answer) -> None:
        self._done[key] = answer
        size = sum(num_bytes(kept) for kept in self._done.values())
        while len(self._done) > KEPT or (size > KEPT_BYTES and len(self._done) > 1):
            _, gone = self._done.popitem(last=False)
            size -= num_bytes(gone)

    def _late(self, kind: str, source: str) -> _Refusal:
        self._workshop.interrupt(kind, source)
        return _Refusal(
            kind,
            _beginning(source),
            f"could not be compiled within {PATIENCE:g} s",
            "make it smaller, or try again when less is being compiled",
        )

    # -- compiling -------------------------------------------------------------------------------------

    def _compile(self, kind: str, source: str) -> Constraint:
        end = time.monotonic() + self.limits.seconds
        made = self._product(kind, source)
        if made.grammar is not None:
            from ramet.constraints import guidance

            return guidance.compile(made.grammar, self.vocabulary, self.limits, kind, source)
        if made.automaton is None:
            raise BackendError(f"{kind}: nothing was made of it")
        constraint = RegularConstraint(made.automaton, self._trie, self.vocabulary)
        if time.monotonic() < end:
            constraint.start().mask()  # so that the first step need not
        return constraint

    def _product(self, kind: str, source: str) -> Product:
        path = self._path(kind, source)
        product.check_size(kind, source, self.limits)
        if path is not None:
            found = product.load(path, self.limits, kind, source)
            if found is not None:
                return found
        if product.is_small(source):
            made = product.make(kind, source, self.limits)
        else:
            made = self._workshop.make(kind, source)
        if path is not None and product.keepable(made):
            with contextlib.suppress(OSError):  # a full or read-only disk: it is only a cache
                product.save(made, path)
                _prune(path.parent)
        return made

    def _path(self, kind: str, source: str) -> Path | None:
        if self._folder is None:
            return None
        text = f"{product.VERSION}\0{kind}\0{source}\0{self.limits}"
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self._folder / name


def _prune(folder: Path) -> None:
    """Delete the oldest files beyond `KEPT_FILES`."""
    files = [entry for entry in os.scandir(folder) if entry.is_file()]
    files.sort(key=lambda entry: entry.stat().st_mtime)
    for entry in files[: max(0, len(files) - KEPT_FILES)]:
        os.unlink(entry.path)


def _beginning(value: object) -> object:
    """As much of a value as its error shows: refusals are remembered, and sources may be long."""
    return value[:200] if isinstance(value, str) else value


def lower_priority() -> None:
    """Of this thread: steps of the engine go first. Only Linux has priorities of threads."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def num_bytes(answer: _Answer) -> int:
    return answer.num_bytes if isinstance(answer, RegularConstraint) else 4096


def _given(answer: _Answer) -> Constraint:
    if isinstance(answer, _Refusal):
        raise answer.error()
    return answer


def _completed(answer: _Answer) -> concurrent.futures.Future[_Answer]:
    future: concurrent.futures.Future[_Answer] = concurrent.futures.Future()
    future.set_result(answer)
    return future
