"""Where converted checkpoints are kept, and reading one without torch.

Conversions are made once per checkpoint and format, beside the peers' virtual environments. Knows
safetensors and folders; refuses to know any format that is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["gibibytes", "home", "kept", "kv_bytes", "read_config", "read_tensors", "round_rows"]


def home() -> Path:
    """The folder of all peers: `$RAMET_PEERS`, or ramet/peers in the user's cache folder."""
    given = os.environ.get("RAMET_PEERS")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ramet" / "peers"


def kept(model: Path, form: str, make: Callable[[Path], None]) -> Path:
    """The folder of `model` in another form; `make(folder)` fills it the first time.

    A folder that exists is complete: it is made under another name and moved.
    """
    stamp = (model / "config.json").stat()
    key = f"{model.resolve()} {stamp.st_mtime_ns} {stamp.st_size}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    folder = home() / "models" / f"{model.name}-{digest}.{form}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            fresh = Path(place) / "model"
            fresh.mkdir()
            make(fresh)
            shutil.move(fresh, folder)
    return folder


def read_config(model: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    return config


def kv_bytes(config: dict[str, Any], each: int) -> int:
    """Of one token's keys and values in all layers, with `each` bytes per number."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return int(2 * config["num_hidden_layers"] * kv_heads * head_dim * each)


def gibibytes(count: int) -> int:
    """Whole ones that hold `count` bytes."""
    return -(-count // 2**30)


def read_tensors(model: Path) -> dict[str, npt.NDArray[Any]]:
    """All tensors of a checkpoint whose types numpy has (fp16, fp32)."""
    from safetensors.numpy import load_file

    tensors: dict[str, npt.NDArray[Any]] = {}
    for path in sorted(model.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def round_rows(matrix: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """[out, in] rounded symmetrically to int8 and one scale per row, [out, 1]. A zero row has scale 1."""
    values = matrix.astype(np.float32)
    peak = np.abs(values).max(axis=1, keepdims=True)
    scale = np.where(peak > 0, peak / np.float32(127), np.float32(1)).astype(np.float32)
    return np.clip(np.rint(values / scale), -127, 127).astype(np.int8), scale
