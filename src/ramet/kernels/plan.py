"""What the attention of one batch has to compute, as arrays.

Knows rows, positions and KV slots; refuses to know requests, trees and tensors, so that the scheduler
can build a plan without torch and any kernel can read it.

A *segment* is a run of rows (new tokens) at consecutive positions of one token path. `paths[s]` lists
the KV slot of every position 0 .. first_positions[s] + rows(s) - 1. Row j of segment s attends to the
first `first_positions[s] + j + 1` slots of its path (its own included). Segments lie in depth-first
order of the radix tree, so the rows below any tree node are one contiguous range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["AttentionPlan", "IntArray"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """`row_starts`: int64 [segments + 1], rows of segment s are row_starts[s] .. row_starts[s + 1].
    `first_positions`: int64 [segments]. `paths`: one int64 array of KV slots per segment."""

    row_starts: IntArray
    first_positions: IntArray
    paths: tuple[IntArray, ...]

    @property
    def num_rows(self) -> int:
        return int(self.row_starts[-1])

    @property
    def num_segments(self) -> int:
        return len(self.paths)
