"""What a workload is: a program and the arguments of its runs. Knows no text and no engine."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.workloads.words import Words
from ramet.lang.program import SglFunction

__all__ = ["Load", "Size", "Workload"]


@dataclass(frozen=True, slots=True)
class Size:
    """`scale` multiplies the number of programs, `lengths` every number of tokens. Shapes (branches,
    levels, turns) stay as they are. The same `seed` gives the same workload."""

    scale: float = 1.0
    lengths: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.scale > 0 and self.lengths > 0):
            raise ValueError(f"scale {self.scale} and lengths {self.lengths} must be above 0")

    def programs(self, count: int) -> range:
        return range(max(1, round(count * self.scale)))

    def tokens(self, count: float) -> int:
        return max(1, round(count * self.lengths))

    def draw(self, rng: random.Random, low: int, high: int) -> int:
        """A length, uniform from `low` to `high` before it is scaled."""
        return self.tokens(rng.randint(low, high))


@dataclass(frozen=True, slots=True)
class Load:
    """`items` are the keyword arguments of each run, in the order in which they are handed in; at most
    `concurrency` runs go on at a time. `temperature` is for the runs whose branches have one prompt and
    must differ; every run has a seed of its own, so its tokens repeat."""

    program: SglFunction
    items: list[dict[str, Any]]
    concurrency: int = 64
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """`build(words, size, rng)` gives the load; `about` says in a line what it is like."""

    name: str
    about: str
    build: Callable[[Words, Size, random.Random], Load]

    def make(self, words: Words, size: Size) -> Load:
        return self.build(words, size, random.Random(f"{self.name}/{size.seed}"))
