"""The native protocol's arguments, checked and spread over the prompts of one call.

Pure: text and numbers in, one `NativeCall` per prompt out. Knows the shapes that `generate` accepts
(one prompt or a list, one value for all prompts or one for each) and nothing of engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ramet.engine.request import LogprobOptions
from ramet.errors import InvalidRequest
from ramet.kernels.plan import IntArray
from ramet.params import SamplingParams

__all__ = ["NativeCall", "parse_calls", "prompt_start"]


@dataclass(frozen=True, slots=True)
class NativeCall:
    """One prompt of a call. `rid` is None where the caller gave none."""

    ids: Sequence[int] | IntArray
    params: SamplingParams
    logprobs: LogprobOptions
    rid: str | None


def parse_calls(
    encode: Callable[[str], Sequence[int]],
    vocab_size: int,
    *,
    prompt: Any,
    input_ids: Any,
    sampling_params: Any,
    return_logprob: Any,
    logprob_start_len: Any,
    top_logprobs_num: Any,
    token_ids_logprob: Any,
    rid: Any,
) -> tuple[list[NativeCall], bool]:
    """The calls, and whether the caller gave one prompt rather than a list."""
    prompts, single = _prompts(encode, prompt, input_ids)
    count = len(prompts)
    params = [
        SamplingParams.from_dict(p) for p in _spread("sampling_params", sampling_params, count)
    ]
    flags = _spread("return_logprob", return_logprob, count)
    starts = _spread("logprob_start_len", logprob_start_len, count)
    tops = _spread("top_logprobs_num", top_logprobs_num, count)
    asked = _spread_lists("token_ids_logprob", token_ids_logprob, count)
    rids = _rids(rid, count)
    calls = [
        NativeCall(
            ids,
            params[i],
            _logprobs(flags[i], starts[i], tops[i], asked[i], params[i], len(ids), vocab_size),
            rids[i],
        )
        for i, ids in enumerate(prompts)
    ]
    return calls, single


def prompt_start(wanted: bool, start: int, params: SamplingParams, length: int) -> int | None:
    """First prompt position to score, or None. A call that generates nothing and asks for
    log-probabilities means the whole prompt's."""
    if not wanted:
        return None
    if start < 0:
        return 0 if params.max_new_tokens == 0 else None
    if start > length:
        raise InvalidRequest("logprob_start_len", start, f"is beyond the prompt of {length} tokens")
    return start


def _logprobs(
    wanted: Any, start: Any, top: Any, asked: Any, params: SamplingParams, length: int, vocab: int
) -> LogprobOptions:
    top = 0 if top is None else top
    start = -1 if start is None else start
    _whole("top_logprobs_num", top, 0, vocab)
    _whole("logprob_start_len", start, -1, None)
    for token in asked or ():
        _whole("token_ids_logprob", token, 0, vocab - 1)
    if not wanted:
        return LogprobOptions()
    return LogprobOptions(
        output=True,
        prompt_start=prompt_start(True, start, params, length),
        top=top,
        token_ids=tuple(asked or ()),
    )


def _prompts(
    encode: Callable[[str], Sequence[int]], prompt: Any, input_ids: Any
) -> tuple[list[Sequence[int] | IntArray], bool]:
    if (prompt is None) == (input_ids is None):
        raise InvalidRequest("prompt", prompt, "and input_ids: exactly one of them must be given")
    if input_ids is not None:
        lists = _listed("input_ids", input_ids)
        single = not lists or not isinstance(lists[0], Sequence | np.ndarray)
        return [_checked_ids(ids) for ids in ([lists] if single else lists)], single
    if isinstance(prompt, str):
        return [encode(prompt)], True
    texts = _listed("prompt", prompt)
    for text in texts:
        if not isinstance(text, str):
            raise InvalidRequest("prompt", text, "is not a string")
    return [encode(text) for text in texts], False


def _rids(rid: Any, count: int) -> list[str | None]:
    if rid is None:
        return [None] * count
    rids = [rid] if isinstance(rid, str) else _listed("rid", rid)
    if len(rids) == 1 and count > 1:
        rids = [f"{rids[0]}_{i}" for i in range(count)]
    if len(rids) != count or len(set(rids)) != count:
        raise InvalidRequest("rid", rid, f"does not name {count} different requests")
    return list(rids)


def _listed(name: str, value: Any) -> list[Any]:
    try:
        return list(value)
    except TypeError:
        raise InvalidRequest(name, value, "is not a list") from None


def _spread(name: str, value: Any, count: int) -> list[Any]:
    """One value for all prompts, or a list with one for each."""
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise InvalidRequest(name, value, f"has {len(value)} entries for {count} prompts")
    return list(value)


def _spread_lists(name: str, value: Any, count: int) -> list[Any]:
    if value is None or not value or not isinstance(value[0], list | tuple):
        return [value] * count
    return _spread(name, value, count)


def _checked_ids(ids: Any) -> IntArray:
    if not isinstance(ids, np.ndarray):
        listed = _listed("input_ids", ids)
        if not set(map(type, listed)) <= {int}:
            for token in listed:
                _whole("input_ids", token, 0, None)
        if listed and not 0 <= max(listed) < 2**63:
            raise InvalidRequest("input_ids", max(listed), "is no token id")
        ids = np.array(listed, np.int64)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InvalidRequest("input_ids", ids, "is not a list of whole numbers")
    array: IntArray = ids.astype(np.int64, copy=False)
    if array.size and array.min() < 0:
        _whole("input_ids", int(array.min()), 0, None)
    return array


def _whole(name: str, value: Any, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidRequest(name, value, "is not a whole number")
    if value < low or (high is not None and value > high):
        raise InvalidRequest(
            name, value, f"is not between {low} and {high}" if high else f"is below {low}"
        )
