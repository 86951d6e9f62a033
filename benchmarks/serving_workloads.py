"""What a served model is asked under load: requests in OpenAI's form for given times of arrival.

- `shared`: nine of ten requests begin with one of 4 prefixes of 512 tokens, 32 to 64 own ones behind it.
- `unshared`: 256 tokens that nobody else has.
- `chat`: conversations with one system prompt, whose histories grow turn by turn. They are replayed: the
  earlier answers are given, so that all servers read the same and no time of arrival waits for an answer.

All ask for 32 tokens, greedy, whatever the end-of-text token says. Knows prompts and the fields that
servers take; refuses to know when requests leave. The same seed gives the same requests; another seed
shares nothing with it.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

__all__ = ["LONGEST", "OUT", "WORKLOADS", "bodies"]

OUT = 32  # tokens of an answer
WORKLOADS = ("shared", "unshared", "chat")
LONGEST = (
    2048  # tokens of the longest request and its answer, with room for words of several tokens
)

_FIRST_ID = 300  # ids below are special tokens and single bytes
_PREFIXES, _PREFIX, _SHARING = 4, 512, 0.9
_OWN = (32, 64)
_UNSHARED = 256
_SYSTEM, _ASKED, _TURNS = 64, (16, 40), (4, 8)  # words, words, turns of one conversation
_THINKING = 2.0  # seconds at least between the turns of a conversation
_SYLLABLES = [c + v for c, v in itertools.product("bcdfghjklmnpqrstvwxz", "aeiou")]


def bodies(
    workload: str, times: Sequence[float], vocab: int, seed: str, extra: dict[str, Any]
) -> list[tuple[str, bytes]]:
    """The path and the JSON body of each request. `extra`: fields that this server wants beside.

    Raises `ValueError` for an unknown workload."""
    rng = random.Random(f"{workload} {seed}")
    if workload == "shared":
        prompts = _shared(len(times), vocab, rng)
    elif workload == "unshared":
        prompts = [_ids(rng, vocab, _UNSHARED) for _ in times]
    elif workload == "chat":
        talks = _chat(times, rng)
        return [("/v1/chat/completions", _body({"messages": t}, extra)) for t in talks]
    else:
        raise ValueError(f"{workload!r} is none of {', '.join(WORKLOADS)}")
    return [("/v1/completions", _body({"prompt": ids}, extra)) for ids in prompts]


def _body(asked: dict[str, Any], extra: dict[str, Any]) -> bytes:
    common = {
        "model": "bench",
        "max_tokens": OUT,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps({**common, **asked, **extra}, separators=(",", ":")).encode()


def _ids(rng: random.Random, vocab: int, count: int) -> list[int]:
    return [rng.randrange(_FIRST_ID, vocab) for _ in range(count)]


def _shared(count: int, vocab: int, rng: random.Random) -> list[list[int]]:
    prefixes = [_ids(rng, vocab, _PREFIX) for _ in range(_PREFIXES)]
    prompts = []
    for _ in range(count):
        own = rng.randint(*_OWN)
        shares = rng.random() < _SHARING
        prefix = rng.choice(prefixes) if shares else _ids(rng, vocab, _PREFIX)
        prompts.append(prefix + _ids(rng, vocab, own))
    return prompts


def _words(rng: random.Random, count: int) -> str:
    """Words of two syllables, which are one token each in the vocabularies of `weights.py`."""
    return " ".join("".join(rng.choices(_SYLLABLES, k=2)) for _ in range(count))


class _Talk:
    def __init__(self, system: str, turns: int) -> None:
        self.messages = [{"role": "system", "content": system}]
        self.left = turns
        self.due = 0.0

    def ask(self, now: float, rng: random.Random) -> list[dict[str, str]]:
        self.messages.append({"role": "user", "content": _words(rng, rng.randint(*_ASKED))})
        asked = list(self.messages)
        self.messages.append({"role": "assistant", "content": _words(rng, OUT)})
        self.left -= 1
        self.due = now + _THINKING
        return asked


def _chat(times: Sequence[float], rng: random.Random) -> list[list[dict[str, str]]]:
    """Each arrival is the next turn of the conversation that has waited longest, or begins a new one."""
    system = _words(rng, _SYSTEM)
    talks: list[_Talk] = []  # in the order in which they are due
    asked = []
    for now in times:
        if talks and talks[0].due <= now:
            talk = talks.pop(0)
        else:
            # Those who are there at the beginning end at different times, not all together.
            talk = _Talk(system, rng.randint(1 if now < 2 * _THINKING else _TURNS[0], _TURNS[1]))
        asked.append(talk.ask(now, rng))
        if talk.left:
            talks.append(talk)
    return asked
