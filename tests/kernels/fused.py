"""float32 arithmetic in numpy as processors do it: a fused multiply-add has one rounding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "chain", "fused"]

Floats = npt.NDArray[np.float32]


def fused(a: Floats, b: Floats, c: Floats) -> Floats:
    """a * b + c, rounded once (numbers far from the ends of float64's range).

    The product of two float32 is exact in float64. Their sum is rounded there to odd (its last bit
    is set where anything was lost), which makes the second rounding, to float32, the only one that
    shows. Source: Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008.
    """
    product, third = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + third
    back = total - product  # Knuth's exact error of a sum
    lost = (product - (total - back)) + (third - back)
    even = (total.view(np.int64) & 1) == 0
    toward = np.where(lost > 0, np.inf, -np.inf)
    odd = np.where((lost != 0) & even, np.nextafter(total, toward), total)
    return odd.astype(np.float32)


def chain(x: Floats, weight: Floats, *, fuse: bool) -> Floats:
    """x [rows, in] times weight [out, in]: one chain of fused steps per output, in order."""
    total = np.zeros((len(x), len(weight)), np.float32)
    for k in range(x.shape[1]):
        a, b = np.broadcast_arrays(x[:, k, None], weight[None, :, k])
        total = fused(a, b, total) if fuse else a * b + total
    return total
