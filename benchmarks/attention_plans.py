"""Plans that an attention kernel is measured on, and what each needs at least.

Knows shapes, rows and slots; refuses to know kernels and devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ramet.kernels.plan import AttentionPlan

__all__ = [
    "CASES",
    "DTYPES",
    "MODELS",
    "Card",
    "Case",
    "Heads",
    "context_sum",
    "floor_seconds",
    "num_bytes",
    "num_keys",
    "operations",
    "tree",
]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Heads:
    """A model's attention. dtype: of queries, keys and values."""

    name: str
    num_heads: int
    num_kv_heads: int
    d: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Case:
    """`plan(scale)` multiplies all lengths."""

    name: str
    plan: Callable[[float], AttentionPlan]


@dataclass(frozen=True, slots=True)
class Card:
    """bandwidth: bytes per second, read and written; rates: operations per second by dtype."""

    name: str
    bandwidth: float
    rates: dict[str, float]


MODELS = (
    Heads("8B", 32, 8, 128, "bfloat16"),
    Heads("135M", 9, 3, 64, "float16"),
    Heads("135M fp32", 9, 3, 64, "float32"),
)


def tree(scale: float, *, count: int, shared: int, own: int, rows: int | None) -> AttentionPlan:
    """`count` paths of `shared` common and `own` own positions; the last `rows` of each are computed
    (None: all of its own)."""
    common, each = round(shared * scale), max(1, round(own * scale))
    first = np.arange(common)
    paths = tuple(
        np.concatenate((first, common + number * each + np.arange(each))) for number in range(count)
    )
    computed = each if rows is None else rows
    firsts = np.full(count, common + each - computed)
    return AttentionPlan(np.arange(count + 1) * computed, firsts, paths)


def _case(name: str, count: int, shared: int, own: int, rows: int | None) -> Case:
    return Case(name, functools.partial(tree, count=count, shared=shared, own=own, rows=rows))


CASES = (
    _case("prompt of 8192", 1, 0, 8192, None),
    _case("chunk of 1024 after 15k", 1, 15_360, 1024, None),
    _case("64 x 64 over 1024", 64, 1024, 64, None),
    _case("64 decode over 4096", 64, 4096, 64, 1),
    _case("64 decode, 2048 each", 64, 0, 2048, 1),
    _case("1 decodes after 32k", 1, 0, 32_768, 1),
)


def num_keys(plan: AttentionPlan) -> int:
    """Different slots that the plan's rows read."""
    return len(np.unique(np.concatenate(plan.paths)))


def context_sum(plan: AttentionPlan) -> int:
    """Keys that all rows together attend to."""
    counts = np.diff(plan.row_starts)
    return int((counts * plan.first_positions + counts * (counts + 1) // 2).sum())


def operations(plan: AttentionPlan, heads: Heads) -> int:
    return 4 * heads.num_heads * heads.d * context_sum(plan)


def num_bytes(plan: AttentionPlan, heads: Heads) -> int:
    each = heads.d * DTYPES[heads.dtype].itemsize
    return 2 * each * (num_keys(plan) * heads.num_kv_heads + plan.num_rows * heads.num_heads)


def floor_seconds(plan: AttentionPlan, heads: Heads, card: Card) -> float:
    return max(
        operations(plan, heads) / card.rates[heads.dtype],
        num_bytes(plan, heads) / card.bandwidth,
    )
