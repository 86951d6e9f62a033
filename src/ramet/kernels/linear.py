"""Matrix products with packed weights: `linear(x)` is x @ weight.T + bias.

Knows the ways to do it on a CPU and the one on a GPU, which of them this build of torch really has, and
what it takes to make a row's bits independent of the other rows; refuses to know what the matrices
mean. A CPU linear takes and gives float32, a GPU linear the dtype of its weight.

- `Fp16Linear`: FBGEMM, fp16 weights, fp32 arithmetic. Half the bytes, rows exact by themselves.
- `MklLinear`: MKL's packed fp32. Rows are exact when their number is a multiple of a small step, which
  depends on the processor and the number of threads, so it is measured, and rows are padded to it.
- `TorchLinear`: plain `F.linear`. Not exact over the number of rows.

The packed operators are old and could leave torch, so each is tried on a small matrix before its first
use; where it is missing or wrong, the next one serves and one warning says so.
"""

from __future__ import annotations

import functools
import warnings
from typing import Protocol

import torch
import torch.nn.functional as F

from ramet.kernels.cpu.linear import NativeLinear

__all__ = ["Fp16Linear", "Linear", "MklLinear", "TorchLinear", "pack_linear", "why_not"]


class Linear(Protocol):
    """x [rows, in] -> [rows, out]. num_bytes: of the weights it holds."""

    num_bytes: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


FP16_MAX = 65504.0


class Fp16Linear:
    """weight [out, in], any float dtype, rounded to fp16 unless it already is; bias [out] or None."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.num_bytes = weight.numel() * 2 + (0 if bias is None else bias.numel() * 4)
        self._packed = torch.ops.quantized.linear_prepack_fp16(
            weight.float().contiguous(), None if bias is None else bias.float().contiguous()
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self._packed)


class MklLinear:
    """weight [out, in], any float dtype, kept as fp32; bias [out] or None."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.num_bytes = weight.numel() * 4 + (0 if bias is None else bias.numel() * 4)
        self._num_out = weight.shape[0]
        # The packed form does not depend on the row count that the operator asks for.
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.float().contiguous(), 1)
        # The operator reads the unpacked weight's shape only, as long as the row count that it is told
        # is the real one: a single number stretched to that shape saves a copy of the matrix.
        self._shape_only = torch.zeros(1).expand(weight.shape)
        self._bias = None if bias is None else bias.float().contiguous()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        num_rows = x.shape[0]
        if num_rows == 0:
            return x.new_empty(0, self._num_out)
        missing = -num_rows % _row_step(torch.get_num_threads())
        if missing:
            x = F.pad(x, (0, 0, 0, missing))
        return self.as_it_is(x)[:num_rows]

    def as_it_is(self, x: torch.Tensor) -> torch.Tensor:
        """Without the padding that makes rows exact."""
        return torch.ops.mkl._mkl_linear(x, self._packed, self._shape_only, self._bias, x.shape[0])


class TorchLinear:
    """weight [out, in] and bias [out] or None in the dtype and on the device of x."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.num_bytes = sum(t.numel() * t.element_size() for t in (weight, bias) if t is not None)
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)


def pack_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    name: str = "a weight",
    *,
    native: bool = False,
) -> Linear:
    """The best working CPU linear for `weight` [out, in] held as `dtype` (float16 or float32).

    `native`: a `NativeLinear`, whose rows are exact by themselves and which a native forward pass reads.
    A float16 matrix with a number beyond float16's range is held as float32, with a warning that gives
    `name`.
    """
    if dtype == torch.float16:
        if not exceeds_fp16(weight):
            if native:
                return NativeLinear(weight, bias, "fp16")
            if why_not("fp16") is None:
                return Fp16Linear(weight, bias)
            weight = weight.half()  # the same numbers, whichever operator multiplies them
        else:
            warnings.warn(
                f"{name} holds numbers beyond float16's {FP16_MAX:.0f}: it is kept as float32",
                stacklevel=2,
            )
    if native:
        return NativeLinear(weight, bias, "fp32")
    if why_not("fp32") is None:
        return MklLinear(weight, bias)
    return TorchLinear(weight.float(), None if bias is None else bias.float())


def exceeds_fp16(weight: torch.Tensor) -> bool:
    """Whether a finite number of `weight` would become infinite in float16."""
    if weight.dtype == torch.float16:
        return False
    low, high = torch.aminmax(weight)
    return bool(high > FP16_MAX) or bool(low < -FP16_MAX)


@functools.cache
def why_not(kind: str) -> str | None:
    """None when the packed operator `kind` ("fp16" or "fp32") works here, else why it does not.

    A negative answer is also said once through `warnings`.
    """
    make: type[Fp16Linear] | type[MklLinear] = Fp16Linear if kind == "fp16" else MklLinear
    next_best = {"fp16": "packed fp32", "fp32": "plain fp32, whose rows depend on the batch"}[kind]
    try:
        problem = _try_out(make, torch.float16 if kind == "fp16" else torch.float32)
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        problem = f"does not exist in this torch ({type(error).__name__}: {str(error)[:200]})"
    if problem is not None:
        warnings.warn(f"packed {kind} linear {problem}; using {next_best}", stacklevel=2)
    return problem


def _try_out(make: type[Fp16Linear] | type[MklLinear], dtype: torch.dtype) -> str | None:
    x, weight, bias = _probe()
    for given_bias in (bias, None):
        linear = make(weight, given_bias)
        got = linear.as_it_is(x) if isinstance(linear, MklLinear) else linear(x)
        rounded = weight.to(dtype).double()
        expected = F.linear(x.double(), rounded, None if given_bias is None else bias.double())
        if not torch.allclose(got.double(), expected, rtol=1e-4, atol=1e-4):
            return "gives wrong numbers on this machine"
    return None


@functools.cache
def _row_step(num_threads: int) -> int:  # torch has `num_threads` now: the key, not an input
    """The smallest step to which rows must be padded for a row's bits to be its own."""
    x, weight, bias = _probe()
    linear = MklLinear(weight, bias)
    full = linear.as_it_is(x)
    for step in (1, 2, 4, 8, 16, 32):
        counts = range(step, x.shape[0], step)
        if all(torch.equal(linear.as_it_is(x[:n].contiguous()), full[:n]) for n in counts):
            return step
    warnings.warn(
        f"packed fp32 linear with {num_threads} threads: a row's last bits depend on the other rows",
        stacklevel=2,
    )
    return 1


def _probe() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [288, 131], weight [259, 131], bias [259]: odd sizes, so that edges are met."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((288, 131), (259, 131), (259,))
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias
