"""A growable array of whole numbers: what tree edges and leases are made of.

Knows how to grow at its end in amortised constant time and to be cut there. Refuses to know whether the
numbers are tokens or slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ramet.errors import InvalidRequest

__all__ = ["IntArray", "IntBuffer", "TokenLike", "as_tokens", "common_prefix"]

IntArray = npt.NDArray[np.int64]
TokenLike = IntArray | Sequence[int]

_LEAST_CAPACITY = 8


class IntBuffer:
    """An int64 array that grows and shrinks at its end.

    `view` is the content, read-only. A view taken earlier keeps its length and, until the buffer is cut
    or overwritten below that length, its content.
    """

    __slots__ = ("_data", "view")

    view: IntArray

    def __init__(self, values: IntArray) -> None:
        self._data: IntArray = values.copy()
        self._show(values.size)

    def append(self, values: IntArray) -> None:
        old = self.view.size
        new = old + values.size
        if new > self._data.size:
            grown = np.empty(max(new, 2 * old, _LEAST_CAPACITY), np.int64)
            grown[:old] = self._data[:old]
            self._data = grown
        self._data[old:new] = values
        self._show(new)

    def write(self, start: int, values: IntArray) -> None:
        """Overwrite from `start` on, and grow where the values reach beyond the end."""
        inside = min(values.size, self.view.size - start)
        self._data[start : start + inside] = values[:inside]
        if inside < values.size:
            self.append(values[inside:])

    def cut(self, length: int) -> None:
        """Keep the first `length` numbers; give memory back once three quarters of it are unused."""
        if 4 * length < self._data.size:
            self._data = self._data[:length].copy()
        self._show(length)

    def _show(self, length: int) -> None:
        self.view = self._data[:length]
        self.view.setflags(write=False)


def as_tokens(tokens: TokenLike) -> IntArray:
    """Token ids as a one-dimensional int64 array; an array that is one already is not copied."""
    array = np.asarray(tokens)
    if array.dtype != np.int64:
        if array.size and array.dtype.kind not in "iu":
            raise InvalidRequest("tokens", tokens, "are not whole numbers", "give token ids")
        array = array.astype(np.int64)
    if array.ndim != 1:
        raise InvalidRequest("tokens", tokens, "are not one sequence", "give one row of token ids")
    return array


def common_prefix(a: IntArray, b: IntArray) -> int:
    """Number of leading entries in which `a` and `b` agree."""
    length = min(a.size, b.size)
    if not length:
        return 0
    differs = a[:length] != b[:length]
    first = int(differs.argmax())
    return first if differs[first] else length
