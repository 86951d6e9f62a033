"""The engine's process: loads the model, and does what the frames say.

Started by `engine_client.py` as `python -m ramet.server.engine_process`; what to load comes as one JSON line
on standard input, which stays open: its end means that the other side is gone, and then this process ends,
whatever it is doing. Knows the engine and `messages.py`; refuses to know HTTP.
"""

from __future__ import annotations

import asyncio
import cProfile
import ctypes
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ramet.engine.request import LogprobOptions, Request
from ramet.engine.response import build_meta_info
from ramet.errors import InvalidRequest, RametError
from ramet.params import SamplingParams
from ramet.server.live_facts import look
from ramet.server.messages import (
    Abort,
    Ask,
    Beat,
    Failed,
    Hello,
    News,
    Part,
    Ready,
    Reply,
    Submit,
    ToEngine,
    Update,
    read_frame,
    unpacked_ids,
    write_frame,
)

if TYPE_CHECKING:
    from ramet.backends.local import Engine

__all__ = ["main"]

BEAT_SECONDS = 1.0


def main() -> None:
    """Exit codes: 0 when the other side ended, 1 with a line on standard error if the model cannot be
    loaded."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the server, which ends this process
    _die_with_parent()
    setting = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        asyncio.run(_serve(setting))
    except RametError as error:
        print(f"ramet: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    os._exit(0)  # threads of libraries are not waited for


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
    os._exit(0)


async def _serve(setting: dict[str, Any]) -> None:
    reader, writer = await asyncio.open_unix_connection(setting["socket"])
    write_frame(writer, Hello(secret=setting["secret"], pid=os.getpid()))
    from ramet.backends.local import Engine

    with await asyncio.to_thread(lambda: Engine(**setting["options"])) as engine:
        info = engine.get_server_info()
        ready = Ready(engine.config.vocab_size, engine.max_context, engine.num_slots, info)
        write_frame(writer, ready)
        service = _Service(engine, writer)
        beating = asyncio.create_task(service.beat())
        try:
            await service.run(reader)
        finally:
            beating.cancel()


class _Service:
    """One connection's requests. Runs on one event loop; `_Running` hears of steps on the engine's thread."""

    def __init__(self, engine: Engine, writer: asyncio.StreamWriter) -> None:
        self.engine, self.writer = engine, writer
        self.loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._running: dict[int, _Running] = {}
        self._news: list[Update] = []
        self._lock = threading.Lock()  # of the news: the engine's thread adds, the loop takes

    async def run(self, reader: asyncio.StreamReader) -> None:
        decoder = msgspec.msgpack.Decoder(ToEngine)
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
        if message.told and running is not None:
            self.engine.host.abort(request.rid for request in running.requests)
        elif (task := self._tasks.get(message.key)) is not None:
            task.cancel()

    async def beat(self) -> None:
        while True:
            steps = await asyncio.to_thread(
                self.engine.host.call, lambda core: core.stats().num_steps
            )
            write_frame(self.writer, Beat(steps))
            await asyncio.sleep(BEAT_SECONDS)

    # -- requests ----------------------------------------------------------------------------------

    async def _generate(self, message: Submit) -> None:
        try:
            running = self._running[message.key] = await self._prepare(message)
            done = await self.engine.host.finished(running.requests, running.update)
        except Exception as error:
            write_frame(self.writer, _failed(message.key, error))
            return
        finally:
            self._running.pop(message.key, None)
        failure = next((r.error for r in done if r.error is not None), None)
        if failure is not None:
            write_frame(self.writer, _failed(message.key, failure))

    async def _prepare(self, message: Submit) -> _Running:
        running = _Running(self, message.key, message.stream)
        for part in message.parts:
            params = SamplingParams.from_dict(part.params)
            await self.engine.constraining.compiled(params)
            running.add(part, self._requests(part, params))
        return running

    def _requests(self, part: Part, params: SamplingParams) -> list[Request]:
        scoring = part.scoring
        options = LogprobOptions()
        if scoring is not None:
            options = LogprobOptions(
                output=scoring.output,
                prompt_start=scoring.prompt_start,
                top=scoring.top,
                token_ids=tuple(scoring.token_ids),
            )
        ids = unpacked_ids(part.ids)
        return self.engine.samples(part.rid, ids, params, options)

    def tell(self, update: Update) -> None:
        """On the engine's thread: one frame for all that a step has to say."""
        with self._lock:
            if not self._news:
                self.engine.host.tell(self.loop, self._send)
            self._news.append(update)

    def _send(self) -> None:
        with self._lock:
            news, self._news = self._news, []
        write_frame(self.writer, News(news))

    # -- questions ---------------------------------------------------------------------------------

    async def _answer(self, ask: Ask) -> None:
        function = _ANSWERS[ask.what]
        try:
            value = await asyncio.to_thread(
                self.engine.host.call, lambda core: function(self.engine, core, ask.argument)
            )
        except Exception as error:
            write_frame(self.writer, _failed(ask.key, error))
        else:
            write_frame(self.writer, Reply(ask.key, value))


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


class _Running:
    """The requests of one `Submit`, and what was told of each."""

    def __init__(self, service: _Service, key: int, stream: bool) -> None:
        self.service, self.key, self.stream = service, key, stream
        self.requests: list[Request] = []
        self._parts: dict[str, tuple[int, Part]] = {}
        self._told: dict[str, tuple[int, int]] = {}  # tokens, scores

    def add(self, part: Part, requests: list[Request]) -> None:
        for request in requests:
            self._parts[request.rid] = (len(self.requests), part)
            self.requests.append(request)

    def update(self, request: Request) -> None:
        """On the engine's thread, after a step that changed the request."""
        if request.error is not None or not (self.stream or request.finished):
            return  # errors end all of the requests, and are told once
        index, part = self._parts[request.rid]
        num_ids, num_scores = self._told.get(request.rid, (0, 0))
        text = self.service.engine.text(request)
        new_text = text.take_new()
        ids = request.output_ids[num_ids:]
        self._told[request.rid] = (len(request.output_ids), len(request.output_scores))
        meta = kept = None
        if request.finished or not num_ids or request.logprobs.output:
            engine = self.service.engine
            token_text = engine.token_text(part.token_text)
            meta = build_meta_info(request, token_text, engine.clock(), num_scores)
            if num_ids and not request.finished:  # said with the first token
                for name in [name for name in meta if name.startswith("input_")]:
                    del meta[name]
        if request.finished and part.spans:
            leading, rest = text.kept()
            kept = ([int(token) for token in leading], rest)
        self.service.tell(Update(self.key, index, new_text, ids, meta, kept))


def _failed(key: int, error: BaseException) -> Failed:
    if isinstance(error, InvalidRequest):
        return Failed(key, 400, str(error), error.field)
    if isinstance(error, RametError):
        return Failed(key, 500, str(error))
    print(f"ramet: a request failed: {error!r}", file=sys.stderr, flush=True)
    return Failed(key, 500, "the engine failed on this request")


if __name__ == "__main__":
    main()
