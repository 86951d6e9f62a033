"""What 8-bit weights cost in quality: the embedded model's accuracy per skill, through the engine.

    python -m benchmarks.pocket_quality [--count 300] [--skill add ...] [--variant int8 ...]

The tasks and the judgement are those of `ramet.pocket.evaluate`; only who runs the model differs.
Every variant answers the same tasks, so the difference to fp32 is judged by the tasks on which the
two disagree: of n tasks, b that only fp32 gets right and c that only the other does, the difference
is (c - b) / n and its standard deviation sqrt(b + c) / n (McNemar, Psychometrika 1947). Where a
task is a choice, picking the option of the best mean log-probability is a second judgement, shown
as "NAME: options".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ramet import Engine
from ramet.pocket import model_path
from ramet.pocket.evaluate import Probe, answers, best_option, probes, sample
from ramet.pocket.skills import END, SHARES, STOP
from ramet.pocket.tokenizer import load as load_tokenizer

__all__ = ["Comparison", "main"]

BASE = "fp32"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {"dtype": "float32"},
    "fp16": {"dtype": "float16"},
    "16-bit KV": {"dtype": "float16", "kv_cache_dtype": "float16"},
    "int8": {"quantization": "int8"},
}


@dataclass(frozen=True)
class Through:
    """An engine as `ramet.pocket.evaluate` asks it."""

    engine: Engine

    def generate(
        self, prompts: list[tuple[int, ...]], limit: int, ends: set[int]
    ) -> list[list[int]]:
        params = {
            "max_new_tokens": limit,
            "temperature": 0,
            "ignore_eos": True,
            "stop_token_ids": sorted(ends),
        }
        found = self.engine.generate(input_ids=[list(p) for p in prompts], sampling_params=params)
        return [response["output_ids"] for response in found]

    def score(self, prompt: tuple[int, ...], option: list[int]) -> float:
        found = self.engine.generate(
            input_ids=[*prompt, *option],
            sampling_params={"max_new_tokens": 0},
            return_logprob=True,
            logprob_start_len=len(prompt),
        )
        scores = [entry[0] for entry in found["meta_info"]["input_token_logprobs"]]
        return float(sum(scores) / len(scores))


@dataclass(frozen=True)
class Comparison:
    """Right or wrong, task by task, of the base and of another variant."""

    base: Sequence[bool]
    other: Sequence[bool]

    @property
    def lost(self) -> int:
        return sum(a and not b for a, b in zip(self.base, self.other, strict=True))

    @property
    def gained(self) -> int:
        return sum(b and not a for a, b in zip(self.base, self.other, strict=True))

    @property
    def points(self) -> float:
        """Percentage points that `other` is better by."""
        return 100 * (self.gained - self.lost) / len(self.base)

    @property
    def deviation(self) -> float:
        """Of `points`."""
        return 100 * math.sqrt(self.gained + self.lost) / len(self.base)


def judge(model: Through, tokenizer: Any, skill: str, count: int) -> dict[str, list[bool]]:
    """Line of the table -> right or wrong, per task."""
    groups = [probes(tokenizer, item) for item in sample(skill, count)]
    groups = [group for group in groups if all(p.prompt for p in group)]  # an engine needs a token
    texts = iter(answers(model, tokenizer, [p for group in groups for p in group]))
    parts = [[p.right(next(texts)) for p in group] for group in groups]
    right = [all(steps) for steps in parts]
    chosen = [_chooses(model, tokenizer, g[-1]) for g in groups if g[-1].item.options]
    return {skill: right} | ({f"{skill}: options": chosen} if chosen else {})


def _chooses(model: Through, tokenizer: Any, probe: Probe) -> bool:
    best = probe.item.options[best_option(model, tokenizer, probe)]
    return best.strip() == probe.expected.replace(END, "").replace(STOP, "").strip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pocket_quality")
    parser.add_argument("--count", type=int, default=300, help="held-out tasks per skill")
    parser.add_argument("--skill", nargs="*", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--variant", nargs="*", default=["int8"], choices=list(VARIANTS))
    args = parser.parse_args(arguments)
    tokenizer = load_tokenizer(model_path())
    names = [BASE, *(name for name in args.variant if name != BASE)]
    found: dict[str, dict[str, list[bool]]] = {}
    for name in names:
        with Engine("pocket", **VARIANTS[name]) as engine:
            lines = [judge(Through(engine), tokenizer, s, args.count) for s in args.skill]
        found[name] = {line: right for skill in lines for line, right in skill.items()}
    print(f"pocket, {args.count} held-out tasks per skill; % right, and points against {BASE}")
    print(f"{'':20} {BASE:>7}" + "".join(f"{name:>32}" for name in names[1:]))
    for line in found[BASE]:
        print(_row(line, found[BASE][line], [found[name][line] for name in names[1:]]))
    together = [[x for right in found[name].values() for x in right] for name in names]
    print(_row("all", together[0], together[1:]))
    return 0


def _row(line: str, base: list[bool], others: list[list[bool]]) -> str:
    row = f"{line:20} {100 * sum(base) / len(base):6.1f}%"
    for other in others:
        c = Comparison(base, other)
        right = 100 * sum(other) / len(other)
        row += (
            f"  {right:5.1f}% {c.points:+5.1f} ±{c.deviation:3.1f} (-{c.lost} +{c.gained})".rjust(
                32
            )
        )
    return row


if __name__ == "__main__":
    raise SystemExit(main())
