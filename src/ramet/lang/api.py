"""What a program writes: `gen`, `select`, roles, and the functions beside them.

Knows how arguments become operations (`ir`), and checks what can be checked without a run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ramet.backend import Backend
from ramet.errors import InvalidRequest
from ramet.lang.choices import token_length_normalized
from ramet.lang.constraint_args import constraint_options
from ramet.lang.defaults import find_backend
from ramet.lang.ir import (
    SglExpr,
    SglExprList,
    SglGen,
    SglImage,
    SglRoleBegin,
    SglRoleEnd,
    SglSelect,
    SglSeparateReasoning,
    SglVideo,
)

__all__ = [
    "assistant",
    "assistant_begin",
    "assistant_end",
    "flush_cache",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_info",
    "image",
    "select",
    "separate_reasoning",
    "system",
    "system_begin",
    "system_end",
    "user",
    "user_begin",
    "user_end",
    "video",
]


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: str | Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
    dtype: type | str | None = None,
    choices: Sequence[str] | None = None,
    choices_method: Callable[..., Any] | None = None,
    regex: str | None = None,
    json_schema: object = None,
    *,
    ebnf: str | None = None,
    structural_tag: str | Mapping[str, Any] | None = None,
    repetition_penalty: float | None = None,
    sampling_seed: int | None = None,
) -> SglGen | SglSelect:
    """A generation by the model, stored under `name` and appended to the text. None means the run's
    default. With `n` > 1 the variable is a list of n texts and the first one is appended.

    With `choices` it is a `select`, and everything else but `temperature` and `choices_method` is ignored.
    At most one of `regex`, `json_schema`, `ebnf` (a grammar), `structural_tag` and `dtype` says what the
    whole text must be; "" is none. `regex` is checked here. `json_schema` may be JSON text, a dict, or a
    type (`ramet.lang.schema_types` says which). `structural_tag` is a JSON object, as text or as a dict.
    `dtype` (int, float, str, bool or their names) makes the text one of that type; it takes the place of
    `regex`. A text cut at `max_tokens` may be a beginning only: the `finish_reason` in its meta information
    then has `"incomplete": True`, and with a `dtype` reading the variable is an error.
    """
    _check_name("gen", name)
    if choices is not None:
        return select(
            name,
            choices,
            0.0 if temperature is None else temperature,
            choices_method or token_length_normalized,
        )
    forms = {"regex": regex, "json_schema": json_schema, "ebnf": ebnf}
    forms["structural_tag"] = structural_tag
    if regex and dtype is not None:
        constraint_options({"regex": regex})  # a wrong one is wrong nevertheless
        warnings.warn("gen: dtype takes the place of regex", stacklevel=2)
        forms["regex"] = None
    options = {
        "max_new_tokens": max_tokens,
        "min_new_tokens": min_tokens,
        "n": n,
        "stop": _copied(stop),
        "stop_token_ids": _copied(stop_token_ids),
        "stop_regex": _copied(stop_regex),
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty,
        "repetition_penalty": repetition_penalty,
        "ignore_eos": ignore_eos,
        "return_logprob": return_logprob,
        "logprob_start_len": logprob_start_len,
        "top_logprobs_num": top_logprobs_num,
        "return_text_in_logprobs": return_text_in_logprobs,
        "dtype": dtype,
        **constraint_options({"dtype": dtype, **forms}),
        "sampling_seed": sampling_seed,
    }
    return SglGen(name, {key: value for key, value in options.items() if value is not None})


def gen_int(
    name: str | None = None,
    max_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: str | Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
) -> SglGen | SglSelect:
    """A whole number. The value is its text."""
    given = {key: value for key, value in locals().items() if value is not None}
    return gen(**given, dtype=int)


def gen_string(
    name: str | None = None,
    max_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: str | Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
) -> SglGen | SglSelect:
    """A quoted string. The value includes the quotes."""
    given = {key: value for key, value in locals().items() if value is not None}
    return gen(**given, dtype=str)


def select(
    name: str | None = None,
    choices: Sequence[str] | None = None,
    temperature: float = 0.0,
    choices_method: Callable[..., Any] = token_length_normalized,
) -> SglSelect:
    """The best of `choices` by `choices_method` on their log-probabilities, stored and appended."""
    _check_name("select", name)
    if choices is None or isinstance(choices, str) or not choices:
        raise InvalidRequest("choices", choices, "is not a list of texts to choose from")
    for choice in choices:
        if not isinstance(choice, str) or not choice:
            raise InvalidRequest("choices", choice, "is not a text with at least one character")
    if len(set(choices)) < len(choices):
        raise InvalidRequest("choices", list(choices), "holds a text twice")
    if not isinstance(temperature, (int, float)) or not 0 <= temperature <= 1e-5:
        raise InvalidRequest("temperature", temperature, "is not 0", "a selection takes the best")
    if not callable(choices_method):
        raise InvalidRequest("choices_method", choices_method, "is not callable")
    return SglSelect(name, tuple(choices), float(temperature), choices_method)


def _check_name(what: str, name: object) -> None:
    if name is not None and not isinstance(name, str):
        raise InvalidRequest(f"{what} name", name, "is not a string")


def _copied(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def image(expr: Any) -> SglImage:
    """An image: a path, bytes, or a PIL image."""
    return SglImage(expr)


def video(path: str, num_frames: int) -> SglVideo:
    """`num_frames` frames of a video."""
    return SglVideo(path, num_frames)


def separate_reasoning(expr: SglExpr, model_type: str) -> SglExprList:
    """`expr`, whose generations' reasoning goes to variables of their own."""
    parts = expr.expr_list if isinstance(expr, SglExprList) else (expr,)
    generations = [part for part in parts if isinstance(part, (SglGen, SglSelect))]
    for part in generations:
        if part.name is None:
            raise InvalidRequest("separate_reasoning", part, "has no name", "name the generation")
    names = tuple(part.name for part in generations if part.name is not None)
    return SglExprList([expr, SglSeparateReasoning(model_type, names)])


# Roles


def _role(role: str, expr: SglExpr | str | Sequence[SglExpr | str] | None) -> SglExprList:
    inner = expr if isinstance(expr, (list, tuple)) else [] if expr is None else [expr]
    return SglExprList([SglRoleBegin(role), *inner, SglRoleEnd(role)])


def system(expr: Any = None) -> SglExprList:
    """A system block."""
    return _role("system", expr)


def user(expr: Any = None) -> SglExprList:
    """A user block."""
    return _role("user", expr)


def assistant(expr: Any = None) -> SglExprList:
    """An assistant block."""
    return _role("assistant", expr)


def system_begin() -> SglRoleBegin:
    return SglRoleBegin("system")


def system_end() -> SglRoleEnd:
    return SglRoleEnd("system")


def user_begin() -> SglRoleBegin:
    return SglRoleBegin("user")


def user_end() -> SglRoleEnd:
    return SglRoleEnd("user")


def assistant_begin() -> SglRoleBegin:
    return SglRoleBegin("assistant")


def assistant_end() -> SglRoleEnd:
    return SglRoleEnd("assistant")


# Backends


def flush_cache(backend: Backend | None = None) -> bool:
    """Empty the backend's cache. False without any backend, or if it is busy."""
    found = find_backend(backend)
    return bool(found.flush_cache()) if found is not None else False


def get_server_info(backend: Backend | None = None) -> dict[str, Any] | None:
    """What the backend tells about itself; None without any backend."""
    found = find_backend(backend)
    return dict(found.get_server_info()) if found is not None else None
