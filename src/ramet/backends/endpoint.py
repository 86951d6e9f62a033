"""The language's view of an engine in this process.

`LocalEndpoint` is a `ramet.backend.Backend`: prompts become token ids, calls become requests that share
whatever the tree holds, and the ids that come back stay ids. Knows the engine's host; refuses to know
programs.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
    TokenLogprob,
)
from ramet.backends.native import prompt_start
from ramet.engine.request import LogprobOptions, Request
from ramet.engine.response import TokenText, build_meta_info, triples
from ramet.errors import Aborted, RametError
from ramet.params import SamplingParams
from ramet.prompt import Span, Text, Tokens

if TYPE_CHECKING:
    from ramet.backends.local import Engine

__all__ = ["LocalEndpoint"]

_NOTHING_NEW = SamplingParams(max_new_tokens=0)


class LocalEndpoint:
    """One per engine (`engine.endpoint`)."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._tokenizer = engine.tokenizer

    @property
    def model_path(self) -> str:
        return self.engine.options.chat_template or self.engine.model_path

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(regex=True, json_schema=True, ebnf=True, structural_tag=True)

    @property
    def chat_template(self) -> RoleTemplate | None:
        return self.engine.chat_template

    def flush_cache(self) -> bool:
        return self.engine.flush_cache()

    def get_server_info(self) -> dict[str, Any]:
        return self.engine.get_server_info()

    def shutdown(self) -> None:
        self.engine.shutdown()

    async def generate(
        self, call: GenerateCall, on_chunk: OnChunk | None = None
    ) -> list[Completion]:
        await self.engine.constraining.compiled(call.params)
        ids = self._tokenizer.prompt_ids(call.prompt)
        wanted = call.return_logprob
        options = LogprobOptions(
            output=wanted,
            prompt_start=prompt_start(wanted, call.logprob_start_len, call.params, len(ids)),
            top=call.top_logprobs_num if wanted else 0,
        )
        requests = self.engine.samples(call.rid, ids, call.params, options)
        token_text = self.engine.token_text(call.return_text_in_logprobs)
        watch = None
        if on_chunk is not None:
            watch = self._chunker(requests[0], token_text, on_chunk, asyncio.get_running_loop())
        done = await self.engine.host.finished(requests, watch)
        # Nothing was written before this text: what the tokenizer begins with stays in front of it.
        start = () if call.prompt.num_spans else tuple(ids)
        return [self._completion(request, token_text, start) for request in done]

    async def score(self, call: ScoreCall) -> list[ChoiceScore]:
        _, full, start = self._tokenizer.choice_tokens(call.prompt, call.choices)
        rid = call.rid or uuid.uuid4().hex
        given = [
            self.engine.request(
                f"{rid}/choice{i}", ids, _NOTHING_NEW, LogprobOptions(prompt_start=start)
            )
            for i, ids in enumerate(full)
        ]
        alone = [
            self.engine.request(
                f"{rid}/alone{i}", ids.since(start), _NOTHING_NEW, LogprobOptions(prompt_start=0)
            )
            for i, ids in enumerate(full if call.unconditional else [])
        ]
        await self.engine.host.finished([*given, *alone])
        token_text = self.engine.token_text(True)
        return [
            self._choice_score(request, alone[i] if alone else None, token_text)
            for i, request in enumerate(given)
        ]

    def hint(self, hint: Hint) -> None:
        """Compute a prefix that several calls are going to extend. Never raises: it is advice."""
        if hint.kind == "done" or hint.prompt is None:
            return
        try:
            ids = self._tokenizer.prompt_ids(hint.prompt).without_last()  # it may change yet
            request = self.engine.request(uuid.uuid4().hex, ids, _NOTHING_NEW, LogprobOptions())
            request.background = True
            self.engine.host.submit([request])
        except RametError:
            return  # the calls that were announced will fail with this, where somebody reads it

    # -- answers ---------------------------------------------------------------------------------

    def _completion(
        self, request: Request, token_text: TokenText, start: tuple[int, ...]
    ) -> Completion:
        _raise_if_failed(request)
        text = self.engine.text(request)
        ids, rest = text.kept()
        spans: list[Span] = [Tokens(start, "")] if start else []
        if ids:
            spans.append(Tokens(tuple(ids), text.text[: len(text.text) - len(rest)]))
        if rest:
            spans.append(Text(rest))
        meta = build_meta_info(request, token_text, self.engine.clock())
        return Completion(text=text.text, spans=tuple(spans), meta_info=meta)

    def _choice_score(
        self, given: Request, alone: Request | None, token_text: TokenText
    ) -> ChoiceScore:
        _raise_if_failed(given)
        unconditional: tuple[TokenLogprob, ...] | None = None
        if alone is not None:
            _raise_if_failed(alone)
            unconditional = tuple(triples(alone.prompt_scores, token_text))
        return ChoiceScore(
            tokens=tuple(triples(given.prompt_scores, token_text)),
            unconditional=unconditional,
            meta_info=build_meta_info(given, token_text, self.engine.clock()),
        )

    def _chunker(
        self,
        first: Request,
        token_text: TokenText,
        on_chunk: OnChunk,
        loop: asyncio.AbstractEventLoop,
    ) -> Callable[[Request], None]:
        """What to do on the engine's thread when a streamed call got a token: send the new text, and of
        the per-token lists what is new."""
        sent = 0

        def update(request: Request) -> None:
            nonlocal sent
            if request is not first:
                return
            meta = build_meta_info(request, token_text, self.engine.clock(), sent)
            sent = len(request.output_scores)
            chunk = Chunk(text=self.engine.text(request).take_new(), meta_info=meta)
            self.engine.host.tell(loop, lambda: on_chunk(chunk))

        return update


def _raise_if_failed(request: Request) -> None:
    if request.error is not None:
        raise request.error
    reason = request.finish_reason or {}
    if reason.get("type") == "abort":
        raise Aborted(f"the call was aborted: {reason.get('message')}")
