"""The forward pass of a decoder as one call of the native library.

Knows how the structures of kernels/cpu/decoder.cpp look and keeps alive what they point to; refuses to
know how the numbers come about. `Decoder.forward` is its slow twin.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ramet.cache.pool import KVPool
from ramet.kernels.cpu.attention import prepare
from ramet.kernels.cpu.library import library
from ramet.kernels.cpu.linear import LinearStruct, NativeLinear
from ramet.kernels.plan import AttentionPlan
from ramet.kernels.threads import compute_alone, num_threads
from ramet.models.config import ModelConfig

__all__ = ["KV_TYPES", "NativeForward"]

KV_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_EMBEDDING_TYPES = {torch.float32: 0, torch.float16: 1}
_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            "num_layers", "hidden", "num_heads", "num_kv_heads", "head_dim", "intermediate", "vocab",
            "embedding_type", "kv_type",
        )
    ] + [("eps", ctypes.c_float)]  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = [(name, _POINTER) for name in ("input_norm", "qk_norm", "post_norm")] + [
        (name, LinearStruct) for name in ("qkv", "o", "gate_up", "down")
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        ("shape", _Shape),
        ("embedding", _POINTER),
        ("final_norm", _POINTER),
        ("cos", _POINTER),
        ("sin", _POINTER),
        ("layers", ctypes.POINTER(_Layer)),
        ("lm_head", LinearStruct),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        ("rows", _INT64),
        ("token_ids", _POINTER),
        ("positions", _POINTER),
        ("out_slots", _POINTER),
        ("plan", _POINTER),
        ("keys", ctypes.POINTER(_POINTER)),
        ("values", ctypes.POINTER(_POINTER)),
        ("num_logits", _INT64),
        ("logit_rows", _POINTER),
        ("logits", _POINTER),
    ]


def _declare(lib: ctypes.CDLL) -> ctypes.CDLL:
    lib.ramet_model_new.argtypes = [ctypes.POINTER(_Model)]
    lib.ramet_model_new.restype = _POINTER
    lib.ramet_model_free.argtypes = [_POINTER]
    lib.ramet_model_free.restype = None
    lib.ramet_forward.argtypes = [_POINTER, ctypes.POINTER(_Step)]
    lib.ramet_forward.restype = None
    lib.ramet_set_num_threads.argtypes = [ctypes.c_int32]
    lib.ramet_set_num_threads.restype = None
    return lib


class NativeForward:
    """Calling it is `Decoder.forward` on a CPU, for weights whose linears are all `NativeLinear`.

    embedding: [vocab, hidden], float32 or float16. cos, sin: float32 [positions, 1, head_dim / 2].
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        embedding: torch.Tensor,
        layers: Sequence[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]],
        linears: Sequence[tuple[NativeLinear, NativeLinear, NativeLinear, NativeLinear]],
        final_norm: torch.Tensor,
        lm_head: NativeLinear,
        cos: torch.Tensor,
        sin: torch.Tensor,
        kv_dtype: torch.dtype,
    ) -> None:
        self._lib = _declare(library())
        self._kv_dtype = kv_dtype
        self._config = config
        self._tables = [embedding, final_norm, cos, sin]
        self._kept: list[object] = [*layers, *linears, lm_head]
        array = (_Layer * config.num_layers)()
        for into, norms, products in zip(array, layers, linears, strict=True):
            into.input_norm, into.qk_norm, into.post_norm = (self._pointer(t) for t in norms)
            into.qkv, into.o, into.gate_up, into.down = (p.struct for p in products)
        spec = _Model(
            shape=_shape(config, embedding.dtype, kv_dtype),
            embedding=embedding.data_ptr(),
            final_norm=self._pointer(final_norm),
            cos=self._pointer(cos),
            sin=self._pointer(sin),
            layers=array,
            lm_head=lm_head.struct,
        )
        self._model = self._lib.ramet_model_new(ctypes.byref(spec))
        weakref.finalize(self, self._lib.ramet_model_free, self._model)
        self._pools: weakref.WeakKeyDictionary[KVPool, tuple[object, object]] = (
            weakref.WeakKeyDictionary()
        )

    def _pointer(self, tensor: torch.Tensor | None) -> int | None:
        """The address of a float32 tensor that is contiguous, or of a copy that is; kept alive here."""
        if tensor is None:
            return None
        tensor = tensor.detach().float().contiguous()
        self._tables.append(tensor)
        return tensor.data_ptr()

    def __call__(
        self,
        token_ids: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        out_slots: npt.NDArray[np.int64],
        plan: AttentionPlan,
        logit_rows: npt.NDArray[np.int64],
        kv: KVPool,
    ) -> torch.Tensor:
        """Logits, float32 [len(logit_rows), vocab]. `logit_rows` rise strictly."""
        compute_alone()
        self._lib.ramet_set_num_threads(num_threads())  # before the plan deals its work out
        c = self._config
        arrays = [
            np.ascontiguousarray(a, np.int64) for a in (token_ids, positions, out_slots, logit_rows)
        ]
        logits = torch.empty(len(arrays[3]), c.vocab_size)
        prepared = prepare(plan, c.num_heads, c.num_kv_heads, c.head_dim)
        keys, values = self._pool_pointers(kv)
        step = _Step(
            rows=len(arrays[0]),
            token_ids=arrays[0].ctypes.data,
            positions=arrays[1].ctypes.data,
            out_slots=arrays[2].ctypes.data,
            plan=prepared.handle,
            keys=keys,
            values=values,
            num_logits=len(arrays[3]),
            logit_rows=arrays[3].ctypes.data,
            logits=logits.data_ptr(),
        )
        self._lib.ramet_forward(self._model, ctypes.byref(step))
        return logits

    def _pool_pointers(self, kv: KVPool) -> tuple[object, object]:
        found = self._pools.get(kv)
        if found is None:
            if kv.dtype != self._kv_dtype:
                raise ValueError(f"KV pool of {kv.dtype}, but this model writes {self._kv_dtype}")
            array = _POINTER * kv.num_layers
            found = self._pools[kv] = (
                array(*(kv.keys(i).data_ptr() for i in range(kv.num_layers))),
                array(*(kv.values(i).data_ptr() for i in range(kv.num_layers))),
            )
        return found


def _shape(config: ModelConfig, embedding: torch.dtype, kv: torch.dtype) -> _Shape:
    return _Shape(
        num_layers=config.num_layers,
        hidden=config.hidden_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        embedding_type=_EMBEDDING_TYPES[embedding],
        kv_type=KV_TYPES[kv],
        eps=config.rms_norm_eps,
    )
