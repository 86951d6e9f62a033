"""Plain transformers as one of the engines: `model.generate` on batches of equal lengths.

What most people start with: no prefix is shared between calls, and a wave is computed in batches that fit
in memory. 8 bit is PyTorch's dynamic quantization of all linears (FBGEMM).
"""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks.peers.serve import Answer, Settings

__all__ = ["Transformers", "load"]

_BATCH_TOKENS = 20_000  # prompt and answer tokens of one batch


class _FirstToken:
    """A streamer that keeps the time of the first token after the prompt."""

    def __init__(self) -> None:
        self.when: float | None = None
        self._prompt = True

    def put(self, _ids: Any) -> None:
        if not self._prompt and self.when is None:
            self.when = time.perf_counter()
        self._prompt = False

    def end(self) -> None:
        pass


class Transformers:
    def __init__(self, settings: Settings) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(settings.threads)
        self._torch = torch
        options = {"attn_implementation": "sdpa", **settings.options}
        self._batch_tokens = int(options.pop("batch_tokens", _BATCH_TOKENS))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            settings.model, dtype=torch.float32, **options
        ).eval()
        if settings.precision == "int8":
            model = torch.ao.quantization.quantize_dynamic(
                model, {torch.nn.Linear}, dtype=torch.qint8
            )
        self._model = model
        self._about = {
            "version": transformers.__version__,
            "torch": torch.__version__,
            "batch_tokens": self._batch_tokens,
            **options,
        }

    def generate(self, prompts: list[list[int]], outs: list[int]) -> list[Answer]:
        start = time.perf_counter()
        size = max(1, self._batch_tokens // (len(prompts[0]) + outs[0]))
        answers: list[Answer] = []
        for i in range(0, len(prompts), size):
            answers += self._batch(prompts[i : i + size], outs[i : i + size], start)
        return answers

    def _batch(self, prompts: list[list[int]], outs: list[int], start: float) -> list[Answer]:
        if len({*map(len, prompts)}) > 1 or len({*outs}) > 1:
            raise ValueError("a batch has prompts and answers of one length")
        ids = self._torch.tensor(prompts)
        first = _FirstToken()
        alone = {"streamer": first} if len(prompts) == 1 else {}
        with self._torch.inference_mode():
            rows = self._model.generate(
                input_ids=ids,
                attention_mask=self._torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=outs[0],
                min_new_tokens=outs[0],
                pad_token_id=0,
                **alone,
            )
        when = None if first.when is None else first.when - start
        return [Answer(row[len(prompts[0]) :].tolist(), when) for row in rows]

    def forget(self) -> None:
        """Nothing is kept between calls."""

    def about(self) -> dict[str, Any]:
        return self._about

    def close(self) -> None:
        del self._model


def load(settings: Settings) -> Transformers:
    return Transformers(settings)
