"""Lines on their way to a stream that may not take them: written by a thread, within a bounded memory.

Whoever has a line to write never waits. A pipe that nobody reads, a full disk or a terminal that is stopped
costs lines, which are counted. Knows bytes and files; refuses to know what the lines say.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TextIO

__all__ = ["LineWriter"]

_MAX_BYTES = 4 << 20  # of lines that wait
_PIECE = 4096  # bytes: what a pipe takes whole, between the lines of other processes
_PAUSE = 0.01  # seconds in which lines gather: a busy server's thread wakes up rarely
_LAST_SECONDS = 1.0  # that the last lines get when the program ends

Write = Callable[[bytes], None]


class LineWriter:
    """`stream` is written to by its file descriptor where it has one: a thread that is stuck in there holds
    none of Python's locks. `lost(count)` is a line for lines that were dropped. When the object goes, or the
    program ends, what waits is written within a second."""

    def __init__(
        self, stream: TextIO | None, lost: Callable[[int], str], max_bytes: int = _MAX_BYTES
    ) -> None:
        self._queue = _Queue(_sink(stream), lost, max_bytes)
        self._end = weakref.finalize(self, self._queue.close, _LAST_SECONDS)

    @property
    def num_dropped(self) -> int:
        return self._queue.num_dropped

    def put(self, line: str) -> None:
        """`line` without its end. Takes no time, whatever becomes of it."""
        self._queue.put(line.encode("utf-8", "backslashreplace") + b"\n")

    def flush(self, seconds: float = _LAST_SECONDS) -> bool:
        """Whether all lines were written before `seconds` were over."""
        return self._queue.flush(seconds)

    def close(self) -> None:
        """Write what waits, within a second, and no more after that. Calling it again does nothing."""
        self._end()


class _Queue:
    """What the thread holds on to; it must not be the object that users hold."""

    def __init__(self, write: Write, lost: Callable[[int], str], max_bytes: int) -> None:
        self.num_dropped = 0
        self._write, self._lost, self._max_bytes = write, lost, max_bytes
        self._lines: deque[bytes] = deque()
        self._size = 0  # bytes that wait
        self._told = 0  # of the dropped lines
        self._lock = threading.Lock()
        self._news, self._idle = threading.Event(), threading.Event()
        self._idle.set()
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        with self._lock:
            if self._closed or self._size + len(line) > self._max_bytes:
                self.num_dropped += 1
                return
            self._lines.append(line)
            self._size += len(line)
            self._idle.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ramet-log", daemon=True)
                self._thread.start()
        self._news.set()

    def flush(self, seconds: float) -> bool:
        return self._idle.wait(seconds)

    def close(self, seconds: float) -> None:
        self.flush(seconds)
        with self._lock:
            self._closed = True
        self._news.set()

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            if self._closed:
                return
            time.sleep(_PAUSE)
            while piece := self._take():
                self._hand_over(piece)

    def _take(self) -> list[bytes]:
        with self._lock:
            piece: list[bytes] = []
            size = 0
            while self._lines and (not piece or size + len(self._lines[0]) <= _PIECE):
                piece.append(self._lines.popleft())
                size += len(piece[-1])
            if not piece:
                self._idle.set()
            return piece

    def _hand_over(self, piece: list[bytes]) -> None:
        data = b"".join(piece)
        try:
            self._write(data)
            if missing := self.num_dropped - self._told:
                self._write(self._lost(missing).encode() + b"\n")
                self._told += missing
        except (OSError, ValueError):  # nobody reads any more, the disk is full, the file is closed
            with self._lock:
                self.num_dropped += len(piece)
        finally:
            with self._lock:
                self._size -= len(data)


def _sink(stream: TextIO | None) -> Write:
    if stream is None:
        return lambda _data: None
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):  # no file of the system's: a buffer, a test's
        return lambda data: _write_text(stream, data)
    return lambda data: _write_all(stream.fileno(), data)


def _write_text(stream: TextIO, data: bytes) -> None:
    stream.write(data.decode())
    with contextlib.suppress(AttributeError):
        stream.flush()


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(file, rest) :]
        except BlockingIOError:  # somebody who has the same file made it so
            select.select((), (file,), ())
