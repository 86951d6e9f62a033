"""The text of one generation while its tokens arrive.

`IncrementalDetokenizer` makes text of tokens and never shows half a character; `GenerationText` is that
and a `StopChecker` for one request. Each step costs time in the new token's text. Knows the tokenizer and
the sampling parameters; refuses to know why else a generation may end.
"""

from __future__ import annotations

import bisect
import codecs
from collections.abc import Sequence
from typing import Any, Protocol

from ramet.engine.stop import Stop, StopChecker
from ramet.engine.token_bytes import TokenBytes
from ramet.kernels.plan import IntArray
from ramet.params import SamplingParams

__all__ = ["GenerationText", "IncrementalDetokenizer", "Stop", "StopChecker"]


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
        self.is_whole = True  # no bytes of an unfinished character of the output are held back
        self._read_tail(prompt_tail_ids)

    @property
    def begun(self) -> bool:
        """There is text, the prompt's or the output's."""
        return self._begun

    def push(self, token_id: int) -> str:
        """The text that is certain now and was not before."""
        if token_id in self._hidden:
            return ""
        if self._begun and self.is_whole and not self._inherited:
            text = self._bytes.text_of(token_id)
            if text:
                return text
        text = self._decode(token_id)
        self.is_whole = bool(self._inherited) or not self._decoder.getstate()[0]
        return text

    def _decode(self, token_id: int) -> str:
        data = self._bytes.of(token_id)
        if not data:
            return ""
        if not self._begun:
            self._begun, data = True, self._bytes.first(token_id)
        if self._inherited and data:
            if not _continues(self._inherited, data[0]):
                self._decoder.reset()  # the broken character was the prompt's
            self._inherited = b""
        text = self._decoder.decode(data)
        if _is_surrogate(self._decoder.getstate()[0]):
            text += self._decoder.decode(b"", True)
        return text

    def flush(self) -> str:
        """What the held back bytes are when nothing follows."""
        if self._inherited:
            self._decoder.reset()
            self._inherited = b""
        self.is_whole = True
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
        unfinished = decoder.getstate()[0]
        self._inherited = b"" if _is_surrogate(unfinished) else unfinished
        self._decoder.decode(self._inherited)


def _continues(unfinished: bytes, byte: int) -> bool:
    """Is `unfinished` and `byte` still the beginning of a character, or one?"""
    data = unfinished + bytes([byte])
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(data)
    except UnicodeDecodeError:
        return False
    return not _is_surrogate(data)


def _is_surrogate(unfinished: bytes) -> bool:
    """No character begins like this, but Python's decoder waits for a third byte to say so."""
    return len(unfinished) == 2 and unfinished[0] == 0xED and unfinished[1] >= 0xA0


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
        self._continues = self._detokenizer.begun
        self._checker = StopChecker(params.stop, params.stop_regex)
        self._may_match = bool(params.stop or params.stop_regex)
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
    def continues(self) -> bool:
        """The output continues a text: there was one when it began."""
        return self._continues

    @property
    def emitted(self) -> int:
        """Characters that `take_new` has returned."""
        return self._emitted

    @property
    def safe_length(self) -> int:
        """Characters of `text` that are final."""
        if self._cut is not None:
            return self._cut
        return self._checker.safe_length if self._may_match and not self._done else self._length

    def push(self, token_id: int) -> None:
        """Add an output token. After a stop was found, or `finish`, tokens have no text any more."""
        self._ids.append(token_id)
        if self._finished is None and not self._done:
            if self._may_match:
                self._grow(token_id)
            elif piece := self._detokenizer.push(token_id):
                self._pieces.append(piece)
                self._unsent.append(piece)
                self._length += len(piece)
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
