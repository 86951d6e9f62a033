"""From what a program says to what a backend is asked.

Knows the run's defaults, the template's stop strings and the backend's capabilities; merges and checks
them when the operation is appended, so that a wrong value is an error of the program's own line. What the
backend cannot do is refused here, by name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ramet.errors import InvalidRequest, Unsupported
from ramet.lang.ir import SglExpr, SglGen, SglImage, SglSelect, SglVideo
from ramet.lang.reasoning import Reasoning, reasoning_rule
from ramet.lang.result_types import ResultType, enforced, result_type
from ramet.lang.run import Run
from ramet.lang.typed import Typed, typed
from ramet.params import SamplingParams

__all__ = ["GenerateOp", "lower_gen", "lower_media", "lower_select"]

_LOGPROB_FIELDS = (
    "return_logprob",
    "logprob_start_len",
    "top_logprobs_num",
    "return_text_in_logprobs",
)


@dataclass(frozen=True, slots=True)
class GenerateOp(SglExpr):
    """A generation ready to be called. `fields` are the log-probability fields of `GenerateCall`.
    `run_seed`: the seed came from the run, so each call derives its own from it. `result` says how the
    text becomes a value, `retries` how often the model may be asked again for a text that does not."""

    name: str | None
    params: SamplingParams
    fields: dict[str, Any]
    typed: Typed | Reasoning | None = None
    run_seed: bool = False
    result: ResultType | None = None
    retries: int = 0

    def __repr__(self) -> str:
        return f"Gen({self.name!r})"


def lower_gen(run: Run, op: SglGen) -> GenerateOp:
    """Raises `InvalidRequest` for values and `Unsupported` for features. A run lowers equal options once."""
    key = tuple(op.options.items())
    try:
        found = run.lowered.get(key)
    except TypeError:  # a value that is not hashable
        return _lower(run, op)
    if found is None:
        found = run.lowered[key] = _lower(run, op)
    if found.name != op.name:
        found = dataclasses.replace(found, name=op.name)
    return found


def _lower(run: Run, op: SglGen) -> GenerateOp:
    values = {**run.defaults, **op.options}
    fields = {}
    for name in _LOGPROB_FIELDS:
        value = values.pop(name, None)
        if value is not None:
            fields[name] = value
    result, retries, can = None, values.pop("retries", 2), run.capabilities
    if "type" in values:
        can = enforced(can)
        result = result_type(values.pop("type"), can)
        values |= result.constraint
        if result.dtype is not None:
            values["dtype"] = result.dtype
    dtype = values.pop("dtype", None)
    kind: Typed | Reasoning | None = _reasoning(values, dtype, result)
    stops = _stops(values.get("stop"))
    if dtype is not None:
        kind = of_type = typed(dtype, can.regex)
        values["regex"] = of_type.regex if can.regex else None
        if not of_type.keep_stop:
            stops = [*stops, *of_type.stops]
        elif not stops:  # the program's own stops are cut off, so the two do not go together
            stops = list(of_type.stops)
            values["no_stop_trim"] = True
    values["stop"] = tuple(dict.fromkeys([*stops, *run.template.stop_str]))
    run_seed = run.seed is not None and values.get("sampling_seed") is None
    params = SamplingParams.from_dict(values, "gen")
    form = kind if result is None else None  # a result judges its text itself
    lowered = GenerateOp(op.name, params, fields, form, run_seed, result, retries)
    _check_capabilities(run, lowered)
    return lowered


def _reasoning(
    values: dict[str, Any], dtype: object, result: ResultType | None
) -> Reasoning | None:
    model_type = values.pop("reasoning", None)
    if model_type is None:
        return None
    if dtype is not None or result is not None:
        raise InvalidRequest(
            "separate_reasoning", dtype, "cannot be combined with a typed generation"
        )
    return reasoning_rule(model_type)


def _stops(stop: object) -> list[Any]:
    if stop is None:
        return []
    if isinstance(stop, str):
        return [stop]
    if not isinstance(stop, (list, tuple)):
        raise InvalidRequest("stop", stop, "is not a string or a list of strings")
    return list(stop)


def _check_capabilities(run: Run, op: GenerateOp) -> None:
    can = run.capabilities
    wanted = [
        ("regex", op.params.regex is not None, can.regex, "constrain after the fact, or use dtype"),
        (
            "json_schema",
            op.params.json_schema is not None,
            can.json_schema,
            "ask for JSON in words",
        ),
        ("ebnf", op.params.ebnf is not None, can.ebnf, "write the grammar as a regex if it is one"),
        (
            "structural_tag",
            op.params.structural_tag is not None,
            can.structural_tag,
            "generate the parts one by one, each with its own constraint",
        ),
        ("return_logprob", bool(op.fields.get("return_logprob")), can.logprobs, "leave it out"),
        (
            "sampling_seed",
            run.seed is not None or op.params.sampling_seed is not None,
            can.seed,
            "leave it out",
        ),
    ]
    for feature, asked, has, remedy in wanted:
        if asked and not has:
            _refuse(run, f"gen({op.name!r}, {feature}=...)", remedy)


def lower_media(run: Run, op: SglImage | SglVideo) -> SglExpr:
    if not run.capabilities.images:
        what = "image" if isinstance(op, SglImage) else "video"
        _refuse(run, f"{what}(...)", "describe it in words")
    return op


def lower_select(run: Run, op: SglSelect) -> SglSelect:
    if not run.capabilities.score:
        _refuse(run, f"select({op.name!r})", "generate the answer with gen() and compare it")
    return op


def _refuse(run: Run, what: str, remedy: str) -> None:
    backend = f"{type(run.backend).__name__} ({run.backend.model_path})"
    raise Unsupported(
        f"{what} is not possible on the backend {backend}; "
        f"run on the local engine or another backend that has it, or {remedy}"
    )
