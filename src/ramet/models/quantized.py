"""8-bit checkpoints: what config.json says about them, and how one is written.

Knows one scheme: matrices of signed bytes with a scale per output, activations scaled per row when they
are used. On disk it is the `int-quantized` format of compressed-tensors (`X.weight` int8 [out, in],
`X.weight_scale` [out, 1]), which other engines read and write as well. Refuses every other scheme by
name. Embedding, norms and output matrix stay as they are in the file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ramet.errors import CheckpointError, InvalidRequest
from ramet.kernels.quantize import quantize_int8
from ramet.models.config import ModelConfig
from ramet.models.fields import read_json
from ramet.models.scheme import INT8_SCHEME
from ramet.models.weights import Checkpoint, Progress

__all__ = ["save_quantized"]

# Tokenizer, template and generation settings: all that is needed beside the weights.
_COPIED = ("*.json", "*.model", "*.txt", "*.jinja")
_QUANTIZED = ("_proj.weight",)


def save_quantized(
    source: str | Path, target: str | Path, progress: Progress | None = None
) -> Path:
    """Write the checkpoint `source` with its linear layers in 8 bits to the new folder `target`.

    Loading it is the same as loading `source` with quantization="int8", bit for bit, but reads half
    the bytes. Raises CheckpointError and InvalidRequest (target exists, source is quantized already).
    """
    source, target = Path(source), Path(target)
    if target.exists() and any(target.iterdir()):
        raise InvalidRequest("target", str(target), "exists and is not empty", "name a new folder")
    if ModelConfig.from_folder(source).quantization is not None:
        raise InvalidRequest("source", str(source), "is quantized already")
    target.mkdir(parents=True, exist_ok=True)
    with Checkpoint(source, progress) as checkpoint:
        tensors = _quantized_tensors(checkpoint)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    _copy_the_rest(source, target)
    return target


def _quantized_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name in checkpoint.names():
        tensor = checkpoint.any_tensor(name)
        if name.endswith(_QUANTIZED):
            weight, scale = quantize_int8(tensor)
            found[name], found[f"{name}_scale"] = weight, scale[:, None].contiguous()
        else:
            found[name] = tensor.contiguous()
    return found


def _copy_the_rest(source: Path, target: Path) -> None:
    for pattern in _COPIED:
        for file in source.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copyfile(file, target / file.name)
    config: dict[str, Any] = read_json(source / "config.json")
    config["quantization_config"] = INT8_SCHEME
    try:
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written: {error}") from error
