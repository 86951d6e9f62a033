"""Tokens from logits by the native library: one call for all rows of a batch.

Knows the structure that kernels/cpu/sampling.cpp declares; refuses to know requests and penalties. What
an entry gives depends on its own row, parameters, seed and step alone.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence

import numpy as np
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
    count = len(rows)
    if logits.dim() != 2 or logits.dtype not in _functions() or logits.device.type != "cpu":
        raise InvalidRequest("logits", list(logits.shape), "is no matrix of floats on the CPU")
    index = np.array([rows, steps], np.int64)
    if count and not 0 <= min(rows) <= max(rows) < len(logits):
        raise InvalidRequest("rows", list(rows), f"are not all in 0 to {len(logits) - 1}")
    logits = logits.contiguous()
    ids, largest = np.empty(count, np.int64), np.empty(count)
    _functions()[logits.dtype](
        logits.data_ptr(), logits.shape[1], count, index.ctypes.data, b"".join(hows),
        index.ctypes.data + index.strides[0], ids.ctypes.data, largest.ctypes.data,
    )  # fmt: skip
    return ids.tolist(), largest.tolist()
