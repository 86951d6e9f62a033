"""Where a growing text ends: stop strings and stop patterns.

Knows texts only. Finds the first stop as soon as it is complete, and knows which part of the text nothing
that comes later can take back. Each piece costs time in its own length (with patterns, in the window that
they are searched in). Refuses to know tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import re2  # type: ignore[import-untyped]

from ramet.engine.pattern import NotUnderstood, max_width, parse
from ramet.errors import InvalidRequest

__all__ = ["Stop", "StopChecker"]

_REGEX_WINDOW = 16_384  # characters: bounds what a pattern can cost per token, whatever it is
_REGEX_MEMORY = 1 << 20  # bytes of compiled program and automaton per pattern
_NEVER = 1 << 60


class Stop:
    """A stop that was found: `matched` is the stop string, or the text that a pattern found, from
    `start` to `end` in the text."""

    __slots__ = ("end", "matched", "start")

    def __init__(self, matched: str, start: int, end: int) -> None:
        self.matched, self.start, self.end = matched, start, end

    def __repr__(self) -> str:
        return f"Stop({self.matched!r}, {self.start}, {self.end})"


class StopChecker:
    """Finds the stop in a text that grows by pieces.

    Of several stop strings the one that is complete first in the text wins, of those that end at the same
    character the longest: so the result does not depend on how the text is cut into tokens. A pattern is
    searched in the text after each piece (where `$` is the end so far), and the leftmost match counts; a
    match has at most 16,384 characters. Of a string and a pattern the one that begins first wins, the
    string on a tie.

    Raises `InvalidRequest` for a pattern that RE2 refuses or that matches the empty text. RE2 runs in
    linear time, so no pattern can stall the engine.
    """

    def __init__(self, stop: Sequence[str], stop_regex: Sequence[str] = ()) -> None:
        self._strings = _StringMatcher(stop)
        self._patterns = [_compile(pattern) for pattern in stop_regex]
        self._hold = _regex_hold(stop_regex)
        self._window = ""
        self._length = 0

    @property
    def safe_length(self) -> int:
        """Characters of the text that no later stop can begin in. With a pattern whose matches have no
        limit in length that is none of them."""
        return max(0, self._length - max(self._strings.depth, self._hold))

    def push(self, piece: str, may_stop: bool = True) -> Stop | None:
        """`may_stop=False`: what is complete at the end of this piece is no stop, now or later."""
        old = self._length
        self._length += len(piece)
        found = self._strings.push(piece, old, may_stop)
        if self._patterns:
            self._window = (self._window + piece)[-(_REGEX_WINDOW + len(piece) + 1) :]
            if may_stop:
                matched = self._search(old)
                if matched is not None and (found is None or matched.start < found.start):
                    found = matched
        return found

    def _search(self, old: int) -> Stop | None:
        """The leftmost match that reaches into the text after `old`."""
        offset = self._length - len(self._window)
        first = 1 if offset else 0  # a window's first character is only there for ^ and \b to see
        best: Stop | None = None
        for pattern in self._patterns:
            for match in pattern.finditer(self._window, first):
                if offset + match.end() > old:
                    if best is None or offset + match.start() < best.start:
                        best = Stop(match.group(), offset + match.start(), offset + match.end())
                    break
        return best


class _StringMatcher:
    """Aho and Corasick's automaton (CACM 18(6), 1975) over the stop strings. `depth` is the length of the
    longest end of the text that is the beginning of a stop string."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._found = [""]
        for text in strings:
            self._insert(text)
        self._fail = self._failures()
        self._state = 0

    @property
    def depth(self) -> int:
        return self._depth[self._state]

    def push(self, piece: str, offset: int, may_stop: bool) -> Stop | None:
        if len(self._next) == 1:
            return None
        state = self._state
        for at, char in enumerate(piece, offset + 1):
            state = self._step(state, char)
            if may_stop and self._found[state]:
                self._state = state
                found = self._found[state]
                return Stop(found, at - len(found), at)
        self._state = state
        return None

    def _step(self, state: int, char: str) -> int:
        while state and char not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(char, 0)

    def _insert(self, text: str) -> None:
        state = 0
        for char in text:
            if char not in self._next[state]:
                self._next[state][char] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._found.append("")
            state = self._next[state][char]
        self._found[state] = text

    def _failures(self) -> list[int]:
        """For each state the longest proper suffix of its text that is a state too, in breadth-first
        order; a state without a stop of its own takes over that suffix's."""
        self._fail = [0] * len(self._next)
        level = list(self._next[0].values())
        while level:
            deeper = []
            for state in level:
                for char, child in self._next[state].items():
                    self._fail[child] = self._step(self._fail[state], char)
                    self._found[child] = self._found[child] or self._found[self._fail[child]]
                    deeper.append(child)
            level = deeper
        return self._fail


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = _REGEX_MEMORY
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
        empty = compiled.search("") is not None
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
        raise InvalidRequest(
            "stop_regex",
            pattern,
            f"is not a pattern that RE2 can run: {reason}",
            "backreferences and lookarounds are not supported",
        ) from None
    if empty:
        raise InvalidRequest("stop_regex", pattern, "matches the empty text")
    return compiled


def _regex_hold(patterns: Sequence[str]) -> int:
    """Characters at the end of a text in which a match may begin that is not complete yet (or that may
    still grow)."""
    hold = 0
    for pattern in patterns:
        try:
            width = max_width(parse(pattern))
        except NotUnderstood:
            width = None
        hold = max(hold, _NEVER if width is None else width)
    return hold
