"""A text that a model said ahead, and what of it a generation may take.

Knows texts, their tokens and limits; refuses to know calls, chains and what becomes of a field. A piece is
taken only if it is what a call of its own would have given: up to the earliest stop string, or to the model's
own end, within the generation's own number of tokens. Where the backend does not tell tokens by piece, a
piece counts as long as it can be at most: its UTF-8 bytes, or all tokens of the call.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ramet.lang.ir import SglConstantText, SglExpr
from ramet.lang.lower import GenerateOp
from ramet.params import SamplingParams
from ramet.prompt import Prompt, Span, Text, Tokens

__all__ = ["Ahead", "Taken", "earliest", "key_of", "problem_with", "reached", "take", "unfit"]


@dataclass(frozen=True, slots=True)
class Ahead:
    """A text that the model said behind the prompt `anchor` in call `number`, with parameters `key`.

    `marks` are (characters, tokens) so far, as the chunks told; `ids` the tokens of the text, or () if
    unknown; `ended`: the model itself ended the text, for `reason`, and not the `limit` of tokens.
    """

    anchor: Prompt
    number: int
    key: SamplingParams
    text: str
    marks: tuple[tuple[int, int], ...]
    ids: tuple[int, ...]
    limit: int
    num_tokens: int | None
    prompt_tokens: int | None
    ended: bool
    reason: Any

    def most_tokens(self, start: int, end: int) -> int:
        """How many tokens the characters `start` to `end` are at most."""
        size = len(self.text[start:end].encode("utf-8", "surrogatepass"))
        known = [size] if self.num_tokens is None else [size, self.num_tokens]
        before, after = self._tokens_before(start), self._tokens_upto(end)
        if before is not None and after is not None:
            known.append(after - before)
        return min(known)

    def _tokens_before(self, place: int) -> int | None:
        at = bisect_right(self.marks, (place, 1 << 60)) - 1
        return self.marks[at][1] if at >= 0 else 0 if self.marks else None

    def _tokens_upto(self, place: int) -> int | None:
        at = bisect_left(self.marks, (place, -1))
        return self.marks[at][1] if at < len(self.marks) else None

    def place_of(self, num_tokens: int) -> int | None:
        """The character behind exactly `num_tokens` tokens, if the chunks told it."""
        return 0 if not num_tokens else next((c for c, t in self.marks if t == num_tokens), None)

    def token_at(self, place: int) -> int | None:
        """The number of tokens before a place between two tokens."""
        return 0 if not place else next((t for c, t in self.marks if c == place), None)

    def after_blank(self, blank: str) -> Ahead:
        """The same text, with `blank` in the place of the white space that it begins with."""
        rest = self.text.lstrip()
        shift = len(blank) + len(rest) - len(self.text)
        if not shift and self.text.startswith(blank):
            return self
        marks = tuple((c + shift, t) for c, t in self.marks if c + shift > 0)
        return replace(self, text=blank + rest, marks=marks, ids=())

    def spans(self, start: int, end: int) -> tuple[Span, ...]:
        """The characters as the tokens that they were, as far as that is known."""
        first = self.token_at(start)
        inside = [(c, t) for c, t in self.marks if start < c <= end]
        if first is None or not inside or inside[-1][1] > len(self.ids):
            return (Text(self.text[start:end]),) if end > start else ()
        stop, last = inside[-1]
        spans: tuple[Span, ...] = (Tokens(self.ids[first:last], self.text[start:stop]),)
        return (*spans, Text(self.text[stop:end])) if stop < end else spans


@dataclass(frozen=True, slots=True)
class Taken:
    """Characters `start` to `end` are the field; `reason` is its finish reason."""

    start: int
    end: int
    reason: Any


def unfit(op: GenerateOp) -> str | None:
    """Why no other call may say the text of this generation; None if one may."""
    p = op.params
    penalties = (p.frequency_penalty, p.presence_penalty, p.repetition_penalty)
    reasons = [
        ("it has a type", op.typed is not None or op.result is not None),
        (f"it has a {p.constraint}", p.constraint is not None),
        ("it has several samples", p.n > 1),
        ("it wants log-probabilities", bool(op.fields.get("return_logprob"))),
        ("it has a stop_regex", bool(p.stop_regex)),
        ("it keeps its stop string", p.no_stop_trim),
        ("it has a min_tokens", p.min_new_tokens > 0),
        ("it has penalties, which count its own tokens", penalties != (0.0, 0.0, 1.0)),
        ("it has a seed of its own", p.sampling_seed is not None),
    ]
    return next((why for why, is_so in reasons if is_so), None)


def key_of(params: SamplingParams) -> SamplingParams:
    """All that decides what the model says, and not where the text ends."""
    return params.replace(stop=(), max_new_tokens=1)


def problem_with(ahead: Ahead, ops: Iterable[SglExpr]) -> str | None:
    """Why the text does not give all the operations, from its beginning on; None if it does."""
    at = 0
    for op in ops:
        if isinstance(op, SglConstantText):
            if not ahead.text.startswith(op.value, at):
                return _differs(ahead.text[at:], op.value)
            at += len(op.value)
        elif isinstance(op, GenerateOp):
            found = unfit(op) or take(ahead, at, op)
            if isinstance(found, str):
                return found
            at = found.end
    return None


def take(ahead: Ahead, start: int, op: GenerateOp) -> Taken | str:
    """The field that begins at `start`, or why there is none."""
    if key_of(op.params) != ahead.key:
        return "it has other sampling parameters than what was said ahead"
    stop = earliest(ahead.text, start, op.params.stop)
    most = op.params.max_new_tokens
    if stop is not None and ahead.most_tokens(start, stop[1]) <= most:
        return Taken(start, stop[0], {"type": "stop", "matched": stop[2]})
    if stop is None and ahead.ended and ahead.most_tokens(start, len(ahead.text)) <= most:
        return Taken(start, len(ahead.text), ahead.reason)
    end = _limit(ahead, start, most)
    if end is not None and (stop is None or end < stop[1]):
        return Taken(start, end, {"type": "length", "length": most})
    if stop is None and not ahead.ended:
        return "what was said ahead has no stop string"
    return "what was said ahead may have more tokens than max_tokens"


def reached(ahead: Ahead, prompt: Prompt) -> int | str:
    """How much of the text the program has passed since it was said, or why it may not be used."""
    try:
        since = prompt.text(since=ahead.anchor)
    except ValueError:
        return "nothing was said ahead here"
    if not ahead.text.startswith(since):
        return _differs(ahead.text, since)
    if len(since) == len(ahead.text) and since:
        return "all that was said ahead is used"
    return len(since)


def _differs(said: str, wanted: str) -> str:
    pairs = enumerate(zip(wanted, said))
    same = next((i for i, (a, b) in pairs if a != b), min(len(said), len(wanted)))
    theirs, ours = said[same : same + 20], wanted[same : same + 20]
    return f"the model did not keep to the form: it said {theirs!r} and not {ours!r}"


def earliest(text: str, start: int, stops: tuple[str, ...]) -> tuple[int, int, str] | None:
    places = [(text.find(stop, start), stop) for stop in stops]
    found = [(at, at + len(stop), stop) for at, stop in places if at >= 0]
    return min(found, key=lambda one: one[0]) if found else None


def _limit(ahead: Ahead, start: int, most: int) -> int | None:
    """Where a call of its own would have been cut; None if that is not known exactly."""
    before = ahead.token_at(start)
    if not start and not ahead.ended and most == ahead.limit:
        return len(ahead.text)
    return None if before is None else ahead.place_of(before + most)
