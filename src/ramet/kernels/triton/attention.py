"""Attention over a plan in Triton: the tree's shared blocks are read once for all rows below them.

Knows tensors, heads and the work that `tiles.cut` lists; refuses to know layers, requests and how rows
come to share anything. Agrees with `ramet.kernels.reference`, which is its meaning.

Two kernels. `_walk`: one program takes up to BLOCK_M queries (the query heads of one KV head times
consecutive rows) over a piece of a path and leaves a partial result: the scores' maximum, the sum of
their powers and the weighted values. `_merge`: one program per row and KV head folds them in the order of
positions. The online softmax is Milakov and Gimelshein's (arXiv 1805.02867), the split over keys that of
Flash-Decoding, the cascade over shared prefixes as in Hydragen (arXiv 2402.05099), here with as many
levels as the tree has.

What is exact. A row's result is one expression of its path (see `tiles`), every block of it computed in
a product of one shape: BLOCK_M depends on the model and the dtype, never on the batch. Fusing of products
and sums is off, so both kernels round a fold alike. What remains is an assumption about the device, not a
promise of it: that an element of `tl.dot` depends on its own row and column and not on where in the block
they lie. Under the interpreter the same is asked of numpy's matrix product. Other devices, dtypes and
versions of Triton give other bits, as does the reference.

16-bit queries and keys are multiplied as they are and summed in float32; the weights are rounded to their
dtype before they meet the values. float32 is multiplied in full, not in TF32. Mixed dtypes are widened to
one that holds both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import torch
import triton
import triton.language as tl

from ramet.errors import InvalidRequest
from ramet.kernels.plan import AttentionPlan
from ramet.kernels.triton import tiles

__all__ = ["PreparedPlan", "attention", "prepare"]

_NEVER = tl.constexpr(-1.0e30)  # a score below all: finite, so that its difference to itself is 0
_LOG2_E = 1.4426950408889634
_PROGRAMS_PER_PROCESSOR = 4  # on a GPU, for work of unequal lengths to even out
_MAX_PARTIAL_BYTES = 1 << 29
_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def _fold(m, total, weighted, next_m, next_total, next_weighted):  # type: ignore[no-untyped-def]
    """Two neighbouring partial results as one. The empty one, (_NEVER, 0, 0), changes no bit."""
    both = tl.maximum(m, next_m)
    old, new = tl.exp2(m - both), tl.exp2(next_m - both)
    total = total * old + next_total * new
    weighted = weighted * old[:, None] + next_weighted * new[:, None]
    return both, total, weighted


@triton.jit
def _walk(  # type: ignore[no-untyped-def]
    q,
    keys,
    values,
    items,
    slots,
    positions,
    partial_m,
    partial_total,
    partial_weighted,
    scale,
    q_row,
    q_head,
    k_slot,
    k_head,
    v_slot,
    v_head,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
    WEIGHTS: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One item of `Tiles.items` for one KV head. SPAN is in positions."""
    item = items + (tl.program_id(0) // KV_HEADS) * 6
    kv_head = tl.program_id(0) % KV_HEADS
    first_row, num_rows = tl.load(item), tl.load(item + 1)
    start, stop = tl.load(item + 2), tl.load(item + 3)
    slots_at, partial = tl.load(item + 4), tl.load(item + 5)

    lane = tl.arange(0, BLOCK_M)
    row, head = lane // GROUP, kv_head * GROUP + lane % GROUP
    is_row = row < num_rows  # GROUP need not divide BLOCK_M: the last lanes may be nobody's
    position = tl.load(positions + first_row + row, mask=is_row, other=-1)
    d = tl.arange(0, BLOCK_D)
    in_row = d < D
    at = (first_row + row).to(tl.int64) * q_row + head * q_head
    q_mask = is_row[:, None] & in_row[None, :]
    query = tl.load(q + at[:, None] + d[None, :], mask=q_mask, other=0.0).to(OPERAND)

    m = tl.full([BLOCK_M], _NEVER, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for span in range(start // SPAN, (stop + SPAN - 1) // SPAN):
        span_m = tl.full([BLOCK_M], _NEVER, tl.float32)
        span_total = tl.zeros([BLOCK_M], tl.float32)
        span_weighted = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for first in range(
            tl.maximum(start, span * SPAN), tl.minimum(stop, (span + 1) * SPAN), BLOCK
        ):
            key = first + tl.arange(0, BLOCK)
            is_key = key < stop
            slot = tl.load(slots + slots_at + key, mask=is_key, other=0).to(tl.int64)
            # Zeros for what lies behind the path: a weight of 0 times garbage may be NaN.
            kv_mask = is_key[:, None] & in_row[None, :]
            k_at = slot[:, None] * k_slot + kv_head * k_head + d[None, :]
            v_at = slot[:, None] * v_slot + kv_head * v_head + d[None, :]
            k = tl.load(keys + k_at, mask=kv_mask, other=0.0).to(OPERAND)
            v = tl.load(values + v_at, mask=kv_mask, other=0.0).to(OPERAND)
            scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
            visible = key[None, :] <= position[:, None]
            scores = tl.where(visible, scores, _NEVER)
            block_m = tl.max(scores, 1)
            # A row that sees nothing of the block has _NEVER - _NEVER here: not exp2(0), but nothing.
            weights = tl.where(visible, tl.exp2(scores - block_m[:, None]), 0.0)
            rounded = weights.to(WEIGHTS).to(OPERAND)
            block_weighted = tl.dot(rounded, v, input_precision="ieee")
            span_m, span_total, span_weighted = _fold(
                span_m, span_total, span_weighted, block_m, tl.sum(weights, 1), block_weighted
            )
        m, total, weighted = _fold(m, total, weighted, span_m, span_total, span_weighted)

    out = (partial + row).to(tl.int64) * (KV_HEADS * GROUP) + head
    tl.store(partial_m + out, m, mask=is_row)
    tl.store(partial_total + out, total, mask=is_row)
    tl.store(partial_weighted + out[:, None] * D + d[None, :], weighted, mask=q_mask)


@triton.jit
def _merge(  # type: ignore[no-untyped-def]
    partial_m,
    partial_total,
    partial_weighted,
    entry_starts,
    entries,
    out,
    out_row,
    out_head,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The query heads of one KV head in one row: spans from their parts, the row from its spans."""
    row = tl.program_id(0) // KV_HEADS
    lane = tl.arange(0, BLOCK_G)
    head = (tl.program_id(0) % KV_HEADS) * GROUP + lane
    is_head = lane < GROUP
    d = tl.arange(0, BLOCK_D)
    mask = is_head[:, None] & (d < D)[None, :]

    m = tl.full([BLOCK_G], _NEVER, tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    weighted = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    span_m, span_total, span_weighted = m, total, weighted
    first = tl.load(entry_starts + row)
    span = tl.load(entries + 2 * first + 1)
    for number in range(first, tl.load(entry_starts + row + 1)):
        at = tl.load(entries + 2 * number).to(tl.int64) * (KV_HEADS * GROUP) + head
        next_span = tl.load(entries + 2 * number + 1)
        if next_span != span:
            m, total, weighted = _fold(m, total, weighted, span_m, span_total, span_weighted)
            span_m = tl.full([BLOCK_G], _NEVER, tl.float32)
            span_total = tl.zeros([BLOCK_G], tl.float32)
            span_weighted = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
            span = next_span
        span_m, span_total, span_weighted = _fold(
            span_m,
            span_total,
            span_weighted,
            tl.load(partial_m + at, mask=is_head, other=_NEVER),
            tl.load(partial_total + at, mask=is_head, other=0.0),
            tl.load(partial_weighted + at[:, None] * D + d[None, :], mask=mask, other=0.0),
        )
    m, total, weighted = _fold(m, total, weighted, span_m, span_total, span_weighted)
    total = tl.where(is_head, total, 1.0)
    at = row.to(tl.int64) * out_row + head * out_head
    tl.store(out + at[:, None] + d[None, :], weighted / total[:, None], mask=mask)


_INTERPRETED = not isinstance(_walk, triton.runtime.JITFunction)


@dataclass(frozen=True, slots=True)
class _Work:
    """Tiles on the device, and memory for their partial results, which one layer after the other uses."""

    items: torch.Tensor
    slots: torch.Tensor
    positions: torch.Tensor
    entry_starts: torch.Tensor
    entries: torch.Tensor
    partial_m: torch.Tensor
    partial_total: torch.Tensor
    partial_weighted: torch.Tensor


@dataclass(frozen=True, slots=True)
class PreparedPlan:
    """A plan for one forward pass on one stream of `device`. Its work is cut when the first layer tells
    the shape of the heads, and then used by each layer."""

    plan: AttentionPlan
    device: torch.device
    _work: dict[tuple[int, int, int, int], _Work] = field(default_factory=dict)


def prepare(plan: AttentionPlan, device: torch.device | str = "cpu") -> PreparedPlan:
    """Raises InvalidRequest for a device that Triton cannot run on: a CPU, unless TRITON_INTERPRET=1
    was in the environment before this module was imported."""
    device = torch.device(device)
    if device.type == "cpu" and not _INTERPRETED:
        raise InvalidRequest(
            "attention.device",
            str(device),
            f"is not a GPU (TRITON_INTERPRET={os.environ.get('TRITON_INTERPRET')!r} came too late or not at all)",
            "use ramet.kernels.reference",
        )
    return PreparedPlan(plan, device)


def attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: PreparedPlan
) -> torch.Tensor:
    """Softmax attention of every row over the path of its segment, up to and including its own position.

    q: [rows, heads, d]. keys, values: [slots + 1, kv_heads, d], kv_heads dividing heads (query head h
    reads KV head h // (heads / kv_heads)); the last dimension of each contiguous, or it is copied. d is at
    most 256. Scores are scaled by d ** -0.5. Returns [rows, heads, d] in q's dtype. Raises InvalidRequest
    for other shapes and dtypes.
    """
    _check(q, keys, values)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not q.shape[0]:
        return out
    q, keys, values = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, keys, values))
    num_heads, d = q.shape[1:]
    kv_heads = keys.shape[1]
    group = num_heads // kv_heads
    operand = torch.promote_types(q.dtype, keys.dtype)
    block_m, block_d, num_warps, num_stages = _shape(group, d, operand)
    work = _work(plan, num_heads, kv_heads, d, block_m // group)
    widen = _INTERPRETED and operand == torch.bfloat16  # whose products the interpreter gets wrong
    _walk[(len(work.items) * kv_heads,)](
        q,
        keys,
        values,
        work.items,
        work.slots,
        work.positions,
        work.partial_m,
        work.partial_total,
        work.partial_weighted,
        d**-0.5 * _LOG2_E,
        *(stride for t in (q, keys, values) for stride in t.stride()[:2]),
        KV_HEADS=kv_heads,
        GROUP=group,
        D=d,
        BLOCK_M=block_m,
        BLOCK_D=block_d,
        BLOCK=tiles.BLOCK,
        SPAN=tiles.BLOCK * tiles.SPAN_BLOCKS,
        WEIGHTS=_DTYPES[operand],
        OPERAND=tl.float32 if widen else _DTYPES[operand],
        num_warps=num_warps,
        num_stages=num_stages,
        enable_fp_fusion=False,
    )
    _merge[(q.shape[0] * kv_heads,)](
        work.partial_m,
        work.partial_total,
        work.partial_weighted,
        work.entry_starts,
        work.entries,
        out,
        *out.stride()[:2],
        KV_HEADS=kv_heads,
        GROUP=group,
        D=d,
        BLOCK_G=triton.next_power_of_2(group),
        BLOCK_D=block_d,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return out


def _check(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
    for name, tensor in {"q": q, "keys": keys, "values": values}.items():
        if tensor.dtype not in _DTYPES:
            known = ", ".join(str(dtype) for dtype in _DTYPES)
            raise InvalidRequest(
                f"attention.{name}.dtype", str(tensor.dtype), f"is none of {known}"
            )
    if keys.dtype != values.dtype or keys.shape != values.shape:
        raise InvalidRequest(
            "attention.values",
            f"{values.dtype} {list(values.shape)}",
            f"is not like the keys, {keys.dtype} {list(keys.shape)}",
        )
    if q.shape[2] != keys.shape[2] or q.shape[1] % keys.shape[1]:
        raise InvalidRequest(
            "attention.q.shape", list(q.shape), f"does not fit keys of {list(keys.shape)}"
        )
    if q.shape[2] > 256:
        raise InvalidRequest(
            "attention.q.shape",
            list(q.shape),
            "has a head dimension above 256",
            "use ramet.kernels.reference",
        )


def _shape(group: int, d: int, operand: torch.dtype) -> tuple[int, int, int, int]:
    """BLOCK_M, BLOCK_D, num_warps and num_stages: by the model and the dtype alone, see the module's text.

    64 queries at once leave a single decoding row bound by memory (64 operations per byte of 16-bit keys,
    where an H100 has about 300), so rows need no kernel of their own when they are few. float32 has no
    such matrix units, hence half of that. A stage holds 64 keys and values in shared memory.
    """
    block_d = max(16, triton.next_power_of_2(d))
    row_bytes = block_d * operand.itemsize
    block_m = max(32 if operand == torch.float32 else 64, triton.next_power_of_2(group))
    num_warps = 4 if row_bytes <= 256 else 8
    return block_m, block_d, num_warps, 2 if row_bytes <= 256 else 1


def _work(plan: PreparedPlan, heads: int, kv_heads: int, d: int, rows_per_item: int) -> _Work:
    key = (heads, kv_heads, d, rows_per_item)
    if key not in plan._work:
        cut = tiles.cut(
            plan.plan,
            rows_per_item=rows_per_item,
            num_kv_heads=kv_heads,
            wanted_programs=_wanted_programs(plan.device),
            max_partials=_MAX_PARTIAL_BYTES // (4 * heads * (d + 2)),
        )
        plan._work[key] = _on_device(cut, plan.device, heads, d)
    return plan._work[key]


def _wanted_programs(device: torch.device) -> int:
    if device.type == "cpu":
        return 1
    properties = torch.cuda.get_device_properties(device)
    return _PROGRAMS_PER_PROCESSOR * int(properties.multi_processor_count)


def _on_device(cut: tiles.Tiles, device: torch.device, heads: int, d: int) -> _Work:
    """All indices in one copy, which need not be waited for."""
    arrays = (cut.items, cut.slots, cut.positions, cut.entry_starts, cut.entries)
    packed = torch.from_numpy(np.concatenate([a.ravel() for a in arrays]))
    if device.type != "cpu":
        packed = packed.pin_memory().to(device, non_blocking=True)
    parts = packed.split([a.size for a in arrays])
    views = [part.view(a.shape) for part, a in zip(parts, arrays)]
    sizes = (cut.num_partials * heads,) * 2 + (cut.num_partials * heads * d,)
    memory = (torch.empty(size, dtype=torch.float32, device=device) for size in sizes)
    return _Work(*views, *memory)
