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
from ramet.lang.tools import SglTools, Tool, toolset

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
    "use_tools",
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
    type: object = None,
    retries: int | None = None,
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

    With `type` (int, float, bool, str, Literal, Enum, and whatever `json_schema` takes as a type) the
    variable is a value of that type; its text is `s.text(name)`. The backend keeps the model to the form if
    it can. An answer that is no such value is asked for again up to `retries` times (2), with what was
    wrong with it; a text that was cut at `max_tokens` is never a value.
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
    if type is not None:
        constraint_options({"type": type, "dtype": dtype, **forms})  # one form, not two
    if retries is not None:
        _check_count("retries", retries, 0)
        if type is None:
            raise InvalidRequest(
                "retries", retries, "comes without type=", "nothing is judged then"
            )
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
        "type": type,
        "retries": retries,
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


def use_tools(
    name: str | None,
    tools: Sequence[Any],
    *,
    tool_choice: object = "auto",
    max_calls: int = 8,
    max_rounds: int = 1,
    parallel: bool = True,
    timeout: float = 30.0,
    retries: int = 2,
    **options: Any,
) -> SglTools:
    """A turn of the model in which it may call `tools` (functions, or what `@tool` made of them). The
    variable is a `ToolTurn`: the calls with their values or errors, and the text beside them.

    `tool_choice`: "auto" (text, calls, or both), "none" (text only), "required" (at least one call), or a
    tool or its name (one call of it). At most `max_calls` are made, `parallel` ones of an answer at the same
    time, each within `timeout` seconds. With `max_rounds` > 1 the model answers again after the results until
    it calls nothing. An answer that is no call as it should be is asked for again up to `retries` times;
    what is wrong after that, and what a function raises, are values: `call.error`.

    Between role blocks the turn is an assistant block, and the results are blocks of their own; inside a role
    and in a program without roles all is text. The model is told of the tools by the program:
    `describe_tools(tools)`. `options` are those of `gen` (`max_tokens`, `temperature`, `stop`, ...).
    """
    _check_name("use_tools", name)
    found = toolset(tools)
    names = {one.name for one in found}
    choice = tool_choice
    if isinstance(choice, Tool) or callable(choice):
        choice = getattr(choice, "name", None) or getattr(choice, "__name__", None)
    if not isinstance(choice, str) or choice not in {"auto", "none", "required", *names}:
        known = ", ".join(["auto", "none", "required", *sorted(names)])
        raise InvalidRequest("tool_choice", tool_choice, "is not a choice", f"use {known}")
    for what, count in (("max_calls", max_calls), ("max_rounds", max_rounds)):
        _check_count(what, count, 1)
    _check_count("retries", retries, 0)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise InvalidRequest("timeout", timeout, "is not a number of seconds above 0")
    for forbidden in (
        "n",
        "choices",
        "regex",
        "json_schema",
        "ebnf",
        "structural_tag",
        "dtype",
        "type",
    ):
        if options.get(forbidden) is not None:
            raise InvalidRequest(forbidden, options[forbidden], "does not go with tools")
    given = gen(name, **options)
    assert isinstance(given, SglGen)
    sampling = {**given.options, "retries": retries}
    return SglTools(name, found, choice, max_calls, max_rounds, parallel, timeout, sampling)


def _check_count(what: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidRequest(what, value, f"is not a whole number of at least {least}")


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
    """`expr`, of whose generations only the answers are appended and stored: the reasoning of `v` goes to
    the variable `v_reasoning_content`. `model_type` says how the model marks it: deepseek-r1, qwen3, ..."""
    parts = expr.expr_list if isinstance(expr, SglExprList) else (expr,)
    generations = [part for part in parts if isinstance(part, (SglGen, SglSelect))]
    for part in generations:
        if part.name is None:
            raise InvalidRequest("separate_reasoning", part, "has no name", "name the generation")
    names = tuple(part.name for part in generations if part.name is not None)
    marked = [
        SglGen(part.name, {**part.options, "reasoning": model_type})
        if isinstance(part, SglGen)
        else part
        for part in parts
    ]
    return SglExprList([*marked, SglSeparateReasoning(model_type, names)])


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
