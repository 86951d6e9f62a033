"""Saying several fields in one call: `@function(num_api_spec_tokens=N)`.

A generation asks for up to N tokens more than it needs, without its stop strings. What the model said behind
the first field is kept, together with the place in the prompt where it begins. A later generation takes its
text from there if everything that the program has appended since is exactly what the model said; if not, it
makes a call of its own and says why. The idea is the API speculative execution of SGLang (Zheng et al.,
arXiv 2312.07104, section 5).

Knows one chain and its calls; nothing is kept anywhere else. Which part of a text may be taken is the
business of `ahead`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ramet.backend import Chunk, Completion, Message
from ramet.lang.ahead import Ahead, Taken, earliest, key_of, reached, take, unfit
from ramet.lang.calls import Call, Feed, Values, complete
from ramet.lang.lower import GenerateOp
from ramet.lang.result_types import cut_after
from ramet.lang.streaming import Piece
from ramet.prompt import Prompt, Tokens

if TYPE_CHECKING:
    from ramet.lang.chain import Chain, Step

__all__ = ["generate", "speak"]

How = Callable[["Chain", "Step"], Awaitable[Values]]
Place = tuple[Prompt, tuple[Message, ...]]


async def generate(chain: Chain, step: Step, how: How) -> Values:
    """A generation, from what was said ahead if that is possible; `how` makes a call of its own."""
    num_tokens = chain.run.num_api_spec_tokens
    if num_tokens is None:
        return await how(chain, step)
    op = step.op
    assert isinstance(op, GenerateOp)
    bill, chain.bill = chain.bill, []
    found = unfit(op) or _take(chain, op)
    if isinstance(found, Taken):
        return _deliver(chain, step, found, bill, "it is the first field of its block")
    if chain.in_block or unfit(op) is not None:
        return _noted(await how(chain, step), found, bill)
    return await _call(chain, step, how, num_tokens, found)


async def _call(chain: Chain, step: Step, how: How, num_tokens: int, why: str) -> Values:
    """One call for this field and what follows it."""
    op = step.op
    assert isinstance(op, GenerateOp)
    feed = None
    if (
        chain.run.has_stream and op.params.max_new_tokens >= num_tokens
    ):  # the text is sure to be taken
        feed = lambda call: Feed(chain, step, op, call)  # noqa: E731
    meta, fed = await speak(chain, step, op, max(op.params.max_new_tokens, num_tokens), feed)
    found = _take(chain, op)
    if isinstance(found, Taken):
        return _deliver(chain, step, found, [meta], why, fed)
    return _noted(await how(chain, step), found, [meta])


async def speak(
    chain: Chain,
    step: Step,
    op: GenerateOp,
    max_new_tokens: int,
    feed_of: Callable[[Call], Feed] | None = None,
    place: Place | None = None,
) -> tuple[dict[str, Any], Feed | None]:
    """Have the model say `max_new_tokens` tokens and keep them in the chain. Only the chat template's own
    stop strings end them: behind those nothing of this answer would come. `place`: what the model sees
    instead of the chain's position."""
    ends = tuple(stop for stop in op.params.stop if stop in chain.run.template.stop_str)
    wide = replace(op, params=op.params.replace(stop=ends, max_new_tokens=max_new_tokens))
    call = Call(chain, step, op.name, 1)
    feed = feed_of(call) if feed_of is not None else None
    meter = _Meter(feed, op.params.stop)
    anchor = chain.position.prompt
    can = chain.run.capabilities
    # Services that see messages tell no tokens by piece: such a call need not be a stream.
    is_streamed = can.streaming and (feed is not None or not can.chat_only)
    try:
        [completion] = await complete(chain, call, wide, meter if is_streamed else None, place)
    except BaseException as error:  # a cancelled call is recorded, too
        call.failed(error)
        raise
    call.finished([completion.meta_info])
    chain.ahead = _ahead(anchor, call.number, wide, completion, meter)
    return completion.meta_info, feed


def _ahead(
    anchor: Prompt, number: int, op: GenerateOp, completion: Completion, meter: _Meter
) -> Ahead:
    meta = completion.meta_info
    tokens = [span for span in completion.spans if isinstance(span, Tokens) and span.text]
    return Ahead(
        anchor=anchor,
        number=number,
        key=key_of(op.params),
        text=completion.text,
        marks=tuple(meter.marks),
        limit=op.params.max_new_tokens,
        ids=tokens[0].ids
        if len(tokens) == 1 and completion.text.startswith(tokens[0].text)
        else (),
        num_tokens=_whole(meta.get("completion_tokens")),
        prompt_tokens=_whole(meta.get("prompt_tokens")),
        ended=cut_after(completion) is None and meta.get("finish_reason") is not None,
        reason=meta.get("finish_reason"),
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _take(chain: Chain, op: GenerateOp) -> Taken | str:
    """The field, or why there is none."""
    ahead = chain.ahead
    if ahead is None:
        return "nothing was said ahead"
    start = reached(ahead, chain.position.prompt)
    if isinstance(start, str):
        chain.ahead = None
        return start
    return take(ahead, start, op)


# What the field becomes


def _deliver(
    chain: Chain,
    step: Step,
    taken: Taken,
    bill: Sequence[dict[str, Any]],
    why: str,
    feed: Feed | None = None,
) -> Values:
    """`bill` is the meta information of the field's own calls, made because of `why`; empty if an earlier
    call said the field."""
    ahead, op = chain.ahead, step.op
    assert ahead is not None
    assert isinstance(op, GenerateOp)
    text = ahead.text[taken.start : taken.end]
    before = ahead.most_tokens(0, taken.start) if ahead.marks else 0
    saved = 0 if bill else (ahead.prompt_tokens or 0) + before
    nothing: dict[str, Any] = {"prompt_tokens": 0, "completion_tokens": 0}
    meta = _paid(bill[-1], bill[:-1]) if bill else nothing
    meta["finish_reason"] = taken.reason
    meta["speculation"] = _record(len(bill), True, meta, saved, why if bill else None)
    chain.write(ahead.spans(taken.start, taken.end), "generated", op.name, ahead.number)
    if feed is not None:
        feed.finish(text, meta)
    elif chain.run.has_stream:
        piece = Piece(text, meta)
        if step.variable is not None and step.variable.log is not None:
            step.variable.log.append(piece)
        chain.say(piece, "generated", op.name)
    return () if step.variable is None else ((step.variable, text, meta),)


def _noted(values: Values, why: str, bill: Sequence[dict[str, Any]]) -> Values:
    """The values of a call of its own, with the reason for it. `bill`: the meta information of calls whose
    texts were of no use for this field."""
    return tuple(
        (variable, value, _with_record(meta, why, bill)) for variable, value, meta in values
    )


def _with_record(meta: Any, why: str, bill: Sequence[dict[str, Any]]) -> Any:
    if isinstance(meta, list):  # one per sample
        return [_with_record(one, why, () if index else bill) for index, one in enumerate(meta)]
    meta = _paid(meta or {}, bill)
    return {**meta, "speculation": _record(1 + len(bill), False, meta, 0, why)}


def _paid(meta: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`meta` with the tokens of the other calls, too."""
    every = (meta, *others)
    sums = {
        name: sum(one.get(name) or 0 for one in every)
        for name in ("prompt_tokens", "completion_tokens")
        if any(name in one for one in every)
    }
    return {**meta, **sums}


def _record(
    calls: int, matched: bool, meta: dict[str, Any], saved: int, why: str | None
) -> dict[str, Any]:
    """What `get_meta_info(name)["speculation"]` is: `calls` made for this field, whether it was `matched`
    in a text said ahead, prompt and completion tokens paid for it (the first field of a text pays for all),
    prompt tokens that a call of its own would have cost at least, and why it had one."""
    found = {
        "calls": calls,
        "matched": matched,
        "prompt_tokens_paid": meta.get("prompt_tokens"),
        "completion_tokens_paid": meta.get("completion_tokens"),
        "prompt_tokens_saved": saved,
    }
    return found if why is None else {**found, "reason": why}


class _Meter:
    """Counts a call's tokens by piece, and shows the text up to the first stop string as it comes."""

    def __init__(self, feed: Feed | None, stops: tuple[str, ...]) -> None:
        self.feed, self.stops = feed, stops
        self.marks: list[tuple[int, int]] = []
        self.text = ""
        self.shown = 0

    def __call__(self, chunk: Chunk) -> None:
        self.text += chunk.text
        tokens = chunk.meta_info.get("completion_tokens")
        if isinstance(tokens, int) and chunk.text:
            self.marks.append((len(self.text), tokens))
        if self.feed is None:
            return
        stop = earliest(self.text, 0, self.stops)
        upto = stop[0] if stop is not None else len(self.text) - self._may_be_stop()
        if upto > self.shown:
            meta = {k: v for k, v in chunk.meta_info.items() if k != "finish_reason"}
            self.feed(Chunk(text=self.text[self.shown : upto], meta_info=meta))
            self.shown = upto

    def _may_be_stop(self) -> int:
        """Length of the longest end of the text with which a stop string begins."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        ends = range(min(longest, len(self.text)), 0, -1)
        return next((n for n in ends if any(s.startswith(self.text[-n:]) for s in self.stops)), 0)
