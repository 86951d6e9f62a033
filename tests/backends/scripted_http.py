"""An HTTP server on this machine that says what it is told to: for backends that speak to remote APIs.

Real sockets, so that the vendors' SDKs are tested as they are. It records every request.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """`chunks` are sent one by one, `pause` seconds apart; after `delay` seconds of silence. `cut`: the
    connection is reset after them."""

    chunks: Sequence[bytes] = (b"",)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    pause: float = 0.0
    cut: bool = False


@dataclass(frozen=True)
class Seen:
    """A request."""

    path: str
    headers: Mapping[str, str]
    body: Any


def of_json(value: Any, status: int = 200, **more: Any) -> Answer:
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    return Answer([json.dumps(value).encode()], status, headers, **more)


def of_text(text: str, status: int = 200, **more: Any) -> Answer:
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    return Answer([text.encode()], status, headers, **more)


def of_events(events: Iterable[Any], **more: Any) -> Answer:
    """Server-sent events: a text as it is, (name, data) with the name as the event, others as data."""
    chunks = []
    for event in events:
        if isinstance(event, str):
            chunks.append(f"data: {event}\n\n".encode())
        elif isinstance(event, tuple):
            chunks.append(f"event: {event[0]}\ndata: {json.dumps(event[1])}\n\n".encode())
        else:
            chunks.append(f"data: {json.dumps(event)}\n\n".encode())
    headers = {"content-type": "text/event-stream", **more.pop("headers", {})}
    return Answer(chunks, headers=headers, **more)


HANG_UP = Answer((), cut=True)

Script = Sequence[Answer] | Callable[[Seen], Answer]


class ScriptedHttp:
    """`script`: answers in order, or a function of the request. `requests`: what came."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self._script: Script = ()
        self._next = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def play(self, *answers: Answer, by: Callable[[Seen], Answer] | None = None) -> None:
        """Forget what was; say this from now on."""
        with self._lock:
            self.requests, self._next = [], 0
            self._script = by if by is not None else answers

    @property
    def bodies(self) -> list[Any]:
        return [request.body for request in self.requests]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, seen: Seen) -> Answer:
        with self._lock:
            self.requests.append(seen)
            if callable(self._script):
                return self._script(seen)
            self._next += 1
            if self._next > len(self._script):
                return of_json({"error": {"message": "the script is at its end"}}, 400)
            return self._script[self._next - 1]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each small answer takes 40 ms

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length) or b"null")
                headers = {name.lower(): value for name, value in self.headers.items()}
                _send(self, outer.answer(Seen(self.path, headers, body)))

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:  # the client has gone: that is what some tests are about
                    self.close_connection = True

        return Handler


def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    time.sleep(answer.delay)
    if answer.chunks:
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
    for chunk in answer.chunks:
        if chunk:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            handler.wfile.flush()
        time.sleep(answer.pause)
    if answer.cut:
        # Lingering for no time makes the close a reset: what a broken connection looks like.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True
        handler.connection.close()
        raise ConnectionResetError
    handler.wfile.write(b"0\r\n\r\n")
    handler.wfile.flush()


# ---- what the providers say ---------------------------------------------------------------------


class OpenAISays:
    """Answers in OpenAI's chat protocol."""

    path = "/v1/chat/completions"

    def make(self, url: str, **options: Any) -> Any:
        from ramet.backends.openai import OpenAI

        return OpenAI("gpt-4o-mini", base_url=f"{url}/v1", api_key="key", **options)

    def whole(
        self, *texts: str, finish: str = "stop", usage: tuple[int, int] | None = (10, 3)
    ) -> Any:
        value: dict[str, Any] = {"id": "answer", "object": "chat.completion", "created": 1}
        value |= {"model": "gpt-4o-mini-2024"}
        value["choices"] = [
            {
                "index": i,
                "message": {"role": "assistant", "content": text},
                "finish_reason": finish,
            }
            for i, text in enumerate(texts)
        ]
        if usage is not None:
            value["usage"] = {
                "prompt_tokens": usage[0],
                "completion_tokens": usage[1],
                "total_tokens": sum(usage),
                "prompt_tokens_details": {"cached_tokens": 4},
            }
        return value

    def answer(self, *texts: str, **more: Any) -> Answer:
        return of_json(self.whole(*texts), **more)

    def limited(self, text: str) -> Answer:
        return of_json(self.whole(text, finish="length"))

    def withheld(self) -> Answer:
        return of_json(self.whole("Well,", finish="content_filter"))

    def nothing(self) -> Answer:
        return of_json(self.whole())

    def unbilled(self, text: str) -> Answer:
        return of_json(self.whole(text, usage=None))

    def events(self, *texts: str, end: bool = True) -> list[Any]:
        def chunk(delta: Any, finish: str | None = None) -> Any:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            head = {"id": "answer", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            return {**head, "choices": [choice]}

        found: list[Any] = [chunk({"role": "assistant", "content": ""})]
        found += [chunk({"content": text}) for text in texts]
        if not end:
            return found
        usage = {**self.whole("x"), "object": "chat.completion.chunk", "choices": []}
        return [*found, chunk({}, "stop"), usage, "[DONE]"]

    def stream(self, *texts: str, **more: Any) -> Answer:
        return of_events(self.events(*texts, end=more.pop("end", True)), **more)

    def error(self, status: int, message: str = "no", **more: Any) -> Answer:
        return of_json({"error": {"message": message, "type": "t", "code": None}}, status, **more)

    def user_text(self, body: Any) -> str:
        """The texts of the user in a request."""
        return "|".join(m["content"] for m in body["messages"] if m["role"] == "user")

    def structured(self, value: Any) -> Answer:
        return self.answer(json.dumps(value))


class AnthropicSays:
    """Answers in Anthropic's protocol."""

    path = "/v1/messages"

    def make(self, url: str, **options: Any) -> Any:
        from ramet.backends.anthropic import Anthropic

        return Anthropic("claude-haiku-4-5", base_url=url, api_key="key", **options)

    def whole(self, *texts: str, finish: str = "end_turn", usage: bool = True, **more: Any) -> Any:
        value: dict[str, Any] = {"id": "answer", "type": "message", "role": "assistant"}
        value |= {"model": "claude-haiku-4-5-2025", "stop_reason": finish, "stop_sequence": None}
        value["content"] = [{"type": "text", "text": text} for text in texts]
        counts = {"input_tokens": 6, "cache_read_input_tokens": 4, "output_tokens": 3}
        value["usage"] = counts if usage else {}
        return {**value, **more}

    def answer(self, *texts: str, **more: Any) -> Answer:
        return of_json(self.whole(*texts), **more)

    def limited(self, text: str) -> Answer:
        return of_json(self.whole(text, finish="max_tokens"))

    def withheld(self) -> Answer:
        return of_json(self.whole("Well,", finish="refusal"))

    def nothing(self) -> Answer:
        return of_json({"type": "message", "content": None})

    def unbilled(self, text: str) -> Answer:
        return of_json(self.whole(text, usage=False))

    def events(self, *texts: str, end: bool = True) -> list[Any]:
        start = self.whole(finish=None)  # type: ignore[arg-type]
        start["usage"] = {**start["usage"], "output_tokens": 1}
        found: list[Any] = [("message_start", {"type": "message_start", "message": start})]
        block = {"type": "text", "text": ""}
        named = {"type": "content_block_start", "index": 0, "content_block": block}
        found.append(("content_block_start", named))
        for text in texts:
            delta = {"type": "text_delta", "text": text}
            event = {"type": "content_block_delta", "index": 0, "delta": delta}
            found.append(("content_block_delta", event))
        if not end:
            return found
        found.append(("content_block_stop", {"type": "content_block_stop", "index": 0}))
        done = {"stop_reason": "end_turn", "stop_sequence": None}
        last = {"type": "message_delta", "delta": done, "usage": {"output_tokens": 3}}
        return [*found, ("message_delta", last), ("message_stop", {"type": "message_stop"})]

    def stream(self, *texts: str, **more: Any) -> Answer:
        return of_events(self.events(*texts, end=more.pop("end", True)), **more)

    def error(self, status: int, message: str = "no", **more: Any) -> Answer:
        error = {"type": "error", "error": {"type": "t", "message": message}}
        return of_json(error, status, **more)

    def user_text(self, body: Any) -> str:
        said = [m["content"] for m in body["messages"] if m["role"] == "user"]
        return "|".join("".join(block["text"] for block in content) for content in said)

    def structured(self, value: Any) -> Answer:
        return self.answer(json.dumps(value))


class GeminiSays:
    """Answers in Gemini's protocol."""

    path = "/v1/models/gemini-2.5-flash:generateContent"

    def make(self, url: str, **options: Any) -> Any:
        from ramet.backends.gemini import Gemini

        return Gemini("gemini-2.5-flash", base_url=url, api_key="key", **options)

    def whole(self, *texts: str, finish: str | None = "STOP", usage: bool = True) -> Any:
        value: dict[str, Any] = {"modelVersion": "gemini-2.5", "responseId": "answer"}
        value["candidates"] = [
            {"index": i, "content": {"role": "model", "parts": [{"text": text}]}}
            for i, text in enumerate(texts)
        ]
        for candidate in value["candidates"] if finish else ():
            candidate["finishReason"] = finish
        if usage:
            counts = {"promptTokenCount": 10, "candidatesTokenCount": 2, "thoughtsTokenCount": 1}
            value["usageMetadata"] = {**counts, "cachedContentTokenCount": 4}
        return value

    def answer(self, *texts: str, **more: Any) -> Answer:
        return of_json(self.whole(*texts), **more)

    def limited(self, text: str) -> Answer:
        return of_json(self.whole(text, finish="MAX_TOKENS"))

    def withheld(self) -> Answer:
        return of_json(self.whole("Well,", finish="SAFETY"))

    def nothing(self) -> Answer:
        return of_json({"candidates": []})

    def unbilled(self, text: str) -> Answer:
        return of_json(self.whole(text, usage=False))

    def events(self, *texts: str, end: bool = True) -> list[Any]:
        found = [self.whole(text, finish=None, usage=False) for text in texts]
        return [*found, self.whole("")] if end else found

    def stream(self, *texts: str, **more: Any) -> Answer:
        return of_events(self.events(*texts, end=more.pop("end", True)), **more)

    def error(self, status: int, message: str = "no", **more: Any) -> Answer:
        error = {"code": status, "message": message, "status": "S"}
        return of_json({"error": error}, status, **more)

    def user_text(self, body: Any) -> str:
        said = [c["parts"] for c in body["contents"] if c["role"] == "user"]
        return "|".join("".join(part["text"] for part in parts) for parts in said)

    def structured(self, value: Any) -> Answer:
        if isinstance(value, dict) and set(value) == {"value"}:
            value = value["value"]  # its outermost value need not be an object
        return self.answer(json.dumps(value))


PROVIDERS = {"openai": OpenAISays(), "anthropic": AnthropicSays(), "gemini": GeminiSays()}
