"""The forward pass of a decoder-only transformer: Llama, and what differs from it by a switch.

Knows layers, and that keys and values live in slots; refuses to know requests, schedulers, ranks and
files. The weights come packed (`models/load.py` packs them), the attention as a plan.

A layer first writes the keys and values of all its rows and only then attends, so rows of one batch
attend to what the same batch computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ramet.cache.pool import KVPool
from ramet.kernels import pointwise
from ramet.kernels.attention import attention_for
from ramet.kernels.cpu.linear import NativeLinear
from ramet.kernels.linear import Linear
from ramet.kernels.plan import AttentionPlan
from ramet.models.config import ModelConfig
from ramet.models.rope import frequencies

if TYPE_CHECKING:
    from ramet.models.native import NativeForward

__all__ = ["Decoder", "DecoderWeights", "Indices", "LayerWeights"]

Indices = torch.Tensor | npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """qkv: hidden -> (heads + 2 kv_heads) * d, queries first. gate_up: hidden -> 2 intermediate. Norm
    weights are float32; qk_norm, where the model has one, is [heads + kv_heads, d]."""

    input_norm: torch.Tensor
    qkv: Linear
    qk_norm: torch.Tensor | None
    o: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """embedding: [vocab, hidden] in any float dtype. num_bytes: of everything, shared matrices once."""

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor
    lm_head: Linear
    num_bytes: int


class Decoder:
    """One model on one device. `forward` is a pure function of its arguments and the KV pool.

    dtype is that of activations, kv_dtype that of the KV pool (None: the same); max_context bounds the
    positions (exclusive). native: `forward` is one call of the native library; the linears of `weights`
    are all `NativeLinear` then. The PyTorch operations below are its slow twin.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        kv_dtype: torch.dtype | None = None,
        max_context: int | None = None,
        native: bool = False,
    ) -> None:
        self.config, self.weights = config, weights
        self.device, self.dtype = torch.device(device), dtype
        self.kv_dtype = kv_dtype or dtype
        self.max_context = config.max_context if max_context is None else max_context
        self._cos, self._sin = _rope_table(config, self.max_context, self.device)
        c = config
        self._attention = attention_for(
            self.device, c.num_heads, c.num_kv_heads, c.head_dim, dtype, self.kv_dtype
        )
        self.native = self._native_forward() if native else None

    @property
    def num_weight_bytes(self) -> int:
        return self.weights.num_bytes

    @property
    def kv_bytes_per_slot(self) -> int:
        c = self.config
        return 2 * c.num_layers * c.num_kv_heads * c.head_dim * self.kv_dtype.itemsize

    def make_kv_pool(self, num_slots: int) -> KVPool:
        c = self.config
        return KVPool(
            c.num_layers, num_slots, c.num_kv_heads, c.head_dim, self.kv_dtype, self.device
        )

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Indices,
        positions: Indices,
        out_slots: Indices,
        plan: AttentionPlan,
        logit_rows: Indices,
        kv: KVPool,
    ) -> torch.Tensor:
        """Logits, float32 [len(logit_rows), vocab], of the rows named by `logit_rows`.

        token_ids, positions and out_slots are int64 [rows]. Row r's keys and values go to slot
        out_slots[r] of `kv`; `kv.scratch_slot` is for rows whose keys and values are there already.
        Row r attends as `plan` says; the slots of its path are filled by earlier passes or by this one.
        """
        if self.native is not None:
            rows = np.asarray(token_ids), np.asarray(positions), np.asarray(out_slots)
            return self.native(*rows, plan, np.asarray(logit_rows), kv)
        prepared = self._attention.prepare(plan, self.device)
        where = self._index(positions)
        cos, sin = self._cos[where], self._sin[where]
        slots = self._index(out_slots)
        x = self.weights.embedding[self._index(token_ids)].to(self.dtype)
        eps = self.config.rms_norm_eps
        for number, layer in enumerate(self.weights.layers):
            keys, values = kv.keys(number), kv.values(number)
            q, k, v = self._project(layer, pointwise.rms_norm(x, layer.input_norm, eps), cos, sin)
            keys[slots] = k.to(self.kv_dtype)
            values[slots] = v.to(self.kv_dtype)
            attended = self._attention.attention(q, keys, values, prepared)
            x = x + layer.o(attended.flatten(1))
            gate_up = layer.gate_up(pointwise.rms_norm(x, layer.post_norm, eps))
            x = x + layer.down(pointwise.silu_mul(gate_up))
        last = pointwise.rms_norm(x[self._index(logit_rows)], self.weights.final_norm, eps)
        return self.weights.lm_head(last).float()

    def _native_forward(self) -> NativeForward:
        from ramet.models.native import NativeForward  # compiles the kernels on first use

        w, native = self.weights, _native_linear
        return NativeForward(
            self.config,
            embedding=w.embedding,
            layers=[(v.input_norm, v.qk_norm, v.post_norm) for v in w.layers],
            linears=[
                (native(v.qkv), native(v.o), native(v.gate_up), native(v.down)) for v in w.layers
            ],
            final_norm=w.final_norm,
            lm_head=native(w.lm_head),
            cos=self._cos,
            sin=self._sin,
            kv_dtype=self.kv_dtype,
        )

    def _project(
        self, layer: LayerWeights, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated queries [rows, heads, d], rotated keys and values [rows, kv_heads, d]."""
        c = self.config
        qkv = layer.qkv(x).unflatten(1, (-1, c.head_dim))
        qk, v = qkv.split((c.num_heads + c.num_kv_heads, c.num_kv_heads), dim=1)
        if layer.qk_norm is not None:
            qk = pointwise.rms_norm(qk, layer.qk_norm, c.rms_norm_eps)
        q, k = pointwise.rope(qk, cos, sin).split((c.num_heads, c.num_kv_heads), dim=1)
        return q, k, v

    def _index(self, indices: Indices) -> torch.Tensor:
        if isinstance(indices, torch.Tensor):
            return indices.to(self.device, torch.int64)
        return torch.tensor(indices, dtype=torch.int64, device=self.device)


def _native_linear(linear: Linear) -> NativeLinear:
    if not isinstance(linear, NativeLinear):
        raise TypeError(f"the native forward pass cannot read a {type(linear).__name__}")
    return linear


def _rope_table(
    config: ModelConfig, num_positions: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, float32 [num_positions, 1, head_dim / 2].

    Angles are float32, as in the training code; their cosines are taken in float64 and rounded, so that
    an entry depends on its position alone and not on the table's length.
    """
    radians = torch.from_numpy(frequencies(config.rope, config.head_dim))
    shape = (num_positions, 1, config.head_dim // 2)
    cos, sin = torch.empty(shape), torch.empty(shape)
    piece = 4096  # bounds the float64 copy
    for start in range(0, num_positions, piece):
        stop = min(start + piece, num_positions)
        angles = (torch.arange(start, stop, dtype=torch.float32)[:, None, None] * radians).double()
        cos[start:stop] = angles.cos() * config.rope.amplitude
        sin[start:stop] = angles.sin() * config.rope.amplitude
    return cos.to(device), sin.to(device)
