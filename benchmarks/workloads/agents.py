"""Agents that are replayed: the program appends the recorded step, whatever the model says."""

from __future__ import annotations

import random
from typing import Any

import ramet
from benchmarks.workloads.base import Load, Size, Workload
from benchmarks.workloads.few_shot import answer
from benchmarks.workloads.words import Words
from ramet import gen

__all__ = ["WORKLOADS"]


@ramet.function
def react(s: Any, template: str, question: str, steps: list[str], lengths: list[int]) -> None:
    """A thought per step is asked for in a branch of its own and not used."""
    s += template + question
    for number, length in enumerate(lengths):
        s += f"\nThought {number + 1}:"
        branch = s.fork(1)
        branch += gen("thought", max_tokens=length, ignore_eos=True)
        branch.join()
        if number < len(steps):
            s += steps[number]


def react_agents(words: Words, size: Size, rng: random.Random) -> Load:
    template = words.text(rng, size.tokens(1750))
    items = []
    for number in size.programs(6):
        count = rng.randint(2, 7)
        items.append(
            {
                "template": template,
                "question": "\n" + words.own(rng, number, size.tokens(25)),
                "steps": [words.text(rng, size.draw(rng, 60, 250)) for _ in range(count)],
                "lengths": [size.draw(rng, 30, 120) for _ in range(count + 1)],
            }
        )
    return Load(react, items)


PERSONAS = 25
# What each of the five functions asks with: (tokens of its own examples, tokens about the persona,
# whether the persona comes first, tokens of the event, tokens of the answer).
_FUNCTIONS = (
    (30, 150, True, 35, 2),  # how poignant is an event
    (170, 0, False, 30, 20),  # an event as a triple
    (30, 0, False, 15, 6),  # an action as a pictogram
    (430, 150, False, 40, 10),  # which part of the town
    (220, 40, False, 25, 5),  # which object
)


def generative_agents(words: Words, size: Size, rng: random.Random) -> Load:
    """A town's agents: five functions in turn, one call at a time, some personas more often than others."""
    examples = [words.own(rng, i, size.tokens(f[0])) for i, f in enumerate(_FUNCTIONS)]
    personas = [
        [words.own(rng, 100 + i, size.tokens(f[1])) if f[1] else "" for f in _FUNCTIONS]
        for i in range(PERSONAS)
    ]
    often = [1 / (rank + 1) for rank in range(PERSONAS)]
    items: list[dict[str, Any]] = []
    for _ in size.programs(16):
        persona = rng.choices(personas, often)[0]
        for i, (_, _, first, event, out) in enumerate(_FUNCTIONS):
            shared = persona[i] + examples[i] if first else examples[i] + persona[i]
            own = "\n" + words.own(rng, len(items), size.tokens(event))
            items.append({"shared": shared, "own": own, "length": size.tokens(out)})
    return Load(answer, items, concurrency=1)


WORKLOADS = (
    Workload("react", "1,750 shared, 2-7 steps of 60-250, a thought of 30-120 each", react_agents),
    Workload("agents", "5 functions in turn, one call at a time, 2-20 out", generative_agents),
)
