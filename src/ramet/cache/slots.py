"""Which KV slots are free.

Knows a stack of free ids. Refuses to know who owns the others, and where their keys and values lie.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ramet.cache.buffer import IntArray
from ramet.errors import InvalidRequest, RametError

__all__ = ["CacheMisuse", "OutOfSlots", "SlotPool"]


class OutOfSlots(RametError):
    """More slots were asked for than can be had now; nothing changed. `needed` and `free` count slots,
    `free` together with what eviction could free."""

    def __init__(self, needed: int, free: int) -> None:
        self.needed, self.free = needed, free
        super().__init__(
            f"{needed} KV slots needed, {free} can be had; close leases, or ask for fewer"
        )


class CacheMisuse(RametError, RuntimeError):
    """A cache operation at a time when it is not legal; nothing changed. A bug in the caller."""


class SlotPool:
    """The slots 0 .. num_slots - 1, each free or not.

    A stack: what was freed last is given first, and in the order in which it was freed, so that
    neighbours in a sequence tend to stay neighbours in memory.
    """

    def __init__(self, num_slots: int) -> None:
        if num_slots < 1:
            raise InvalidRequest("num_slots", num_slots, "is not at least 1")
        self.num_slots = num_slots
        self._stack: IntArray = np.empty(num_slots, np.int64)
        self._num_free: int = 0
        self._is_free: npt.NDArray[np.bool_] = np.empty(num_slots, np.bool_)
        self._place: IntArray = np.empty(num_slots, np.int64)  # scratch of `_check_owned`
        self.reset(np.arange(num_slots, dtype=np.int64))

    @property
    def num_free(self) -> int:
        return self._num_free

    @property
    def free_slots(self) -> IntArray:
        """The free ids, int64 [num_free], read-only, the next one to be given last."""
        view = self._stack[: self._num_free]
        view.setflags(write=False)
        return view

    def alloc(self, n: int) -> IntArray:
        """`n` slots, int64 [n]. Raises `OutOfSlots` and changes nothing if there are not as many."""
        if n < 0:
            raise InvalidRequest("n", n, "is negative")
        if n > self._num_free:
            raise OutOfSlots(n, self._num_free)
        rest = self._num_free - n
        slots = self._stack[rest : self._num_free][::-1].copy()
        self._is_free[slots] = False
        self._num_free = rest
        return slots

    def free(self, slots: IntArray) -> None:
        """Take slots back. Raises `CacheMisuse` and changes nothing if one of them is free already,
        named twice, or no slot of this pool."""
        n = slots.size
        if not n:
            return
        self._check_owned(slots)
        self._stack[self._num_free : self._num_free + n] = slots[::-1]
        self._is_free[slots] = True
        self._num_free += n

    def reset(self, free: IntArray) -> None:
        """Make exactly the slots `free` (each once) the free ones, the first of them given first."""
        self._stack[: free.size] = free[::-1]
        self._num_free = free.size
        self._is_free[:] = False
        self._is_free[free] = True

    def _check_owned(self, slots: IntArray) -> None:
        if slots.view(np.uint64).max() >= self.num_slots:  # negative ids are large here
            raise CacheMisuse(f"cannot free slots {_few(slots)}: the pool has {self.num_slots}")
        if self._is_free[slots].any():
            raise CacheMisuse(f"slots {_few(slots[self._is_free[slots]])} were freed twice")
        if slots.size > 1:
            order = np.arange(slots.size)
            self._place[slots] = order  # of a slot named twice, only the last place stays
            twice = self._place[slots] != order
            if twice.any():
                raise CacheMisuse(f"slots {_few(slots[twice])} were named twice in one call")


def _few(slots: IntArray) -> str:
    shown = ", ".join(str(slot) for slot in slots[:8].tolist())
    return f"[{shown}{', ...' if slots.size > 8 else ''}]"
