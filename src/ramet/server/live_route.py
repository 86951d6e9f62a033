"""`GET /live` and the page's files: looks at the engine while somebody watches, and tells each viewer.

Knows viewers, identities and routes; what they are told is made in `live.py`, what is seen in
`live_facts.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ramet.server.engine_client import EngineClient
from ramet.server.generation import Refused
from ramet.server.identity import Identity, Keys
from ramet.server.live import MIN_SECONDS, Ages, LiveStream, Sight, state_event, tree_event
from ramet.server.live_facts import EngineFacts, TreeFacts
from ramet.server.live_rates import History, Rates
from ramet.server.page import assets
from ramet.server.record import Record, Watcher
from ramet.server.served import ServedModel

__all__ = ["LivePage"]

_ALONE_SECONDS = (
    1.0  # between two looks at the counters while nobody watches: the charts have a past
)
_LOOK_SECONDS = 5.0  # that the engine may take to be looked at
_MOST_VIEWERS = 64
_NO_TREE = TreeFacts(0, 0, 0, 0.0, [])


class LivePage(Watcher):
    """One per server. `run()` looks for as long as the server lives."""

    def __init__(self, engine: EngineClient, model: ServedModel, keys: Keys, hello: Any) -> None:
        self.engine, self.model, self.keys, self.hello = engine, model, keys, hello
        self._ages, self._rates, self._history = Ages(), Rates(), History()
        self._facts: EngineFacts | None = None
        self._num_viewers = 0
        self._over = False
        self._wake = asyncio.Event()
        self._looked = asyncio.Condition()

    def routes(self) -> list[Route]:
        return [
            Route("/live", self._live, methods=["GET"]),
            *(Route(path, self._asset, methods=["GET"]) for path in assets()),
        ]

    def ended(self, record: Record) -> None:
        if record.first_token_seconds is not None:
            self._rates.first_token(time.time(), record.first_token_seconds)

    # -- looking -----------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            while True:
                await self._look()
                await self._tell()
                if self._num_viewers:
                    await asyncio.sleep(MIN_SECONDS)
                else:
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_ALONE_SECONDS):
                            await self._wake.wait()
        finally:
            self._over = True  # the viewers' streams end
            await self._tell()

    async def _tell(self) -> None:
        async with self._looked:
            self._looked.notify_all()

    async def _look(self) -> None:
        watched = self._num_viewers > 0
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                seen = await self.engine.ask("look" if watched else "stats")
        except (Refused, TimeoutError):
            self._facts = None
            return
        if watched:
            self._facts = msgspec.convert(seen, EngineFacts)
        else:
            self._facts = EngineFacts(seen, [], _NO_TREE)
        now = time.time()
        self._rates.looked(now, self._facts.stats)
        self._history.add(self._state(now, Identity(is_admin=True)))

    # -- telling -----------------------------------------------------------------------------------

    async def _live(self, request: Request) -> Response:
        if self._num_viewers >= _MOST_VIEWERS:
            return Response("too many viewers", 429, headers={"retry-after": "10"})
        given = request.query_params.get("since") or "0"
        try:
            since = float(given)
        except ValueError:
            since = 0.0
        identity: Identity = request.scope["state"]["identity"]
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(
            self._events(since, identity), media_type="text/event-stream", headers=headers
        )

    async def _events(self, since: float, identity: Identity) -> AsyncIterator[bytes]:
        self._num_viewers += 1
        self._wake.set()
        try:
            hello = {**self.hello, "tenant": identity.tenant}
            stream = LiveStream(hello, self._history.samples(since))
            sight = self._sight(identity)
            while not self._over:
                async with self._looked:
                    await self._looked.wait()
                now = time.time()
                tree = None
                if self._facts is not None and self._facts.tree is not _NO_TREE:
                    tree = tree_event(self._facts.tree, self._ages, now, sight)
                frames = stream.frames(now, self._state(now, identity), tree)
                if frames:
                    yield b"".join(frames)
        finally:
            self._num_viewers -= 1

    def _state(self, now: float, identity: Identity) -> dict[str, Any]:
        facts, engine = self._facts, self.engine
        if facts is not None and not identity.is_admin:
            own = [r for r in facts.requests if engine.owner_of(r.rid) == (identity.tenant or "")]
            facts = EngineFacts(facts.stats, own, facts.tree)
        return state_event(
            facts,
            now,
            self._rates.values(now),
            engine="ready" if facts is not None else engine.state,
            kind=engine.kind_of,
            name=_short_name,
        )

    def _sight(self, identity: Identity) -> Sight:
        """Texts are shown to their own tenant, to the server's admin, and where they are everybody's."""

        def may_read(salt: str) -> bool:
            mine = self.keys.tenant_of(salt) == identity.tenant
            return not salt or identity.is_admin or mine

        def mark(salt: str) -> str:
            tenant = self.keys.tenant_of(salt) if salt else None
            if tenant is None:
                return salt[:4]
            return tenant if may_read(salt) else "other"

        return Sight(text=self._text, mark=mark, may_read=may_read)

    def _text(self, ids: Sequence[int]) -> str:
        known = [token for token in ids if token < self.model.tokenizer.vocab_size]
        return self.model.tokenizer.decode(known, False)

    async def _asset(self, request: Request) -> Response:
        status, headers, body = assets()[request.url.path].response(request.headers)
        return Response(body, status, headers)


def _short_name(rid: str) -> str:
    return f"#{rid}"
