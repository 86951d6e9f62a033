"""A server of the native protocol for tests, in front of any backend, that misbehaves when it is told to.

Speaks as a Ramet server (with its extensions) or as SGLang 0.5.23 does (whole texts, and what is odd about
its log-probabilities). HTTP is written out here, so that a test can break it at any byte.

    with NativeServer(Scripted()) as server:
        program.run(backend=RuntimeEndpoint(server.url))

As a process: `python -m tests.backends.native_server --port 30000 --model-path scripted`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ramet.backend import Chunk, Completion, GenerateCall, ScoreCall
from ramet.backends.scripted import Scripted, tokenize
from ramet.errors import RametError
from ramet.params import SamplingParams
from ramet.prompt import EMPTY, Prompt, Text, Tokens

PER_TOKEN = ("output_token_logprobs", "output_top_logprobs", "output_token_ids_logprobs")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request: `close` the connection at once, `status` instead of an answer,
    `garbage` as the answer, `stall` for ever; `after` so many events if it is a stream, else at once."""

    kind: str
    after: int = 0
    status: int = 500
    body: bytes = b'{"error": {"message": "scripted trouble"}}'


@dataclass
class Seen:
    method: str
    path: str
    body: Any
    headers: Mapping[str, str]
    connection: int


@dataclass
class _Exchange:
    """One request on one connection, and the only way to answer it."""

    writer: asyncio.StreamWriter
    fault: Fault | None = None
    events: int = 0

    async def answer(self, status: int, body: bytes) -> None:
        if self.fault is not None:
            status, body = await self._trouble(status, body)
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()

    async def _trouble(self, status: int, body: bytes) -> tuple[int, bytes]:
        assert self.fault is not None
        if self.fault.kind == "close":
            raise ConnectionAbortedError
        if self.fault.kind == "stall":
            await asyncio.Event().wait()
        if self.fault.kind == "halfway":
            self.writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 999\r\n\r\n" + body[:20])
            await self.writer.drain()
            raise ConnectionAbortedError
        if self.fault.kind == "status":
            return self.fault.status, self.fault.body
        return status, b"<html>%garbage"

    async def begin_stream(self) -> None:
        if (
            self.fault is not None
            and self.fault.kind in ("status", "close")
            and not self.fault.after
        ):
            await self.answer(500, b"")
            raise _AnsweredError
        self.writer.write(
            b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    async def event(self, data: bytes) -> None:
        if self.fault is not None and self.events >= self.fault.after:
            if self.fault.kind == "close":
                await self.writer.drain()
                raise ConnectionAbortedError
            if self.fault.kind == "stall":
                await self.writer.drain()
                await asyncio.Event().wait()
            if self.fault.kind == "end":  # the stream ends properly, the text does not
                self.writer.write(b"0\r\n\r\n")
                raise _AnsweredError
            data = b"\xff\xfe{garbage" if self.fault.kind == "garbage" else self.fault.body
        self.events += 1
        line = b"data: " + data + b"\n\n"
        self.writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        await self.writer.drain()

    async def end_stream(self) -> None:
        await self.event(b"[DONE]")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


class _AnsweredError(Exception):
    """There is nothing more to say."""


@dataclass
class NativeServer:
    """`style` is "ramet" or "sglang"; `has_tokenize` the route of that name. `faults` gives the fault of
    the i-th request to a path, `certificate` is a file with a key and a certificate, for https. What happened: `seen`, `aborted` (rids), `cancelled` (requests whose
    connection was closed before their answer), `connections`."""

    backend: Any
    style: str = "ramet"
    has_tokenize: bool = True
    faults: Callable[[str, int], Fault | None] = lambda _path, _number: None
    info: Mapping[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 0
    certificate: str | None = None
    seen: list[Seen] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    cancelled: int = 0
    connections: int = 0

    def __post_init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._words: dict[int, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False

    # Life

    def __enter__(self) -> NativeServer:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.listen())
        ready.set()
        self._loop.run_forever()

    async def listen(self) -> None:
        context = None
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
        self._server = await asyncio.start_server(
            self._connected, self.host, self.port, ssl=context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        self._stopping = True
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http{'s' if self.certificate else ''}://{self.host}:{self.port}"

    def bodies(self, path: str = "/generate") -> list[Any]:
        return [request.body for request in self.seen if request.path == path]

    # HTTP

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not self._stopping and await self._exchange(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        path = target.partition("?")[0]
        body = json.loads(raw) if raw else None
        self.seen.append(Seen(method, path, body, headers, connection))
        count = self._counts[path] = self._counts.get(path, -1) + 1
        exchange = _Exchange(writer, self.faults(path, count))
        work = asyncio.ensure_future(self._answer(exchange, path, body))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.cancelled += 1
                return False
            return work.result() is None
        finally:
            for waiting in (work, gone):
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await waiting

    async def _answer(self, exchange: _Exchange, path: str, body: Any) -> None:
        handler = getattr(self, "route_" + path.strip("/").replace("/", "_"), None)
        if handler is None or (path == "/tokenize" and not self.has_tokenize):
            await exchange.answer(404, b'{"detail": "Not Found"}')
            return
        try:
            answer = await handler(exchange, body)
        except _AnsweredError:
            return
        except ConnectionError:
            raise
        except Exception as error:
            known = isinstance(error, RametError)
            message = str(error) if known else traceback.format_exc()
            status = 400 if known and isinstance(error, ValueError) else 500
            await exchange.answer(status, json.dumps({"error": {"message": message}}).encode())
            return
        if answer is not None:
            text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
            await exchange.answer(200, text.encode())

    # Routes

    async def route_get_model_info(self, _exchange: _Exchange, _body: Any) -> Any:
        info: dict[str, Any] = {"model_path": self.backend.model_path, "is_generation": True}
        if self.style == "ramet":
            info["extensions"] = ["spans", "score_choices"]
            engine = getattr(self.backend, "engine", None)
            if engine is not None:
                from ramet.backends.remote_template import tokenizer_field

                info["tokenizer"] = tokenizer_field(engine.tokenizer)
        return {**info, **self.info}

    async def route_get_server_info(self, _exchange: _Exchange, _body: Any) -> Any:
        return {"version": "test", **self.info}

    async def route_flush_cache(self, exchange: _Exchange, _body: Any) -> Any:
        if self.backend.flush_cache():
            return "Cache flushed."
        await exchange.answer(400, b"Requests are running.")
        return None

    async def route_health(self, _exchange: _Exchange, _body: Any) -> Any:
        return ""

    route_health_generate = route_start_profile = route_stop_profile = route_health

    async def route_abort_request(self, _exchange: _Exchange, body: Any) -> Any:
        self.aborted.append(body["rid"])
        return ""

    async def route_tokenize(self, _exchange: _Exchange, body: Any) -> Any:
        ids = self._encode(body["prompt"])
        return {"tokens": ids, "count": len(ids), "max_model_len": 4096}

    async def route_score_choices(self, _exchange: _Exchange, body: Any) -> Any:
        assert self.style == "ramet"
        scores = await self.backend.score(
            ScoreCall(
                prompt=self._prompt_of_spans(body["spans"]),
                choices=body["choices"],
                unconditional=body["unconditional"],
                rid=body["rid"],
            )
        )
        return {
            "scores": [
                {"tokens": s.tokens, "unconditional": s.unconditional, "meta_info": s.meta_info}
                for s in scores
            ]
        }

    async def route_generate(self, exchange: _Exchange, body: Any) -> Any:
        prompts, many = self._prompts(body)
        calls = [self._call(prompt, body) for prompt in prompts]
        if body.get("stream"):
            await self._stream(exchange, calls[0])
            return None
        answers: list[Any] = []
        for call in calls:
            answers += [self._payload(call, c) for c in await self.backend.generate(call)]
        return answers if many or len(answers) > 1 else answers[0]

    async def _stream(self, exchange: _Exchange, call: GenerateCall) -> None:
        await exchange.begin_stream()
        news: asyncio.Queue[Chunk | None] = asyncio.Queue()
        work = asyncio.ensure_future(self.backend.generate(call, news.put_nowait))
        work.add_done_callback(lambda _: news.put_nowait(None))
        text, lists = "", {name: [] for name in PER_TOKEN}
        try:
            while (chunk := await news.get()) is not None:
                text += chunk.text
                meta = dict(chunk.meta_info)
                for name in PER_TOKEN:
                    if name in meta:
                        lists[name] += meta[name]
                        meta[name] = lists[name]
                if meta.get("finish_reason"):
                    continue  # the completion says it again
                await exchange.event(_json({"text": text, "meta_info": meta, "output_ids": []}))
            for index, completion in enumerate(await work):
                payload = {**self._payload(call, completion), "index": index}
                await exchange.event(_json(payload))
        except RametError as error:
            await exchange.event(_json({"error": {"message": str(error), "code": 500}}))
        finally:
            work.cancel()
        await exchange.end_stream()

    # Prompts and answers

    def _prompts(self, body: Any) -> tuple[list[Prompt], bool]:
        if "spans" in body:
            assert self.style == "ramet", "this server knows no spans"
            return [self._prompt_of_spans(body["spans"])], False
        if "input_ids" in body:
            ids = body["input_ids"]
            many = bool(ids) and isinstance(ids[0], list)
            return [self._prompt_of_ids(one) for one in (ids if many else [ids])], many
        texts = body["text"]
        many = isinstance(texts, list)
        for text in texts if many else [texts]:
            self._learn(text)
        return [EMPTY + Text(text) for text in (texts if many else [texts])], many

    def _prompt_of_ids(self, ids: list[int]) -> Prompt:
        text = "" if self._tokenizer() else "".join(self._words[i] for i in ids)
        return EMPTY + Tokens(tuple(ids), text)

    def _prompt_of_spans(self, spans: list[Any]) -> Prompt:
        prompt = EMPTY
        for span in spans:
            if isinstance(span, list):
                prompt = prompt + Tokens(tuple(span), self._decode(span))
            else:
                prompt = prompt + Text(span)
        return prompt

    def _tokenizer(self) -> Any:
        engine = getattr(self.backend, "engine", None)
        return None if engine is None else engine.tokenizer

    def _encode(self, text: str) -> list[int]:
        tokenizer = self._tokenizer()
        if tokenizer is not None:
            return list(map(int, tokenizer.encode(text)))
        self._learn(text)
        return [word.id for word in tokenize(text)]

    def _learn(self, text: str) -> None:
        self._words |= {word.id: word.text for word in tokenize(text)}

    def _decode(self, ids: list[int]) -> str:
        if self._tokenizer() is not None:
            return ""  # an engine needs no texts of tokens
        return "".join(self._words[i] for i in ids)

    def _call(self, prompt: Prompt, body: Any) -> GenerateCall:
        return GenerateCall(
            prompt=prompt,
            params=SamplingParams.from_dict(body["sampling_params"]),
            rid=body.get("rid") or f"server-{time.monotonic_ns()}",
            return_logprob=body.get("return_logprob", False),
            logprob_start_len=body.get("logprob_start_len", -1),
            top_logprobs_num=body.get("top_logprobs_num", 0),
            return_text_in_logprobs=body.get("return_text_in_logprobs", False),
        )

    def _payload(self, call: GenerateCall, completion: Completion) -> dict[str, Any]:
        meta = dict(completion.meta_info)
        if self.style == "sglang" and call.return_logprob:
            entries = [list(entry) for entry in meta.get("input_token_logprobs") or []]
            if entries:
                entries[0][0] = None
            meta["input_token_logprobs"] = entries if call.logprob_start_len >= 0 else []
        answer: dict[str, Any] = {"text": completion.text, "output_ids": [], "meta_info": meta}
        if self.style == "ramet":
            answer["output_spans"] = [
                {"ids": span.ids, "text": span.text} if isinstance(span, Tokens) else span.text
                for span in completion.spans
            ]
        if self._tokenizer() is None:
            self._learn(completion.text)
        return answer


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def main() -> None:
    """What `Runtime` starts in its tests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", default="scripted")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log-level", default="error")
    parser.add_argument("--refuse", default="")
    parser.add_argument("--seconds-to-start", type=float, default=0.0)
    parser.add_argument("--sglang", action="store_true")
    args = parser.parse_args()
    if args.refuse:
        print("loading the model", file=sys.stderr)
        raise SystemExit(args.refuse)
    time.sleep(args.seconds_to_start)
    backend: Any = Scripted(model_path=args.model_path)
    if args.model_path == "pocket":
        from ramet.backends.local import Engine

        backend = Engine("pocket", num_threads=1).endpoint
    info = {"pid": os.getpid(), "parent": os.getppid()}
    style = "sglang" if args.sglang else "ramet"
    server = NativeServer(backend, style=style, host=args.host, port=args.port, info=info)

    async def serve() -> None:
        await server.listen()
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
