"""Matrix products of the native library: weights are packed once, rows are multiplied at each call.

Knows the structure that kernels/cpu/linear.h declares and keeps alive what it points to; refuses to know
how the numbers come about. Every row of the result is a function of its row of input alone, to the bit,
for any number of rows and threads.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref

import numpy as np
import numpy.typing as npt
import torch

from ramet.errors import InvalidRequest
from ramet.kernels.cpu.library import library
from ramet.kernels.quantize import quantize_int8
from ramet.kernels.threads import num_threads

__all__ = ["KINDS", "LinearStruct", "NativeLinear"]

_KIND_DTYPES = {"int8": torch.int8, "fp16": torch.float16, "fp32": torch.float32}
KINDS = tuple(_KIND_DTYPES)  # in the order of LinearKind
_POINTER, _INT32, _INT64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
_ALIGNMENT = 64  # bytes
_MOST_INPUTS = 1 << 16  # 127 * 127 * inputs must fit in 31 bits


class LinearStruct(ctypes.Structure):
    """`ramet::Linear`."""

    _fields_ = [
        ("kind", _INT32),
        ("in_features", _INT32),
        ("out_features", _INT32),
        ("weight", _POINTER),
        ("scale", _POINTER),
        ("offsets", _POINTER),
        ("bias", _POINTER),
    ]


@functools.cache
def _declared() -> ctypes.CDLL:
    lib = library()
    lib.ramet_linear_bytes.argtypes = [_INT32, _INT64, _INT64]
    lib.ramet_linear_bytes.restype = _INT64
    lib.ramet_linear_pack.argtypes = [_INT32, _POINTER, _INT64, _INT64, _POINTER, _POINTER]
    lib.ramet_linear_pack.restype = None
    lib.ramet_linear.argtypes = [
        ctypes.POINTER(LinearStruct), _POINTER, _INT64, _INT64, _POINTER, _INT64, _INT32, _INT32
    ]  # fmt: skip
    lib.ramet_linear.restype = None
    return lib


class NativeLinear:
    """x [rows, in] float32 -> x @ weight.T + bias, [rows, out] float32.

    weight: [out, in] of any float dtype, rounded to `kind` ("int8", "fp16" or "fp32"); int8 with one
    scale per output (`quantize_int8`) and activations with one scale per row. Or int8 with its `scale`
    [out], which is taken as it is. A row of x with a NaN or an infinity gives a row of NaN in int8.

    struct: what native callers take; it points into memory that this object owns.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        kind: str = "fp16",
        *,
        scale: torch.Tensor | None = None,
    ) -> None:
        if kind not in KINDS:
            raise InvalidRequest("kind", kind, "is not known", f"use {', '.join(KINDS)}")
        num_out, num_in = weight.shape
        if not 1 <= num_in <= _MOST_INPUTS or num_out < 1:
            raise InvalidRequest(
                "weight", list(weight.shape), f"must be [1 or more, 1 to {_MOST_INPUTS}]"
            )
        if kind == "int8" and scale is None:
            weight, scale = quantize_int8(weight)
        self.kind, self.in_features, self.out_features = kind, num_in, num_out
        self._lib = _declared()
        self._scale, self._bias = _vector(scale, num_out), _vector(bias, num_out)
        self._offsets = torch.empty(num_out, dtype=torch.int32) if kind == "int8" else None
        self._packed = self._pack(weight.detach().to(_KIND_DTYPES[kind]).contiguous())
        kept = (self._packed, self._scale, self._offsets, self._bias)
        self.num_bytes = sum(t.numel() * t.element_size() for t in kept if t is not None)
        self.struct = LinearStruct(
            KINDS.index(kind), num_in, num_out, *(None if t is None else t.data_ptr() for t in kept)
        )

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        number = KINDS.index(self.kind)
        size = self._lib.ramet_linear_bytes(number, self.in_features, self.out_features)
        packed = _arena.take(size)
        offsets = None if self._offsets is None else self._offsets.data_ptr()
        self._lib.ramet_linear_pack(
            number,
            weight.data_ptr(),
            self.in_features,
            self.out_features,
            packed.data_ptr(),
            offsets,
        )
        return packed

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() != 2 or x.shape[1] != self.in_features or x.dtype != torch.float32:
            raise InvalidRequest(
                "x", f"{list(x.shape)} {x.dtype}", f"is not float32 [rows, {self.in_features}]"
            )
        x = x.detach()
        if x.stride(1) != 1 or x.stride(0) < self.in_features:
            x = x.contiguous()
        y = torch.empty(x.shape[0], self.out_features)
        self._lib.ramet_linear(
            self.struct, x.data_ptr(), x.stride(0), x.shape[0],
            y.data_ptr(), self.out_features, 0, num_threads(),
        )  # fmt: skip
        return y


def _vector(tensor: torch.Tensor | None, size: int) -> torch.Tensor | None:
    if tensor is None:
        return None
    if tensor.numel() != size:
        raise InvalidRequest("bias or scale", list(tensor.shape), f"must have {size} numbers")
    return tensor.detach().flatten().float().contiguous()


class _Arena:
    """Memory for packed weights, side by side in large pieces: the system backs those with large pages where
    it may (numpy asks for them), and weights are read at the memory's speed only then. A piece is freed
    with the last weight in it."""

    PIECE = 64 << 20

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._piece: weakref.ref[npt.NDArray[np.uint8]] | None = None
        self._used = 0

    def take(self, num_bytes: int) -> torch.Tensor:
        """Memory on a cache line, of any content."""
        with self._lock:
            piece = None if self._piece is None else self._piece()
            if piece is None or self._used + num_bytes > piece.size:
                piece = np.empty(max(self.PIECE, num_bytes + _ALIGNMENT), np.uint8)
                self._piece, self._used = weakref.ref(piece), -piece.ctypes.data % _ALIGNMENT
            start = self._used
            self._used += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
            return torch.from_numpy(piece[start : start + num_bytes])


_arena = _Arena()
