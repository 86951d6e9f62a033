"""The engine's process: loads the model, and does what the frames say.

Started by `engine_life.py` as `python -m ramet.server.engine_process`; what to load, and which file is the
connection, comes as one JSON line on standard input. That stays open: its end means that the other side is
gone, and then this process ends, whatever it is doing. Knows the engine and who asked what of it; what
becomes of one submission is `submission.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ramet.errors import EngineClosed, InvalidRequest, RametError
from ramet.server.live_facts import look
from ramet.server.messages import (
    Abort,
    Ask,
    Beat,
    Failed,
    Hello,
    News,
    Ready,
    Reply,
    Submit,
    ToEngine,
    Update,
    WireError,
    frame,
    read_frame,
    write_frame,
)
from ramet.server.submission import Submission

if TYPE_CHECKING:
    from ramet.backends.local import Engine

__all__ = ["main"]

BEAT_SECONDS = 1.0
# Bytes that the other side has not read, from which on only ends are told: what lies between is told with
# the next news, and until then kept where it is.
_MUCH_UNREAD = 1 << 20
_OOM_SCORE = (
    "500"  # where memory runs out, the kernel ends this process before the one that can restart it
)


def main() -> None:
    """Exit codes: 0 when the other side ended, 1 if the model cannot be loaded."""
    if hasattr(
        os, "SCHED_BATCH"
    ):  # whoever brings requests and takes answers goes first on few cores
        with contextlib.suppress(OSError):  # not allowed here
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the server, which ends this process
    _die_with_parent()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_OOM_SCORE)
    setting = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    status = 1
    try:
        status = asyncio.run(_serve(setting))
    except (ConnectionError, asyncio.IncompleteReadError):
        status = 0
    except BaseException:
        traceback.print_exc()
    os._exit(status)  # threads of libraries are not waited for


def _die_with_parent() -> None:
    """Linux ends this process with its parent, however that ends."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    if os.getpgrp() == os.getpid():  # with what it started
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


async def _serve(setting: dict[str, Any]) -> int:
    os.set_inheritable(setting["fd"], False)
    connection = socket.socket(fileno=setting["fd"])
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    write_frame(writer, Hello(pid=os.getpid()))
    loading = asyncio.create_task(_load(setting["options"]))
    while not (await asyncio.wait({loading}, timeout=BEAT_SECONDS))[0]:
        write_frame(writer, Beat(0))
    try:
        engine = loading.result()
    except RametError as error:
        write_frame(writer, Failed(0, 500, str(error)))
        await writer.drain()
        return 1
    with engine:
        info = engine.get_server_info()
        ready = Ready(engine.config.vocab_size, engine.max_context, engine.num_slots, info)
        write_frame(writer, ready)
        service = _Service(engine, writer)
        beating = asyncio.create_task(service.beat())
        try:
            await service.run(reader)
        finally:
            beating.cancel()
    return 0


async def _load(options: dict[str, Any]) -> Engine:
    def load() -> Engine:
        from ramet.backends.local import Engine

        return Engine(**options)

    return await asyncio.to_thread(load)


class _Service:
    """One connection's requests. Runs on one event loop; `Submission` hears of steps on the engine's thread."""

    def __init__(self, engine: Engine, writer: asyncio.StreamWriter) -> None:
        self.engine, self.writer = engine, writer
        self.loop = asyncio.get_running_loop()
        self.congested = False  # the other side does not read: see `_MUCH_UNREAD`
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._running: dict[int, Submission] = {}
        self._news: list[Update] = []
        self._lock = threading.Lock()  # of the news: the engine's thread adds, the loop takes

    async def run(self, reader: asyncio.StreamReader) -> None:
        decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ToEngine)
        while True:
            message = await read_frame(reader, decoder)
            if isinstance(message, Submit):
                self._start(message.key, self._generate(message))
            elif isinstance(message, Abort):
                self._abort(message)
            else:
                self._start(message.key, self._answer(message))

    def _start(self, key: int, work: Any) -> None:
        task = self._tasks[key] = asyncio.create_task(work)
        task.add_done_callback(lambda _task: self._tasks.pop(key, None))

    def _abort(self, message: Abort) -> None:
        running = self._running.get(message.key)
        if running is not None and message.told:
            running.stop(message.part)
        elif running is not None:
            running.abort()  # at once, so that whatever is asked next finds nothing of it
            self._tasks[message.key].cancel()
        elif (task := self._tasks.get(message.key)) is not None and not message.told:
            task.cancel()

    async def beat(self) -> None:
        while True:
            steps = await asyncio.to_thread(
                self.engine.host.call, lambda core: core.stats().num_steps
            )
            self._write(Beat(steps))
            await asyncio.sleep(BEAT_SECONDS)

    # -- requests ----------------------------------------------------------------------------------

    async def _generate(self, message: Submit) -> None:
        running = Submission(self.engine, message, self.tell, lambda: self.congested)
        self._running[message.key] = running
        failure: BaseException | None = None
        try:
            if await running.prepare():
                done = await self.engine.host.finished(running.requests, running.update)
                failure = next((r.error for r in done if r.error is not None), None)
        except Exception as error:
            failure = error
        finally:
            self._running.pop(message.key, None)
        if failure is not None:
            self._write(_failed(message.key, failure))

    def tell(self, update: Update) -> None:
        """On the engine's thread: one frame for all that a step has to say."""
        with self._lock:
            if not self._news:
                self.engine.host.tell(self.loop, self._send)
            self._news.append(update)

    def _send(self) -> None:
        with self._lock:
            news, self._news = self._news, []
        try:
            self._write(News(news))
        except WireError as error:  # rather than let anybody wait for it
            for key in {update.key for update in news}:
                self._write(_failed(key, error))
                self._abort(Abort(key))

    def _write(self, message: msgspec.Struct) -> None:
        self.writer.write(frame(message))
        self.congested = self.writer.transport.get_write_buffer_size() > _MUCH_UNREAD

    # -- questions ---------------------------------------------------------------------------------

    async def _answer(self, ask: Ask) -> None:
        function = _ANSWERS[ask.what]
        try:
            value = await asyncio.to_thread(
                self.engine.host.call, lambda core: function(self.engine, core, ask.argument)
            )
            reply = frame(Reply(ask.key, value))
        except Exception as error:
            reply = frame(_failed(ask.key, error))
        self.writer.write(reply)


def _audit(_engine: Any, core: Any, _argument: int) -> bool:
    core.audit()
    return True


_profile = cProfile.Profile()  # of the thread that the engine steps on


def _start_profile(_engine: Any, _core: Any, _argument: int) -> str:
    _profile.enable()
    return "profiling; POST /stop_profile ends it"


def _stop_profile(_engine: Any, _core: Any, _argument: int) -> str:
    _profile.disable()
    handle, path = tempfile.mkstemp(prefix="ramet-profile-", suffix=".pstats")
    os.close(handle)
    _profile.dump_stats(path)
    _profile.clear()
    return f"the profile is in {path}; python -m pstats reads it"


_ANSWERS: dict[str, Callable[[Any, Any, int], Any]] = {
    "stats": lambda _engine, core, _argument: core.stats().to_dict(),
    "flush": lambda _engine, core, _argument: core.flush(),
    "audit": _audit,
    "look": lambda _engine, core, _argument: look(core),
    "start_profile": _start_profile,
    "stop_profile": _stop_profile,
}


def _failed(key: int, error: BaseException) -> Failed:
    """What a client got wrong is said to it; everything else to whoever runs the server."""
    if isinstance(error, InvalidRequest):
        return Failed(key, 400, str(error), error.field)
    if isinstance(error, EngineClosed):
        return Failed(key, 503, "the engine is stopping; try again")
    print(f"ramet: a request failed: {error!r}", file=sys.stderr, flush=True)
    return Failed(key, 500, "the engine failed on this request")


if __name__ == "__main__":
    main()
