"""A server for the live page without a model: a real engine core and cache that play scripted answers.

    python -m tests.server.page_server --nodes 60 --load 2 [--port 0] [--keys KEY] [--slots 4000]

Tokens are words. Whatever a prompt's last message is, "say TEXT" is answered with TEXT and everything else
with a few sentences. `--nodes` fills the tree before the start, `--load` keeps that many requests running.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ramet.engine.loop import EngineCore
from ramet.engine.request import Request
from ramet.engine.simulate import HashRunner, PlainText
from ramet.params import SamplingParams
from ramet.server.live import MIN_SECONDS, Ages, LiveStream, Sight, state_event, tree_event
from ramet.server.live_facts import look
from ramet.server.live_rates import History, Rates
from ramet.server.page import assets

ANSWER = (
    "A radix tree keeps every prefix once. Two prompts that start alike share the tokens of their "
    "beginning, and only what differs is computed. When memory runs short, the leaves that were used "
    "longest ago go first. "
)
SYSTEMS = (
    "You are a patient teacher of mathematics. Explain each step, and check the result. ",
    "You are a support agent of a bicycle shop. Be brief and friendly, never promise dates. ",
    "Translate what follows into French. Keep names and numbers as they are. ",
    "You write unit tests for Python functions. Use plain asserts and one idea per test. ",
)
TOPICS = (
    "sums",
    "fractions",
    "brakes",
    "gears",
    "invoices",
    "weather",
    "lists",
    "sorting",
    "dates",
    "poems",
    "maps",
    "rivers",
)


class Words:
    """A tokenizer whose tokens are words with the white space behind them."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self._id(word) for word in re.findall(r"\s*\S+\s?|\s+", text)]

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self.words)
            self.words.append(word)
        return self._ids[word]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.words[token] for token in ids)


class Script(PlainText):
    """What a request will answer."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids


class ScriptRunner(HashRunner):
    def _draw(self, _value: int, query: Any) -> int:  # type: ignore[override]
        script = query.request.text.ids
        return int(script[min(len(query.request.output_ids), len(script) - 1)])


class FakeServer:
    """`start()` serves on a thread of its own; `stop()` ends that, `start(port)` again is a restart with
    an empty cache. `lock` is held by the engine's steps."""

    def __init__(self, num_slots: int = 4000, keys: Sequence[str] = (), step: float = 0.03) -> None:
        self.num_slots, self.keys, self.step_seconds = num_slots, keys, step
        self.words = Words()
        self.port = 0
        self.load = 0
        self.asked: list[str] = []  # paths, in order
        self._random = random.Random(7)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    # -- the engine --------------------------------------------------------------------------------

    def reset(self) -> None:
        self.core = EngineCore(
            ScriptRunner(self.num_slots, 1 << 30),
            num_slots=self.num_slots,
            max_context=min(self.num_slots, 8192),
            clock=time.monotonic,
        )
        self.lock = threading.RLock()
        self.ages, self.rates, self.history = Ages(), Rates(), History()
        self.rids = itertools.count()
        self.kinds: dict[str, str] = {}

    def add(
        self, prompt: str, answer: str, *, kind: str = "generate", salt: str = "", most: int = 4000
    ) -> Request:
        script = Script(self.words.encode(answer) or [0])
        rid = f"{next(self.rids):06x}-{kind}"
        self.kinds[rid] = kind
        began = time.time()

        def updated(request: Request) -> None:
            if len(request.output_ids) == 1:
                self.rates.first_token(time.time(), time.time() - began)

        request = Request(
            rid=rid,
            prompt_ids=np.array(self.words.encode(prompt), np.int64),
            params=SamplingParams(max_new_tokens=min(most, len(script.ids)), temperature=0.0),
            text=script,
            salt=salt,
            on_update=updated,
        )
        with self.lock:
            self.core.add(request)
        return request

    def fill(self, num_nodes: int, tenants: Sequence[str] = ("",)) -> None:
        """Run made-up requests until the tree has so many nodes, roots included."""
        with self.lock:
            while self.core.tree.num_nodes + len(self.core.tree.roots) < num_nodes:
                self.add_random(self._random.choice(tenants))
                while self.core.has_work:
                    self.core.step()

    def add_random(self, salt: str = "") -> None:
        pick = self._random.choice
        system = pick(SYSTEMS) + " ".join(TOPICS) * self._random.randrange(1, 4)
        question = f" Tell me about {pick(TOPICS)} and {pick(TOPICS)}, part {pick('ABC')}."
        if self._random.random() < 0.4:
            question += f" Then compare it with {pick(TOPICS)} of {self._random.randrange(9)}."
        answer = ANSWER[: self._random.randrange(20, 160)]
        self.add(system + question, answer, salt=salt, kind=pick(["chat", "generate"]))

    async def _engine(self) -> None:
        while True:
            with self.lock:
                running = len(self.core.requests())
                if self.load and running < self.load and self._random.random() < 0.2:
                    self.add_random(self._random.choice(["", "", "acme"]))
                if self.core.has_work:
                    self.core.step()
            await asyncio.sleep(self.step_seconds)

    # -- HTTP --------------------------------------------------------------------------------------

    def app(self) -> Starlette:
        @contextlib.asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            engine = asyncio.create_task(self._engine())
            yield
            engine.cancel()

        routes = [Route(path, self._asset) for path in assets()]
        routes += [
            Route("/live", self._live),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=lifespan)

    async def _asset(self, request: HttpRequest) -> Response:
        status, headers, body = assets()[request.url.path].response(request.headers)
        return Response(body, status, headers)

    def _refused(self, request: HttpRequest) -> Response | None:
        self.asked.append(request.url.path)
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not self.keys or given in self.keys:
            return None
        error = {"message": "the API key is missing or wrong", "code": "invalid_api_key"}
        return JSONResponse({"error": error}, 401)

    async def _live(self, request: HttpRequest) -> Response:
        since = float(request.query_params.get("since") or 0)
        return self._refused(request) or StreamingResponse(
            self._events(since), media_type="text/event-stream"
        )

    async def _events(self, since: float) -> AsyncIterator[bytes]:
        hello = {
            "model": "scripted-words",
            "version": "0.1.0",
            "max_context": self.core.max_context,
            "num_slots": self.num_slots,
            "policy": "lpm",
            "tenant": None,
        }
        stream = LiveStream(hello, self.history.samples(since))
        sight = Sight(self.words.decode, lambda salt: salt, lambda _salt: True)
        while True:
            now = time.time()
            with self.lock:
                facts = look(self.core)
            self.rates.looked(now, facts.stats)
            rates = self.rates.values(now)
            state = state_event(facts, now, rates, kind=lambda rid: self.kinds.get(rid, "generate"))
            self.history.add(state)
            tree = tree_event(facts.tree, self.ages, now, sight)
            for frame in stream.frames(now, state, tree):
                yield frame
            await asyncio.sleep(MIN_SECONDS)

    async def _chat(self, request: HttpRequest) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        body = await request.json()
        messages = body["messages"]
        said = messages[-1]["content"]
        if said == "too much":
            error = {"message": "the prompt has 9,000 tokens, the model's context 4,096"}
            return JSONResponse({"error": error}, 400)
        prompt = "".join(f"<{m['role']}> {m['content']} </> " for m in messages) + "<assistant> "
        answer = said.removeprefix("say ") if said.startswith("say ") else ANSWER
        running = self.add(prompt, answer, kind="chat", most=body.get("max_tokens") or 512)
        return StreamingResponse(self._chunks(running), media_type="text/event-stream")

    async def _chunks(self, request: Request) -> AsyncIterator[str]:
        def chunk(delta: dict[str, str], reason: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return f"data: {json.dumps({'id': request.rid, 'choices': [choice]})}\n\n"

        yield chunk({"role": "assistant", "content": ""})
        told = 0
        try:
            while True:
                ids = request.output_ids[told:]
                told += len(ids)
                if ids:
                    yield chunk({"content": self.words.decode(ids)})
                if request.finished:
                    break
                await asyncio.sleep(self.step_seconds)
        finally:
            with self.lock:
                self.core.abort(request.rid)
        length = told < len(request.text.ids)  # type: ignore[attr-defined]
        yield chunk({}, "length" if length else "stop")
        usage = {
            "prompt_tokens": request.num_prompt,
            "completion_tokens": told,
            "prompt_tokens_details": {"cached_tokens": request.num_cached},
        }
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"

    # -- life --------------------------------------------------------------------------------------

    def start(self, port: int = 0) -> None:
        self.reset()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(self.app(), log_level="critical", timeout_graceful_shutdown=1)
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._uvicorn.run, kwargs={"sockets": [listener]}, daemon=True
        )
        self._thread.start()
        while not self._uvicorn.started:
            time.sleep(0.01)

    def stop(self) -> None:
        """As a server that dies: open connections break."""
        self._uvicorn.force_exit = self._uvicorn.should_exit = True
        self._thread.join(10)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("port", 0), ("nodes", 0), ("load", 0), ("slots", 4000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tenants", default="")
    parser.add_argument("--keys", nargs="*", default=())
    options = parser.parse_args()
    server = FakeServer(options.slots, options.keys)
    server.start(options.port)
    server.fill(options.nodes, options.tenants.split(","))
    server.load = options.load
    print(server.url, file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(60)


if __name__ == "__main__":
    main()
