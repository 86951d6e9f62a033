"""Sampling parameters: one record, one place where their bounds stand.

Knows the names, defaults and legal values of the native protocol's `sampling_params`. Refuses to know
who uses them: adding an option means a field here and its consumer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ramet.errors import InvalidRequest

__all__ = ["MAX_STOPS", "MAX_STOP_REGEX_BYTES", "SamplingParams"]

MAX_STOPS = 32
MAX_STOP_REGEX_BYTES = 256
GREEDY_BELOW = 1e-6  # temperatures below this are greedy: dividing by them would overflow


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the tokens of one generation are chosen and when it ends.

    Penalties and `min_new_tokens` count tokens. `stop` strings are looked for in the decoded text;
    the earliest one ends the generation and is not part of the text unless `no_stop_trim`.
    `top_k=-1` and `top_p=1` mean no limit. `sampling_seed` makes the text a function of the prompt
    and these parameters alone. Raises `InvalidRequest` naming the field.

    `spaces_between_special_tokens` exists for clients that always send it; tokenizers of the
    `tokenizers` library give the same text for both values.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    stop_regex: tuple[str, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False
    regex: str | None = None
    json_schema: str | None = None
    ebnf: str | None = None
    structural_tag: str | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    sampling_seed: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    @property
    def constraint(self) -> str | None:
        """Name of the constraint field that is set, if any."""
        for name in ("regex", "json_schema", "ebnf", "structural_tag"):
            if getattr(self, name) is not None:
                return name
        return None

    def replace(self, **changes: Any) -> SamplingParams:
        return SamplingParams.from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any] | None, field: str = "sampling_params"
    ) -> SamplingParams:
        """Build from loose values: `None` means default, `stop` may be one string, `logit_bias` a
        mapping whose keys may be strings (JSON). A name that is not a field is an error."""
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            raise InvalidRequest(field, values, "is not a mapping of names to values")
        clean: dict[str, Any] = {}
        for name, value in values.items():
            if value is None:
                continue
            if name not in _FIELDS:
                known = ", ".join(sorted(_FIELDS))
                raise InvalidRequest(
                    f"{field}.{name}", value, "is not a sampling parameter", f"known are {known}"
                )
            clean[name] = _loosen(name, value)
        return cls(**clean)


_FIELDS = frozenset(f.name for f in dataclasses.fields(SamplingParams))
_CONSTRAINTS = ("regex", "json_schema", "ebnf", "structural_tag")


def _loosen(name: str, value: Any) -> Any:
    if name in ("stop", "stop_regex"):
        return (value,) if isinstance(value, str) else _as_tuple(name, value)
    if name == "stop_token_ids":
        return (value,) if isinstance(value, int) else _as_tuple(name, value)
    if name == "logit_bias":
        return _bias(value)
    if name in _CONSTRAINTS and value == "":
        return None
    return value


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise InvalidRequest(name, value, "is not a list")
    return tuple(value)


def _bias(value: Any) -> tuple[tuple[int, float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else _as_tuple("logit_bias", value)
    try:
        return tuple(sorted((int(token), float(bias)) for token, bias in pairs))
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(
            "logit_bias", value, "is not a mapping of token ids to numbers"
        ) from None


def _check(p: SamplingParams) -> None:
    _integer("max_new_tokens", p.max_new_tokens, low=0)
    _integer("min_new_tokens", p.min_new_tokens, low=0)
    if p.min_new_tokens > p.max_new_tokens:
        raise InvalidRequest(
            "min_new_tokens", p.min_new_tokens, f"is more than max_new_tokens ({p.max_new_tokens})"
        )
    _integer("n", p.n, low=1, high=4096)
    _number("temperature", p.temperature, low=0.0)
    _number("top_p", p.top_p, low=0.0, high=1.0, above_low=True)
    _number("min_p", p.min_p, low=0.0, high=1.0)
    _integer("top_k", p.top_k, low=-1)
    if p.top_k == 0:
        raise InvalidRequest("top_k", 0, "is neither -1 (no limit) nor at least 1")
    _number("frequency_penalty", p.frequency_penalty, low=-2.0, high=2.0)
    _number("presence_penalty", p.presence_penalty, low=-2.0, high=2.0)
    _number("repetition_penalty", p.repetition_penalty, low=0.0, high=2.0, above_low=True)
    for name in (
        "ignore_eos",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "no_stop_trim",
    ):
        if not isinstance(getattr(p, name), bool):
            raise InvalidRequest(name, getattr(p, name), "is neither true nor false")
    _check_stops(p)
    for token, bias in p.logit_bias:
        _integer("logit_bias token", token, low=0)
        _number(f"logit_bias[{token}]", bias)
    if p.sampling_seed is not None:
        _integer("sampling_seed", p.sampling_seed, low=0, high=2**64 - 1)
    _check_constraint(p)


def _check_stops(p: SamplingParams) -> None:
    for name in ("stop", "stop_regex"):
        strings = getattr(p, name)
        if not isinstance(strings, tuple) or any(not isinstance(s, str) for s in strings):
            raise InvalidRequest(name, strings, "is not a string or a list of strings")
        if any(not s for s in strings):
            raise InvalidRequest(name, strings, "holds an empty string", "leave it out")
        if len(strings) > MAX_STOPS:
            raise InvalidRequest(name, f"{len(strings)} entries", f"are more than {MAX_STOPS}")
    for pattern in p.stop_regex:
        if len(pattern.encode("utf-8", "surrogatepass")) > MAX_STOP_REGEX_BYTES:
            raise InvalidRequest(
                "stop_regex", pattern, f"is longer than {MAX_STOP_REGEX_BYTES} bytes"
            )
    for token in p.stop_token_ids:
        _integer("stop_token_ids", token, low=0)


def _check_constraint(p: SamplingParams) -> None:
    given = [name for name in _CONSTRAINTS if getattr(p, name) is not None]
    for name in given:
        if not isinstance(getattr(p, name), str):
            raise InvalidRequest(name, getattr(p, name), "is not a string")
    if len(given) > 1:
        raise InvalidRequest(
            given[1],
            getattr(p, given[1]),
            f"cannot be combined with {given[0]}",
            "give one of them",
        )


def _integer(name: str, value: object, *, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(name, value, "is not a whole number")
    if value < low or (high is not None and value > high):
        raise InvalidRequest(
            name,
            value,
            f"is not between {low} and {high}" if high is not None else f"is below {low}",
        )


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _number(
    name: str,
    value: object,
    *,
    low: float | None = None,
    high: float | None = None,
    above_low: bool = False,
) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
        raise InvalidRequest(name, value, "is not a finite number")
    if low is not None and (value < low or (above_low and value == low)):
        raise InvalidRequest(name, value, f"is not above {low}" if above_low else f"is below {low}")
    if high is not None and value > high:
        raise InvalidRequest(name, value, f"is above {high}")
