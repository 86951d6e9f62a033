"""A backend that somebody wrote to SGLang's interface, as a backend of ours.

Knows both interfaces (`ramet.lang.backend.base_backend` writes theirs down) and the threads in which the
foreign blocking methods run. What a foreign object does with a value that it is given is its own affair:
every capability is assumed.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ramet.backend import (
    Capabilities,
    ChoiceScore,
    Chunk,
    Completion,
    GenerateCall,
    Hint,
    OnChunk,
    RoleTemplate,
    ScoreCall,
)
from ramet.errors import BackendError, Unsupported
from ramet.lang.chat_template import get_chat_template
from ramet.lang.choices import ChoicesDecision
from ramet.lang.media import media_of
from ramet.lang.runtime import auto_threads
from ramet.lang.sampling_record import SglSamplingParams
from ramet.prompt import Text

__all__ = ["ProgramView", "ThirdParty", "adapted"]


class ProgramView:
    """What a foreign backend sees of a program: the names of SGLang's executor, as they are at one call.

    `text_` is the prompt, `messages_` are the closed role blocks, `sid` names the branch of the run."""

    def __init__(self, call: GenerateCall | ScoreCall | Hint, backend: Any, stream: bool) -> None:
        self.text_: str = "" if call.prompt is None else call.prompt.text()
        self.messages_ = [] if isinstance(call, Hint) else [dict(m) for m in call.messages]
        self.sid: str = call.rid.rpartition("/")[0] or call.rid
        self.backend, self.stream = backend, stream
        self.chat_template = _template(backend)
        self.variables: dict[str, Any] = {}
        self.meta_info: dict[str, Any] = {}
        self.arguments: dict[str, Any] = {}
        self.images_ = [] if call.prompt is None else media_of(call.prompt)
        self.cur_images: list[Any] = []
        self.cur_role: str | None = None
        self.num_api_spec_tokens: int | None = None

    def text(self) -> str:
        return self.text_

    def messages(self) -> list[dict[str, Any]]:
        return self.messages_


class ThirdParty:
    """`backend`: the foreign object. At least `generate` must be there."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self._pool = ThreadPoolExecutor(auto_threads(), thread_name_prefix="ramet-third-party")

    @property
    def model_path(self) -> str:
        name = getattr(self.backend, "get_model_name", None)
        return str(name()) if name is not None else type(self.backend).__name__

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            score=hasattr(self.backend, "select"),
            regex=True,
            json_schema=True,
            ebnf=True,
            structural_tag=True,
            images=True,
        )

    @property
    def chat_template(self) -> RoleTemplate | None:
        found: RoleTemplate | None = _template(self.backend)
        return found

    async def generate(
        self, call: GenerateCall, on_chunk: OnChunk | None = None
    ) -> list[Completion]:
        """A stream that is cancelled ends with its next piece; a call that does not stream cannot be
        ended, and nobody waits for it."""
        view = ProgramView(call, self.backend, on_chunk is not None)
        params = SglSamplingParams.of(call)
        if on_chunk is not None and call.params.n == 1 and hasattr(self.backend, "generate_stream"):
            return [await self._streamed(view, params, on_chunk)]
        text, meta = await self._blocking(self.backend.generate, view, params)
        return _completions(text, meta, call.params.n)

    async def _streamed(
        self, view: ProgramView, params: SglSamplingParams, on_chunk: OnChunk
    ) -> Completion:
        loop, over = asyncio.get_running_loop(), False

        def pieces() -> tuple[str, dict[str, Any]]:
            text, last = "", {}
            for piece, meta in self.backend.generate_stream(view, params):
                if over:
                    break
                text, last = text + piece, dict(meta or {})
                loop.call_soon_threadsafe(on_chunk, Chunk(text=piece, meta_info=dict(last)))
            return text, last

        try:
            text, meta = await self._blocking(pieces)
        except NotImplementedError:  # an interface inherited and not filled
            text, meta = await self._blocking(self.backend.generate, view, params)
        finally:
            over = True
        return _completions(text, meta, 1)[0]

    async def score(self, call: ScoreCall) -> list[ChoiceScore]:
        raise Unsupported(
            f"{self.model_path}: a backend of SGLang's interface selects among {call.choices!r}, it "
            "gives no scores of choices"
        )

    async def decide(self, call: ScoreCall, method: Callable[..., Any]) -> ChoicesDecision:
        """What a selection asks for instead of `score`."""
        view = ProgramView(call, self.backend, False)
        decision = await self._blocking(self.backend.select, view, list(call.choices), 0.0, method)
        picked = getattr(decision, "decision", None)
        if picked not in call.choices:
            raise BackendError(f"{self.model_path} selected {picked!r}, which is no choice")
        return ChoicesDecision(str(picked), dict(decision.meta_info or {}))

    async def _blocking(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def hint(self, hint: Hint) -> None:
        name = "end_program" if hint.kind == "done" else "commit_lazy_operations"
        hook = getattr(self.backend, name, None)
        if hook is not None:
            future = self._pool.submit(hook, ProgramView(hint, self.backend, False))
            future.add_done_callback(lambda done: done.exception())  # advice does not fail anybody

    def flush_cache(self) -> bool:
        return bool(self._optional("flush_cache"))

    def get_server_info(self) -> dict[str, Any]:
        return dict(self._optional("get_server_info") or {})

    def shutdown(self) -> None:
        self._optional("shutdown")
        self._pool.shutdown(wait=False)

    def _optional(self, name: str) -> Any:
        method = getattr(self.backend, name, None)
        return None if method is None else method()


def _template(backend: Any) -> Any:
    method = getattr(backend, "get_chat_template", None)
    found = method() if method is not None else getattr(backend, "chat_template", None)
    return get_chat_template(found) if isinstance(found, str) else found


def _completions(text: Any, meta: Any, n: int) -> list[Completion]:
    """A text for one sample, a list for several; meta information likewise, or one for all."""
    texts: Sequence[Any] = text if isinstance(text, list) else [text]
    metas = meta if isinstance(meta, list) else [meta] * len(texts)
    if len(texts) != n or len(metas) != n or not all(isinstance(one, str) for one in texts):
        raise BackendError(f"the backend gave {text!r} for {n} samples")
    return [
        Completion(
            text=one,
            spans=(Text(one),) if one else (),
            meta_info=dict(facts) if isinstance(facts, Mapping) else {},
        )
        for one, facts in zip(texts, metas)
    ]


_adapted: weakref.WeakKeyDictionary[Any, ThirdParty] = weakref.WeakKeyDictionary()


def adapted(backend: Any) -> Any:
    """`backend` itself, unless it has SGLang's interface and not ours."""
    if hasattr(backend, "score") or not hasattr(backend, "generate"):
        return backend
    if not (hasattr(backend, "get_chat_template") or hasattr(backend, "select")):
        return backend
    try:
        found = _adapted.get(backend)
        if found is None:
            found = _adapted[backend] = ThirdParty(backend)
    except TypeError:  # an object that cannot be remembered weakly
        return ThirdParty(backend)
    return found
