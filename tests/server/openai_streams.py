"""What the tests of OpenAI's protocols share: a model without an engine, samples made of given tokens, and a
reader of streams that knows nothing of how they were written."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ramet.pocket
from ramet.engine.text import GenerationText
from ramet.engine.tokenizer import Tokenizer
from ramet.server.exchange import Call, Exchange, Sample
from ramet.server.served import ServedModel


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(ramet.pocket.model_path())


def served(**changes: Any) -> ServedModel:
    facts: dict[str, Any] = {
        "name": "pocket",
        "model_path": "pocket",
        "tokenizer": tokenizer(),
        "vocab_size": 2048,
        "max_context": 4096,
        "created": 1_700_000_000,
    }
    return ServedModel(**{**facts, **changes})


def score(token: int, place: int) -> float:
    """A log-probability that tells tokens and places apart."""
    return -0.25 - (token % 97) / 10 - place / 1000


def triple(token: int, place: int) -> list[Any]:
    return [score(token, place), token, None]


def tops(token: int, place: int, top: int) -> list[list[Any]]:
    return [triple((token + i * 31) % 2048, place) for i in range(top)]


def scripted(exchange: Exchange, outputs: Sequence[tuple[Sequence[int], dict[str, Any]]]) -> Any:
    """One `_Script` per sample: its tokens and its end."""
    places = [(i, k) for i, call in enumerate(exchange.calls) for k in range(call.params.n)]
    assert len(places) == len(outputs)
    return [
        _Script(index, place, choice, exchange.calls[place], ids, end)
        for index, ((place, choice), (ids, end)) in enumerate(zip(places, outputs))
    ]


class _Script:
    """A sample that grows token by token, as the engine's do."""

    def __init__(
        self,
        index: int,
        place: int,
        choice: int,
        call: Call,
        ids: Sequence[int],
        end: dict[str, Any],
    ) -> None:
        self.sample = Sample(index=index, call=place, choice=choice)
        self._call, self._left, self._end = call, list(ids), end
        self._text = GenerationText(tokenizer(), list(call.ids), call.params)
        self._told = False

    @property
    def left(self) -> int:
        return 0 if self.sample.finish_reason is not None else len(self._left) + 1

    def step(self) -> None:
        """One more token, or the end."""
        sample, meta = self.sample, self.sample.meta
        if not self._told:
            self._begin()
        if self._left:
            token, place = self._left.pop(0), len(sample.output_ids)
            sample.output_ids.append(token)
            hidden = not self._left and self._end.get("matched") == token
            if not hidden:
                self._text.push(token)
                sample.text += self._text.take_new()
            if self._call.logprobs.output:
                meta["output_token_logprobs"].append(triple(token, place))
                if self._call.logprobs.top:
                    meta["output_top_logprobs"].append(tops(token, place, self._call.logprobs.top))
        else:
            self._text.finish()
            sample.text += self._text.take_new()
            sample.finish_reason = meta["finish_reason"] = self._end
        meta["completion_tokens"] = len(sample.output_ids)

    def _begin(self) -> None:
        self._told = True
        meta, options, ids = self.sample.meta, self._call.logprobs, list(self._call.ids)
        meta.update(prompt_tokens=len(ids), cached_tokens=min(3, len(ids)) if self._call else 0)
        if options.output:
            meta["output_token_logprobs"] = []
            if options.top:
                meta["output_top_logprobs"] = []
        if options.prompt_start is not None:
            prompt = [triple(token, place) for place, token in enumerate(ids)]
            prompt[0][0] = None
            meta["input_token_logprobs"] = prompt
            if options.top:
                top = [tops(token, place, options.top) for place, token in enumerate(ids)]
                meta["input_top_logprobs"] = [None, *top[1:]]


def run_whole(exchange: Exchange, outputs: Sequence[tuple[Sequence[int], dict[str, Any]]]) -> Any:
    scripts = scripted(exchange, outputs)
    for script in scripts:
        while script.left:
            script.step()
    return exchange.answer([script.sample for script in scripts])


def run_stream(
    exchange: Exchange,
    outputs: Sequence[tuple[Sequence[int], dict[str, Any]]],
    seed: int,
    told: float = 0.4,
) -> list[dict[str, Any]]:
    """The chunks of a stream whose samples grow in random turns, and are told of now and then."""
    random_ = random.Random(seed)
    scripts = scripted(exchange, outputs)
    writer = exchange.events()
    frames = list(writer.begin())
    while any(script.left for script in scripts):
        script = random_.choice([script for script in scripts if script.left])
        for _ in range(random_.randint(1, min(3, script.left))):
            script.step()
        if random_.random() < told:
            frames += writer.changed(script.sample)
    frames += writer.end([script.sample for script in scripts])
    return list(chunks(frames))


def chunks(frames: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON of all frames but the last, which must say that it is."""
    frames = list(frames)
    assert frames[-1] == b"data: [DONE]\n\n"
    for frame in frames[:-1]:
        assert frame.startswith(b"data: ")
        assert frame.endswith(b"\n\n")
        assert frame.count(b"\n") == 2
        yield json.loads(frame[6:])


def put_together(pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Choices by index, each the sum of its deltas; with the usage of the last chunk that has one."""
    choices: dict[int, dict[str, Any]] = {}
    whole: dict[str, Any] = {"usage": None}
    for piece in pieces:
        for name in ("id", "created", "model", "system_fingerprint"):
            assert whole.setdefault(name, piece[name]) == piece[name]
        whole["usage"] = piece.get("usage") or whole["usage"]
        for found in piece["choices"]:
            choice = choices.setdefault(found["index"], {"index": found["index"]})
            assert choice.get("finish_reason") is None, "a chunk after the end"
            _add(choice, {name: v for name, v in found.items() if name != "index"})
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _add(into: dict[str, Any], found: dict[str, Any]) -> None:
    for name, value in found.items():
        old = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif old is None:
            into[name] = [] if name == "tool_calls" else value
            if name == "tool_calls":
                _add_calls(into[name], value)
        elif name == "tool_calls":
            _add_calls(old, value)
        elif isinstance(value, dict):
            into[name] = dict(old)
            _add(into[name], value)
        elif name in ("finish_reason", "matched_stop", "role"):
            into[name] = value
        else:
            into[name] = old + value


def _add_calls(calls: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    for call in found:
        if call["index"] == len(calls):
            calls.append(
                {"id": call["id"], "type": call["type"], "function": dict(call["function"])}
            )
        else:
            assert set(call) == {"index", "function"}
            _add(calls[call["index"]]["function"], call["function"])
