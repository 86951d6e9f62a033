"""Many short programs behind the same examples: MMLU, HellaSwag, GSM8K, retrieval; and none shared."""

from __future__ import annotations

import random
from typing import Any

import ramet
from benchmarks.workloads.base import Load, Size, Workload
from benchmarks.workloads.words import Words
from ramet import gen, select

__all__ = ["WORKLOADS"]


@ramet.function
def answer(s: Any, shared: str, own: str, length: int) -> None:
    s += shared + own
    s += gen("answer", max_tokens=length, ignore_eos=True)


@ramet.function
def choose(s: Any, shared: str, own: str, endings: list[str]) -> None:
    s += shared + own
    s += select("answer", endings)


def mmlu(words: Words, size: Size, rng: random.Random) -> Load:
    """Subjects with 5 worked examples each; a question is answered by one token. Handed in shuffled: in
    the original they come subject by subject, which hides what the order of service is worth."""
    items: list[dict[str, Any]] = []
    for subject in range(3):
        shared = words.own(rng, subject, size.tokens(900))
        for number in size.programs(16):
            own = "\n" + words.own(rng, number, size.draw(rng, 60, 160))
            items.append({"shared": shared, "own": own, "length": 1})
    rng.shuffle(items)
    return Load(answer, items)


def hellaswag(words: Words, size: Size, rng: random.Random) -> Load:
    """20 examples, a context, and four endings that are scored."""
    shared = words.text(rng, size.tokens(1800))
    items = []
    for number in size.programs(32):
        own = "\n" + words.own(rng, number, size.draw(rng, 40, 60))
        endings = [words.own(rng, i, size.draw(rng, 15, 40)) for i in range(4)]
        items.append({"shared": shared, "own": own, "endings": endings})
    return Load(choose, items)


def gsm8k(words: Words, size: Size, rng: random.Random) -> Load:
    """5 worked examples, a question, reasoning of 60 to 200 tokens."""
    shared = words.text(rng, size.tokens(850))
    return Load(
        answer, [_question(words, size, rng, shared, n, (60, 200)) for n in size.programs(24)]
    )


def _question(
    words: Words, size: Size, rng: random.Random, shared: str, number: int, out: tuple[int, int]
) -> dict[str, Any]:
    own = "\n" + words.own(rng, number, size.draw(rng, 40, 80))
    return {"shared": shared, "own": own, "length": size.draw(rng, *out)}


def rag(words: Words, size: Size, rng: random.Random) -> Load:
    """Demonstrations, three passages from a collection in which some are asked for often, a question."""
    shared = words.text(rng, size.tokens(1250))
    passages = ["\n" + words.own(rng, i, size.tokens(120)) for i in range(24)]
    often = [1 / (rank + 1) for rank in range(len(passages))]
    items = []
    for number in size.programs(16):
        found: list[str] = []
        while len(found) < 3:
            found += [p for p in rng.choices(passages, often) if p not in found]
        item = _question(words, size, rng, shared, number, (30, 80))
        items.append({**item, "own": "".join(found) + item["own"]})
    return Load(answer, items, concurrency=32)


def no_reuse(words: Words, size: Size, rng: random.Random) -> Load:
    """Prompts that share nothing, most of 60 to 200 tokens and few of up to 2,000; long answers."""
    items = []
    for number in size.programs(16):
        prompt = size.tokens(min(2000, round(rng.lognormvariate(4.8, 0.8)) + 8))
        own = words.own(rng, number, prompt)
        items.append({"shared": "", "own": own, "length": size.draw(rng, 100, 300)})
    return Load(answer, items)


WORKLOADS = (
    Workload("mmlu", "3 subjects: 900 shared, 60-160 own, 1 out", mmlu),
    Workload("hellaswag", "1,800 shared, 50 own, 4 endings scored", hellaswag),
    Workload("gsm8k", "850 shared, 60 own, 60-200 out", gsm8k),
    Workload("rag", "1,250 shared, 3 of 24 passages of 120, 30-80 out", rag),
    Workload("no_reuse", "nothing shared, 100-300 out", no_reuse),
)
