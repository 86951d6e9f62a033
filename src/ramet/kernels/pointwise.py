"""What a decoder does to rows between matrix products and attention: norm, rotation, gate.

Knows rows of numbers; every function gives the dtype it was given, norm and rotation compute in
float32. On a CPU the bits of a row depend on that row alone, for any number of rows and threads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["rms_norm", "rope", "silu_mul"]

# Torch spreads a call of fewer elements than 32768 over no threads. Spread calls are cut anywhere, and
# the exponential of the last few numbers before a cut has other last bits than that of the rest.
_MAX_UNSPLIT = 32767


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x [..., n] over its root mean square along n, times weight (float32, broadcast against x).

    Source: Zhang and Sennrich, arXiv 1910.07467.
    """
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight).to(x.dtype)


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate x [rows, heads, d]: dimensions i and i + d/2 form a plane (the rotate-half convention of
    Hugging Face checkpoints). cos, sin: float32 [rows, 1, d/2], of each row's position.

    Source: Su et al., arXiv 2104.09864.
    """
    first, second = x.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """gate_up [rows, 2 n], the gate's columns first -> silu(gate) * up [rows, n].

    Source: Shazeer, arXiv 2002.05202 (SwiGLU).
    """
    gate, up = gate_up.chunk(2, dim=-1)
    if gate_up.is_cuda or gate.numel() <= _MAX_UNSPLIT or torch.get_num_threads() == 1:
        return F.silu(gate) * up
    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    num_columns = min(gate.shape[1], 16384)
    num_rows = _MAX_UNSPLIT // num_columns
    for columns in (slice(c, c + num_columns) for c in range(0, gate.shape[1], num_columns)):
        for rows in (slice(r, r + num_rows) for r in range(0, gate.shape[0], num_rows)):
            torch.mul(F.silu(gate[rows, columns]), up[rows, columns], out=out[rows, columns])
    return out
