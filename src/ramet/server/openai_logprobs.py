"""Log-probabilities in OpenAI's two forms: one object per token (chat), or four lists (completions).

Both read a sample's `meta` and give what they have not given yet, so that a whole answer is the case of a
stream with one piece. There is an entry for every output token that counts in `completion_tokens`, those of
a stop included. Knows triples `[logprob, id, text]` and the tokenizer; refuses to know choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ramet.engine.text import IncrementalDetokenizer
from ramet.engine.tokenizer import Tokenizer
from ramet.server.exchange import Sample

__all__ = ["ChatLogprobs", "ListLogprobs", "PromptTokens"]

_LOWEST = -9999.0  # JSON has no minus infinity

Triple = Sequence[Any]


def _bounded(logprob: float) -> float:
    return max(logprob, _LOWEST)


class ChatLogprobs:
    """Of one choice of a chat. `top`: alternatives per token."""

    def __init__(self, tokenizer: Tokenizer, top: int) -> None:
        self._tokenizer, self._top = tokenizer, top
        self._given = 0

    def take(self, sample: Sample) -> dict[str, Any] | None:
        """The entries that are new, as `{"content": [...]}`; None if there are none."""
        scores = sample.meta.get("output_token_logprobs") or []
        tops = sample.meta.get("output_top_logprobs") or []
        first, self._given = self._given, len(scores)
        if first == self._given:
            return None
        content = [
            {**self._entry(score), "top_logprobs": self._alternatives(tops, first + i)}
            for i, score in enumerate(scores[first:])
        ]
        return {"content": content, "refusal": None}

    def _alternatives(self, tops: Sequence[Any], place: int) -> list[dict[str, Any]]:
        if not self._top or place >= len(tops):
            return []
        return [self._entry(one) for one in (tops[place] or [])[: self._top]]

    def _entry(self, score: Triple) -> dict[str, Any]:
        logprob, token = score[0], score[1]
        data = self._tokenizer.token_bytes.of(token)
        text = data.decode("utf-8", "replace")
        return {"token": text, "logprob": _bounded(logprob), "bytes": list(data)}


class PromptTokens:
    """A prompt's tokens as the beginning of an echoed text: where each begins in it. `first`: leading tokens
    that are no part of the text (BOS)."""

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int], first: int, skip: bool) -> None:
        detokenizer = IncrementalDetokenizer(tokenizer, (), skip)
        self.offsets: list[int] = []
        pieces: list[str] = []
        length = 0
        for place, token in enumerate(ids):
            self.offsets.append(length)
            piece = detokenizer.push(token) if place >= first else ""
            pieces.append(piece)
            length += len(piece)
        self.text = "".join(pieces)


class ListLogprobs:
    """Of one choice of a completion: `tokens`, `token_logprobs`, `top_logprobs` (the token itself and `top`
    others), and `text_offset`, where each token begins in the choice's text (one that begins inside a
    character: where that begins).

    `prompt` is None unless the prompt is echoed; `ids` are the prompt's, `start` is the length of the
    echoed text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        ids: Sequence[int],
        *,
        top: int,
        skip_special_tokens: bool,
        prompt: PromptTokens | None,
        start: int = 0,
    ) -> None:
        self._tokenizer, self._top, self._prompt = tokenizer, top, prompt
        self._detokenizer = IncrementalDetokenizer(tokenizer, ids[-8:], skip_special_tokens)
        self._length, self._given = start, 0

    def take(self, sample: Sample) -> dict[str, Any] | None:
        """The lists of entries that are new; None if there are none."""
        meta = sample.meta
        found: dict[str, Any] = _no_entries()
        if self._prompt is not None and "input_token_logprobs" in meta:
            scores, tops = meta["input_token_logprobs"], meta.get("input_top_logprobs") or []
            for place, score in enumerate(scores):
                self._add(found, score, tops, place, self._prompt.offsets[place])
            self._prompt = None
        scores, tops = (
            meta.get("output_token_logprobs") or [],
            meta.get("output_top_logprobs") or [],
        )
        for place in range(self._given, len(scores)):
            self._add(found, scores[place], tops, place, self._length)
            self._length += len(self._detokenizer.push(scores[place][1]))
        self._given = len(scores)
        return found if found["tokens"] else None

    def _add(
        self, found: dict[str, Any], score: Triple, tops: Sequence[Any], place: int, offset: int
    ) -> None:
        logprob, token = score[0], score[1]
        found["tokens"].append(self._text(token))
        found["text_offset"].append(offset)
        if logprob is None:  # nothing comes before a prompt's first token
            found["token_logprobs"].append(None)
            found["top_logprobs"].append(None)
            return
        found["token_logprobs"].append(_bounded(logprob))
        others = (tops[place] or [])[: self._top] if self._top and place < len(tops) else []
        top = {self._text(one[1]): _bounded(one[0]) for one in others}
        found["top_logprobs"].append({**top, self._text(token): _bounded(logprob)})

    def _text(self, token: int) -> str:
        """A token that is no whole characters is written by its bytes, so that no two look alike."""
        data = self._tokenizer.token_bytes.of(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _no_entries() -> dict[str, Any]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
