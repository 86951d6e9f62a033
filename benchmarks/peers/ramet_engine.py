"""Ramet as one of the engines: `ramet.Engine` with token ids. Knows how its options are spelled here."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.serve import Answer, Settings

__all__ = ["RametEngine", "load"]


class RametEngine:
    def __init__(self, settings: Settings) -> None:
        import torch

        import ramet

        torch.set_num_threads(settings.threads)
        default = {"quantization": "int8"} if settings.precision == "int8" else {"dtype": "float32"}
        self._options = {
            **default,
            "num_threads": settings.threads,
            "max_cache_tokens": settings.cache_tokens,
            "max_running": max(256, settings.requests),
            **settings.options,
        }
        self._version = ramet.__version__
        self._engine = ramet.Engine(settings.model, **self._options)

    def generate(self, prompts: list[list[int]], outs: list[int]) -> list[Answer]:
        params = [
            {"max_new_tokens": out, "temperature": 0, "ignore_eos": True, "stop": None}
            for out in outs
        ]
        responses = self._engine.generate(input_ids=prompts, sampling_params=params)
        return [
            Answer(list(response["output_ids"]), response["meta_info"].get("first_token_latency"))
            for response in responses
        ]

    def forget(self) -> None:
        self._engine.flush_cache()

    def about(self) -> dict[str, Any]:
        return {"version": self._version, **self._options}

    def close(self) -> None:
        self._engine.shutdown()


def load(settings: Settings) -> RametEngine:
    return RametEngine(settings)
