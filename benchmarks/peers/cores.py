"""How many cores others took while something was measured, from what Linux counts.

A shared machine spoils figures, some engines' more than others': one whose threads wait for each other by
spinning loses most. Knows /proc only; where there is none, it says nothing (None).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["Others"]

_PROC = Path("/proc")


class Others:
    """Counts from when it is made. `group`: the process group whose own work is left out."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._began = time.monotonic()
        self._busy, self._own = _busy(), self._used()

    def cores(self) -> float | None:
        """Cores that were busy with something else, or that a hypervisor kept back, on average."""
        busy = _busy()
        if busy is None or self._busy is None:
            return None
        ticks = (busy - self._busy) - (self._used() - self._own)
        seconds = ticks / os.sysconf("SC_CLK_TCK")
        return max(0.0, seconds / max(1e-9, time.monotonic() - self._began))

    def _used(self) -> int:
        """Ticks of all processes of the group; those of ended children are in their parents' counts."""
        total = 0
        for path in _PROC.glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[2]) == self._group:
                total += sum(map(int, fields[11:15]))
        return total


def _busy() -> int | None:
    """Ticks of all cores that were not idle and not waiting for a disk."""
    try:
        user, nice, system, _idle, _wait, irq, soft, steal = map(
            int, (_PROC / "stat").read_text().split()[1:9]
        )
    except (OSError, ValueError):
        return None
    return user + nice + system + irq + soft + steal
