"""The whole server but for the engine: the application around an engine that says what it is told to, in the
form in which the real one says it. In one process, without a model, so that thousands of requests take seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from tests.server.openai_streams import tokenizer

from ramet.engine.options import EngineOptions
from ramet.server.app import ServerApp
from ramet.server.engine_client import EngineClient
from ramet.server.exchange import Call, Failure
from ramet.server.generation import Generation
from ramet.server.messages import Ready, Update
from ramet.server.options import ServeOptions
from ramet.server.record import Watcher
from ramet.server.served import ServedModel

MAX_CONTEXT = 4096
VOCAB_SIZE = 2048


class ScriptedEngine(EngineClient):
    """Every sample is `words` long, or as long as it may be. `asked` is what it was asked to do, `salts`
    with which salts. `fails` is what becomes of the next generations instead."""

    def __init__(self, words: Sequence[str] = ("It", " is", " so", ".")) -> None:
        super().__init__({})
        self.state = "ready"
        self.facts = Ready(VOCAB_SIZE, MAX_CONTEXT, 20_000, {"version": "0"})
        self._tokens = [tokenizer().encode(word, False)[0] for word in words]
        self.asked: list[Call] = []
        self.salts: list[str] = []
        self.fails: Failure | Exception | None = None

    def generate(
        self,
        calls: Sequence[Call],
        *,
        salt: str = "",
        owner: str = "",  # noqa: ARG002 - the signature is the real one's
        kind: str = "",  # noqa: ARG002
        stream: bool,  # noqa: ARG002
        on_over: Callable[[], None] = lambda: None,
        on_begun: Callable[[], None] = lambda: None,
    ) -> Generation:
        if isinstance(self.fails, Exception):
            raise self.fails
        self.asked += calls
        self.salts.append(salt)
        names = [call.rid or "x" for call in calls]
        generation = Generation(calls, names, lambda: None, on_over, on_begun)
        if self.fails is not None:
            generation.fail(self.fails)
            return generation
        loop = asyncio.get_running_loop()
        index = 0
        for call in calls:
            for _ in range(call.params.n):
                loop.call_soon(generation.update, self._update(index, call))
                index += 1
        return generation

    def _update(self, index: int, call: Call) -> Update:
        ids = self._tokens[: call.params.max_new_tokens]
        whole = len(ids) == len(self._tokens)
        meta: dict[str, Any] = {
            "id": "x",
            "finish_reason": {"type": "stop", "matched": 2}
            if whole
            else {"type": "length", "length": len(ids)},
            "prompt_tokens": len(call.ids),
            "completion_tokens": len(ids),
            "cached_tokens": 0,
            "num_preemptions": 0,
            "e2e_latency": 0.01,
            "first_token_latency": 0.005,
            "seed": 1,
        }
        options = call.logprobs
        if options.output or options.prompt_start is not None:
            start = options.prompt_start
            scored = [] if start is None else [int(token) for token in call.ids][start:]
            prompt = [[-0.5, token, None] for token in scored]
            if prompt and start == 0:
                prompt[0][0] = None
            meta["input_token_logprobs"] = prompt
            meta["output_token_logprobs"] = [[-0.25, token, None] for token in ids]
            if options.top:
                top = [[-0.25, 5, None]] * min(options.top, 3)
                meta["input_top_logprobs"] = [None if s[0] is None else top for s in prompt]
                meta["output_top_logprobs"] = [top for _ in ids]
        text = tokenizer().decode(ids)
        return Update(0, index, text, list(ids), meta, (list(ids), "") if call.spans else None)

    async def ask(self, what: str, argument: int = 0) -> Any:  # type: ignore[override]  # noqa: ARG002
        if what == "stats":
            return {"num_steps": 1}
        return True if what == "flush" else "done"

    def stop(self, rid: str, owner: str, *_: Any) -> bool:  # noqa: ARG002
        return False

    def stop_all(self, owner: str | None = None) -> int:  # noqa: ARG002
        return 0


def served(**changes: Any) -> ServedModel:
    facts: dict[str, Any] = {
        "name": "pocket",
        "model_path": "pocket",
        "tokenizer": tokenizer(),
        "vocab_size": VOCAB_SIZE,
        "max_context": MAX_CONTEXT,
        "created": 1_700_000_000,
    }
    return ServedModel(**{**facts, **changes})


def app(
    engine: ScriptedEngine | None = None,
    model: ServedModel | None = None,
    watchers: Sequence[Watcher] = (),
    **options: Any,
) -> ServerApp:
    made = ServeOptions(
        engine=EngineOptions(model_path="pocket"), **{"enable_page": False, **options}
    )
    return ServerApp(made, engine or ScriptedEngine(), model or served(), watchers)


@contextlib.asynccontextmanager
async def client(server: ServerApp, **headers: str) -> Any:
    transport = httpx.ASGITransport(server.asgi)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1", headers=headers
    ) as found:
        yield found


def folder_with(tmp_path: Path, **files: str) -> Path:
    """A copy of the embedded model's folder, with further files (their names' last "_" is the dot)."""
    import ramet.pocket

    for path in Path(ramet.pocket.model_path()).iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        (tmp_path / f"{stem}.{suffix}").write_text(content)
    return tmp_path
