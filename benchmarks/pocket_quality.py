"""What 8-bit weights cost in quality: the embedded model's accuracy per skill, through the engine.

    python -m benchmarks pocket_quality [COUNT]

The tasks and the judgement are those of `ramet.pocket.evaluate`; only who runs the model differs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ramet import Engine
from ramet.pocket import model_path
from ramet.pocket.evaluate import measure
from ramet.pocket.skills import SHARES
from ramet.pocket.tokenizer import load as load_tokenizer

__all__ = ["main"]

VARIANTS = {
    "fp32": {"dtype": "float32"},
    "fp16": {"dtype": "float16"},
    "fp16, 16-bit KV": {"dtype": "float16", "kv_cache_dtype": "float16"},
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
        return sum(scores) / len(scores)


def main(count: int | None = None) -> None:
    count = count or (int(sys.argv[-1]) if sys.argv[-1].isdigit() else 150)
    tokenizer = load_tokenizer(model_path())
    print(f"pocket, {count} held-out tasks per skill, % right")
    print(f"{'':16}" + "".join(f"{skill:>9}" for skill in SHARES))
    for name, options in VARIANTS.items():
        with Engine("pocket", **options) as engine:
            model = Through(engine)
            tallies = [measure(model, tokenizer, skill, count, 0)["all"] for skill in SHARES]
        print(
            f"{name:16}" + "".join(f"{100 * t.right / t.tasks:9.1f}" for t in tallies), flush=True
        )


if __name__ == "__main__":
    main()
