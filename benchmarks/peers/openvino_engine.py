"""OpenVINO GenAI's continuous batching as one of the engines.

The checkpoint is exported once with optimum-intel (`--weight-format int8`: 8-bit weights per channel;
the CPU plugin then also rounds activations, in groups, by its own default). The KV cache keeps the
plugin's default precision, which is 8 bit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers.models import kept
from benchmarks.peers.serve import Answer, Settings

__all__ = ["OpenVino", "exported", "load"]

_KV_BYTES = 2**30  # a cache is given in whole GiB
_SCHEDULER = {
    "max_num_batched_tokens": 1024,
    "max_num_seqs": 256,
    "dynamic_split_fuse": True,
    "enable_prefix_caching": True,
    "cache_size": 4,
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


class OpenVino:
    def __init__(self, settings: Settings) -> None:
        import openvino_genai as genai

        self._genai = genai
        options = dict(settings.options)
        self._scheduler = {key: options.pop(key, value) for key, value in _SCHEDULER.items()}
        config = genai.SchedulerConfig()
        for key, value in self._scheduler.items():
            setattr(config, key, value)
        self._properties = {
            "INFERENCE_NUM_THREADS": settings.threads,
            "PERFORMANCE_HINT": "LATENCY",  # one stream over all threads
            "INFERENCE_PRECISION_HINT": "f32",
            **options,
        }
        folder = str(exported(settings.model, settings.precision))
        self._pipe = genai.ContinuousBatchingPipeline(folder, config, "CPU", self._properties)
        self._next = 0

    def generate(self, prompts: list[list[int]], outs: list[int]) -> list[Answer]:
        import numpy as np
        import openvino

        start = time.perf_counter()
        handles = []
        for ids, out in zip(prompts, outs):
            config = self._genai.GenerationConfig()
            config.max_new_tokens = out
            config.ignore_eos = True
            config.do_sample = False
            tensor = openvino.Tensor(np.array([ids], np.int64))
            handles.append(self._pipe.add_request(self._next, tensor, config))
            self._next += 1
        tokens: list[list[int]] = [[] for _ in handles]
        first: list[float | None] = [None] * len(handles)
        while self._pipe.has_non_finished_requests():
            self._pipe.step()
            now = time.perf_counter() - start
            for i, handle in enumerate(handles):
                if handle.can_read():
                    first[i] = now if first[i] is None else first[i]
                    for output in handle.read().values():
                        tokens[i] += output.generated_ids
        return [Answer(*pair) for pair in zip(tokens, first)]

    def forget(self) -> None:
        """The pipeline cannot be asked to: every run brings tokens that it has not seen."""

    def about(self) -> dict[str, Any]:
        return {"version": version("openvino-genai"), **self._scheduler, **self._properties}

    def close(self) -> None:
        del self._pipe


def load(settings: Settings) -> OpenVino:
    return OpenVino(settings)
