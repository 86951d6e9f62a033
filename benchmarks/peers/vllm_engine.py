"""vLLM's CPU build as one of the engines.

8 bit is W8A8: int8 weights per output channel and activations rounded per token while running, as a
compressed-tensors checkpoint that is written here. The output matrix and the embedding stay as they are,
as in the checkpoints that vLLM's own quantizer writes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.models import gibibytes, kept, kv_bytes, read_config, read_tensors, round_rows
from benchmarks.peers.serve import Answer, Settings

__all__ = ["Vllm", "load", "w8a8"]

# What is not int8, keys and values too: at 8 bit the faster of the two, by measurement.
_TYPES = {"int8": ("bfloat16", 2), "fp32": ("float32", 4)}  # and its bytes
_PER_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True}
_QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_PER_TOKEN, "strategy": "channel", "dynamic": False},
            "input_activations": {**_PER_TOKEN, "strategy": "token", "dynamic": True},
        }
    },
}


def w8a8(model: Path) -> Path:
    """The checkpoint with the linears of all layers rounded, in compressed-tensors' format."""

    def make(folder: Path) -> None:
        from safetensors.numpy import save_file

        tensors = {}
        for name, tensor in read_tensors(model).items():
            if name.endswith("_proj.weight"):
                rounded, scale = round_rows(tensor)
                tensors[name] = rounded
                tensors[f"{name}_scale"] = scale
            else:
                tensors[name] = tensor
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        for path in model.glob("*.json"):
            shutil.copy(path, folder)
        config = {**read_config(model), "quantization_config": _QUANTIZATION}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    return kept(model, "w8a8", make)


class Vllm:
    def __init__(self, settings: Settings) -> None:
        # The engine's core in this process: a second process would take turns with it on the same cores.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        os.environ["HF_HUB_OFFLINE"] = "1"
        config = read_config(settings.model)
        dtype, each = _TYPES[settings.precision]
        space = str(gibibytes(settings.cache_tokens * kv_bytes(config, each)))
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = space
        from vllm import LLM, SamplingParams, __version__

        self._params = SamplingParams
        int8 = settings.precision == "int8"
        model = w8a8(settings.model) if int8 else settings.model
        self._options = {
            "dtype": dtype,
            "enable_prefix_caching": True,
            "enable_chunked_prefill": True,
            "max_num_batched_tokens": 2048,
            "max_num_seqs": max(64, settings.requests),
            "max_model_len": settings.longest + 64,
            "block_size": 32,
            "disable_log_stats": True,
            **settings.options,
        }
        self._space = space
        self._version = __version__
        self._llm = LLM(model=str(model), skip_tokenizer_init=True, **self._options)
        self._engine = self._llm.llm_engine
        self._next = 0

    def generate(self, prompts: list[list[int]], outs: list[int]) -> list[Answer]:
        start = time.perf_counter()
        number: dict[str, int] = {}
        for ids, out in zip(prompts, outs):
            rid = str(self._next)
            number[rid] = len(number)
            self._next += 1
            params = self._params(
                temperature=0, max_tokens=out, min_tokens=out, ignore_eos=True, detokenize=False
            )
            self._engine.add_request(rid, {"prompt_token_ids": ids}, params)
        tokens: list[list[int]] = [[] for _ in number]
        first: list[float | None] = [None] * len(number)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                i = number[output.request_id]
                tokens[i] = list(output.outputs[0].token_ids)
                if tokens[i] and first[i] is None:
                    first[i] = time.perf_counter() - start
        return [Answer(*pair) for pair in zip(tokens, first)]

    def forget(self) -> None:
        self._llm.reset_prefix_cache()

    def about(self) -> dict[str, Any]:
        return {"version": self._version, "kv_gibibytes": self._space, **self._options}

    def close(self) -> None:
        del self._llm, self._engine


def load(settings: Settings) -> Vllm:
    return Vllm(settings)
