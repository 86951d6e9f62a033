"""Anthropic-style `POST /v1/messages` and `/v1/messages/count_tokens`: a body becomes prompts to generate from.

Knows the names, defaults and bounds of the Messages protocol. Refuses to know HTTP, engines, and how answers
look (`anthropic_answers.py`). What differs from the original, on purpose:

- `max_tokens` may be more than the context has room for: then the answer ends where the context does, with
  the stop reason `model_context_window_exceeded`.
- `top_k` of 0 or -1 means no limit, and white space may end a begun answer or be a stop sequence.
- Reasoning is never asked for: templates that know `enable_thinking` are told false.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.errors import InvalidRequest
from ramet.params import MAX_STOPS, SamplingParams
from ramet.server.anthropic_answers import MessagesExchange, anthropic_error
from ramet.server.anthropic_conversation import (
    Conversation,
    read_cache_control,
    read_conversation,
)
from ramet.server.exchange import Call, Exchange
from ramet.server.json_fields import Fields, json_source
from ramet.server.messages_text import with_instructions
from ramet.server.served import ServedModel
from ramet.server.tools import (
    Tool,
    ToolPlan,
    plan_tools,
    read_anthropic_tool_choice,
    read_anthropic_tools,
    template_messages,
)

__all__ = ["anthropic_error", "count_tokens", "read_messages"]

MAX_NAME = 256  # characters of a model's name, of a user's id, of a salt
MAX_STOP = 1024  # characters of a stop sequence


def read_messages(body: dict[str, Any], model: ServedModel) -> Exchange:
    """The body of `/v1/messages`. Raises `InvalidRequest` with the dotted name of what is wrong."""
    fields = Fields(body)
    question = _read_question(fields, model)
    wanted = fields.integer("max_tokens", 1)
    if wanted is None:
        raise fields.wrong("max_tokens", "is missing", "say how many tokens the answer may have")
    sampling = _read_sampling(fields)
    _read_marks(fields)
    stream, salt = fields.flag("stream"), fields.text("cache_salt", MAX_NAME) or ""
    fields.refuse_rest()

    ids = _render(question, model)
    room = _room(ids, model)
    if question.constraint is not None:
        sampling[question.constraint[0]] = question.constraint[1]
    params = SamplingParams(max_new_tokens=min(wanted, room), **sampling)
    answer_id = f"msg_{uuid.uuid4().hex}"
    return MessagesExchange(
        id=answer_id,
        model=question.model,
        calls=(Call(ids=ids, params=params, rid=answer_id),),
        stream=stream,
        cache_salt=salt,
        cut_by_context=wanted > room,
        tools=question.tools,
        plan=question.plan,
        parallel=question.parallel,
    )


def _room(ids: Sequence[int], model: ServedModel) -> int:
    """The most tokens that an answer can have."""
    room = model.max_context - len(ids)
    if room < 1:
        raise InvalidRequest(
            "messages",
            f"{len(ids)} tokens",
            f"leave no room for an answer in the model's context of {model.max_context} tokens",
        )
    return room


def count_tokens(body: dict[str, Any], model: ServedModel) -> dict[str, Any]:
    """The answer of `/v1/messages/count_tokens`: how many tokens the prompt of such a request has."""
    fields = Fields(body)
    question = _read_question(fields, model)
    fields.refuse_rest()
    return {"input_tokens": len(_render(question, model))}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What both routes have: all that the prompt depends on. `schema` is JSON, of `output_config`."""

    model: str
    conversation: Conversation
    schema: str | None
    tools: tuple[Tool, ...]
    plan: ToolPlan
    parallel: bool

    @property
    def constraint(self) -> tuple[str, str] | None:
        """A field of `SamplingParams` and its value."""
        return ("json_schema", self.schema) if self.schema is not None else self.plan.constraint


def _read_question(fields: Fields, model: ServedModel) -> _Question:
    _refuse_thinking(fields)
    read_cache_control(fields)
    name = fields.text("model", MAX_NAME) or model.name
    schema = _read_format(fields)
    conversation = read_conversation(fields)
    tools = read_anthropic_tools(fields.take("tools"))
    choice, parallel = read_anthropic_tool_choice(fields.take("tool_choice"), tools)
    begun, forced = bool(conversation.begun), choice.mode in ("required", "named")
    if schema is not None and (begun or choice.mode != "none"):
        what = "a begun answer" if begun else "tools that may be called"
        raise fields.wrong("output_config", f"has a format, which cannot be combined with {what}")
    if forced and begun:
        raise fields.wrong("tool_choice", "wants a call, and the answer was begun with a text")
    return _Question(
        model=name,
        conversation=conversation,
        schema=schema,
        tools=tools,
        plan=plan_tools(model, tools, choice, parallel),
        parallel=parallel,
    )


def _render(question: _Question, model: ServedModel) -> list[int]:
    """The prompt's ids. A begun answer follows what the template writes to have one begun."""
    conversation, plan = question.conversation, question.plan
    messages = template_messages(model, conversation.messages, plan.style)
    variables: dict[str, Any] = {"enable_thinking": False}
    if plan.template_tools is not None:
        variables["tools"] = plan.template_tools
    if plan.instructions:
        messages = [dict(message) for message in with_instructions(messages, plan.instructions)]
    written = model.render_text(messages, True, **variables)
    begun = model.quoted(conversation.begun or "")
    return model.encode(written + begun, add_special_tokens=False)


def _read_sampling(fields: Fields) -> dict[str, Any]:
    top_p = fields.number("top_p", 0.0, 1.0)
    if top_p == 0.0:
        raise fields.wrong("top_p", "leaves no token", "give temperature 0 for the most likely one")
    temperature = fields.number("temperature", 0.0, 1.0)
    return {
        "stop": _read_stops(fields),
        "temperature": 1.0 if temperature is None else temperature,
        "top_p": 1.0 if top_p is None else top_p,
        "top_k": fields.integer("top_k", -1) or -1,
    }


def _read_stops(fields: Fields) -> tuple[str, ...]:
    if isinstance(fields.take("stop_sequences"), str):
        raise fields.wrong("stop_sequences", "is not a list of texts")
    return fields.texts("stop_sequences", MAX_STOPS, MAX_STOP)


def _read_marks(fields: Fields) -> None:
    """Who asks, for the client's own use."""
    value = fields.take("metadata")
    if value is not None:
        metadata = Fields(value, "metadata")
        metadata.text("user_id", MAX_NAME)
        metadata.refuse_rest()
    fields.idle("service_tier", "auto", "standard_only")
    fields.idle("speed", "standard")


def _refuse_thinking(fields: Fields) -> None:
    value = fields.take("thinking")
    if value is None:
        return
    thinking = Fields(value, "thinking")
    if thinking.take("type") != "disabled":
        raise thinking.wrong(
            "type", "is not supported by this server", 'leave it out, or "disabled"'
        )
    thinking.refuse_rest()


def _read_format(fields: Fields) -> str | None:
    """The schema of `output_config.format`, as JSON."""
    value = fields.take("output_config")
    if value is None:
        return None
    config = Fields(value, "output_config")
    form, schema = config.take("format"), None
    if form is not None:
        inner = Fields(form, "output_config.format")
        if inner.one_of("type", ("json_schema",)) is None:
            raise inner.wrong("type", "is missing")
        schema = inner.take("schema")
        if not isinstance(schema, Mapping):
            raise inner.wrong("schema", "is not an object")
        inner.refuse_rest()
    config.refuse_rest()
    return None if schema is None else json_source(schema, "output_config.format.schema")
