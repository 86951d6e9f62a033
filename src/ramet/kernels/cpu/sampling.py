"""Tokens from logits by the native library: one call for all rows of a batch.

Knows the structure that kernels/cpu/sampling.cpp declares; refuses to know requests and penalties. What
an entry gives depends on its own row, parameters, seed and step alone.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from array import array
from collections.abc import Sequence

import torch

from ramet.errors import InvalidRequest
from ramet.kernels.cpu.library import library

__all__ = ["draw", "pack"]

_FORMAT = struct.Struct("=dddqQ")  # ramet::Draw
_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64


@functools.cache
def _functions() -> dict[torch.dtype, ctypes._NamedFuncPointer]:
    """By the type of the logits. Raises BuildError."""
    lib = library()
    found = {torch.float32: lib.ramet_draw_f32, torch.float64: lib.ramet_draw_f64}
    for function in found.values():
        function.argtypes = [
            _POINTER, _INT64, _INT64, _POINTER, ctypes.c_char_p, _POINTER, _POINTER, _POINTER
        ]  # fmt: skip
        function.restype = None
    return found


def pack(temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> bytes:
    """How a token is drawn, as `draw` takes it. temperature 0: the most likely token; top_k -1, top_p 1
    and min_p 0: no limit. seed: uint64."""
    return _FORMAT.pack(temperature, top_p, min_p, top_k, seed)


def draw(
    logits: torch.Tensor, rows: Sequence[int], hows: Sequence[bytes], steps: Sequence[int]
) -> tuple[list[int], list[float]]:
    """Entry i reads row rows[i] of `logits` ([M, vocab], float32 or float64, on the CPU) and is drawn as
    hows[i] (see `pack`) says, as output number steps[i] of its seed.

    Returns the tokens, and each row's largest logit: where that is not finite (NaN if the row holds
    one) the token means nothing.
    """
    # A decoding step runs this on caches that the weights have just swept: every object that is touched
    # counts, and plain arrays are the cheapest ones with an address.
    count = len(rows)
    function, shape = _functions().get(logits.dtype), logits.shape
    if function is None or len(shape) != 2 or not logits.is_cpu:
        raise InvalidRequest("logits", list(shape), "is no matrix of floats on the CPU")
    if count and not 0 <= min(rows) <= max(rows) < shape[0]:
        raise InvalidRequest("rows", list(rows), f"are not all in 0 to {shape[0] - 1}")
    if not logits.is_contiguous():
        logits = logits.contiguous()
    index, numbers = array("q", rows), array("q", steps)
    ids, largest = array("q", rows), array("d", rows)
    function(
        logits.data_ptr(), shape[1], count, index.buffer_info()[0], b"".join(hows),
        numbers.buffer_info()[0], ids.buffer_info()[0], largest.buffer_info()[0],
    )  # fmt: skip
    return ids.tolist(), largest.tolist()
