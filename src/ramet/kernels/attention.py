"""Which attention the PyTorch forward pass runs on a device: Triton's on a GPU where it works, else the
reference.

Knows who can run where; refuses to know the arithmetic. Before Triton's kernel is used it computes a
small plan of the model's own shape, which is compared with the reference: that finds a missing compiler
or a GPU that Triton does not serve while the model loads, not in the first request, and it compiles the
kernel for that shape. The native CPU kernels are a whole forward pass and not asked for here.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from typing import Any, Protocol

import numpy as np
import torch

from ramet.kernels import reference
from ramet.kernels.plan import AttentionPlan

__all__ = ["Attention", "attention_for"]

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class Attention(Protocol):
    """A module like `ramet.kernels.reference`, which says what the two functions mean. A prepared plan is
    for the module that made it."""

    def prepare(self, plan: AttentionPlan, device: torch.device | str = ...) -> Any: ...

    def attention(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: Any
    ) -> torch.Tensor: ...


def attention_for(
    device: torch.device,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
) -> Attention:
    """The fastest attention that works on `device` for this shape, queries of `dtype` and a KV pool of
    `kv_dtype`. Why a GPU gets the reference is said once as a warning."""
    if device.type != "cuda":
        return reference
    reason = _why_not_triton(device, num_heads, num_kv_heads, head_dim, dtype, kv_dtype)
    if reason is not None:
        _say_once(reason)
        return reference
    from ramet.kernels.triton import attention

    return attention


@functools.cache
def _say_once(reason: str) -> None:
    warnings.warn(
        f"no Triton attention: {reason}. Running the slower PyTorch reference", stacklevel=3
    )


@functools.cache
def _why_not_triton(
    device: torch.device,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (it comes with PyTorch's builds for GPUs)"
    try:
        from ramet.kernels.triton.attention import MAX_HEAD_DIM

        if head_dim > MAX_HEAD_DIM:
            return f"heads of {head_dim} numbers are more than its {MAX_HEAD_DIM}"
        q, keys, values = _probe(device, num_heads, num_kv_heads, head_dim, dtype, kv_dtype)
        return _try_out(q, keys, values)
    except Exception as error:  # compilers, drivers and devices fail in ways of their own
        return f"it fails on {device} ({type(error).__name__}: {str(error)[:200]})"


def _try_out(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> str | None:
    """What is wrong with Triton's results, if anything."""
    from ramet.kernels.triton import attention

    plan = _probe_plan()
    got = attention.attention(q, keys, values, attention.prepare(plan, q.device))
    expected = reference.attention(q, keys, values, reference.prepare(plan, q.device))
    tolerance = max(_TOLERANCE[t.dtype] for t in (q, keys))
    if torch.allclose(got.float(), expected.float(), rtol=tolerance, atol=tolerance):
        return None
    return f"it gives wrong numbers on {q.device}"


def _probe_plan() -> AttentionPlan:
    """Three rows and one more that leaves their path inside its second block."""
    path = np.arange(80)
    fork = np.concatenate((path[:70], [80]))
    return AttentionPlan(np.array([0, 3, 4]), np.array([77, 70]), (path, fork))


def _probe(
    device: torch.device,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q [4, heads, d], keys and values [81, kv_heads, d]: what `_probe_plan` speaks of."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(4, num_heads, head_dim, generator=generator)
    keys, values = torch.randn(2, 81, num_kv_heads, head_dim, generator=generator)
    return q.to(device, dtype), keys.to(device, kv_dtype), values.to(device, kv_dtype)
