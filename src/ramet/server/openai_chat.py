"""`/v1/chat/completions`: a body of OpenAI's form becomes a `ChatExchange`.

The conversation is written by the model's own chat template. Knows the fields; messages are read by
`messages_text.py`, tools by `tools.py`, and answers are `openai_chat_answers.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.engine.request import LogprobOptions
from ramet.errors import InvalidRequest
from ramet.params import SamplingParams
from ramet.server.exchange import Call
from ramet.server.json_fields import Fields, json_source, shown
from ramet.server.messages_text import read_messages, with_instructions
from ramet.server.openai_chat_answers import ChatExchange, Reasoning
from ramet.server.openai_fields import (
    MAX_RID,
    MAX_TOP_LOGPROBS,
    Constraint,
    finish_fields,
    read_asked,
    read_constraint,
    read_sampling,
    sampling_params,
)
from ramet.server.reasoning_text import ends_in_thought
from ramet.server.served import ServedModel
from ramet.server.tools import (
    Tool,
    ToolPlan,
    plan_tools,
    read_tool_choice,
    read_tools,
    style_of,
    template_messages,
)

__all__ = ["DEFAULT_MAX_TOKENS", "read_chat"]

# Without max_tokens a model that finds no end would write until its context is full, for a client that has
# long gone away; this is more than any answer that somebody waits for.
DEFAULT_MAX_TOKENS = 16_384

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_MAX_VARIABLES = 32
_MAX_VARIABLES_SIZE = 16_384  # characters of JSON
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_RESERVED = frozenset(
    (
        *("messages", "add_generation_prompt", "continue_final_message", "tools", "self"),
        *("chat_template", "tokenize", "raise_exception", "strftime_now"),
    )
)
# Stands at the end of a message that is to be continued, so that what the template puts behind the message
# can be cut off. From a private area of Unicode: no text has it by chance.
_HERE = "\uf8fe\uf8fdhere\uf8fe"


def read_chat(body: dict[str, Any], model: ServedModel) -> ChatExchange:
    """Raises `InvalidRequest` with the dotted name of the field, such as `messages[1].content`."""
    fields = Fields(body)
    rid = fields.text("rid", MAX_RID, least=1)
    asked = read_asked(fields, model, "chatcmpl", rid)
    top_logprobs = _top_logprobs(fields)
    max_tokens = _max_tokens(fields)
    found = read_sampling(fields, model)
    constraint = read_constraint(fields)
    plan, tools = _tools(fields, model, constraint)
    fields.idle("modalities", ["text"])
    fields.idle("verbosity", "medium")
    separate, piecewise = _reasoning(fields)
    writing = _Writing.read(fields, model)
    given = fields.take("messages")
    finish_fields(fields)

    prompt = writing.prompt(read_messages(given), model, plan)
    ids = model.encode(prompt, add_special_tokens=False)
    forced = plan.constraint if plan else None
    if constraint is not None:
        forced = constraint.field, constraint.source
    if max_tokens is None:
        max_tokens = max(1, min(model.max_context - len(ids), DEFAULT_MAX_TOKENS))
    params = sampling_params(found, n=asked.n, max_tokens=max_tokens, constraint=forced)
    return ChatExchange(
        asked=asked,
        call=Call(ids=ids, params=params, logprobs=_options(top_logprobs), rid=rid),
        tokenizer=model.tokenizer,
        top_logprobs=top_logprobs,
        reasoning=Reasoning(_begun(prompt, params), not piecewise) if separate else None,
        plan=plan,
        tools=tools,
    )


def _reasoning(fields: Fields) -> tuple[bool, bool]:
    """Are thoughts told apart, and streamed piece by piece?"""
    return fields.flag("separate_reasoning"), fields.flag("stream_reasoning", default=True)


def _begun(prompt: str, params: SamplingParams) -> bool:
    """The answer begins with thoughts; constraints of the whole text leave no room for them."""
    return params.constraint in (None, "structural_tag") and ends_in_thought(prompt)


def _top_logprobs(fields: Fields) -> int | None:
    wanted = fields.flag("logprobs")
    top = fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if not wanted and top:
        raise fields.wrong("top_logprobs", "is given without logprobs", "set logprobs to true")
    return (top or 0) if wanted else None


def _options(top_logprobs: int | None) -> LogprobOptions:
    if top_logprobs is None:
        return LogprobOptions()
    return LogprobOptions(output=True, top=top_logprobs)


def _max_tokens(fields: Fields) -> int | None:
    old, new = fields.integer("max_tokens", 1), fields.integer("max_completion_tokens", 1)
    if old is not None and new is not None and old != new:
        raise fields.wrong("max_completion_tokens", f"differs from max_tokens ({old})", "give one")
    return old if new is None else new


def _tools(
    fields: Fields, model: ServedModel, constraint: Constraint | None
) -> tuple[ToolPlan | None, tuple[Tool, ...]]:
    """The plan is None where no tool can be called."""
    parallel = fields.flag("parallel_tool_calls", default=True)
    value, wanted = fields.take("tools"), fields.take("tool_choice")
    try:
        tools = read_tools(value)
        choice = read_tool_choice(wanted, tools)
    except RecursionError:
        raise fields.wrong("tools", "or tool_choice is nested too deeply") from None
    if not tools or choice.mode == "none":
        return None, ()
    if constraint is not None:
        problem = f"cannot be combined with {constraint.origin}"
        raise fields.wrong("tools", problem, 'leave one of them out, or set tool_choice to "none"')
    return plan_tools(model, tools, choice, parallel), tools


# -- the prompt -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Writing:
    """How the conversation becomes a prompt. `open_end`: the last message is to be continued."""

    generation_prompt: bool
    open_end: bool
    variables: Mapping[str, Any]

    @classmethod
    def read(cls, fields: Fields, model: ServedModel) -> _Writing:
        open_end = fields.flag("continue_final_message")
        generation_prompt = fields.flag("add_generation_prompt", default=not open_end)
        if open_end and generation_prompt:
            raise fields.wrong(
                "add_generation_prompt",
                "cannot be combined with continue_final_message",
                "leave it out",
            )
        variables = _variables(fields, model)
        if (effort := fields.one_of("reasoning_effort", _EFFORTS)) is not None:
            variables["reasoning_effort"] = effort
        return cls(generation_prompt, open_end, variables)

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], model: ServedModel, plan: ToolPlan | None
    ) -> str:
        variables = dict(self.variables)
        if plan is not None and plan.template_tools is not None:
            variables["tools"] = plan.template_tools
        if plan is not None and plan.instructions:
            messages = with_instructions(messages, plan.instructions)
        messages = template_messages(model, messages, plan.style if plan else style_of(model))
        if not self.open_end:
            return model.render_text(messages, self.generation_prompt, **variables)
        place = f"messages[{len(messages) - 1}]"
        last = messages[-1]
        if last["role"] != "assistant" or "tool_calls" in last:
            raise InvalidRequest(
                f"{place}.role",
                last["role"],
                "cannot be continued",
                "continue_final_message needs a text of the assistant at the end",
            )
        marked = [*messages[:-1], {**last, "content": last["content"] + _HERE}]
        text, mark, _ = model.render_text(marked, False, **variables).rpartition(_HERE)
        if not mark:
            raise InvalidRequest(
                "continue_final_message", True, "does not work: the chat template hides the message"
            )
        return text


def _variables(fields: Fields, model: ServedModel) -> dict[str, Any]:
    name = "chat_template_kwargs"
    value = fields.take(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > _MAX_VARIABLES:
        raise fields.wrong(name, f"is not an object of at most {_MAX_VARIABLES} variables")
    if len(json_source(value, name)) > _MAX_VARIABLES_SIZE:
        raise fields.wrong(name, f"has more than {_MAX_VARIABLES_SIZE} characters")
    for key in value:
        reserved = key in _RESERVED or key in model.tokenizer.special_texts
        if reserved or not _VARIABLE.fullmatch(key):
            problem = "is set by the server itself" if reserved else "is no name of a variable"
            raise InvalidRequest(name, shown(key), problem)
    return dict(value)
