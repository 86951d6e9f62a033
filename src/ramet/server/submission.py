"""The requests of one `Submit`: made, stopped in part or as a whole, and told of as they grow.

Knows the engine's requests and `messages.py`; refuses to know connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ramet.engine.request import LogprobOptions, Request
from ramet.engine.response import build_meta_info
from ramet.params import SamplingParams
from ramet.server.messages import Part, Submit, Update, unpacked_ids

if TYPE_CHECKING:
    from ramet.backends.local import Engine

__all__ = ["Submission"]


class Submission:
    """`tell` is called on the engine's thread with what is new; `congested()` says whether nobody reads it."""

    def __init__(
        self,
        engine: Engine,
        message: Submit,
        tell: Callable[[Update], None],
        congested: Callable[[], bool],
    ) -> None:
        self.engine, self._tell, self._congested = engine, tell, congested
        self.key, self.parts, self.stream = message.key, message.parts, message.stream
        self.requests: list[Request] = []
        self._index: dict[str, tuple[int, int]] = {}  # by rid: its sample's, its part's
        self._told: dict[str, tuple[int, int]] = {}  # tokens, scores
        self._compiling: asyncio.Task[None] | None = None
        self._aborted = False
        self._stopped: set[int] = set()  # parts whose end was asked for

    # -- on the event loop -------------------------------------------------------------------------

    async def prepare(self) -> bool:
        """Make the requests. False if nothing is left to do: their ends were asked for, and are told, or
        nobody wants to hear of them."""
        params = [SamplingParams.from_dict(part.params) for part in self.parts]
        if any(p.constraint is not None for p in params):
            self._compiling = asyncio.create_task(self._compile(params))
            try:
                await self._compiling
            except asyncio.CancelledError:
                if len(self._stopped) < len(self.parts):
                    raise
            finally:
                self._compiling.cancel()
        for i, part in enumerate(self.parts):
            one = params[i]
            if i in self._stopped and one.constraint is not None:
                one = one.replace(**{one.constraint: None})
            for request in self._made(part, one):
                self._index[request.rid] = (len(self.requests), i)
                self.requests.append(request)
        while any(map(self._is_stopped, self.requests)):
            await asyncio.to_thread(self.engine.host.call, lambda _core: self._tell_stopped())
        return bool(self.requests) and not self._aborted

    async def _compile(self, params: Iterable[SamplingParams]) -> None:
        for one in params:
            await self.engine.constraining.compiled(one)

    def _made(self, part: Part, params: SamplingParams) -> list[Request]:
        scoring = part.scoring
        options = LogprobOptions()
        if scoring is not None:
            options = LogprobOptions(
                output=scoring.output,
                prompt_start=scoring.prompt_start,
                top=scoring.top,
                token_ids=tuple(scoring.token_ids),
            )
        return self.engine.samples(
            part.rid,
            unpacked_ids(part.ids),
            params,
            options,
            salt=part.salt,
            num_public=part.num_public,
        )

    def stop(self, part: int | None) -> None:
        """End the requests of one part, or of all; their ends are told."""
        self._stopped |= set(range(len(self.parts))) if part is None else {part}
        if self._compiling is not None and not self._compiling.done():
            if len(self._stopped) == len(self.parts):
                self._compiling.cancel()
        else:
            self.engine.host.abort(r.rid for r in self.requests if self._is_stopped(r))

    def abort(self) -> None:
        """Nobody wants to hear of it any more. Whoever cancels the task that prepares it says so here, too:
        a cancellation is lost where what is waited for comes in the same turn."""
        self._aborted = True
        self.engine.host.abort(request.rid for request in self.requests)

    def _is_stopped(self, request: Request) -> bool:
        return self._index[request.rid][1] in self._stopped

    # -- on the engine's thread --------------------------------------------------------------------

    def _tell_stopped(self) -> None:
        """The ends of those that were stopped before they began."""
        for request in filter(self._is_stopped, self.requests):
            request.arrival_time = request.finish_time = self.engine.clock()
            request.finish_reason = {"type": "abort", "message": "aborted", "status_code": 499}
            request.text.finish(request.finish_reason)
            self.update(request)
        self.requests = [r for r in self.requests if not self._is_stopped(r)]

    def update(self, request: Request) -> None:
        """After a step that changed the request."""
        if request.error is not None:  # it ends all of them, and is told once
            self.engine.host.abort(r.rid for r in self.requests if r is not request)
            return
        num_ids, num_scores = self._told.get(request.rid, (0, 0))
        # Without a stream, the first token and the end.
        if not request.finished and ((num_ids and not self.stream) or self._congested()):
            return
        index, place = self._index[request.rid]
        part = self.parts[place]
        text = self.engine.text(request)
        new_text = text.take_new()
        ids = request.output_ids[num_ids:]
        self._told[request.rid] = (len(request.output_ids), len(request.output_scores))
        meta = kept = None
        if request.finished or not num_ids or request.logprobs.output:
            token_text = self.engine.token_text(part.token_text)
            meta = build_meta_info(request, token_text, self.engine.clock(), num_scores)
            if num_ids and not request.finished:  # said with the first token
                for name in [name for name in meta if name.startswith("input_")]:
                    del meta[name]
        if request.finished and part.spans:
            leading, rest = text.kept()
            kept = ([int(token) for token in leading], rest)
        self._tell(Update(self.key, index, new_text, ids, meta, kept))
