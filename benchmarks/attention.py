"""Attention over a tree: the native kernel, PyTorch's scaled_dot_product_attention, and the
machine's limits.

    python -m benchmarks.attention [--model 135m 1.1b] [--case prefill ...] [--threads 2]

One layer, keys and values in a pool of slots in random order. PyTorch gets them gathered and laid
out as it likes best, for nothing; what gathering costs is shown beside it ("+ gather"). It knows no
shared keys: each row reads its own copy. The floor is the longer of two times: the operations at
the measured peak (of bfloat16 for bfloat16, where the processor multiplies it, else of fp32), and
reading each slot once at the measured bandwidth; "%" is floor / time. Pools of short contexts fit
in a cache, and a decoding row then reads faster than memory is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.interleaved import interleaved
from benchmarks.machine import describe
from benchmarks.peak import Peaks, measure_peaks
from ramet.kernels import threads
from ramet.kernels.cpu import attention as native
from ramet.kernels.cpu.library import library
from ramet.kernels.plan import AttentionPlan

__all__ = ["main"]

HEADS = {"135m": (9, 3, 64), "1.1b": (32, 4, 64)}  # of queries, of keys and values, head size
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Case:
    """`segments` of `rows` rows each, after `shared` positions in the same slots and `own` in their
    own (which hold the rows).
    """

    segments: int
    rows: int
    shared: int
    own: int

    @property
    def length(self) -> int:
        return self.shared + self.own

    def plan(self, rng: np.random.Generator) -> AttentionPlan:
        slots = rng.permutation(self.num_slots).astype(np.int64)
        paths = tuple(
            np.concatenate((slots[: self.shared], slots[start : start + self.own]))
            for start in range(self.shared, self.num_slots, self.own)
        )
        starts = np.arange(self.segments + 1) * self.rows
        return AttentionPlan(starts, np.full(self.segments, self.length - self.rows), paths)

    @property
    def num_slots(self) -> int:
        return self.shared + self.segments * self.own

    @property
    def pairs(self) -> int:
        """Of a row and a position that it sees."""
        first = self.length - self.rows
        return self.segments * sum(first + i + 1 for i in range(self.rows))


CASES = {
    "prefill 1024": Case(1, 1024, 0, 1024),
    "prefill 128": Case(1, 128, 0, 128),
    "chunk 256 after 4096": Case(1, 256, 0, 4352),
    "decode 1 of 1024": Case(1, 1, 0, 1024),
    "decode 1 of 16384": Case(1, 1, 0, 16384),
    "decode 64, 1024 shared": Case(64, 1, 1024, 16),
    "decode 256, 1024 shared": Case(256, 1, 1024, 16),
    "decode 32, none shared": Case(32, 1, 0, 512),
    "64 x 64 after 1024 shared": Case(64, 64, 1024, 64),
    "verify 8 x 5, 1024 shared": Case(8, 5, 1024, 64),
}


# -- contestants ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layer:
    """q [rows, heads, d]; keys, values [slots + 1, kv_heads, d]."""

    case: Case
    plan: AttentionPlan
    q: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def random(cls, case: Case, heads: tuple[int, int, int], dtype: torch.dtype) -> Layer:
        num_heads, kv_heads, d = heads
        generator = torch.Generator().manual_seed(0)
        rows = case.segments * case.rows
        keys, values = torch.randn(2, case.num_slots + 1, kv_heads, d, generator=generator)
        q = torch.randn(rows, num_heads, d, generator=generator)
        return cls(case, case.plan(np.random.default_rng(0)), q, keys.to(dtype), values.to(dtype))

    def plan_alone(self) -> Callable[[], object]:
        """Dealing the work out, which is done once per forward pass."""
        return lambda: native.prepare(self.plan, self.q.shape[1], *self.keys.shape[1:])

    def planned(self) -> Callable[[], object]:
        prepared = native.prepare(self.plan, self.q.shape[1], *self.keys.shape[1:])
        return lambda: native.attention(self.q, self.keys, self.values, prepared)

    def gathered(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[segments, kv_heads, length, d] of keys and of values, float32."""
        slots = torch.from_numpy(np.concatenate(self.plan.paths))
        keys, values = (
            pool.index_select(0, slots)
            .float()
            .unflatten(0, (self.case.segments, -1))
            .transpose(1, 2)
            .contiguous()
            for pool in (self.keys, self.values)
        )
        return keys, values

    def torch(self, *, gather: bool) -> Callable[[], object]:
        q = self.q.unflatten(0, (self.case.segments, -1)).transpose(1, 2).contiguous()
        keys, values = self.gathered()
        first = self.case.length - self.case.rows
        causal = first == 0
        mask = None
        if not causal and self.case.rows > 1:
            mask = torch.ones(self.case.rows, self.case.length, dtype=torch.bool).tril(first)

        def run() -> torch.Tensor:
            k, v = self.gathered() if gather else (keys, values)
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal and self.case.rows > 1, enable_gqa=True
            )

        return run

    def floor(self, peaks: Peaks) -> tuple[float, float]:
        """Seconds of computing and of reading; 0 where nothing is known of the machine."""
        num_heads, d = self.q.shape[1:]
        operations = 4.0 * self.case.pairs * num_heads * d
        num_bytes = 2.0 * self.keys.numel() * self.keys.element_size() + 2 * 4 * self.q.numel()
        pairs = self.keys.dtype == torch.bfloat16
        rate = peaks.compute.get("bf16" if pairs else "fp32") or peaks.compute.get("fp32")
        compute = operations / rate / 1e9 if rate else 0.0
        return compute, num_bytes / peaks.bandwidth / 1e9 if peaks.bandwidth else 0.0


def check(layer: Layer, tolerance: float) -> None:
    """A figure of a wrong result says nothing."""
    got = native_result(layer)
    want = layer.torch(gather=False)()
    assert isinstance(want, torch.Tensor)
    worst = (got - want.transpose(1, 2).flatten(0, 1)).abs().max().item()
    if worst > tolerance:
        raise RuntimeError(f"native attention is {worst:.2g} from PyTorch's")


def native_result(layer: Layer) -> torch.Tensor:
    found = layer.planned()()
    assert isinstance(found, torch.Tensor)
    return found


# -- measuring -----------------------------------------------------------------------------------


def measure(case: Case, heads: tuple[int, int, int], peaks: Peaks, turns: int) -> list[str]:
    """One line per dtype of keys and values; PyTorch's in fp32, which is its fastest here."""
    layers = {name: Layer.random(case, heads, dtype) for name, dtype in DTYPES.items()}
    for name, layer in layers.items():
        check(layer, 1e-4 if name != "bf16" else 0.05)
    runs = {name: layer.planned() for name, layer in layers.items()}
    runs["plan"] = layers["fp32"].plan_alone()
    runs["torch"] = layers["fp32"].torch(gather=False)
    runs["+ gather"] = layers["fp32"].torch(gather=True)
    times = interleaved(runs, turns=turns)
    plan = f" {times['plan'] * 1e6:7.0f}"
    lines = []
    for name, layer in layers.items():
        own, (compute, memory) = times[name], layer.floor(peaks)
        operations = 4.0 * case.pairs * heads[0] * heads[2]
        lines.append(
            f"{name} {own * 1e3:9.3f} {operations / own / 1e9:8.1f}"
            f" {100 * max(compute, memory) / own:5.0f}% {times['torch'] / own:8.2f}x"
            f" {times['+ gather'] / own:8.2f}x{plan if name == 'fp32' else ''}"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--model", nargs="*", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--case", nargs="*", default=[""], help="beginnings of the names of cases")
    parser.add_argument("--threads", type=int, default=threads.num_threads())
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args(arguments)
    threads.set_num_threads(args.threads)
    library().ramet_set_num_threads(args.threads)
    peaks = measure_peaks(args.threads, 0.3)
    memory = f"{peaks.bandwidth:.1f} GB/s" if peaks.bandwidth else "not measured"
    print(f"machine: {describe()}")
    print(
        f"{args.threads} threads; peak {peaks.compute.get('fp32', 0):.0f} GFLOP/s; memory {memory}"
    )
    print(f"{'':26} KV          ms  GFLOP/s floor    torch  + gather  plan us")
    for model in args.model:
        for name, case in CASES.items():
            if not name.startswith(tuple(args.case)):
                continue
            for i, text in enumerate(measure(case, HEADS[model], peaks, args.turns)):
                print(f"{name if i == 0 else '':26} {text}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
