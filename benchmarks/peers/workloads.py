"""What every engine is asked to do, as data: waves of calls with token ids and output lengths.

A call's prompt is an earlier call's prompt and answer followed by tokens of its own. The calls of a wave
are submitted at once; the next wave starts when the last answer of this one is there. Any engine can be
asked that with token ids alone, so no language, template or tokenizer is compared here.

Standard library only: this runs inside every peer's own Python. Knows no engine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["DEFAULTS", "Call", "Wave", "build", "prompt_of", "sizes"]

FIRST_WORD = 300  # ids below are special tokens and single bytes in most vocabularies


@dataclass(frozen=True, slots=True)
class Call:
    """`own` tokens after call number `parent` (counted over all waves) and its answer; `out` tokens are
    generated, no fewer."""

    own: tuple[int, ...]
    out: int
    parent: int | None = None


Wave = tuple[Call, ...]
Words = Callable[[int], tuple[int, ...]]


def few_shot(words: Words, requests: int, shared: int, own: int, out: int) -> Iterator[Wave]:
    """Many questions after the same examples, all at once."""
    examples = words(shared)
    yield tuple(Call(examples + words(own), out) for _ in range(requests))


def tree(
    words: Words, trunk: int, levels: int, width: int, survivors: int, own: int, out: int
) -> Iterator[Wave]:
    """A beam over a tree: `width` thoughts per level. Of each level `survivors` live on (evenly spread
    over the level, so they share different amounts), and each forks `width / survivors` times. A fork
    starts with a few tokens of its own; otherwise greedy forks would all be one request."""
    root = words(trunk)
    yield tuple(Call(root + words(own), out) for _ in range(width))
    for level in range(1, levels):
        above = (level - 1) * width
        alive = [above + i * width // survivors for i in range(survivors)]
        yield tuple(Call(words(own), out, alive[i * survivors // width]) for i in range(width))


def chat(words: Words, chats: int, turns: int, own: int, out: int) -> Iterator[Wave]:
    """Several conversations that take their turns side by side; only a chat's own past is shared."""
    for turn in range(turns):
        yield tuple(
            Call(words(own), out, (turn - 1) * chats + i if turn else None) for i in range(chats)
        )


def unshared(words: Words, requests: int, own: int, out: int) -> Iterator[Wave]:
    """Requests that have nothing in common."""
    yield tuple(Call(words(own), out) for _ in range(requests))


def stream(words: Words, own: int, out: int) -> Iterator[Wave]:
    """One cold request. Its first token and the `out` tokens after that are timed apart."""
    yield (Call(words(own), out + 1),)


_BUILDERS: dict[str, Callable[..., Iterator[Wave]]] = {
    "few_shot": few_shot,
    "tree": tree,
    "chat": chat,
    "unshared": unshared,
    "stream": stream,
}
DEFAULTS: dict[str, dict[str, int]] = {
    "few_shot": {"requests": 64, "shared": 1024, "own": 64, "out": 4},
    "tree": {"trunk": 512, "levels": 5, "width": 32, "survivors": 8, "own": 4, "out": 32},
    "chat": {"chats": 8, "turns": 4, "own": 64, "out": 64},
    "unshared": {"requests": 32, "own": 256, "out": 64},
    "stream": {"own": 1024, "out": 128},
}


def build(name: str, parameters: Mapping[str, int], vocab: int, seed: int) -> list[Wave]:
    """The waves of workload `name`, the same for the same arguments on every Python.

    `parameters` replace defaults. Another `seed` is other tokens in the same shape, so a run finds
    nothing that an earlier one left in a cache. Raises `ValueError` for an unknown name or parameter, a
    number below 1, and a vocabulary without words.
    """
    if name not in _BUILDERS:
        raise ValueError(f"no workload is called {name!r}; known are {', '.join(_BUILDERS)}")
    for key, value in parameters.items():
        if key not in DEFAULTS[name] or value < 1:
            known = ", ".join(DEFAULTS[name])
            raise ValueError(f"{name}: {key}={value} is not one of {known} with at least 1")
    if vocab <= FIRST_WORD:
        raise ValueError(f"a vocabulary of {vocab} tokens is too small: more than {FIRST_WORD}")
    sizes = {**DEFAULTS[name], **parameters}
    if name == "tree" and sizes["survivors"] > sizes["width"]:
        raise ValueError(f"tree: {sizes['survivors']} survivors of {sizes['width']} per level")
    rng = random.Random(f"{name}/{seed}")

    def words(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(FIRST_WORD, vocab) for _ in range(count))

    return list(_BUILDERS[name](words, **sizes))


def prompt_of(call: Call, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[int]:
    """Token ids of `call`, given the prompts and answers of all calls before its wave."""
    if call.parent is None:
        return list(call.own)
    return [*prompts[call.parent], *answers[call.parent], *call.own]


def sizes(waves: Sequence[Wave]) -> dict[str, int]:
    """How much is asked: calls, prompt tokens (shared ones counted for each call), tokens generated, the
    longest request, the widest wave."""
    lengths: list[int] = []
    prompt_tokens = 0
    calls = [call for wave in waves for call in wave]
    for call in calls:
        prompt = len(call.own) + (0 if call.parent is None else lengths[call.parent])
        prompt_tokens += prompt
        lengths.append(prompt + call.out)
    return {
        "calls": len(calls),
        "prompt_tokens": prompt_tokens,
        "output_tokens": sum(call.out for call in calls),
        "longest": max(lengths),
        "widest": max(map(len, waves)),
        "live_tokens": sum(lengths),
    }
