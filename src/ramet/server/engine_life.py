"""One life of the engine's process: born with a socket of its own, heard, watched, and ended for certain.

Knows processes, sockets and silence. Refuses to know what is said (`engine_client.py` does).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ramet.server.messages import FromEngine, Ready, WireError, read_frame

__all__ = ["EngineLife"]

_SECONDS_TO_END = 5.0  # after SIGKILL
_SECONDS_TO_EXIT = 1.0  # between the end of the connection and the process's own


class EngineLife:
    """`begin` starts the process, `listen` returns when it is over, `end` must be called then.

    Of its `setting`, a line of JSON on standard input, `fd` is the process's end of the connection. The
    pipe stays open: its end tells the process that nobody is there any more."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.pid, self.writer = process.pid, writer
        self._process, self._reader = process, reader
        self._ended = asyncio.create_task(_ended(process))
        self._last_heard = time.monotonic()

    @classmethod
    async def begin(cls, command: Sequence[str], setting: Mapping[str, Any]) -> EngineLife:
        """Raises `OSError`."""
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            try:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                    bufsize=0,
                    pass_fds=(theirs.fileno(),),
                )
            except BaseException:
                writer.close()
                raise
            assert process.stdin is not None
            line = json.dumps({**setting, "fd": theirs.fileno()}).encode() + b"\n"
            with contextlib.suppress(BrokenPipeError):  # it ended at once, which is noticed
                process.stdin.write(line)
        return cls(process, reader, writer)

    async def listen(
        self, hear: Callable[[Any], None], silence: float, loading_silence: float
    ) -> str:
        """Hand on what the process says, until it has ended, says what it may not, or is silent for so many
        seconds: `loading_silence` before it is ready. Returns why it is over."""
        listening = asyncio.create_task(self._listen(hear))
        watching = asyncio.create_task(self._watch(silence, loading_silence))
        tasks: list[asyncio.Task[Any]] = [listening, watching, self._ended]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                return watching.result()
            if listening.done() and isinstance(error := listening.exception(), WireError):
                return f"it was not understood: {error}"
            # The connection's end comes with the process's, or a moment before it.
            await asyncio.wait({self._ended}, timeout=_SECONDS_TO_EXIT)
            if self._ended.done():
                await asyncio.wait({listening}, timeout=_SECONDS_TO_EXIT)  # its last words
                return _ending(self._ended.result())
            return "its connection ended"
        finally:
            listening.cancel()
            watching.cancel()
            await asyncio.gather(listening, watching, return_exceptions=True)

    async def _listen(self, hear: Callable[[Any], None]) -> None:
        decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FromEngine)
        self._ready = False
        while True:
            message = await read_frame(self._reader, decoder)
            self._last_heard = time.monotonic()
            if isinstance(message, Ready):
                if self._ready:
                    raise WireError("the engine was ready twice")
                self._ready = True
            hear(message)

    async def _watch(self, silence: float, loading_silence: float) -> str:
        """Returns when nothing was heard for too long. Time in which this process itself did not run (it was
        stopped, say) does not count."""
        self._ready = False
        pause = min(1.0, silence / 4)
        while True:
            before = time.monotonic()
            await asyncio.sleep(pause)
            now = time.monotonic()
            late = now - before - pause
            if late > pause:
                self._last_heard += late
            silent = now - self._last_heard
            if silent > (silence if self._ready else loading_silence):
                return f"it said nothing for {silent:.1f} s"

    async def end(self) -> None:
        """End the process and what it started. Returns when it is gone."""
        self.writer.transport.abort()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if not self._ended.done():
            _kill_group(self.pid)
            await asyncio.wait({self._ended}, timeout=_SECONDS_TO_END)


async def _ended(process: subprocess.Popen[bytes]) -> int:
    """The status with which the process ended; what it started ends with it. It is waited for only then, so
    that its number is nobody else's yet."""
    if hasattr(os, "pidfd_open"):
        await _readable(os.pidfd_open(process.pid))
    else:
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    _kill_group(process.pid)
    return process.wait()


async def _readable(fd: int) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _ending(status: int) -> str:
    if status < 0:
        return f"it was killed by {signal.Signals(-status).name}"
    return f"it ended with status {status}"
