"""How busy others kept the processors while this process worked. Knows /proc/stat and process times."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUCH", "Clock", "busy_ticks"]

MUCH = 0.1  # of all processors: from here on figures are not those of a quiet machine
_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds of processors since some time before: of all there are, busy ones, and this process's."""

    total: float
    busy: float
    own: float

    @classmethod
    def read(cls) -> Clock | None:
        """None where nobody tells what the processors do."""
        if not _STAT.exists():
            return None
        busy, total = busy_ticks(_STAT.read_text())
        each = os.sysconf("SC_CLK_TCK")
        times = os.times()
        return cls(total / each, busy / each, times.user + times.system)

    def others_since(self, before: Clock) -> float:
        """The share of all processors that others used, from 0 to 1."""
        others = (self.busy - before.busy) - (self.own - before.own)
        return max(0.0, others) / max(self.total - before.total, 1e-9)


def busy_ticks(stat: str) -> tuple[int, int]:
    """(busy, all) ticks of the first line of /proc/stat: user, nice, system, idle, waiting, and more."""
    ticks = [int(word) for word in stat.split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
