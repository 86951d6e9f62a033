"""The server's description of itself: OpenAPI 3.1, as `GET /openapi.json` gives it.

One table of routes; schemas are `openapi_schemas.py`'s. Knows paths, methods, media types and statuses. Refuses
to know how anything is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ramet.server.openapi_schemas import SCHEMAS, ref, whole

__all__ = ["LIVE", "METRICS", "ROUTES", "Route", "openapi"]

_JSON, _EVENTS, _PLAIN = "application/json", "text/event-stream", "text/plain"
_WRONG = {
    400: "Something in the request is wrong; the message names the field.",
    401: "The API key is missing or wrong.",
    403: "Not for this key, or not for pages of this origin.",
    404: "There is no such path or model.",
    405: "Not with this method.",
    408: "The request stopped coming.",
    413: "The body is too long.",
    429: "There is too much to do; Retry-After says when to come again.",
    431: "The headers are too long.",
    499: "The client left, or aborted the request.",
    500: "The server failed; its log names the request.",
    503: "The engine is starting, or the server is stopping.",
    504: "The answer was not ready in time.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`takes` and `gives` are names of schemas; `gives` None is plain text. `streams`: server-sent events
    where the body says `"stream": true`. `can_fail`: statuses that are errors. `always_fails`: there is no
    answer but an error. `key`: whether a key is needed where the server has keys. `parameters` are
    OpenAPI's."""

    path: str
    methods: tuple[str, ...] = ("get",)
    summary: str
    takes: str | None = None
    gives: str | None = None
    streams: bool = False
    can_fail: tuple[int, ...] = ()
    always_fails: bool = False
    key: bool = True
    parameters: tuple[dict[str, Any], ...] = ()

    @property
    def error(self) -> str:
        if self.path.startswith("/v1/messages"):
            return "AnthropicError"
        return "OpenAIError" if self.path.startswith("/v1/") else "Error"


def _generating(path: str, summary: str, takes: str, gives: str, streams: bool = True) -> Route:
    return Route(
        path=path,
        methods=("post", "put") if path == "/generate" else ("post",),
        summary=summary,
        takes=takes,
        gives=gives,
        streams=streams,
        can_fail=(400, 408, 413, 429, 499, 500, 503, 504),
        parameters=(
            {
                "name": "x-request-timeout",
                "in": "header",
                "description": "Seconds after which the answer is not wanted any more.",
                "schema": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e9},
            },
        ),
    )


def _asking(path: str, summary: str, takes: str, gives: str) -> Route:
    return Route(
        path=path,
        methods=("post",),
        summary=summary,
        takes=takes,
        gives=gives,
        can_fail=(400, 408, 413),
    )


_SECONDS = {
    "name": "timeout",
    "in": "query",
    "description": "Seconds to wait for running requests.",
    "schema": {"type": "number", "minimum": 0, "maximum": 600},
}
_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}

ROUTES: tuple[Route, ...] = (
    _generating("/generate", "Generate from texts, ids or spans.", "Generate", "GenerateAnswer"),
    _generating(
        "/score_choices",
        "How likely each of some texts is after a prompt.",
        "ScoreChoices",
        "ScoreChoicesAnswer",
        streams=False,
    ),
    _generating("/v1/completions", "OpenAI's completions.", "Completion", "CompletionAnswer"),
    _generating("/v1/chat/completions", "OpenAI's chat completions.", "Chat", "ChatAnswer"),
    _generating(
        "/v1/responses", "OpenAI's responses, without state.", "Response", "ResponseAnswer"
    ),
    _generating("/v1/messages", "Anthropic's messages.", "Messages", "MessagesAnswer"),
    _asking(
        "/v1/messages/count_tokens",
        "The length of a prompt of /v1/messages.",
        "CountTokens",
        "CountTokensAnswer",
    ),
    *(
        _asking(path, "The token ids of texts or a conversation.", "Tokenize", "TokenizeAnswer")
        for path in ("/tokenize", "/v1/tokenize")
    ),
    *(
        _asking(path, "The text of token ids.", "Detokenize", "DetokenizeAnswer")
        for path in ("/detokenize", "/v1/detokenize")
    ),
    Route(path="/v1/models", summary="The served model, as a list.", gives="Models"),
    Route(
        path="/v1/models/{name}",
        summary="The served model, by its name or as default.",
        gives="Model",
        can_fail=(404,),
        parameters=(_NAME,),
    ),
    *(
        Route(path=path, summary="Facts about the model.", gives="ModelInfo")
        for path in ("/get_model_info", "/model_info")
    ),
    *(
        Route(
            path=path,
            summary="The server's options and counters.",
            gives="ServerInfo",
            can_fail=(503,),
        )
        for path in ("/get_server_info", "/server_info")
    ),
    *(
        Route(path=path, summary="200 while the server takes requests.", can_fail=(503,), key=False)
        for path in ("/health", "/ping")
    ),
    Route(
        path="/health_generate",
        summary="200 if the engine gives a token.",
        can_fail=(400, 429, 499, 500, 503),
    ),
    Route(
        path="/flush_cache",
        methods=("get", "post"),
        summary="Empty the cache. For admins.",
        can_fail=(400, 403, 503),
        parameters=(_SECONDS,),
    ),
    Route(
        path="/abort_request",
        methods=("post",),
        summary="End a running request of one's own, or all of them.",
        takes="AbortRequest",
        gives="AbortAnswer",
        can_fail=(400, 408, 413),
    ),
    *(
        Route(
            path=path,
            methods=("get", "post"),
            summary="Profile the engine's thread. For admins.",
            can_fail=(403, 500, 503),
        )
        for path in ("/start_profile", "/stop_profile")
    ),
    Route(
        path="/concate_and_append_request",
        methods=("post",),
        summary="Does nothing: older clients ask for it.",
    ),
    Route(
        path="/encode",
        methods=("post",),
        summary="Refused: the model gives no embeddings.",
        can_fail=(400,),
        always_fails=True,
    ),
    Route(path="/openapi.json", summary="This description.", gives="Description", key=False),
)

METRICS = Route(path="/metrics", summary="Figures for Prometheus. For admins.", can_fail=(403,))
LIVE = Route(
    path="/live",
    summary="What the server does now, as events for the page at /.",
    streams=True,
    can_fail=(429,),
    parameters=({"name": "since", "in": "query", "schema": {"type": "string"}},),
)

_DESCRIPTION = {"type": "object", "required": ["openapi", "info", "paths"]}


def openapi(
    version: str,
    title: str = "Ramet",
    *,
    vocab_size: int,
    keys: bool = True,
    more: Sequence[Route] = (),
) -> dict[str, Any]:
    """The description. `keys`: whether this server wants any. `more`: routes that not every server has."""
    paths: dict[str, Any] = {}
    for route in (*ROUTES, *more):
        for method in route.methods:
            paths.setdefault(route.path, {})[method] = _operation(route, method, keys)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": {
                **SCHEMAS,
                "TokenId": whole(0, vocab_size - 1),
                "Description": _DESCRIPTION,
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(route: Route, method: str, keys: bool) -> dict[str, Any]:
    name = route.path.strip("/").replace("/", "_").replace("{", "").replace("}", "")
    found: dict[str, Any] = {
        "operationId": f"{method}_{name.replace('.', '_')}",
        "summary": route.summary,
        "responses": {str(status): answer for status, answer in _responses(route, keys)},
    }
    if route.takes is not None:
        content = {_JSON: {"schema": ref(route.takes)}}
        found["requestBody"] = {"required": True, "content": content}
    if route.parameters:
        found["parameters"] = list(route.parameters)
    if keys and route.key:
        found["security"] = [{"bearer": []}, {"header": []}]
    return found


def _responses(route: Route, keys: bool) -> list[tuple[int, dict[str, Any]]]:
    found: list[tuple[int, dict[str, Any]]] = []
    if not route.always_fails:
        content: dict[str, Any] = {_PLAIN: {"schema": {"type": "string"}}}
        if route.gives is not None:
            content = {_JSON: {"schema": ref(route.gives)}}
        if route.streams:
            content[_EVENTS] = {}  # events of the protocol, each a line of JSON
        found.append((200, {"description": "The answer.", "content": content}))
    statuses = {*route.can_fail, 403, 431, *((401,) if keys and route.key else ())}
    error = {_JSON: {"schema": ref(route.error)}}
    for status in sorted(statuses):
        found.append((status, {"description": _WRONG[status], "content": error}))
    return found
