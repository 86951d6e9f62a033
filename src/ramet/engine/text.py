"""The text of one generation while its tokens arrive.

Three parts and their sum: `IncrementalDetokenizer` makes text of tokens and never shows half a
character; `StopChecker` finds where a text ends and knows which part of it nothing can take back;
`GenerationText` is both for one request. Each step costs time in the new token's text. Knows the
tokenizer and the sampling parameters; refuses to know why else a generation may end.
"""

from __future__ import annotations

import bisect
import codecs
from collections.abc import Sequence
from typing import Any, Protocol

import re2  # type: ignore[import-untyped]

from ramet.engine.pattern import NotUnderstood, max_width, parse
from ramet.engine.token_bytes import TokenBytes
from ramet.errors import InvalidRequest
from ramet.kernels.plan import IntArray
from ramet.params import SamplingParams

__all__ = ["GenerationText", "IncrementalDetokenizer", "Stop", "StopChecker"]

_REGEX_WINDOW = 16_384  # characters: bounds what a pattern can cost per token, whatever it is
_REGEX_MEMORY = 1 << 20  # bytes of compiled program and automaton per pattern
_NEVER = 1 << 60


class _Tokens(Protocol):
    """What is needed of `ramet.engine.tokenizer.Tokenizer`."""

    @property
    def token_bytes(self) -> TokenBytes: ...

    def special_id(self, text: str) -> int | None: ...


class IncrementalDetokenizer:
    """Text of tokens as they arrive: the pieces that `push` returns, and then `flush`, put together, are
    the text that the tokens add to the prompt.

    `prompt_tail_ids` are the prompt's last tokens. If they have any text the output continues it (its
    first token keeps its space); a character that they leave unfinished can be finished by the output and
    is then the output's. Bytes that cannot become a character are U+FFFD as soon as that is certain.
    """

    def __init__(
        self,
        tokenizer: _Tokens,
        prompt_tail_ids: Sequence[int] | IntArray = (),
        skip_special_tokens: bool = True,
    ) -> None:
        self._bytes = tokenizer.token_bytes
        self._hidden = self._bytes.hidden if skip_special_tokens else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False
        self._inherited = b""  # the prompt's unfinished character, until it is finished or given up
        self._read_tail(prompt_tail_ids)

    @property
    def is_whole(self) -> bool:
        """No bytes of an unfinished character of the output are held back."""
        return bool(self._inherited) or not self._decoder.getstate()[0]

    def push(self, token_id: int) -> str:
        """The text that is certain now and was not before."""
        if token_id in self._hidden:
            return ""
        data = self._bytes.of(token_id)
        if not data:
            return ""
        if not self._begun:
            self._begun, data = True, self._bytes.first(token_id)
        if self._inherited and data:
            if not _continues(self._inherited, data[0]):
                self._decoder.reset()  # the broken character was the prompt's
            self._inherited = b""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What the held back bytes are when nothing follows."""
        if self._inherited:
            self._decoder.reset()
            self._inherited = b""
        return self._decoder.decode(b"", True)

    def _read_tail(self, ids: Sequence[int] | IntArray) -> None:
        tail = b""
        for token in reversed(ids):
            tail = (b"" if int(token) in self._hidden else self._bytes.of(int(token))) + tail
            if len(tail) >= 4:
                break
        self._begun = bool(tail)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(tail)
        self._inherited = decoder.getstate()[0]
        self._decoder.decode(self._inherited)


def _continues(unfinished: bytes, byte: int) -> bool:
    """Is `unfinished` and `byte` still the beginning of a character, or one?"""
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(unfinished + bytes([byte]))
    except UnicodeDecodeError:
        return False
    return True


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


class GenerationText:
    """The text of one request's output.

    `prompt_tail_ids` may be the whole prompt: only its last few tokens are read. A stop string that is
    the name of a special token also stops at that token, shown or not. Stops that are complete before
    token number `min_new_tokens` are text. Not for use by several threads at once.
    """

    def __init__(
        self,
        tokenizer: _Tokens,
        prompt_tail_ids: Sequence[int] | IntArray,
        params: SamplingParams,
    ) -> None:
        self._detokenizer = IncrementalDetokenizer(
            tokenizer, prompt_tail_ids, params.skip_special_tokens
        )
        self._checker = StopChecker(params.stop, params.stop_regex)
        specials = {text: tokenizer.special_id(text) for text in params.stop}
        self._special_stops = {i: text for text, i in specials.items() if i is not None}
        self._min_tokens, self._keep_stop = params.min_new_tokens, params.no_stop_trim
        self._ids: list[int] = []
        self._ends: list[int] = []  # characters of text after each token
        self._whole: list[bool] = []  # no bytes were held back after that token
        self._pieces: list[str] = []
        self._length = 0
        self._unsent: list[str] = []
        self._emitted = 0
        self._cut: int | None = None  # where the text ends, once that is known
        self._finished: str | None = None
        self._done = False

    @property
    def finished(self) -> str | None:
        """The stop string, or the text that a stop pattern found, that ended the text."""
        return self._finished

    @property
    def text(self) -> str:
        """All text so far, what streams hold back included; the final text once there is one."""
        whole = "".join(self._pieces)
        self._pieces = [whole]
        return whole if self._cut is None else whole[: self._cut]

    @property
    def emitted(self) -> int:
        """Characters that `take_new` has returned."""
        return self._emitted

    @property
    def safe_length(self) -> int:
        """Characters of `text` that are final."""
        if self._cut is not None:
            return self._cut
        return self._length if self._done else self._checker.safe_length

    def push(self, token_id: int) -> None:
        """Add an output token. After a stop was found, or `finish`, tokens have no text any more."""
        self._ids.append(token_id)
        if self._finished is None and not self._done:
            self._grow(token_id)
        self._ends.append(self._length)
        self._whole.append(self._detokenizer.is_whole)

    def take_new(self) -> str:
        """The text that is final now and was not returned before."""
        count = self.safe_length - self._emitted
        if count <= 0:
            return ""
        unsent = "".join(self._unsent)
        self._unsent = [unsent[count:]]
        self._emitted += count
        return unsent[:count]

    def finish(self, reason: dict[str, Any] | None = None) -> str:
        """The final text. Bytes that are still held back become U+FFFD, unless a stop ended the text.
        `reason` is the finish reason; it changes nothing here. Calling it again does nothing."""
        del reason
        if not self._done and self._cut is None:
            self._append(self._detokenizer.flush())
            if self._ids:
                self._ends[-1] = self._length
                self._whole[-1] = True
        self._done = True
        return self.text

    def kept(self) -> tuple[tuple[int, ...], str]:
        """(ids, rest): the longest run of the output's first tokens whose text begins the final text, and
        the rest of it. A token that the end of the text cuts in two is rest. A hidden stop token is no
        part of the text and is not kept."""
        text = self.text
        count = bisect.bisect_right(self._ends, len(text))
        if self._finished is not None and count == len(self._ids) and self._stop_is_hidden:
            count -= 1  # a stop token without text is not part of the text
        while count and not (
            self._whole[count - 1] or text[self._ends[count - 1] :][:1] == "\ufffd"
        ):
            count -= 1  # the token ends inside a character
        if count and not self._whole[count - 1]:
            return tuple(self._ids[:count]), text[self._ends[count - 1] + 1 :]
        kept = self._ends[count - 1] if count else 0
        return tuple(self._ids[:count]), text[kept:]

    @property
    def _stop_is_hidden(self) -> bool:
        before = self._ends[-2] if len(self._ends) > 1 else 0
        return self._ends[-1] == before

    def _grow(self, token_id: int) -> None:
        may_stop = len(self._ids) >= self._min_tokens
        start = self._length
        piece = self._detokenizer.push(token_id)
        self._append(piece)
        stop = self._checker.push(piece, may_stop)
        if stop is None and may_stop and token_id in self._special_stops:
            stop = Stop(self._special_stops[token_id], start, self._length)
        if stop is not None:
            self._finished = stop.matched
            self._cut = stop.end if self._keep_stop else stop.start

    def _append(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self._unsent.append(piece)
            self._length += len(piece)
