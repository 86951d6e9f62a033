"""The memory that holds keys and values, one slot per token.

Knows tensors and sizes; refuses to know who owns a slot. There is one slot more than asked for: rows
that are computed only for their logits, because their keys and values are cached already, write there.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ramet.errors import InvalidRequest

__all__ = ["KVPool"]


class KVPool:
    """Keys and values of `num_slots` tokens and the scratch slot, for every layer.

    `keys(layer)` and `values(layer)` are tensors [num_slots + 1, num_kv_heads, head_dim]. Raises
    InvalidRequest for a size below one and for more memory than the device has.
    """

    def __init__(
        self,
        num_layers: int,
        num_slots: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = {"num_layers": num_layers, "num_slots": num_slots}
        for name, size in (sizes | {"num_kv_heads": num_kv_heads, "head_dim": head_dim}).items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InvalidRequest(f"KVPool.{name}", size, "is not a positive integer")
        self.num_slots, self.num_layers = num_slots, num_layers
        self.dtype, self.device = dtype, torch.device(device)
        self.bytes_per_slot = 2 * num_layers * num_kv_heads * head_dim * dtype.itemsize
        shape = (2, num_layers, num_slots + 1, num_kv_heads, head_dim)
        try:
            both = _zeros(shape, dtype, self.device)
        except (
            RuntimeError,
            MemoryError,
            ValueError,
        ) as error:  # torch.OutOfMemoryError on a GPU is one too
            gib = self.bytes_per_slot * (num_slots + 1) / 2**30
            raise InvalidRequest(
                "KVPool.num_slots",
                num_slots,
                f"needs {gib:.1f} GiB on {self.device}, more than there is",
                "ask for fewer slots",
            ) from error
        self._keys, self._values = both[0].unbind(0), both[1].unbind(0)

    @property
    def scratch_slot(self) -> int:
        return self.num_slots

    def keys(self, layer: int) -> torch.Tensor:
        return self._keys[layer]

    def values(self, layer: int) -> torch.Tensor:
        return self._values[layer]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, not garbage: a kernel may multiply a slot that nobody wrote by a weight of zero. On a CPU they
    come from the system as pages that take no memory until they are written; torch would write them all."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes, line = math.prod(shape) * dtype.itemsize, 64
    raw = np.zeros(num_bytes + line, np.uint8)
    start = -raw.ctypes.data % line  # on a cache line
    return torch.from_numpy(raw[start : start + num_bytes]).view(dtype).view(shape)
