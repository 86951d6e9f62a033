"""Stops that a provider does not look for itself: the text is cut on our side, also while it streams.

Knows texts only. What could still become a stop string is held back until it is clear that it does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ramet.params import SamplingParams

__all__ = ["Cutter", "cut"]


def cut(text: str, stops: Sequence[str], params: SamplingParams) -> tuple[str, str | None]:
    """`text` up to the earliest stop (of `stops` and of `stop_regex`) and what matched, or all and None.
    With `no_stop_trim` the stop belongs to the text."""
    found: list[tuple[int, int, str]] = []
    for stop in stops:
        at = text.find(stop)
        if at >= 0:
            found.append((at, at + len(stop), stop))
    for pattern in params.stop_regex:
        match = re.search(pattern, text)
        if match is not None:
            found.append((match.start(), match.end(), pattern))
    if not found:
        return text, None
    start, end, matched = min(found, key=lambda place: place[:2])
    return text[: end if params.no_stop_trim else start], matched


class Cutter:
    """The same for a text that comes in pieces. With a `stop_regex` nothing is let through before the
    end, because how far a match will reach is not known earlier."""

    def __init__(self, stops: Sequence[str], params: SamplingParams) -> None:
        self.stops, self.params = tuple(stops), params
        self.text = ""
        self.sent = 0
        self.done = False

    def feed(self, piece: str) -> str:
        """What is safe to show now that `piece` has come, too."""
        self.text += piece
        if self.done or self.params.stop_regex:
            return ""
        kept, matched = cut(self.text, self.stops, self.params)
        self.done = matched is not None
        upto = len(kept) if self.done else len(self.text) - self._held()
        new, self.sent = kept[self.sent : upto], max(upto, self.sent)
        return new

    def _held(self) -> int:
        """Length of the longest end of the text that a stop begins with."""
        longest = 0
        for stop in self.stops:
            for size in range(min(len(stop) - 1, len(self.text)), longest, -1):
                if self.text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
