"""OpenAI-style `POST /v1/responses`, its text part: a body becomes a prompt to generate from.

Knows the names, defaults and bounds of the Responses protocol. Refuses to know HTTP, engines, and how answers
look (`openai_response_events.py`). Nothing is stored between requests, so whatever needs a stored response is
refused by name, and so are tools and reasoning in this version: templates that know `enable_thinking` are told
false. Without `max_output_tokens` an answer may have as many tokens as the context has room for.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.errors import InvalidRequest
from ramet.params import SamplingParams
from ramet.server.exchange import Call, Exchange
from ramet.server.json_fields import Fields, json_source
from ramet.server.openai_response_events import ResponseExchange
from ramet.server.openai_response_input import read_input
from ramet.server.served import ServedModel

__all__ = ["read_response"]

MAX_TEXT = 1 << 24  # characters of one text
MAX_NAME = 256  # characters of names, ids and keys that are only given back
MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512  # of metadata
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_REMEDIES = {
    "max_tokens": "use max_output_tokens",
    "messages": "use input",
    "response_format": "use text.format",
    "stop": "use /v1/chat/completions",
}


def read_response(
    body: dict[str, Any], model: ServedModel, clock: Callable[[], float] = time.time
) -> Exchange:
    """The body of `/v1/responses`. `clock` in seconds since 1970. Raises `InvalidRequest` with the dotted
    name of what is wrong."""
    fields = Fields(body)
    _refuse_state(fields)
    _refuse_tools(fields)
    _refuse_reasoning(fields)
    form = _read_form(fields)
    messages = read_input(fields)
    facts = _read_facts(fields, model) | {"created_at": int(clock()), "text": {"format": form.told}}
    stream = fields.flag("stream")
    _read_stream_options(fields, stream)
    salt = fields.text("cache_salt", MAX_NAME) or ""
    fields.refuse_rest(_REMEDIES)

    ids = model.render(messages, True, enable_thinking=False)
    params = SamplingParams(
        max_new_tokens=_room(ids, model, facts["max_output_tokens"]),
        temperature=facts["temperature"],
        top_p=facts["top_p"],
        json_schema=form.schema,
    )
    call = Call(ids=ids, params=params, rid=facts["id"])
    return ResponseExchange(calls=(call,), stream=stream, cache_salt=salt, facts=facts)


def _read_facts(fields: Fields, model: ServedModel) -> dict[str, Any]:
    """What the response repeats of its request."""
    temperature = fields.number("temperature", 0.0, 2.0)
    top_p = fields.number("top_p", 0.0, 1.0)
    if top_p == 0.0:
        raise fields.wrong("top_p", "leaves no token", "give temperature 0 for the most likely one")
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "model": fields.text("model", MAX_NAME) or model.name,
        "instructions": fields.text("instructions", MAX_TEXT),
        "max_output_tokens": fields.integer("max_output_tokens", 1),
        "temperature": 1.0 if temperature is None else temperature,
        "top_p": 1.0 if top_p is None else top_p,
        "metadata": _read_metadata(fields),
        **_read_marks(fields),
        **_UNUSED,
    }


def _room(ids: Sequence[int], model: ServedModel, wanted: int | None) -> int:
    """Tokens that the answer may have."""
    room = model.max_context - len(ids)
    if room < 1:
        raise InvalidRequest(
            "input",
            f"{len(ids)} tokens",
            f"leave no room for an answer in the model's context of {model.max_context} tokens",
        )
    return room if wanted is None else min(wanted, room)


# What a response tells of features that are not used.
_UNUSED: Mapping[str, Any] = {
    "background": False,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "truncation": "disabled",
}


def _refuse_state(fields: Fields) -> None:
    """What needs something to be kept, or to be done later."""
    for name in ("previous_response_id", "conversation", "prompt"):
        if fields.take(name) is not None:
            raise fields.wrong(
                name, "refers to something stored, and this server stores nothing", "send all input"
            )
    if fields.flag("store"):
        raise fields.wrong("store", "is not possible: this server stores nothing", "leave it out")
    fields.idle("background", False)
    fields.idle("truncation", "disabled")
    fields.idle("service_tier", "auto", "default")


def _refuse_tools(fields: Fields) -> None:
    tools = fields.take("tools")
    if tools is not None and tools != []:
        raise fields.wrong(
            "tools", "are not supported by this server's /v1/responses", "use /v1/chat/completions"
        )
    fields.idle("tool_choice", "auto", "none")
    fields.idle("max_tool_calls")
    fields.idle("include", [])
    fields.idle("top_logprobs", 0)


def _refuse_reasoning(fields: Fields) -> None:
    value = fields.take("reasoning")
    if value is not None:
        reasoning = Fields(value, "reasoning")
        reasoning.idle("effort", "none")
        for name in ("summary", "generate_summary"):
            reasoning.idle(name)
        reasoning.refuse_rest()


def _read_stream_options(fields: Fields, stream: bool) -> None:
    value = fields.take("stream_options")
    if value is None:
        return
    if not stream:
        raise fields.wrong("stream_options", "is given without stream", "leave it out")
    options = Fields(value, "stream_options")
    options.idle("include_obfuscation", False)
    options.refuse_rest()


def _read_metadata(fields: Fields) -> dict[str, str]:
    value = fields.take("metadata")
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_PAIRS:
        raise fields.wrong("metadata", f"is not an object of at most {MAX_PAIRS} texts")
    pairs = Fields(value, "metadata")
    found: dict[str, str] = {}
    for key in value:
        if len(key) > MAX_KEY:
            raise fields.wrong("metadata", f"has a key of more than {MAX_KEY} characters")
        text = pairs.text(key, MAX_VALUE)
        if text is None:
            raise pairs.wrong(key, "is not a text")
        found[key] = text
    return found


def _read_marks(fields: Fields) -> dict[str, Any]:
    """What only goes back to the client."""
    found: dict[str, Any] = {
        "parallel_tool_calls": fields.flag("parallel_tool_calls", default=True)
    }
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        if (text := fields.text(name, MAX_NAME)) is not None:
            found[name] = text
    return found


# -- the form of the answer -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Form:
    """`told` is `text.format` as the response repeats it; `schema` is the constraint, as JSON."""

    told: Mapping[str, Any]
    schema: str | None = None


def _read_form(fields: Fields) -> _Form:
    value = fields.take("text")
    if value is None:
        return _Form({"type": "text"})
    text = Fields(value, "text")
    form = text.take("format")
    text.idle("verbosity", "medium")
    text.refuse_rest()
    if form is None:
        return _Form({"type": "text"})
    inner = Fields(form, "text.format")
    kind = inner.one_of("type", ("text", "json_object", "json_schema"))
    if kind is None:
        raise inner.wrong("type", "is missing")
    found = _Form({"type": kind}, '{"type": "object"}' if kind == "json_object" else None)
    if kind == "json_schema":
        found = _read_schema(inner)
    inner.refuse_rest()
    return found


def _read_schema(inner: Fields) -> _Form:
    """`strict` or not, the schema holds."""
    name = inner.text("name", 64)
    if name is None or not _SCHEMA_NAME.match(name):
        raise inner.wrong("name", "is not a name of 1 to 64 letters, digits, - and _")
    schema = inner.take("schema")
    if not isinstance(schema, Mapping):
        raise inner.wrong("schema", "is not an object")
    told: dict[str, Any] = {
        "type": "json_schema",
        "name": name,
        "schema": schema,
        "strict": inner.flag("strict"),
    }
    if (description := inner.text("description", MAX_TEXT)) is not None:
        told["description"] = description
    return _Form(told, json_source(schema, "text.format.schema"))
