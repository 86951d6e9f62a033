"""The server's routes: which protocol answers where.

Knows paths, the protocols' readers and the parts that serve them. Refuses to know how a protocol or the
engine works.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ramet import __version__
from ramet.backends.remote_template import tokenizer_field
from ramet.errors import InvalidRequest, Unsupported
from ramet.params import SamplingParams
from ramet.server.admission import Admission
from ramet.server.anthropic_answers import anthropic_error
from ramet.server.anthropic_messages import count_tokens, read_messages
from ramet.server.engine_client import EngineClient
from ramet.server.exchange import Call, Exchange, Failure
from ramet.server.generation import Refused
from ramet.server.guard import Guard, failure_response, server_failure
from ramet.server.handler import Generated, Serving, json_bytes
from ramet.server.identity import Identity, Keys
from ramet.server.live_route import LivePage
from ramet.server.metrics import CONTENT_TYPE, Metrics
from ramet.server.native import (
    error_body as native_error,
)
from ramet.server.native import (
    read_detokenize,
    read_generate,
    read_score_choices,
    read_tokenize,
)
from ramet.server.native_bounds import flag, refuse_unknown, short_text
from ramet.server.openai_answers import error_body as openai_error
from ramet.server.openai_answers import model_list, model_object
from ramet.server.openai_chat import read_chat
from ramet.server.openai_completions import read_completion
from ramet.server.openai_responses import read_response
from ramet.server.openapi import LIVE, METRICS, openapi
from ramet.server.options import ServeOptions
from ramet.server.reading import Bodies, ClientDisconnect, json_object, read_body
from ramet.server.record import Record, Watcher
from ramet.server.served import ServedModel

__all__ = ["EXTENSIONS", "METERED_PATHS", "ServerApp"]

EXTENSIONS = ["spans", "score_choices"]  # what this server adds to the native protocol
_SMALL_BODY = 2048  # bytes: what takes no time to read and to tokenize
_ALL_BODIES = 256 << 20  # bytes of all bodies that are being read at a time
_HEALTH_SECONDS = 20.0
_MAX_WAIT = 600.0  # seconds that /flush_cache may wait for running requests

_METRICS_SECONDS = 2.0  # that the engine may take to count

# Whose requests are counted each on its own.
METERED_PATHS = frozenset(
    [
        "/generate",
        "/score_choices",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/health",
        "/health_generate",
        "/tokenize",
        "/detokenize",
        "/get_model_info",
        "/get_server_info",
        "/flush_cache",
        "/abort_request",
        "/metrics",
        "/live",
        "/",
    ]
)

Reader = Callable[[dict[str, Any], ServedModel], Exchange]
Question = Callable[[dict[str, Any], ServedModel], Any]


class ServerApp:
    """`asgi` is the application. `watchers` hear of every request."""

    def __init__(
        self,
        options: ServeOptions,
        engine: EngineClient,
        model: ServedModel,
        watchers: Sequence[Watcher] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self.options, self.engine, self.model = options, engine, model
        self.keys = Keys(options.api_keys, options.admin_key)
        self._bodies = Bodies(max(_ALL_BODIES, 2 * options.max_body_bytes))
        self.admission = Admission(options.max_held, options.max_queued_tokens, options.max_wait)
        self.metrics = metrics
        self.page: LivePage | None = None
        if options.enable_page:
            hello = {
                "model": model.name,
                "version": __version__,
                "max_context": model.max_context,
                "num_slots": 0 if engine.facts is None else engine.facts.num_slots,
                "policy": options.engine.schedule_policy,
            }
            self.page = LivePage(engine, model, self.keys, hello)
        self.watchers = [*watchers, *([self.page] if self.page else [])]
        self.started = time.time()
        self._serving = Serving(engine, self.admission, options.write_timeout)
        self.asgi = self._guarded(
            Starlette(
                routes=self._routes(),
                exception_handlers={HTTPException: _no_route, Exception: _failed},
            )
        )

    def _guarded(self, app: Starlette) -> ASGIApp:
        local_only = self.options.is_loopback and not self.keys.needed
        guard: ASGIApp = Guard(
            app,
            self.keys,
            open_paths=("/", "/page/", "/health", "/ping", "/openapi.json"),
            local_only=local_only,
            origins=self.options.allowed_origins,
            error_body=error_body_of,
            watchers=self.watchers,
        )
        if self.options.allowed_origins:
            guard = CORSMiddleware(
                guard,
                allow_origins=list(self.options.allowed_origins),
                allow_methods=["*"],
                allow_headers=["*"],
            )
        return guard

    def _routes(self) -> list[Route]:
        def post(path: str, endpoint: Any, *more: str) -> Route:
            return Route(path, endpoint, methods=["POST", *more])

        def get(path: str, endpoint: Any, *more: str) -> Route:
            return Route(path, endpoint, methods=["GET", *more])

        routes = [
            post("/generate", self._exchange(read_generate), "PUT"),
            post("/score_choices", self._exchange(read_score_choices)),
            post("/v1/completions", self._exchange(read_completion)),
            post("/v1/chat/completions", self._exchange(read_chat)),
            post("/v1/responses", self._exchange(read_response)),
            post("/v1/messages", self._exchange(read_messages)),
            post("/v1/messages/count_tokens", self._question(count_tokens)),
            get("/v1/models", self._safely(self._models)),
            get("/v1/models/{name:path}", self._safely(self._model)),
            get("/health", self._safely(self._health)),
            get("/ping", self._safely(self._health)),
            get("/health_generate", self._safely(self._health_generate)),
            get("/flush_cache", self._safely(self._flush_cache), "POST"),
            post("/abort_request", self._safely(self._abort_request)),
            post("/concate_and_append_request", self._safely(self._nothing)),
            post("/encode", self._safely(self._encode)),
            get("/openapi.json", self._safely(self._openapi)),
        ]
        if self.metrics is not None:
            routes.append(get("/metrics", self._safely(self._metrics)))
        if self.page is not None:
            routes += self.page.routes()
        for path in ("/tokenize", "/v1/tokenize"):
            routes.append(post(path, self._question(read_tokenize)))
        for path in ("/detokenize", "/v1/detokenize"):
            routes.append(post(path, self._question(read_detokenize)))
        for path in ("/get_model_info", "/model_info"):
            routes.append(get(path, self._safely(self._model_info)))
        for path in ("/get_server_info", "/server_info"):
            routes.append(get(path, self._safely(self._server_info)))
        for path in ("/start_profile", "/stop_profile"):
            routes.append(get(path, self._safely(self._profile), "POST"))
        return routes

    # -- one request ---------------------------------------------------------------------------------

    def _exchange(self, read: Reader) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that generates."""

        async def endpoint(request: Request) -> Response:
            self.admission.refuse_if_full()
            exchange = await self._read(request, read)
            record, identity = record_of(request), identity_of(request)
            record.stream = exchange.stream
            salt = self.keys.salt(identity, exchange.cache_salt)
            path = request.url.path
            return Generated(
                self._serving,
                exchange,
                salt,
                record,
                self._timeout(request),
                lambda failure: error_body_of(path, failure),
            )

        return self._safely(endpoint)

    def _question(self, answer: Question) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that needs the tokenizer only."""

        async def endpoint(request: Request) -> Response:
            return json_response(await self._read(request, answer))

        return self._safely(endpoint)

    async def _read(self, request: Request, read: Callable[[Any, ServedModel], Any]) -> Any:
        body = await read_body(request, self.options.max_body_bytes, self._bodies)
        if len(body) <= _SMALL_BODY:
            return read(json_object(body), self.model)
        return await asyncio.to_thread(lambda: read(json_object(body), self.model))

    def _timeout(self, request: Request) -> float:
        """Seconds; a client may ask for less than the server's own."""
        given = request.headers.get("x-request-timeout")
        if given is None:
            return self.options.request_timeout
        try:
            seconds = float(given)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < 1e9:
            raise InvalidRequest("x-request-timeout", given[:40], "is no number of seconds above 0")
        return min(seconds, self.options.request_timeout)

    def _safely(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """What a client got wrong, and what the server cannot do now, as answers."""

        async def safe(request: Request) -> Response:
            try:
                return await endpoint(request)
            except InvalidRequest as error:
                failure = Failure(status=400, message=str(error), field=error.field)
            except Unsupported as error:
                failure = Failure(status=400, message=str(error))
            except Refused as refused:
                failure = refused.failure
            except ClientDisconnect:
                failure = Failure(status=499, message="the client left before its body had come")
            record = record_of(request)
            return failure_response(failure, error_body_of(request.url.path, failure), record)

        return safe

    # -- what there is ---------------------------------------------------------------------------------

    async def _openapi(self, _request: Request) -> Response:
        more = [*([METRICS] if self.metrics else []), *([LIVE] if self.page else [])]
        size, keys = self.model.vocab_size, self.keys.needed
        return json_response(openapi(__version__, vocab_size=size, keys=keys, more=more))

    async def _models(self, _request: Request) -> Response:
        return json_response(model_list(self.model))

    async def _model(self, request: Request) -> Response:
        found = model_object(self.model, request.path_params["name"])
        if isinstance(found, Failure):
            raise Refused(found)
        return json_response(found)

    async def _model_info(self, _request: Request) -> Response:
        facts = self._facts()
        return json_response(
            {
                "model_path": self.options.engine.model_path,
                "tokenizer_path": facts.get("tokenizer_path"),
                "is_generation": True,
                "served_model_name": self.model.name,
                "weight_version": "default",
                "preferred_sampling_params": None,
                "has_image_understanding": False,
                "has_audio_understanding": False,
                "model_type": facts.get("model_type"),
                "architectures": facts.get("architectures"),
                "max_model_len": self.model.max_context,
                "extensions": EXTENSIONS,
                "tokenizer": tokenizer_field(self.model.tokenizer),
            }
        )

    async def _server_info(self, _request: Request) -> Response:
        stats = await self.engine.ask("stats")
        return json_response(
            {
                **self._facts(),
                **self.options.to_dict(),
                "served_model_name": self.model.name,
                "startup_time": self.started,
                "num_engine_starts": self.engine.num_starts,
                "internal_states": [stats],
            }
        )

    def _facts(self) -> Mapping[str, Any]:
        return {} if self.engine.facts is None else self.engine.facts.info

    # -- health ----------------------------------------------------------------------------------------

    async def _health(self, _request: Request) -> Response:
        if self.engine.state != "ready" or self.admission.draining:
            state = "stopping" if self.admission.draining else self.engine.state
            raise Refused(EngineClient.unavailable(f"the server is {state}"))
        return PlainTextResponse("ok\n")

    async def _health_generate(self, request: Request) -> Response:
        await self._health(request)
        if not self.engine.num_generations:
            params = SamplingParams(max_new_tokens=1, temperature=0.0, ignore_eos=True)
            generation = self.engine.generate([Call(ids=[0], params=params)], stream=False)
            try:
                async with asyncio.timeout(_HEALTH_SECONDS):
                    await generation.finished()
            except TimeoutError:
                raise Refused(
                    EngineClient.unavailable(f"no token came within {_HEALTH_SECONDS:.0f} s")
                ) from None
            finally:
                generation.abort()
        return PlainTextResponse("ok\n")

    # -- what is done to the server ----------------------------------------------------------------------

    def _only_admins(self, request: Request) -> None:
        if not identity_of(request).is_admin:
            message = "this needs the server's admin key"
            raise Refused(Failure(status=403, message=message, code="admin_key_needed"))

    async def _flush_cache(self, request: Request) -> Response:
        self._only_admins(request)
        given = request.query_params.get("timeout") or "0"
        try:
            left = float(given)
        except ValueError:
            left = -1.0
        if not 0 <= left <= _MAX_WAIT:
            raise InvalidRequest("timeout", given, f"is not between 0 and {_MAX_WAIT:g} seconds")
        end = time.monotonic() + left
        while not await self.engine.ask("flush"):
            if time.monotonic() >= end:
                message = "requests are running or waiting; nothing was flushed"
                raise Refused(Failure(status=400, message=message))
            await asyncio.sleep(0.05)
        return PlainTextResponse("the cache is empty\n")

    async def _abort_request(self, request: Request) -> Response:
        body = json_object(await read_body(request, self.options.max_body_bytes, self._bodies))
        refuse_unknown(body, frozenset(("rid", "abort_all")), frozenset())
        identity = identity_of(request)
        owner, rid = identity.tenant or "", short_text(body, "rid")
        if flag(body, "abort_all"):
            count = self.engine.stop_all(None if identity.is_admin else owner)
        elif rid is None:
            raise InvalidRequest("rid", None, "is missing", 'give it, or "abort_all": true')
        else:
            count = int(self.engine.stop(rid, owner))
        return json_response({"aborted": count})

    async def _profile(self, request: Request) -> Response:
        self._only_admins(request)
        begun = request.url.path == "/start_profile"
        text = await self.engine.ask("start_profile" if begun else "stop_profile")
        return PlainTextResponse(f"{text}\n")

    async def _nothing(self, _request: Request) -> Response:
        return PlainTextResponse(
            ""
        )  # texts are joined by the client; older clients ask all the same

    async def _encode(self, _request: Request) -> Response:
        message = "this server's model generates text; it gives no embeddings"
        raise Refused(Failure(status=400, message=message))

    async def _metrics(self, request: Request) -> Response:
        self._only_admins(request)
        stats = None
        if self.engine.state == "ready":
            with contextlib.suppress(Refused, TimeoutError):
                async with asyncio.timeout(_METRICS_SECONDS):
                    stats = await self.engine.ask("stats")
        gauges = {
            "requests_held": self.admission.num_held,
            "requests_held_tokens": self.admission.num_tokens,
            "held_limit": self.admission.max_held,
            "engine_ready": float(self.engine.state == "ready"),
            "engine_starts": self.engine.num_starts,
        }
        assert self.metrics is not None  # or there is no such route
        return Response(self.metrics.text(stats, gauges), media_type=CONTENT_TYPE)

    # -- its end -----------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Take nothing new; wait for what runs until the deadline, then end it."""
        self.admission.draining = True
        end = time.monotonic() + self.options.shutdown_timeout
        while self.admission.num_held and time.monotonic() < end:
            await asyncio.sleep(0.05)
        self.engine.stop_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                while self.admission.num_held:
                    await asyncio.sleep(0.02)


async def _no_route(request: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    asked = f"{request.method} {request.url.path[:200]}"
    problem = "is not to be had" if status == 405 else "does not exist"
    failure = Failure(status=status, message=f"{asked} {problem}; /openapi.json says what does")
    body = error_body_of(request.url.path, failure)
    response = failure_response(failure, body, record_of(request))
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)  # Allow
    return response


async def _failed(request: Request, _error: Exception) -> Response:
    return server_failure(record_of(request), error_body_of)


def record_of(request: Request) -> Record:
    found: Record = request.scope["state"]["record"]
    return found


def identity_of(request: Request) -> Identity:
    found: Identity = request.scope["state"]["identity"]
    return found


def json_response(value: Any) -> Response:
    return Response(json_bytes(value), media_type="application/json")


def error_body_of(path: str, failure: Failure) -> Any:
    """A failure in the form of the protocol that is spoken at `path`."""
    if path.startswith("/v1/messages"):
        return anthropic_error(failure)
    return openai_error(failure) if path.startswith("/v1/") else native_error(failure)
