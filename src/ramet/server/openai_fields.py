"""What chat completions and completions have in common: who asks, how tokens are drawn, what is forced.

Reads JSON fields by OpenAI's names, and the further ones that SGLang's and vLLM's clients send, into
`SamplingParams` and small records. Refuses to know prompts, messages and answers.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ramet.errors import InvalidRequest
from ramet.params import MAX_STOP_REGEX_BYTES, MAX_STOPS, SamplingParams
from ramet.server.json_fields import Fields, json_source, shown
from ramet.server.served import ServedModel

__all__ = [
    "MAX_N",
    "MAX_RID",
    "MAX_SAMPLES",
    "MAX_TOP_LOGPROBS",
    "Asked",
    "Constraint",
    "finish_fields",
    "read_asked",
    "read_constraint",
    "read_sampling",
    "sampling_params",
]

MAX_N = 128  # choices per prompt
MAX_SAMPLES = 1024  # choices of all prompts of one request
MAX_TOP_LOGPROBS = 20
MAX_RID = MAX_SALT = 256  # characters
_MAX_MODEL = 512  # characters of a model's name
_MAX_STOP = 1024  # characters of one stop text
_MAX_STOP_IDS = 256
_MAX_BIASES = 4096
_MAX_SOURCE = 1 << 18  # characters of a constraint; what it may cost is the compiler's matter
_MAX_NAME = 64  # characters of a schema's name

_REMEDIES = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "guided_json": "use response_format",
    "guided_regex": "use regex",
    "guided_grammar": "use ebnf",
}

# SamplingParams says what is wrong by its own names.
_NAMES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "sampling_seed": "seed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Everything about a request but its prompt and its sampling. `model` is the name that the client
    used. `id` is the answer's. `token_ids`: the answer has the ids of all tokens, too."""

    id: str
    created: int
    model: str
    n: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    cache_salt: str
    token_ids: bool


def read_asked(fields: Fields, model: ServedModel, prefix: str, rid: str | None) -> Asked:
    """`prefix` of the answer's id, such as "cmpl"."""
    stream = fields.flag("stream")
    include, continuous = _stream_options(fields, stream)
    fields.mark("user", str, "a text")
    fields.mark("safety_identifier", str, "a text")
    fields.mark("prompt_cache_key", str, "a text")
    fields.mark("metadata", Mapping, "an object")
    fields.mark("best_of", int, "a whole number")
    fields.idle("store", False)
    fields.idle("service_tier", "auto", "default")
    fields.idle("prompt_cache_retention", "in_memory")
    return Asked(
        id=f"{prefix}-{rid or uuid.uuid4().hex}",
        created=int(time.time()),
        model=fields.text("model", _MAX_MODEL) or model.name,
        n=_or(fields.integer("n", 1, MAX_N), 1),
        stream=stream,
        include_usage=include,
        continuous_usage=continuous,
        cache_salt=fields.text("cache_salt", MAX_SALT) or "",
        token_ids=fields.flag("return_token_ids"),
    )


def finish_fields(fields: Fields) -> None:
    """Nothing more is taken: what is left is unknown."""
    fields.refuse_rest(_REMEDIES)


def _stream_options(fields: Fields, stream: bool) -> tuple[bool, bool]:
    value = fields.take("stream_options")
    if value is None:
        return False, False
    if not stream:
        raise fields.wrong("stream_options", "is given without stream", "leave it out")
    options = Fields(value, "stream_options")
    found = options.flag("include_usage"), options.flag("continuous_usage_stats")
    options.idle("include_obfuscation", False)
    options.refuse_rest()
    return found


# -- how tokens are drawn ---------------------------------------------------------------------------


def read_sampling(fields: Fields, model: ServedModel) -> dict[str, Any]:
    """Values of `SamplingParams` by its names, for all fields but the number of tokens and constraints.
    What the client did not give is left out."""
    found: dict[str, Any] = {
        "stop": fields.texts("stop", MAX_STOPS, _MAX_STOP),
        "stop_token_ids": fields.integers("stop_token_ids", _MAX_STOP_IDS, model.vocab_size - 1),
        "stop_regex": fields.texts("stop_regex", MAX_STOPS, MAX_STOP_REGEX_BYTES),
        "temperature": fields.number("temperature", 0.0, 1e6),
        "top_p": fields.number("top_p", 0.0, 1.0),
        "top_k": fields.integer("top_k", -1),
        "min_p": fields.number("min_p", 0.0, 1.0),
        "frequency_penalty": fields.number("frequency_penalty", -2.0, 2.0),
        "presence_penalty": fields.number("presence_penalty", -2.0, 2.0),
        "repetition_penalty": fields.number("repetition_penalty", 0.0, 2.0),
        "logit_bias": _logit_bias(fields, model.vocab_size),
        "min_new_tokens": fields.integer("min_tokens", 0),
    }
    for name in ("ignore_eos", "no_stop_trim"):
        found[name] = fields.flag(name)
    for name in ("skip_special_tokens", "spaces_between_special_tokens"):
        found[name] = fields.flag(name, default=True)
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    if seed is not None:  # clients send signed numbers of 64 bits
        found["sampling_seed"] = seed % 2**64
    return {name: value for name, value in found.items() if value is not None}


def _logit_bias(fields: Fields, vocab_size: int) -> tuple[tuple[int, float], ...] | None:
    value = fields.take("logit_bias")
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(value) > _MAX_BIASES:
        raise fields.wrong("logit_bias", f"is not an object of at most {_MAX_BIASES} token ids")
    pairs: dict[int, float] = {}
    biases = Fields(value, "logit_bias")
    for name in value:
        digits = name.isascii() and name.isdigit() and len(name) <= 10
        if not digits or not int(name) < vocab_size:
            raise InvalidRequest(
                "logit_bias", shown(name), f"is no token id of this model (0 to {vocab_size - 1})"
            )
        bias = biases.number(name, -100.0, 100.0)
        if bias is not None:
            pairs[int(name)] = bias
    return tuple(sorted(pairs.items()))


def sampling_params(
    found: Mapping[str, Any], *, n: int, max_tokens: int, constraint: tuple[str, str] | None
) -> SamplingParams:
    """`found` as `read_sampling` gave it. Raises `InvalidRequest` with the names of this protocol."""
    least = found.get("min_new_tokens", 0)
    if least > max_tokens:
        raise InvalidRequest("min_tokens", least, f"is more than max_tokens ({max_tokens})")
    values = {**found, "n": n, "max_new_tokens": max_tokens}
    if constraint is not None:
        values[constraint[0]] = constraint[1]
    try:
        return SamplingParams(**values)
    except InvalidRequest as error:
        field = _NAMES.get(error.field, error.field)
        raise InvalidRequest(field, error.value, error.problem, error.remedy) from None


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


# -- what is forced ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Constraint:
    """`field` of `SamplingParams` and its value; `origin` is the field that the client used."""

    field: str
    source: str
    origin: str


def read_constraint(fields: Fields) -> Constraint | None:
    """The one constraint among `response_format` and the fields that name one. Two are an error."""
    found = [_response_format(fields)]
    for name in ("regex", "ebnf"):
        text = fields.text(name, _MAX_SOURCE)
        found.append(Constraint(name, text, name) if text else None)
    for name in ("json_schema", "structural_tag"):
        value = fields.take(name)
        if isinstance(value, Mapping):
            found.append(Constraint(name, json_source(value, name), name))
        else:
            text = fields.text(name, _MAX_SOURCE)
            found.append(Constraint(name, text, name) if text else None)
    given = [one for one in found if one is not None]
    if len(given) > 1:
        first, second = given[0].origin, given[1].origin
        raise fields.wrong(second, f"cannot be combined with {first}", "give one of them")
    return given[0] if given else None


def _response_format(fields: Fields) -> Constraint | None:
    value = fields.take("response_format")
    if value is None:
        return None
    inner = Fields(value, "response_format")
    kind = inner.one_of("type", ("text", "json_object", "json_schema", "structural_tag"))
    if kind is None:
        raise inner.wrong("type", "is missing")
    constraint = None
    if kind == "json_object":
        constraint = Constraint("json_schema", '{"type": "object"}', "response_format")
    elif kind == "json_schema":
        constraint = _named_schema(inner)
    elif kind == "structural_tag":
        inner.take("structures"), inner.take("triggers")
        source = json_source(value, "response_format")
        constraint = Constraint("structural_tag", source, "response_format")
    inner.refuse_rest()
    return constraint


def _named_schema(inner: Fields) -> Constraint:
    """`strict` or not, the schema holds."""
    path = inner.path("json_schema")
    named = Fields(inner.take("json_schema"), path)
    if named.text("name", _MAX_NAME, least=1) is None:
        raise named.wrong("name", "is missing")
    named.mark("description", str, "a text")
    named.flag("strict")
    schema = named.take("schema")
    if not isinstance(schema, Mapping):
        raise named.wrong("schema", "is not an object")
    named.refuse_rest()
    return Constraint("json_schema", json_source(schema, f"{path}.schema"), "response_format")
