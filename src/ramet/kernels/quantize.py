"""Numbers to 8 bits, and what a product of them is: the meaning of the native int8 linear.

Knows symmetric scales, one per row of a matrix; refuses to know where the matrices come from. Nothing
here is fast: `linear_int8` is the slow twin that the native kernel equals bit for bit.
"""

from __future__ import annotations

import torch

__all__ = ["linear_int8", "quantize_int8", "quantize_rows"]

_TINY = 1e-30  # a row below this counts as zero: 127 / magnitude could overflow


def quantize_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weight [out, in], any float dtype -> (int8 [out, in], scale float32 [out]).

    weight is about int8 * scale, scale = max|row| / 127, rounded to the nearest, ties to even. A row
    with a NaN or an infinity has the scale NaN.
    """
    quantized, scale = quantize_rows(weight.detach().float())
    return quantized, scale


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [rows, n] float32 -> (int8 [rows, n] in -127 .. 127, scale float32 [rows])."""
    magnitude = x.abs().amax(dim=1)  # NaN if there is one
    finite = magnitude.isfinite()
    counts = finite & (magnitude >= _TINY)
    # Not 127.0 / magnitude: torch takes a reciprocal and multiplies, which rounds twice.
    inverse = torch.where(counts, torch.full_like(magnitude, 127.0) / magnitude, 0.0)
    quantized = torch.where(counts[:, None], (x * inverse[:, None]).round(), 0.0)
    scale = torch.where(counts, magnitude / 127.0, 0.0)
    scale = torch.where(finite, scale, torch.nan)
    return quantized.to(torch.int8), scale


def linear_int8(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x [rows, in] float32, weight int8 [out, in], scale [out] -> [rows, out] float32.

    The sums are exact integers; a sum is rounded to float32, multiplied with the rounded product of
    both scales, and the bias added, each with one rounding.
    """
    quantized, row_scale = quantize_rows(x)
    # Sums are below 2^31, so float64 holds every one of them exactly, in any order of summation.
    sums = quantized.double() @ weight.double().T
    y = sums.float() * (row_scale[:, None] * scale[None, :])
    return y if bias is None else y + bias
