"""The native attention over a plan, from Python: tensors in, tensor out.

Knows torch tensors and the library's functions; refuses to know the arithmetic (attention.h defines it).
A row's result depends, bit by bit, on its own query and path alone: not on the other rows, on how rows
are grouped in segments, on which slots hold the path, or on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
import torch

from ramet.errors import InvalidRequest
from ramet.kernels.cpu.library import library
from ramet.kernels.plan import AttentionPlan, IntArray

__all__ = ["NativePlan", "attention", "prepare"]

_KV_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_ARGUMENTS = {
    "ramet_plan_new": ["int64", "void_p", "void_p", "void_p", "int64", "int64", "int64"],
    "ramet_plan_free": ["void_p"],
    "ramet_attention": [
        "void_p",
        "void_p",
        "int64",
        "void_p",
        "void_p",
        "int32",
        "void_p",
        "int64",
    ],
}


@functools.cache
def _functions() -> ctypes.CDLL:
    """The library with this module's functions declared. Raises BuildError."""
    native = library()
    for name, arguments in _ARGUMENTS.items():
        function = getattr(native, name)
        function.argtypes = [getattr(ctypes, f"c_{argument}") for argument in arguments]
        function.restype = ctypes.c_void_p if name == "ramet_plan_new" else None
    return native


@dataclass(frozen=True, slots=True, eq=False)
class NativePlan:
    """A plan whose work is dealt out for one shape and the present number of threads: built once per
    forward pass, used by each layer. Holds the paths, which the native plan points into."""

    handle: int
    num_rows: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    paths: tuple[IntArray, ...]

    def __del__(self) -> None:
        _functions().ramet_plan_free(self.handle)


def prepare(plan: AttentionPlan, num_heads: int, num_kv_heads: int, head_dim: int) -> NativePlan:
    """Find the keys that rows share and deal the work out. Nothing of a path is copied.

    num_kv_heads divides num_heads; head_dim is any positive number. Raises InvalidRequest for another
    shape and for a plan whose parts do not fit together.
    """
    if min(num_heads, num_kv_heads, head_dim) < 1 or num_heads % num_kv_heads:
        shape = (num_heads, num_kv_heads, head_dim)
        raise InvalidRequest("prepare.num_heads", shape, "is no (heads, KV heads, head size)")
    starts = np.ascontiguousarray(plan.row_starts, dtype=np.int64)
    firsts = np.ascontiguousarray(plan.first_positions, dtype=np.int64)
    paths = tuple(np.ascontiguousarray(path, dtype=np.int64) for path in plan.paths)
    lengths = np.fromiter((len(path) for path in paths), np.int64, len(paths))
    if len(starts) != len(paths) + 1 or not np.array_equal(firsts + np.diff(starts), lengths):
        raise InvalidRequest(
            "prepare.plan", lengths.tolist(), "are not the lengths of its segments' paths"
        )
    pointers = np.fromiter((path.ctypes.data for path in paths), np.uintp, len(paths))
    handle = _functions().ramet_plan_new(
        len(paths),
        starts.ctypes.data,
        firsts.ctypes.data,
        pointers.ctypes.data,
        num_heads,
        num_kv_heads,
        head_dim,
    )
    return NativePlan(handle, int(starts[-1]), num_heads, num_kv_heads, head_dim, paths)


def attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: NativePlan
) -> torch.Tensor:
    """Softmax attention of every row over the path of its segment, up to and including its own position.

    q: float32 [rows, heads, d], rows at any distance. keys, values: float32 or float16
    [slots + 1, kv_heads, d], contiguous; the arithmetic is float32 on either. Query head h reads KV head
    h // (heads / kv_heads), scores are scaled by d ** -0.5. Returns float32 [rows, heads, d].
    """
    _check(q, keys, values, plan)
    out = torch.empty((plan.num_rows, plan.num_heads, plan.head_dim))
    _functions().ramet_attention(
        plan.handle,
        q.data_ptr(),
        q.stride(0),
        keys.data_ptr(),
        values.data_ptr(),
        _KV_TYPES[keys.dtype],
        out.data_ptr(),
        out.stride(0),
    )
    return out


def _check(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: NativePlan) -> None:
    if q.shape != (plan.num_rows, plan.num_heads, plan.head_dim) or q.dtype != torch.float32:
        raise InvalidRequest(
            "attention.q", (q.dtype, *q.shape), "is not float32 in the plan's shape"
        )
    if plan.num_rows and not (q.stride(2) == 1 and q.stride(1) == plan.head_dim):
        raise InvalidRequest("attention.q", q.stride(), "has gaps between its heads")
    for name, pool in (("keys", keys), ("values", values)):
        if pool.dtype not in _KV_TYPES or pool.dtype != keys.dtype:
            raise InvalidRequest(
                f"attention.{name}",
                pool.dtype,
                "is no dtype of KV here",
                "use float32, float16 or bfloat16",
            )
        if pool.shape[1:] != (plan.num_kv_heads, plan.head_dim) or not pool.is_contiguous():
            raise InvalidRequest(
                f"attention.{name}", tuple(pool.shape), "is not contiguous in the plan's shape"
            )
    if any(tensor.device.type != "cpu" for tensor in (q, keys, values)):
        raise InvalidRequest("attention.device", str(q.device), "is not the CPU")
