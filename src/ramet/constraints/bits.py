"""Sets of tokens as masks: how ids and truth values become words, and back.

Knows the form of a `Mask`; refuses to know what a set is for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ramet.constraints.matcher import Mask

__all__ = ["holds", "mask_of", "packed", "unpacked"]


def mask_of(token_ids: Sequence[int] | npt.NDArray[np.integer], num_words: int) -> Mask:
    """The mask of these tokens."""
    chosen = np.zeros(num_words * 32, np.bool_)
    chosen[np.asarray(token_ids, np.int64)] = True
    return packed(chosen)


def packed(chosen: npt.NDArray[np.bool_]) -> Mask:
    """bool [words * 32] -> the mask."""
    words: Mask = np.packbits(chosen, bitorder="little").view("<u4").astype(np.uint32, copy=False)
    return words


def unpacked(mask: Mask) -> npt.NDArray[np.bool_]:
    """The mask -> bool [words * 32]."""
    bits = np.unpackbits(mask.astype("<u4", copy=False).view(np.uint8), bitorder="little")
    return bits.view(np.bool_)


def holds(mask: Mask, token_id: int) -> bool:
    return bool(mask[token_id >> 5] >> np.uint32(token_id & 31) & np.uint32(1))
