"""Tokens from logits by the native library: one call for all rows of a batch.

Knows the structures that kernels/cpu/sampling.cpp declares; refuses to know requests and penalties. What
an entry gives depends on its own row, mask, parameters, seed and step alone.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ramet.errors import InvalidRequest
from ramet.kernels.cpu.library import library

__all__ = ["NOTHING", "Mask", "draw", "pack"]

# uint32 [words]: bit i % 32 of word i // 32 says whether token i may come; those behind it may not.
Mask = npt.NDArray[np.uint32]

NOTHING = -1  # the token of an entry whose mask leaves none

_FORMAT = struct.Struct("=dddqQ")  # ramet::Draw
_POINTER, _INT64, _BYTES = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
_UINT32 = np.dtype(np.uint32)


@functools.cache
def _functions() -> dict[torch.dtype, ctypes._NamedFuncPointer]:
    """By the type of the logits. Raises BuildError."""
    lib = library()
    found = {torch.float32: lib.ramet_draw_f32, torch.float64: lib.ramet_draw_f64}
    for function in found.values():
        function.argtypes = [
            _POINTER, _INT64, _INT64, _POINTER, _BYTES, _POINTER, _BYTES, _POINTER, _POINTER,
            _POINTER,
        ]  # fmt: skip
        function.restype = None
    return found


def pack(temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> bytes:
    """How a token is drawn, as `draw` takes it. temperature 0: the most likely token; top_k -1, top_p 1
    and min_p 0: no limit. seed: uint64."""
    return _FORMAT.pack(temperature, top_p, min_p, top_k, seed)


def draw(
    logits: torch.Tensor,
    rows: Sequence[int],
    hows: Sequence[bytes],
    steps: Sequence[int],
    masks: Sequence[Mask | None] | None = None,
) -> tuple[list[int], list[float]]:
    """Entry i reads row rows[i] of `logits` ([M, vocab], float32 or float64, on the CPU) and is drawn as
    hows[i] (see `pack`) says, as output number steps[i] of its seed, of the tokens that masks[i] allows
    (None: all): the token that it would give if the logits of all others were minus infinity.

    Returns the tokens, and for each the largest logit that can come (NaN or infinity if the row holds
    one, allowed or not): where that is not finite nothing was drawn, and the token is `NOTHING` if it is
    the mask that left nothing.
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
    words, places = (None, None) if masks is None else _joined(masks, count)
    function(
        logits.data_ptr(), shape[1], count, index.buffer_info()[0], b"".join(hows),
        numbers.buffer_info()[0], words, places and places.buffer_info()[0],
        ids.buffer_info()[0], largest.buffer_info()[0],
    )  # fmt: skip
    return ids.tolist(), largest.tolist()


def _joined(masks: Sequence[Mask | None], count: int) -> tuple[bytes, array[int]]:
    """The masks' words one behind the other, and for each entry where its own begin (-1: it has none) and
    how many they are. Asking an array for its address takes longer than copying a mask does."""
    if len(masks) != count:
        raise InvalidRequest("masks", len(masks), f"is not one for each of {count} rows")
    given: list[Any] = []  # arrays are buffers, but their types do not say so
    places, end = array("q"), 0
    for mask in masks:
        if mask is None:
            places.extend((-1, 0))
            continue
        if mask.dtype != _UINT32 or mask.ndim != 1:
            raise InvalidRequest("masks", f"{mask.dtype} {mask.shape}", "is no row of uint32 words")
        size = mask.size
        places.extend((end, size))
        given.append(mask if mask.flags.c_contiguous else mask.copy())
        end += size
    return b"".join(given), places
