"""Models: from a checkpoint folder to a forward pass.

Importing this costs nothing: torch is imported by the first `load_model`, so that `models/config.py`
can be read without it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ramet.models.decoder import Decoder

__all__ = ["load_model"]


def load_model(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    quantization: str | None = None,
    kv_dtype: str | torch.dtype | None = None,
    native: bool | None = None,
    max_context: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Decoder:
    """Load a Hugging Face checkpoint folder (config.json and *.safetensors).

    device: "cpu", "cuda" or "cuda:N". dtype of the weights: on a CPU "float16" (also None) or "float32",
    with float32 arithmetic either way; on a GPU "bfloat16", "float16" or "float32", which is also that
    of the arithmetic, and None follows the checkpoint (bfloat16 if it is that, else float16).
    quantization: "int8" rounds the matrices to 8 bits while loading (CPU, native kernels); a checkpoint
    that holds them in 8 bits needs no option. kv_dtype of cached keys and values: on a CPU "float32"
    (None) or "float16"; on a GPU that of the arithmetic. native: None uses the native CPU kernels where
    they can be built, True demands them, False never does.
    max_context: at most (and by default) what the checkpoint is made for. progress: called with (bytes
    read, bytes of the weight files) as tensors are read.

    Raises CheckpointError (missing, broken or unsupported checkpoint) and InvalidRequest (device,
    dtype, quantization, kv_cache_dtype, exact, max_context).
    """
    from ramet.models.load import load

    return load(
        path,
        device=device,
        dtype=dtype,
        quantization=quantization,
        kv_dtype=kv_dtype,
        native=native,
        max_context=max_context,
        progress=progress,
    )
