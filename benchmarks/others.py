"""How busy the processors are with something else, while this process waits. Knows /proc/stat only."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["MUCH", "busy_share", "busy_ticks"]

MUCH = 0.1  # of all processors: from here on figures are not those of a quiet machine
_STAT = Path("/proc/stat")


def busy_share(seconds: float = 0.5) -> float | None:
    """Between 0 and 1, over `seconds` of sleep; None where nobody tells."""
    if not _STAT.exists():
        return None
    busy, total = busy_ticks(_STAT.read_text())
    time.sleep(seconds)
    busy_later, total_later = busy_ticks(_STAT.read_text())
    return (busy_later - busy) / max(1, total_later - total)


def busy_ticks(stat: str) -> tuple[int, int]:
    """(busy, all) ticks of the first line of /proc/stat: user, nice, system, idle, waiting, and more."""
    ticks = [int(word) for word in stat.split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
