"""Attention over a plan, in torch: the meaning that every faster kernel agrees with.

Knows rows, KV slots and the plan; refuses to know layers, requests and trees. `attention_by_definition`
is the meaning itself, one row at a time in float64. `attention` computes the same on any device in
float32: rows that decode are gathered in groups of similar length, one batched product per group;
segments of several rows go one by one, in pieces that bound the memory. How rows are grouped shows in
the last bits of its results.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ramet.kernels.plan import AttentionPlan

__all__ = ["PreparedPlan", "attention", "attention_by_definition", "prepare"]

_MAX_SCORES = 1 << 24  # float32 scores held at once: 64 MiB
_MAX_PIECE = 1024  # rows of a segment computed at once
_MAX_GROUP_SLOTS = 1 << 14  # slots gathered at once for a group of decoding rows


@dataclass(frozen=True, slots=True)
class _DecodeGroup:
    """Rows with a segment of their own. slots: int64 [b, longest], short paths padded with their own
    first slot (its numbers are finite, unlike those of a slot nobody wrote). hidden: bool
    [b, 1, 1, longest], True at the padding; None when all are equally long."""

    rows: torch.Tensor
    slots: torch.Tensor
    hidden: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Rows first_row .. first_row + num_rows at positions first_position ...; slots: int64 [length]."""

    first_row: int
    num_rows: int
    first_position: int
    slots: torch.Tensor


@dataclass(frozen=True, slots=True)
class PreparedPlan:
    """A plan with its index tensors on one device: built once per forward pass, used by each layer.
    triangle: bool [n, n], True above the diagonal, where n is the most rows computed at once."""

    groups: tuple[_DecodeGroup, ...]
    prefills: tuple[_Prefill, ...]
    triangle: torch.Tensor


def prepare(plan: AttentionPlan, device: torch.device | str = "cpu") -> PreparedPlan:
    """Sort the plan's segments into groups and move their indices to `device`."""
    starts = plan.row_starts
    singles = np.flatnonzero(np.diff(starts) == 1)
    prefills = tuple(
        _Prefill(
            first_row=int(starts[s]),
            num_rows=int(starts[s + 1] - starts[s]),
            first_position=int(plan.first_positions[s]),
            slots=torch.tensor(plan.paths[s], device=device),
        )
        for s in np.flatnonzero(np.diff(starts) > 1)
    )
    groups = tuple(_group(plan, chosen, device) for chosen in _similar(plan, singles))
    side = min(_MAX_PIECE, max((p.num_rows for p in prefills), default=0))
    triangle = torch.ones(side, side, dtype=torch.bool, device=device).triu_(1)
    return PreparedPlan(groups, prefills, triangle)


def _similar(plan: AttentionPlan, segments: np.ndarray) -> list[list[int]]:
    """Split `segments` into groups that waste less than about a quarter on padding."""
    lengths = {int(s): len(plan.paths[s]) for s in segments}
    groups: list[list[int]] = []
    shortest = 0
    for s in sorted(lengths, key=lambda s: lengths[s]):
        fits = groups and lengths[s] <= shortest + shortest // 4 + 16
        if fits and (len(groups[-1]) + 1) * lengths[s] <= _MAX_GROUP_SLOTS:
            groups[-1].append(s)
        else:
            groups.append([s])
            shortest = lengths[s]
    return groups


def _group(plan: AttentionPlan, chosen: list[int], device: torch.device | str) -> _DecodeGroup:
    lengths = np.array([len(plan.paths[s]) for s in chosen])
    slots = np.empty((len(chosen), lengths[-1]), dtype=np.int64)
    for i, s in enumerate(chosen):
        slots[i, : lengths[i]] = plan.paths[s]
        slots[i, lengths[i] :] = plan.paths[s][0]
    hidden = np.arange(lengths[-1]) >= lengths[:, None]
    return _DecodeGroup(
        rows=torch.tensor(plan.row_starts[chosen], device=device),
        slots=torch.tensor(slots, device=device),
        hidden=torch.tensor(hidden[:, None, None], device=device) if hidden.any() else None,
    )


def attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: PreparedPlan
) -> torch.Tensor:
    """Softmax attention of every row over the path of its segment, up to and including its own position.

    q: [rows, heads, d]. keys, values: [slots + 1, kv_heads, d], kv_heads dividing heads (query head h
    reads KV head h // (heads / kv_heads)). Scores are scaled by d ** -0.5. Returns [rows, heads, d] in
    q's dtype, computed in float32.
    """
    out = torch.empty_like(q)
    for group in plan.groups:
        _decode(q, keys, values, group, out)
    for prefill in plan.prefills:
        _prefill(q, keys, values, prefill, plan.triangle, out)
    return out


def _decode(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    group: _DecodeGroup,
    out: torch.Tensor,
) -> None:
    kv_heads, d = keys.shape[1:]
    query = (q[group.rows].float() * d**-0.5).unflatten(1, (kv_heads, -1))  # [b, kv, g, d]
    k = _gather(keys, group.slots)  # [b, length, kv, d]
    scores = torch.matmul(query, k.permute(0, 2, 3, 1))
    if group.hidden is not None:
        scores.masked_fill_(group.hidden, float("-inf"))
    v = _gather(values, group.slots).transpose(1, 2)
    result = torch.matmul(scores.softmax(-1), v)
    out[group.rows] = result.flatten(1, 2).to(out.dtype)


def _gather(pool: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """pool[slots] in float32, by the operator that is faster for it."""
    return pool.index_select(0, slots.flatten()).unflatten(0, slots.shape).float()


def _prefill(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefill: _Prefill,
    triangle: torch.Tensor,
    out: torch.Tensor,
) -> None:
    heads, d = q.shape[1:]
    kv_heads, length = keys.shape[1], len(prefill.slots)
    k = _gather(keys, prefill.slots).permute(1, 2, 0).contiguous()  # [kv, d, length]
    v = _gather(values, prefill.slots).transpose(0, 1).contiguous()  # [kv, length, d]
    step = min(_MAX_PIECE, max(1, _MAX_SCORES // (heads * length)))
    for start in range(0, prefill.num_rows, step):
        n = min(step, prefill.num_rows - start)
        rows = slice(prefill.first_row + start, prefill.first_row + start + n)
        first = prefill.first_position + start  # position of the piece's first row
        visible = first + n
        query = (q[rows].float() * d**-0.5).unflatten(1, (kv_heads, -1))
        query = query.permute(1, 2, 0, 3).reshape(kv_heads, -1, d)  # [kv, g * n, d]
        scores = torch.matmul(query, k[:, :, :visible]).unflatten(1, (-1, n))
        scores[..., first:].masked_fill_(triangle[:n, :n], float("-inf"))
        weights = scores.softmax(-1).flatten(1, 2)
        result = torch.matmul(weights, v[:, :visible]).unflatten(1, (-1, n))  # [kv, g, n, d]
        out[rows] = result.permute(2, 0, 1, 3).reshape(n, heads, d).to(out.dtype)


def attention_by_definition(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """What `attention` means: float64 [rows, heads, d], one row and one head at a time. Slow."""
    num_heads, d = q.shape[1:]
    heads_per_kv_head = num_heads // keys.shape[1]
    out = torch.empty(q.shape, dtype=torch.float64)
    for s in range(plan.num_segments):
        for row in range(int(plan.row_starts[s]), int(plan.row_starts[s + 1])):
            position = int(plan.first_positions[s]) + row - int(plan.row_starts[s])
            slots = plan.paths[s][: position + 1].tolist()
            for head in range(num_heads):
                k = keys[slots, head // heads_per_kv_head].double()
                v = values[slots, head // heads_per_kv_head].double()
                scores = (k @ q[row, head].double()) / d**0.5
                out[row, head] = torch.softmax(scores, dim=0) @ v
    return out
