"""An engine without a process: an `EngineClient` that is answered on its own event loop, one token per turn of
the loop, and an ASGI caller that leaves, stops reading, or breaks, at any turn that a test names.

What it generates is told in the client's own frames, so that everything between HTTP and the frames is real.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ramet.server.engine_client import EngineClient
from ramet.server.messages import (
    Abort,
    Ask,
    Failed,
    News,
    Ready,
    Reply,
    Submit,
    ToEngine,
    Update,
    unpacked_ids,
)

VOCAB = 2048
_decode = msgspec.msgpack.Decoder(ToEngine).decode


class LoopEngine:
    """The other end of `client`. A sample of a prompt says the prompt's ids backwards, as " 5" for 5.

    `delay`: turns before the first token. `fail_at`: tokens after which it fails."""

    def __init__(self, delay: int = 2, fail_at: int | None = None) -> None:
        self.delay, self.fail_at = delay, fail_at
        self.client = EngineClient({})
        self.open: dict[int, asyncio.Task[None]] = {}
        self.num_submitted = 0
        self.closing = False
        self.be_ready()

    def be_ready(self) -> None:
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.hear(Ready(VOCAB, 4096, 10_000, {}), first)

    def hear(self, message: Any, first: Any = None) -> None:
        self.client._hear(message, self, first)  # type: ignore[arg-type]

    def die(self) -> None:
        for task in self.open.values():
            task.cancel()
        self.open.clear()
        self.client._lost()

    # -- what a client's writer is -----------------------------------------------------------------

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        message = _decode(data[4:])
        if isinstance(message, Submit):
            self.num_submitted += 1
            task = asyncio.ensure_future(self._run(message))
            self.open[message.key] = task
        elif isinstance(message, Abort):
            self._abort(message)
        elif isinstance(message, Ask):
            value = not self.open if message.what == "flush" else {"num_running": len(self.open)}
            self.hear(Reply(message.key, value))

    def _abort(self, message: Abort) -> None:
        task = self.open.pop(message.key, None)
        if task is not None:
            task.cancel()
            if message.told:
                reason = {"type": "abort", "message": "aborted", "status_code": 499}
                held = self.client._held[message.key]
                updates = [
                    Update(message.key, sample.index, "", [], {"finish_reason": reason})
                    for sample in held.generation.samples
                ]
                self.hear(News(updates))

    async def _run(self, message: Submit) -> None:
        for _ in range(self.delay):
            await asyncio.sleep(0)
        texts = [
            unpacked_ids(part.ids)[::-1][: part.params["max_new_tokens"]].tolist()
            for part in message.parts
            for _ in range(part.params["n"])
        ]
        done: set[int] = set()
        for step in range(max(map(len, texts), default=0)):
            if step == self.fail_at:
                self.open.pop(message.key, None)
                self.hear(Failed(message.key, 500, "the engine failed on this request"))
                return
            updates = []
            for index, ids in enumerate(texts):
                if step < len(ids):
                    last = step == len(ids) - 1
                    if last:
                        done.add(index)
                    if message.stream:
                        updates.append(_update(message.key, index, ids[step : step + 1], last))
                    elif last:
                        updates.append(_update(message.key, index, ids, last))
            if len(done) == len(texts):
                self.open.pop(message.key, None)
            self.hear(News(updates))
            await asyncio.sleep(0)


def _update(key: int, index: int, ids: list[int], last: bool) -> Update:
    reason = {"type": "length", "length": len(ids)} if last else None
    meta = {"finish_reason": reason, "prompt_tokens": 4, "cached_tokens": 0, "weight_version": "d"}
    return Update(key, index, "".join(f" {token}" for token in ids), ids, meta)


@dataclass
class Caller:
    """One request to an ASGI application. `body` comes in pieces of `piece` bytes, each a turn later."""

    path: str
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    piece: int = 40
    on_send: Callable[[int], Any] = lambda _number: None  # may raise, or return what to await
    can_abort: bool = False

    def __post_init__(self) -> None:
        data = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        self._pieces = [data[i : i + self.piece] for i in range(0, len(data), self.piece)] or [b""]
        self.gone = asyncio.Event()
        self.sent: list[Any] = []
        self.aborted = False
        named = {"host": "localhost", "content-type": "application/json", **self.headers}
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        if self.can_abort:
            self.scope["extensions"] = {"ramet.abort": self._abort}

    def _abort(self) -> None:
        self.aborted = True
        self.gone.set()

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self._pieces and not self.gone.is_set():
            body = self._pieces.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._pieces)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        waited = self.on_send(len(self.sent))
        if waited is not None:
            await waited
        await asyncio.sleep(0)
        if self.gone.is_set():
            return
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.gone.set()  # as servers have it: a complete response is followed by a disconnect

    async def call(self, app: Any) -> None:
        await app(self.scope, self.receive, self.send)

    # -- what came ---------------------------------------------------------------------------------

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def complete(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body", True) is False

    def header(self, name: str) -> str | None:
        found = [v.decode() for n, v in self.sent[0]["headers"] if n.decode().lower() == name]
        return found[0] if found else None

    @property
    def data(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def events(self) -> list[Any]:
        lines = self.data.decode().split("\n\n")
        found = [line[len("data: ") :] for line in lines if line.startswith("data: ")]
        return [one if one == "[DONE]" else json.loads(one) for one in found]
