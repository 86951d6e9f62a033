"""The engine's process as the HTTP side knows it: started, spoken to, watched, and started again.

Knows processes, frames and the samples they are about. Refuses to know HTTP and protocols. Whatever becomes
of the process, every generation ends: with its samples, or with a `Failure`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from ramet.engine.prompt_ids import PromptIds
from ramet.engine.request import LogprobOptions
from ramet.kernels.plan import IntArray
from ramet.server.exchange import Call, Failure
from ramet.server.generation import Generation, Refused
from ramet.server.messages import (
    Abort,
    Ask,
    Beat,
    Failed,
    FromEngine,
    Hello,
    News,
    Part,
    Question,
    Ready,
    Reply,
    Scoring,
    Submit,
    WireError,
    packed_ids,
    read_frame,
    write_frame,
)

__all__ = ["EngineClient", "EngineFailed", "EngineState"]

EngineState = Literal["starting", "ready", "stopped"]

_SECONDS_TO_END = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # between two starts, in seconds
_STEADY_SECONDS = 60.0  # an engine that lived so long starts again at once


class EngineFailed(Exception):
    """The engine's process ended before it was ready. The message is for whoever starts the server."""


class EngineClient:
    """`options` go to `ramet.Engine`. `stall_seconds`: an engine that says nothing for so long is ended and
    started again. `public(ids)` says how many leading tokens of a prompt all tenants share."""

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        stall_seconds: float = 120.0,
        public: Callable[[IntArray], int] = lambda _ids: 0,
        command: Sequence[str] = (sys.executable, "-m", "ramet.server.engine_process"),
        on_event: Callable[[str, dict[str, Any]], None] = lambda _event, _facts: None,
    ) -> None:
        self.options, self.stall_seconds, self.public = dict(options), stall_seconds, public
        self.state: EngineState = "starting"
        self.facts: Ready | None = None
        self.pid: int | None = None
        self.num_starts = 0
        self._command, self._on_event = list(command), on_event
        self._keys = itertools.count(1)
        self._generations: dict[int, Generation] = {}
        self._by_rid: dict[tuple[str, str], int] = {}  # (owner, rid) -> key
        self._rids: dict[int, list[tuple[str, str]]] = {}
        self._owners: dict[int, str] = {}
        self._kinds: dict[int, str] = {}
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._last_beat = 0.0

    # -- life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the model is loaded. Raises `EngineFailed`."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(first))
        await first

    async def close(self) -> None:
        """End the process; whoever waits gets a failure. Calling it twice does nothing."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    async def _keep(self, first: asyncio.Future[None]) -> None:
        """Start the process, and again whenever it has ended."""
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                why = await self._live(first)
            except asyncio.CancelledError:
                if not first.done():
                    first.cancel()
                raise
            if not first.done():
                first.set_exception(EngineFailed(why))
                return
            self._on_event("engine ended", {"why": why})
            steady = time.monotonic() - began > _STEADY_SECONDS
            pause = _FIRST_PAUSE if steady else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _live(self, first: asyncio.Future[None]) -> str:
        """One life of the process; returns why it ended."""
        with tempfile.TemporaryDirectory(prefix="ramet-") as folder:  # mode 0700
            path = Path(folder) / "engine"
            secret = secrets.token_hex(32)
            connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
            connected = asyncio.Queue()
            server = await asyncio.start_unix_server(
                lambda reader, writer: connected.put_nowait((reader, writer)), path
            )
            setting = {"socket": str(path), "secret": secret, "options": self.options}
            process = self._spawn(setting)
            ended = asyncio.create_task(_wait(process))
            try:
                return await self._speak(connected, secret, ended, first)
            finally:
                server.close()
                self._lost()
                await _end(process, ended)

    def _spawn(self, setting: dict[str, Any]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended at once, which is noticed
            process.stdin.write(json.dumps(setting).encode() + b"\n")
        self._process, self.pid = process, process.pid
        self.num_starts += 1
        return process

    async def _speak(
        self,
        connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
        secret: str,
        ended: asyncio.Task[int],
        first: asyncio.Future[None],
    ) -> str:
        decoder = msgspec.msgpack.Decoder(FromEngine)
        listening = asyncio.create_task(self._listen(connected, decoder, secret, first))
        watching = asyncio.create_task(self._watch())
        try:
            tasks: list[asyncio.Task[Any]] = [listening, watching, ended]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                return watching.result()
            # The connection's end comes with the process's, or a moment before it.
            done, _ = await asyncio.wait({ended}, timeout=1.0)
            if done:
                return _ending(ended.result())
            return f"its connection ended: {listening.exception()!r}"
        finally:
            listening.cancel()
            watching.cancel()
            await asyncio.gather(listening, watching, return_exceptions=True)

    async def _listen(
        self,
        connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
        decoder: msgspec.msgpack.Decoder[Any],
        secret: str,
        first: asyncio.Future[None],
    ) -> None:
        while True:  # whoever does not know the secret is sent away
            reader, writer = await connected.get()
            try:
                async with asyncio.timeout(10.0):
                    hello = await read_frame(reader, decoder)
            except (WireError, OSError, asyncio.IncompleteReadError, TimeoutError):
                hello = None
            if isinstance(hello, Hello) and hmac.compare_digest(hello.secret, secret):
                break
            writer.close()
        try:
            while True:
                self._hear(await read_frame(reader, decoder), writer, first)
        finally:
            writer.close()

    async def _watch(self) -> str:
        """Returns when the engine has said nothing for too long."""
        self._last_beat = time.monotonic()
        while True:
            await asyncio.sleep(min(1.0, self.stall_seconds / 4))
            silent = time.monotonic() - self._last_beat
            if self.state == "ready" and silent > self.stall_seconds:
                return f"it said nothing for {silent:.0f} s"

    def _lost(self) -> None:
        """The process is gone, or about to: everybody who waits is told."""
        self.state, self._writer, self.pid = "starting", None, None
        failure = self.unavailable("the engine ended while it worked on this request")
        for key in list(self._generations):
            self._generations[key].fail(failure)
            self._forget(key)
        for question in self._questions.values():
            if not question.done():
                question.set_exception(Refused(failure))
        self._questions.clear()

    @staticmethod
    def unavailable(message: str) -> Failure:
        return Failure(status=503, message=f"{message}; try again", retry_after=2.0)

    # -- what it says --------------------------------------------------------------------------------

    def _hear(
        self, message: Any, writer: asyncio.StreamWriter, first: asyncio.Future[None]
    ) -> None:
        self._last_beat = time.monotonic()
        if isinstance(message, News):
            for update in message.updates:
                generation = self._generations.get(update.key)
                if generation is not None:
                    generation.update(update)
                    if generation.over:
                        self._forget(update.key)
        elif isinstance(message, Failed):
            self._fail(message)
        elif isinstance(message, Reply):
            question = self._questions.pop(message.key, None)
            if question is not None and not question.done():
                question.set_result(message.value)
        elif isinstance(message, Ready):
            self.facts, self._writer, self.state = message, writer, "ready"
            self._on_event("engine ready", {"pid": self.pid})
            if not first.done():
                first.set_result(None)
        elif not isinstance(message, Beat):
            raise WireError("the engine said hello twice")

    def _fail(self, message: Failed) -> None:
        failure = Failure(status=message.status, message=message.message, field=message.field)
        generation = self._generations.get(message.key)
        if generation is not None:
            generation.fail(failure)
            self._forget(message.key)
        question = self._questions.pop(message.key, None)
        if question is not None and not question.done():
            question.set_exception(Refused(failure))

    def _forget(self, key: int) -> None:
        self._generations.pop(key, None)
        self._owners.pop(key, None)
        self._kinds.pop(key, None)
        for name in self._rids.pop(key, ()):
            self._by_rid.pop(name, None)

    # -- what is wanted of it ------------------------------------------------------------------------

    @property
    def num_generations(self) -> int:
        return len(self._generations)

    def generate(
        self,
        calls: Sequence[Call],
        *,
        salt: str = "",
        owner: str = "",
        kind: str = "",
        stream: bool,
    ) -> Generation:
        """Submit `calls` together. `owner`: whose they are, and whose name a `rid` is.
        `kind`: what they came as, for who watches. Raises `Refused` where
        there is no engine, or for a `rid` in use."""
        writer = self._writer
        if writer is None or writer.is_closing():
            raise Refused(self.unavailable("the engine is starting"))
        names = [(owner, call.rid) for call in calls if call.rid is not None]
        for name in names:
            if name in self._by_rid:
                problem = f"rid: {name[1]!r} is the id of a running request; choose another"
                raise Refused(Failure(status=400, message=problem, field="rid"))
        key = next(self._keys)
        parts = [self._part(f"{key}/{i}", call, salt) for i, call in enumerate(calls)]
        generation = Generation(calls, lambda: self._abort(key))
        self._generations[key], self._rids[key] = generation, names
        self._owners[key], self._kinds[key] = owner, kind
        self._by_rid.update(dict.fromkeys(names, key))
        write_frame(writer, Submit(key, parts, stream))
        return generation

    def owner_of(self, name: str) -> str | None:
        """Of a request by the engine's own name for it."""
        return self._owners.get(_key_of(name))

    def kind_of(self, name: str) -> str:
        return self._kinds.get(_key_of(name), "")

    def _part(self, name: str, call: Call, salt: str) -> Part:
        """`name` is the engine's: two tenants may use the same `rid`."""
        ids = _array(call.ids)
        return Part(
            name,
            packed_ids(ids),
            call.params.to_dict(),
            _scoring(call.logprobs),
            salt,
            self.public(ids) if salt else 0,
            call.token_text,
            call.spans,
        )

    def _abort(self, key: int) -> None:
        self._forget(key)
        if self._writer is not None:
            write_frame(self._writer, Abort(key))

    def stop(self, rid: str, owner: str) -> bool:
        """End a request by its client's name; its response says that it was aborted."""
        key = self._by_rid.get((owner, rid))
        if key is None or self._writer is None:
            return False
        write_frame(self._writer, Abort(key, told=True))
        return True

    def stop_all(self, owner: str | None = None) -> int:
        """`stop` for all requests, or all of one owner. Returns how many exchanges that were."""
        keys = [key for key, whose in self._owners.items() if owner in (None, whose)]
        if self._writer is not None:
            for key in keys:
                write_frame(self._writer, Abort(key, told=True))
        return len(keys)

    async def ask(self, what: Question, argument: int = 0) -> Any:
        """Raises `Refused` where there is no engine."""
        writer = self._writer
        if writer is None or writer.is_closing():
            raise Refused(self.unavailable("the engine is starting"))
        key = next(self._keys)
        question: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions[key] = question
        write_frame(writer, Ask(key, what, argument))
        try:
            return await question
        finally:
            self._questions.pop(key, None)


def _key_of(name: str) -> int:
    """Of a request's name in the engine: see `EngineClient.generate`."""
    key = name.partition("/")[0]
    return int(key) if key.isdecimal() else 0


def _array(ids: Any) -> IntArray:
    if isinstance(ids, PromptIds):
        return ids.buffer().view
    return np.asarray(ids, np.int64)


def _scoring(options: LogprobOptions) -> Scoring | None:
    if not options.output and options.prompt_start is None:
        return None
    return Scoring(options.output, options.prompt_start, options.top, list(options.token_ids))


def _ending(status: int) -> str:
    if status < 0:
        return f"it was killed by {signal.Signals(-status).name}"
    return f"it ended with status {status}"


async def _wait(process: subprocess.Popen[bytes]) -> int:
    """A process's end, without a thread that waits for it."""
    pidfd = os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return process.wait()


async def _end(process: subprocess.Popen[bytes], ended: asyncio.Task[int]) -> None:
    """End the process and what it started."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # it ends by itself
    done, _ = await asyncio.wait({ended}, timeout=_SECONDS_TO_END)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if not done:
        await asyncio.wait({ended}, timeout=_SECONDS_TO_END)
