"""Attention over a plan in Triton: the tree's shared blocks are read once for all rows below them.

Knows tensors, heads and how the work that `tiles.cut` lists is handed to `programs`; refuses to know
layers, requests and how rows come to share anything. Agrees with `ramet.kernels.reference`, which is its
meaning.

What is exact. A row's result is one expression of its path (see `tiles`), every block of it computed in
a product of one shape: BLOCK_M depends on the model and the dtype, never on the batch. Fusing of products
and sums is off, so both programs round a fold alike. What remains is an assumption about the device, not a
promise of it: that an element of `tl.dot` depends on its own row and column and not on where in the block
they lie. Under the interpreter the same is asked of numpy's matrix product. Other devices, dtypes and
versions of Triton give other bits, as does the reference.

16-bit queries and keys are multiplied as they are and summed in float32; the weights are rounded to their
dtype before they meet the values. float32 is multiplied in full, not in TF32. Mixed dtypes are widened to
one that holds both.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import triton
import triton.language as tl

from ramet.errors import InvalidRequest
from ramet.kernels.plan import AttentionPlan
from ramet.kernels.triton import programs, tiles

__all__ = ["MAX_HEAD_DIM", "PreparedPlan", "attention", "prepare"]

MAX_HEAD_DIM = 256
_LOG2_E = 1.4426950408889634
_PROGRAMS_PER_PROCESSOR = 4  # on a GPU, for work of unequal lengths to even out
_MAX_PARTIAL_BYTES = 1 << 29
_ALIGNMENT = 4  # int32s, 16 bytes: Triton compiles a kernel again for arguments that lie otherwise
_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}

_INTERPRETED = not isinstance(programs.walk, triton.runtime.JITFunction)


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
    with _launching_on(q.device):
        programs.walk[(len(work.items) * kv_heads,)](
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
        programs.merge[(q.shape[0] * kv_heads,)](
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


def _launching_on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current GPU, whatever GPU the tensors are on."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)


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
    if q.shape[2] > MAX_HEAD_DIM:
        raise InvalidRequest(
            "attention.q.shape",
            list(q.shape),
            f"has a head dimension above {MAX_HEAD_DIM}",
            "use ramet.kernels.reference",
        )


def _shape(group: int, d: int, operand: torch.dtype) -> tuple[int, int, int, int]:
    """BLOCK_M, BLOCK_D, num_warps and num_stages: by the model and the dtype alone, see the module's text.

    64 queries at once leave a single decoding row bound by memory (64 operations per byte of 16-bit keys,
    where an H100 has about 300), so rows need no kernel of their own when they are few. float32 has no
    such matrix units, hence half of that or less. Warps and stages are those with which the compiled code
    for sm_80 and sm_90 keeps its registers (a few spill at d = 256) and fits their shared memory, which
    holds 64 keys and values per stage.
    """
    block_d = max(16, triton.next_power_of_2(d))
    row_bytes = block_d * operand.itemsize
    fewest = 64 if operand != torch.float32 else 32 if row_bytes <= 512 else 16
    block_m = max(fewest, triton.next_power_of_2(group))
    return block_m, block_d, 4 if row_bytes <= 128 else 8, 2 if row_bytes <= 256 else 1


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
    sizes = [-(-a.size // _ALIGNMENT) * _ALIGNMENT for a in arrays]
    packed = torch.from_numpy(np.concatenate([np.resize(a, n) for a, n in zip(arrays, sizes)]))
    if device.type != "cpu":
        packed = packed.pin_memory().to(device, non_blocking=True)
    parts = packed.split(sizes)
    views = [part[: a.size].view(a.shape) for part, a in zip(parts, arrays)]
    results = (cut.num_partials * heads,) * 2 + (cut.num_partials * heads * d,)
    memory = (torch.empty(size, dtype=torch.float32, device=device) for size in results)
    return _Work(*views, *memory)
