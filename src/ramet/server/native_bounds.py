"""Bounds of the native protocol's fields: what a few bytes of a request may ask for.

Knows names, types and bounds; what the values mean is `SamplingParams`' and `native.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

from ramet.backends.native import NativeCall
from ramet.errors import InvalidRequest
from ramet.params import MAX_STOPS
from ramet.server.json_fields import MAX_INTEGER, Fields, is_unicode, shown, writable
from ramet.server.served import ServedModel

__all__ = [
    "MAX_CHOICES",
    "MAX_INTEGER",
    "MAX_MESSAGES",
    "MAX_NAME",
    "MAX_PROMPTS",
    "MAX_RID",
    "MAX_SAMPLES",
    "MAX_SPANS",
    "bound_prompts",
    "bound_tokens",
    "bound_work",
    "bounded_params",
    "few_ids",
    "flag",
    "flags",
    "refuse_unknown",
    "rids",
    "short_text",
    "whole_numbers",
]

MAX_PROMPTS = 1024  # of one request
MAX_SAMPLES = 4096  # of all its prompts
MAX_RID = 256  # characters
MAX_SPANS = 65_536
MAX_CHOICES = 1024
MAX_TOKENS = 1 << 24  # of all prompts of a request, each sent to the engine in full
MAX_SCORES = 1 << 22  # log-probabilities that one answer may have beside those of its own tokens
MAX_STOP, MAX_STOP_IDS, MAX_BIASES, MAX_SOURCE = 1024, 256, 4096, 1 << 18
MAX_MESSAGES, MAX_NAME = 4096, 512

_OFF: tuple[Any, ...] = (None, False, "", [], {})


def refuse_unknown(body: Mapping[str, Any], known: frozenset[str], lacked: frozenset[str]) -> None:
    """A name that is not known is an error, unless its value asks for nothing."""
    for name, value in body.items():
        asks_nothing = any(type(value) is type(off) and value == off for off in _OFF)
        if name in known or value is None or (name in lacked and asks_nothing):
            continue
        problem = "is not supported by this server" if name in lacked else "is not a field"
        raise InvalidRequest(writable(str(shown(name))), shown(value), problem, "leave it out")


def flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(name, value, "is neither true nor false")
    return bool(value)


def short_text(body: Mapping[str, Any], name: str, most: int = MAX_RID) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= most or not is_unicode(value):
        raise InvalidRequest(name, shown(value), f"is not a text of 1 to {most} characters")
    return value


def bound_work(calls: Sequence[NativeCall], model: ServedModel) -> None:
    """What a few bytes of a request can ask for."""
    bound_tokens([call.ids for call in calls])
    scores = 0
    for call in calls:
        options, params = call.logprobs, call.params
        start = len(call.ids) if options.prompt_start is None else options.prompt_start
        positions = len(call.ids) - start + params.n * min(params.max_new_tokens, model.max_context)
        scores += positions * (options.top + len(options.token_ids))
    if scores > MAX_SCORES:
        problem = f"log-probabilities in one answer are more than {MAX_SCORES}"
        raise InvalidRequest("top_logprobs_num", scores, problem)


def bound_tokens(prompts: Sequence[Sized]) -> None:
    count = sum(map(len, prompts))
    if count > MAX_TOKENS:
        problem = f"tokens in all prompts of one request are more than {MAX_TOKENS}"
        raise InvalidRequest("text", count, problem)


def bound_prompts(name: str, given: Any) -> None:
    if not isinstance(given, (str, list)) or (name == "input_ids" and isinstance(given, str)):
        raise InvalidRequest(name, shown(given), "is neither one prompt nor a list of prompts")
    nested = isinstance(given, list) and given and isinstance(given[0], (list, str))
    if nested and len(given) > MAX_PROMPTS:
        raise InvalidRequest(name, f"{len(given)} prompts", f"are more than {MAX_PROMPTS}")
    if isinstance(given, list) and not given:
        raise InvalidRequest(name, given, "is an empty list", "give at least one prompt")
    for place, one in enumerate(given if nested else [given]):
        where = f"{name}[{place}]" if nested else name
        if name == "text" and not isinstance(one, str):
            raise InvalidRequest(where, shown(one), "is not a text")
        if not one:
            raise InvalidRequest(where, shown(one), "has no tokens", "give at least one token")


_WHOLE = {"max_new_tokens": 0, "min_new_tokens": 0, "n": 1, "top_k": -1}
_NUMBERS = {
    "temperature": (0.0, 1e6),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.0, 2.0),
}


def bounded_params(given: Any, model: ServedModel) -> Any:
    """`sampling_params` whose numbers, lists and texts have bounds; what they mean is `SamplingParams`'."""
    if isinstance(given, list):
        if len(given) > MAX_PROMPTS:
            problem = f"are more than {MAX_PROMPTS}"
            raise InvalidRequest("sampling_params", f"{len(given)} entries", problem)
        return [bounded_params(one, model) for one in given]
    if given is None:
        return None
    fields = Fields(given, "sampling_params")
    for name, low in _WHOLE.items():
        fields.integer(name, low)
    for name, (least, most) in _NUMBERS.items():
        fields.number(name, least, most)
    fields.integer("sampling_seed", 0, 2**64 - 1)
    for name in ("stop", "stop_regex"):
        fields.texts(name, MAX_STOPS, MAX_STOP)
    for name in ("regex", "ebnf", "json_schema", "structural_tag"):
        fields.text(name, MAX_SOURCE)
    if type(given.get("stop_token_ids")) is int:
        fields.integer("stop_token_ids", 0, model.vocab_size - 1)
    else:
        fields.integers("stop_token_ids", MAX_STOP_IDS, model.vocab_size - 1)
    _bound_biases(fields, model)
    fields.idle("beam_width", 1)
    return {name: value for name, value in given.items() if name != "beam_width"}


def _bound_biases(fields: Fields, model: ServedModel) -> None:
    value = fields.take("logit_bias")
    if value is None:
        return
    if not isinstance(value, Mapping) or len(value) > MAX_BIASES:
        raise fields.wrong("logit_bias", f"is not an object of at most {MAX_BIASES} token ids")
    biases = Fields(value, fields.path("logit_bias"))
    for name in value:
        if not (name.isascii() and name.isdigit() and len(name) <= 10):
            raise fields.wrong("logit_bias", "has a name that is no token id")
        if int(name) >= model.vocab_size:
            raise fields.wrong("logit_bias", f"has a token id above {model.vocab_size - 1}")
        if biases.number(name, -1e6, 1e6) is None:
            raise biases.wrong(name, "is not a number")


def whole_numbers(body: Mapping[str, Any], name: str, low: int, high: int) -> Any:
    """One whole number, or one for each prompt."""
    given = body.get(name)
    for one in given if isinstance(given, list) else [given]:
        Fields({name: one}).integer(name, low, high)
    return given


def flags(given: Any) -> Any:
    many = given if isinstance(given, list) else [given]
    for one in many:
        if one is not None and not isinstance(one, bool):
            raise InvalidRequest("return_logprob", shown(one), "is neither true nor false")
    return given


def few_ids(given: Any) -> Any:
    lists = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
    for one in lists:
        if one is not None and not (isinstance(one, list) and len(one) <= 1024):
            problem = "is not a list of at most 1024 ids"
            raise InvalidRequest("token_ids_logprob", shown(one), problem)
    return given


def rids(given: Any) -> Any:
    for one in given if isinstance(given, list) else [given]:
        if one is not None:
            short_text({"rid": one}, "rid")
    return given
