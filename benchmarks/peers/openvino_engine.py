"""OpenVINO GenAI's continuous batching as one of the engines.

The checkpoint is exported once with optimum-intel (`--weight-format int8`: 8-bit weights per channel;
the CPU plugin then also rounds activations, in groups, by its own default). The KV cache keeps the
plugin's default precision, which is 8 bit; what else is not int8 is bfloat16 at 8 bit, the faster of the
two by measurement.

A request finds only those tokens cached that were computed before it came. So where a whole wave begins
alike, its first request is sent ahead until it has its first token: what a user who knows that would do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

from benchmarks.peers.models import gibibytes, kept, kv_bytes, read_config
from benchmarks.peers.serve import Answer, Settings

__all__ = ["OpenVino", "exported", "load"]

_KV_BYTES = 2  # of a number in the cache: one and its share of a scale, rounded up
_AHEAD = 128  # tokens in common that are worth a step of one request alone
_SCHEDULER = {
    "max_num_batched_tokens": 1024,
    "max_num_seqs": 256,
    "dynamic_split_fuse": True,
    "enable_prefix_caching": True,
}


def exported(model: Path, precision: str) -> Path:
    """The checkpoint as OpenVINO's IR, made at the first call."""

    def make(folder: Path) -> None:
        tool = Path(sys.executable).parent / "optimum-cli"
        weights = "int8" if precision == "int8" else "fp32"
        command = [str(tool), "export", "openvino", "-m", str(model), "--weight-format", weights]
        command += ["--task", "text-generation-with-past", str(folder)]
        env = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, env=env, check=True, stdout=sys.stderr)

    return kept(model, f"openvino-{precision}", make)


@dataclass(slots=True)
class _Pending:
    """A request's handle, the tokens read from it, and the seconds to the first of them."""

    handle: Any
    tokens: list[int] = field(default_factory=list)
    first: float | None = None


def _alike(prompts: list[list[int]]) -> int:
    """How many tokens all of several prompts begin with."""
    if len(prompts) < 2:
        return 0
    columns = takewhile(lambda column: len({*column}) == 1, zip(*prompts))
    return sum(1 for _ in columns)


class OpenVino:
    def __init__(self, settings: Settings) -> None:
        import openvino_genai as genai

        self._genai = genai
        options = dict(settings.options)
        space = gibibytes(settings.cache_tokens * kv_bytes(read_config(settings.model), _KV_BYTES))
        defaults = {**_SCHEDULER, "cache_size": space}  # in whole GiB
        self._scheduler = {key: options.pop(key, value) for key, value in defaults.items()}
        config = genai.SchedulerConfig()
        for key, value in self._scheduler.items():
            setattr(config, key, value)
        self._properties = {
            "INFERENCE_NUM_THREADS": settings.threads,
            "PERFORMANCE_HINT": "LATENCY",  # one stream over all threads
            "INFERENCE_PRECISION_HINT": "bf16" if settings.precision == "int8" else "f32",
            **options,
        }
        folder = str(exported(settings.model, settings.precision))
        self._pipe = genai.ContinuousBatchingPipeline(folder, config, "CPU", self._properties)
        self._next = 0

    def generate(self, prompts: list[list[int]], outs: list[int]) -> list[Answer]:
        start = time.perf_counter()
        pending: list[_Pending] = []
        for ids, out in zip(prompts, outs):
            pending.append(_Pending(self._add(ids, out)))
            if len(pending) == 1 and _alike(prompts) >= _AHEAD:
                while pending[0].first is None:
                    self._step(pending, start)
        while self._pipe.has_non_finished_requests():
            self._step(pending, start)
        return [Answer(request.tokens, request.first) for request in pending]

    def _add(self, ids: list[int], out: int) -> Any:
        import numpy as np
        import openvino

        config = self._genai.GenerationConfig()
        config.max_new_tokens = out
        config.ignore_eos = True
        config.do_sample = False
        self._next += 1
        return self._pipe.add_request(
            self._next, openvino.Tensor(np.array([ids], np.int64)), config
        )

    def _step(self, pending: list[_Pending], start: float) -> None:
        self._pipe.step()
        now = time.perf_counter() - start
        for request in pending:
            if request.handle.can_read():
                request.first = now if request.first is None else request.first
                for output in request.handle.read().values():
                    request.tokens += output.generated_ids

    def forget(self) -> None:
        """The pipeline cannot be asked to: every run brings tokens that it has not seen."""

    def about(self) -> dict[str, Any]:
        return {"version": version("openvino-genai"), **self._scheduler, **self._properties}

    def close(self) -> None:
        del self._pipe


def load(settings: Settings) -> OpenVino:
    return OpenVino(settings)
