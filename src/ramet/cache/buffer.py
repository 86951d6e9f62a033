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
_NOTHING: IntArray = np.empty(0, np.int64)


class IntBuffer:
    """An int64 array that grows and shrinks at its end.

    `view` is the content, read-only. A view taken earlier keeps its length and, until the buffer is cut
    or overwritten below that length, its content.
    """

    __slots__ = ("_data", "_readable", "view")

    view: IntArray

    def __init__(self, values: IntArray, room: int = 0) -> None:
        """A copy of `values`, with memory for `room` more numbers."""
        self._store(np.empty(values.size + room, np.int64))
        self._data[: values.size] = values
        self.view = self._readable[: values.size]

    @classmethod
    def joined(cls, parts: Sequence[IntArray], room: int = 0) -> IntBuffer:
        """The numbers of all `parts`, in one copy."""
        size = sum(part.size for part in parts)
        found = cls(_NOTHING, size + room)
        if parts:
            np.concatenate(parts, out=found._data[:size])
        found.view = found._readable[:size]
        return found

    def append(self, values: IntArray) -> None:
        old = self.view.size
        new = old + values.size
        if new > self._data.size:
            self._grow(new)
        self._data[old:new] = values
        self.view = self._readable[:new]

    def push(self, value: int) -> None:
        """`append` for one number: what every decoding request does in every step."""
        old = self.view.size
        if old == self._data.size:
            self._grow(old + 1)
        self._data[old] = value
        self.view = self._readable[: old + 1]

    def write(self, start: int, values: IntArray) -> None:
        """Overwrite from `start` on, and grow where the values reach beyond the end."""
        inside = min(values.size, self.view.size - start)
        self._data[start : start + inside] = values[:inside]
        if inside < values.size:
            self.append(values[inside:])

    def cut(self, length: int) -> None:
        """Keep the first `length` numbers; give memory back once three quarters of it are unused."""
        if 4 * length < self._data.size:
            self._store(self._data[:length].copy())
        self.view = self._readable[:length]

    def _grow(self, size: int) -> None:
        """Memory for `size` numbers and some more: twice as much as before, an eighth at the start."""
        old = self._data
        self._store(np.empty(max(2 * old.size, size + size // 8, _LEAST_CAPACITY), np.int64))
        self._data[: old.size] = old

    def _store(self, data: IntArray) -> None:
        self._data = data
        self._readable = data.view()
        self._readable.setflags(write=False)


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
