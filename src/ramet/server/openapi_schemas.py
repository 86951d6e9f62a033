"""What requests and answers look like, as JSON Schemas: every field, its type and both of its bounds.

Data only, in one place for all protocols. Knows the bounds that the readers hold; refuses to know routes
(`openapi.py`) and reading. `tests/server/test_openapi.py` holds the two together: what a schema allows of a
field its reader knows, what it forbids the reader refuses. A field may be null where it may be missing, and
an unknown field may only be null.
"""

from __future__ import annotations

from typing import Any

from ramet.params import MAX_STOP_REGEX_BYTES, MAX_STOPS
from ramet.server.json_fields import MAX_INTEGER
from ramet.server.native import MAX_CHOICES, MAX_PROMPTS, MAX_RID, MAX_SPANS
from ramet.server.openai_completions import MAX_PROMPTS as MAX_COMPLETION_PROMPTS
from ramet.server.openai_fields import MAX_N, MAX_TOP_LOGPROBS

__all__ = ["SCHEMAS", "ref", "whole"]

Schema = dict[str, Any]

_TEXT = 1 << 24  # characters of one text: as much as a template may write
_SOURCE = 1 << 18  # characters of a constraint
_IDS = 1 << 24  # token ids of one prompt: a body holds no more


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def text(most: int = _TEXT, least: int = 0, **more: Any) -> Schema:
    return {"type": "string", "minLength": least, "maxLength": most, **more}


def whole(low: int, high: int = MAX_INTEGER, **more: Any) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high, **more}


def number(low: float, high: float, **more: Any) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high, **more}


def flag(**more: Any) -> Schema:
    return {"type": "boolean", **more}


def array(items: Schema, most: int, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def words(*allowed: str) -> Schema:
    return {"type": "string", "enum": list(allowed)}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def free_object(most: int | None = None, values: Schema | None = None) -> Schema:
    found: Schema = {"type": "object"}
    if most is not None:
        found["maxProperties"] = most
    if values is not None:
        found["additionalProperties"] = values
    return found


def body(required: tuple[str, ...], **fields: Schema) -> Schema:
    """Of a request: what is not required may be null, what is not known must be."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {
            name: schema if name in required else either(schema, {"type": "null"})
            for name, schema in fields.items()
        },
        "additionalProperties": {"type": "null"},
    }


def answer(**fields: Schema) -> Schema:
    """Of a response: all of these are there, and more may be."""
    return {"type": "object", "required": list(fields), "properties": fields}


def maybe(schema: Schema) -> Schema:
    return either(schema, {"type": "null"})


def one_given(schema: Schema, *names: str) -> Schema:
    """A body in which exactly one of these fields is given."""
    null: Schema = {"type": "null"}
    return {
        **schema,
        "oneOf": [
            {
                "required": [name],
                "properties": {n: {"not": null} if n == name else null for n in names},
            }
            for name in names
        ],
    }


def off(*values: Any) -> Schema:
    """A feature that this server lacks: only values that ask for nothing."""
    return {"enum": [*values, None]}


_name = text(64, 1)
_token = ref("TokenId")  # whose bound is the model's
_rid = text(MAX_RID, 1)
_salt = text(MAX_RID)
_stop = either(text(1024, 1), array(text(1024, 1), MAX_STOPS))
_stop_regex = either(text(MAX_STOP_REGEX_BYTES, 1), array(text(MAX_STOP_REGEX_BYTES, 1), MAX_STOPS))
_source = either(text(_SOURCE), free_object())
_biases = free_object(4096, maybe(number(-100, 100))) | {
    "propertyNames": {"pattern": "^[0-9]{1,10}$"}
}

# -- what is told of every generation ---------------------------------------------------------------

_SAMPLING: dict[str, Schema] = {
    "temperature": number(0, 1e6),
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": -1, "maximum": MAX_INTEGER, "not": {"const": 0}},
    "min_p": number(0, 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "repetition_penalty": {"type": "number", "exclusiveMinimum": 0, "maximum": 2},
    "stop": _stop,
    "stop_regex": _stop_regex,
    "ignore_eos": flag(),
    "skip_special_tokens": flag(),
    "spaces_between_special_tokens": flag(),
    "no_stop_trim": flag(),
}
_OPENAI_SAMPLING: dict[str, Schema] = {
    **_SAMPLING,
    "stop_token_ids": array(_token, 256),
    "min_tokens": whole(0),
    "logit_bias": _biases,
    "seed": whole(-(2**63), 2**64 - 1),
    "regex": text(_SOURCE),
    "ebnf": text(_SOURCE),
    "json_schema": _source,
    "structural_tag": _source,
    "response_format": ref("ResponseFormat"),
}
_OPENAI_ASKED: dict[str, Schema] = {
    "model": text(512),
    "n": whole(1, MAX_N),
    "stream": flag(),
    "stream_options": ref("StreamOptions"),
    "cache_salt": _salt,
    "return_token_ids": flag(),
    "user": text(),
    "safety_identifier": text(),
    "prompt_cache_key": text(),
    "metadata": free_object(),
    "best_of": {"type": "integer"},
    "store": off(False),
    "service_tier": off("auto", "default"),
    "prompt_cache_retention": off("in_memory"),
}
_REQUESTS: dict[str, Schema] = {
    "SamplingParams": body(
        (),
        **_SAMPLING,
        max_new_tokens=whole(0),
        min_new_tokens=whole(0),
        n=whole(1, 4096),
        stop_token_ids=either(_token, array(_token, 256)),
        regex=text(_SOURCE),
        ebnf=text(_SOURCE),
        json_schema=text(_SOURCE),
        structural_tag=text(_SOURCE),
        logit_bias=_biases,
        sampling_seed=whole(0, 2**64 - 1),
        beam_width=off(1),
    ),
    "Generate": one_given(
        body(
            (),
            text=either(text(), array(text(), MAX_PROMPTS, 1)),
            input_ids=either(array(_token, _IDS, 1), array(array(_token, _IDS), MAX_PROMPTS, 1)),
            spans=ref("Spans"),
            sampling_params=either(
                ref("SamplingParams"), array(maybe(ref("SamplingParams")), MAX_PROMPTS)
            ),
            return_logprob=either(flag(), array(maybe(flag()), MAX_PROMPTS)),
            logprob_start_len=either(whole(-1), array(maybe(whole(-1)), MAX_PROMPTS)),
            top_logprobs_num=either(whole(0), array(maybe(whole(0)), MAX_PROMPTS)),
            token_ids_logprob=either(
                array(_token, 1024), array(maybe(array(_token, 1024)), MAX_PROMPTS)
            ),
            return_text_in_logprobs=flag(),
            stream=flag(),
            rid=either(_rid, array(_rid, MAX_PROMPTS)),
            cache_salt=_salt,
            **{
                name: off(False, "", [], {})
                for name in (
                    *("input_embeds", "image_data", "video_data", "audio_data", "modalities"),
                    *("lora_path", "lora_id", "session_params", "custom_logit_processor"),
                    *("return_hidden_states", "return_routed_experts", "bootstrap_host"),
                    *("bootstrap_port", "bootstrap_room", "data_parallel_rank", "priority"),
                    *("extra_key", "background", "conversation_id", "log_metrics", "no_logs"),
                    "require_reasoning",
                )
            },
        ),
        "text",
        "input_ids",
        "spans",
    ),
    "Spans": array(either(text(), array(_token, _IDS)), MAX_SPANS),
    "ScoreChoices": body(
        ("choices", "spans"),
        spans=ref("Spans"),
        choices=array(text(least=1), MAX_CHOICES, 1),
        unconditional=flag(),
        rid=_rid,
        cache_salt=_salt,
    ),
    "Tokenize": one_given(
        body(
            (),
            model=text(512),
            prompt=either(text(), array(text(), MAX_PROMPTS)),
            messages=array({"type": "object"}, 4096),
            add_special_tokens=flag(),
            add_generation_prompt=flag(),
        ),
        "prompt",
        "messages",
    ),
    "Detokenize": body(
        ("tokens",),
        model=text(512),
        tokens=either(array(_token, _IDS), array(array(_token, _IDS), MAX_PROMPTS)),
        skip_special_tokens=flag(),
    ),
    "AbortRequest": body((), rid=_rid, abort_all=flag()),
}

# -- OpenAI's ---------------------------------------------------------------------------------------

_call = body(
    ("function",),
    id=text(128),
    type=words("function"),
    index=whole(0),
    function=body(("name",), name=text(128, 1), arguments=text()),
)
_content = either(text(), array(ref("ChatPart"), 1024))
_tool_name = text(64, 1, pattern="^[A-Za-z0-9_.-]+$")
_OPENAI: dict[str, Schema] = {
    "StreamOptions": body(
        (),
        include_usage=flag(),
        continuous_usage_stats=flag(),
        include_obfuscation=off(False),
    ),
    "ResponseFormat": {
        "oneOf": [
            body(("type",), type=words("text", "json_object")),
            body(
                ("type", "json_schema"),
                type=words("json_schema"),
                json_schema=body(
                    ("name", "schema"),
                    name=_name,
                    description=text(),
                    strict=flag(),
                    schema=free_object(),
                ),
            ),
            body(("type",), type=words("structural_tag"), structures={}, triggers={}),
        ]
    },
    "Completion": body(
        ("prompt",),
        **_OPENAI_ASKED,
        **_OPENAI_SAMPLING,
        prompt=either(
            text(),
            array(_token, _IDS, 1),
            array(either(text(), array(_token, _IDS, 1)), MAX_COMPLETION_PROMPTS, 1),
        ),
        rid=either(_rid, array(_rid, MAX_COMPLETION_PROMPTS)),
        max_tokens=whole(0),
        logprobs=whole(0, MAX_TOP_LOGPROBS),
        echo=flag(),
        suffix=off(""),
    ),
    "Chat": body(
        ("messages",),
        **_OPENAI_ASKED,
        **_OPENAI_SAMPLING,
        messages=array(ref("ChatMessage"), 4096, 1),
        rid=_rid,
        max_tokens=whole(1),
        max_completion_tokens=whole(1),
        logprobs=flag(),
        top_logprobs=whole(0, MAX_TOP_LOGPROBS),
        tools=array(ref("Tool"), 128),
        tool_choice=either(
            words("none", "auto", "required"),
            body(
                ("type", "function"),
                type=words("function"),
                function=body(("name",), name=_tool_name),
            ),
        ),
        parallel_tool_calls=flag(),
        modalities=off(["text"]),
        verbosity=off("medium"),
        separate_reasoning=flag(),
        stream_reasoning=flag(),
        reasoning_effort=words("none", "minimal", "low", "medium", "high", "xhigh", "max"),
        add_generation_prompt=flag(),
        continue_final_message=flag(),
        chat_template_kwargs=free_object(32)
        | {"propertyNames": {"pattern": "^[A-Za-z][A-Za-z0-9_]{0,63}$"}},
    ),
    "ChatMessage": {
        "oneOf": [
            body(
                ("role", "content"),
                role=words("system", "developer", "user"),
                content=_content,
                name=text(128),
            ),
            body(
                ("role",),
                role=words("assistant"),
                content=_content,
                name=text(128),
                tool_calls=array(_call, 128),
                reasoning_content=text(),
                refusal=text(),
                annotations=off([]),
                audio=off(),
                function_call=off(),
            ),
            body(
                ("role", "content", "tool_call_id"),
                role=words("tool"),
                content=_content,
                name=text(128),
                tool_call_id=text(128),
            ),
        ]
    },
    "ChatPart": either(
        body(("type", "text"), type=words("text"), text=text()),
        body(("type", "refusal"), type=words("refusal"), refusal=text()),
    ),
    "Tool": body(
        ("function",),
        type=words("function"),
        function=body(
            ("name",),
            name=_tool_name,
            description=text(1 << 16),
            parameters=free_object(),
            strict=flag(),
        ),
    ),
    "Response": body(
        ("input",),
        input=either(text(), array(ref("ResponseItem"), 4096, 1)),
        instructions=text(),
        model=text(256),
        max_output_tokens=whole(1),
        temperature=number(0, 2),
        top_p={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        stream=flag(),
        stream_options=body((), include_obfuscation=off(False)),
        cache_salt=text(256),
        metadata=free_object(16, text(512)) | {"propertyNames": {"maxLength": 64}},
        text=body((), format=ref("ResponseTextFormat"), verbosity=off("medium")),
        parallel_tool_calls=flag(),
        user=text(256),
        safety_identifier=text(256),
        prompt_cache_key=text(256),
        reasoning=body((), effort=off("none"), summary=off(), generate_summary=off()),
        previous_response_id=off(),
        conversation=off(),
        prompt=off(),
        store=off(False),
        background=off(False),
        truncation=off("disabled"),
        service_tier=off("auto", "default"),
        tools=off([]),
        tool_choice=off("auto", "none"),
        max_tool_calls=off(),
        include=off([]),
        top_logprobs=off(0),
    ),
    "ResponseItem": body(
        ("role", "content"),
        type=words("message"),
        role=words("user", "assistant", "system", "developer"),
        id=text(256),
        status=words("in_progress", "completed", "incomplete"),
        content=either(text(), array(ref("ResponsePart"), 1024)),
    ),
    "ResponsePart": either(
        body(("type", "text"), type=words("input_text"), text=text()),
        body(
            ("type", "text"),
            type=words("output_text"),
            text=text(),
            annotations=off([]),
            logprobs=off([]),
        ),
    ),
    "ResponseTextFormat": either(
        body(("type",), type=words("text", "json_object")),
        body(
            ("type", "name", "schema"),
            type=words("json_schema"),
            name=text(64, 1, pattern="^[A-Za-z0-9_-]+$"),
            schema=free_object(),
            strict=flag(),
            description=text(),
        ),
    ),
}

# -- Anthropic's ------------------------------------------------------------------------------------

_cached = ref("CacheControl")
_blocks = array(ref("TextBlock"), 1024)
_PROMPT: dict[str, Schema] = {
    "model": text(256),
    "messages": array(ref("Turn"), 4096, 1),
    "system": either(text(), _blocks),
    "tools": array(ref("AnthropicTool"), 128),
    "tool_choice": ref("AnthropicToolChoice"),
    "thinking": body(("type",), type=words("disabled")),
    "cache_control": _cached,
    "output_config": body(
        (), format=body(("type", "schema"), type=words("json_schema"), schema=free_object())
    ),
}
_ANTHROPIC: dict[str, Schema] = {
    "Messages": body(
        ("messages", "max_tokens"),
        **_PROMPT,
        max_tokens=whole(1),
        stop_sequences=array(text(1024, 1), MAX_STOPS),
        temperature=number(0, 1),
        top_p={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        top_k=whole(-1),
        metadata=body((), user_id=text(256)),
        service_tier=off("auto", "standard_only"),
        speed=off("standard"),
        stream=flag(),
        cache_salt=text(256),
    ),
    "CountTokens": body(("messages",), **_PROMPT),
    "CacheControl": body(("type",), type=words("ephemeral"), ttl=words("5m", "1h")),
    "TextBlock": body(
        ("type", "text"),
        type=words("text"),
        text=text(),
        citations=off([]),
        cache_control=_cached,
    ),
    "ToolUseBlock": body(
        ("type", "id", "name", "input"),
        type=words("tool_use"),
        id=text(256, 1),
        name=text(256, 1),
        input=free_object(),
        cache_control=_cached,
    ),
    "ToolResultBlock": body(
        ("type", "tool_use_id"),
        type=words("tool_result"),
        tool_use_id=text(256, 1),
        content=either(text(), _blocks),
        is_error=flag(),
        cache_control=_cached,
    ),
    "Turn": {
        "oneOf": [
            body(
                ("role", "content"),
                role=words("user"),
                content=either(
                    text(), array(either(ref("TextBlock"), ref("ToolResultBlock")), 1024)
                ),
            ),
            body(
                ("role", "content"),
                role=words("assistant"),
                content=either(text(), array(either(ref("TextBlock"), ref("ToolUseBlock")), 1024)),
            ),
            body(("role", "content"), role=words("system"), content=either(text(), _blocks)),
        ]
    },
    "AnthropicTool": body(
        ("name", "input_schema"),
        type=words("custom"),
        name=text(128, 1, pattern="^[A-Za-z0-9_.-]+$"),
        description=text(1 << 16),
        input_schema=free_object(),
        strict=flag(),
        cache_control={},
    ),
    "AnthropicToolChoice": either(
        body(("type",), type=words("auto", "any", "none"), disable_parallel_tool_use=flag()),
        body(
            ("type", "name"),
            type=words("tool"),
            name=text(128, 1),
            disable_parallel_tool_use=flag(),
        ),
    ),
}

# -- answers ----------------------------------------------------------------------------------------

_count = {"type": "integer", "minimum": 0}
_string = {"type": "string"}
_ids = {"type": "array", "items": _count}
_logprobs = maybe({"type": "object"})
_stopped = maybe(either(_string, {"type": "integer"}))
_usage = answer(
    prompt_tokens=_count,
    completion_tokens=_count,
    total_tokens=_count,
    prompt_tokens_details=answer(cached_tokens=_count),
)
_head: dict[str, Schema] = {
    "id": _string,
    "created": _count,
    "model": _string,
    "system_fingerprint": _string,
}
_anthropic_usage = answer(
    input_tokens=_count,
    cache_creation_input_tokens=_count,
    cache_read_input_tokens=_count,
    output_tokens=_count,
)
_meta = answer(
    id=_string,
    prompt_tokens=_count,
    completion_tokens=_count,
    cached_tokens=_count,
    finish_reason={"type": "object"},
)
_generated = answer(text=_string, output_ids=_ids, meta_info=_meta)
_scores: Schema = {
    "type": "array",
    "items": {"type": "array", "minItems": 3, "maxItems": 3},
}
_model = answer(
    id=_string,
    object={"const": "model"},
    created=_count,
    owned_by=_string,
    max_model_len=_count,
)
_ANSWERS: dict[str, Schema] = {
    "GenerateAnswer": either(_generated, {"type": "array", "items": _generated}),
    "ScoreChoicesAnswer": answer(
        scores={
            "type": "array",
            "items": answer(tokens=_scores, unconditional=maybe(_scores), meta_info=free_object()),
        }
    ),
    "TokenizeAnswer": answer(
        tokens=either(_ids, {"type": "array", "items": _ids}),
        count=either(_count, _ids),
        max_model_len=_count,
    ),
    "DetokenizeAnswer": answer(text=either(_string, {"type": "array", "items": _string})),
    "AbortAnswer": answer(aborted=_count),
    "ModelInfo": answer(
        model_path=_string,
        is_generation=flag(),
        served_model_name=_string,
        max_model_len=_count,
        extensions={"type": "array", "items": _string},
    ),
    "ServerInfo": answer(
        served_model_name=_string,
        num_engine_starts=_count,
        internal_states={"type": "array", "items": {"type": "object"}},
    ),
    "CompletionAnswer": answer(
        **_head,
        object={"const": "text_completion"},
        choices={
            "type": "array",
            "items": answer(
                index=_count,
                text=_string,
                logprobs=_logprobs,
                finish_reason=words("stop", "length", "abort"),
                matched_stop=_stopped,
            ),
        },
        usage=_usage,
    ),
    "ChatAnswer": answer(
        **_head,
        object={"const": "chat.completion"},
        choices={
            "type": "array",
            "items": answer(
                index=_count,
                message=answer(role={"const": "assistant"}, content=maybe(_string)),
                logprobs=_logprobs,
                finish_reason=words("stop", "length", "tool_calls", "abort"),
                matched_stop=_stopped,
            ),
        },
        usage=_usage,
    ),
    "ResponseAnswer": answer(
        id=_string,
        object={"const": "response"},
        created_at=_count,
        status=words("completed", "incomplete"),
        model=_string,
        output={"type": "array", "items": {"type": "object"}},
        usage=answer(input_tokens=_count, output_tokens=_count, total_tokens=_count),
        error={"type": "null"},
        incomplete_details=maybe(answer(reason=_string)),
    ),
    "MessagesAnswer": answer(
        id=_string,
        type={"const": "message"},
        role={"const": "assistant"},
        model=_string,
        content={"type": "array", "items": answer(type=words("text", "tool_use"))},
        stop_reason=words(
            *("end_turn", "max_tokens", "stop_sequence", "tool_use"),
            "model_context_window_exceeded",
        ),
        stop_sequence=maybe(_string),
        usage=_anthropic_usage,
    ),
    "CountTokensAnswer": answer(input_tokens=_count),
    "Model": _model,
    "Models": answer(object={"const": "list"}, data={"type": "array", "items": _model}),
    "Error": answer(error=answer(message=_string, type=_string, code={})),
    "OpenAIError": answer(
        error=answer(
            message=_string, type=_string, param=maybe(_string), code=maybe(either(_string, _count))
        )
    ),
    "AnthropicError": answer(type={"const": "error"}, error=answer(type=_string, message=_string)),
}

SCHEMAS: dict[str, Schema] = {**_REQUESTS, **_OPENAI, **_ANTHROPIC, **_ANSWERS}
