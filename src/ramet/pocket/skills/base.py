"""What every skill is made of: tasks, and a source of randomness that knows train from held-out.

A skill is a function from a `Source` to a `Task`. A task is either a chat (turns) or raw text
(pieces). This file decides what is held out, by hash, and knows no skill. A text is held out when
its hash says so; a source of one split never hands out a name or a number pair of the other.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

PROMPT = 0.1  # weight of text that nobody could predict
ANSWER = 1.0  # weight of what the model is to write
SILENT = 0.0  # weight of what it must not learn to write (a wrong addition to be judged)

END = "<|im_end|>"
START = "<|im_start|>"
STOP = "<|endoftext|>"


def held_out(key: str) -> bool:
    """True for one key in sixteen, the same ones on every machine and in every run."""
    return hashlib.blake2b(key.encode(), digest_size=1).digest()[0] % 16 == 0


@dataclass(frozen=True)
class Piece:
    """A run of text that is tokenized on its own, and the weight of its tokens in the loss."""

    text: str
    weight: float


@dataclass(frozen=True)
class Turn:
    """One exchange; a turn with `weight` 0 shows an answer that is not to be imitated."""

    user: str
    answer: str
    weight: float = ANSWER


@dataclass(frozen=True)
class Task:
    """One instance of a skill: `turns` of a chat or `pieces` of raw text, never both.

    key: what decides between train and held-out. options: the candidates of a choice, the last
    learned text among them. accept: other right last answers, or a test of them, for evaluation.
    """

    skill: str
    kind: str
    key: str
    turns: tuple[Turn, ...] = ()
    pieces: tuple[Piece, ...] = ()
    options: tuple[str, ...] = ()
    accept: Callable[[str], bool] | None = None
    system: str | None = None
    mixable: bool = True


class Source:
    """Seeded randomness for one split. Draws of names and numbers respect the split."""

    def __init__(self, seed: int | str, held: bool = False) -> None:
        self.rng = random.Random(str(seed))
        self.held = held

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.rng.random() * len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order."""
        return self.rng.sample(items, count)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return self.rng.sample(items, len(items))

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def between(self, low: int, high: int) -> int:
        return low + int(self.rng.random() * (high - low + 1))

    def until(self, draw: Callable[[], T], key: Callable[[T], str]) -> T:
        """Draw until the key falls into this source's split."""
        while True:
            item = draw()
            if held_out(key(item)) == self.held:
                return item


def listed(items: Sequence[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) == 1:
        return items[0]
    return f"{', '.join(items[:-1])} {word} {items[-1]}"


def article(noun: str) -> str:
    """The noun with `a` or `an`."""
    return ("an " if noun[0].lower() in "aeiou" and not noun.startswith("un") else "a ") + noun


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
