"""The shortest time that this machine could take for a workload, from its measured limits.

`measure` finds the machine's rates; `floor` divides what a trace needs (`optimum.Needs`) by them:

    compute = operations of the unique tokens' matrices / matrix rate
            + operations of attention / matrix rate in the form of the keys
    memory  = (passes that depend on one another x bytes of the weights
            + readings of keys and values by later passes + writing them once) / bandwidth
    floor   = max(compute, memory)

An operation is a multiplication or an addition. Every token is computed once; a row of logits only where
one is read. The matrix rate is that of the arithmetic units themselves (`peak`), or of the fastest matrix
product that was measured if that is higher (without a compiler it is all there is). Norms, activations,
sampling, the tokenizer and Python cost nothing here, so nothing reaches 1. Two things can make a figure
fall below 1: weights or keys that fit the processor's caches are read faster than memory is, and several
tokens of a request can come from one pass (drafts). Knows sizes and rates, no engine.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from benchmarks.optimum import Needs
from benchmarks.peak import measure_peaks

__all__ = [
    "BYTES_PER_WEIGHT",
    "Floor",
    "Machine",
    "Sizes",
    "best_of",
    "floor",
    "measure",
    "now",
    "precision",
]

BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0}
MANY_ROWS = 512
_STREAM_BYTES = 256 << 20  # more than any cache holds
_COLD_BYTES = 96 << 20  # the same, for matrices at one byte per weight
_SECONDS = 0.4  # per measurement
_OUT, _IN = 2048, 2048


class Sizes(Protocol):
    """A decoder's sizes, as `ramet.models.config.ModelConfig` has them."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Machine:
    """10^9 operations, and bytes read, per second on `threads` threads.

    - `peaks["fp32" | "bf16" | "int8"]`: of the arithmetic units, as far as known.
    - `products[form of the weights][rows]`: of the fastest matrix product there is, with 1 row (weights
      from memory) and with many; `kernels`: which one that is at many rows.
    - `bandwidth`: of memory.
    """

    threads: int
    bandwidth: float
    peaks: dict[str, float]
    products: dict[str, dict[int, float]]
    kernels: dict[str, str]

    def rate(self, held: str) -> float:
        """The matrix rate for weights in this form: fp16 weights are multiplied in fp32."""
        units = self.peaks.get("int8" if held == "int8" else "fp32", 0.0)
        return max(units, self.products.get(held, {}).get(MANY_ROWS, 0.0))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rates": {held: self.rate(held) for held in BYTES_PER_WEIGHT}}

    def describe(self) -> str:
        units = ", ".join(f"{name} {rate:.0f}" for name, rate in self.peaks.items()) or "not known"
        parts = [
            f"{name} {rate[MANY_ROWS]:.0f} ({rate[1]:.0f} at one row)"
            for name, rate in self.products.items()
        ]
        return (
            f"{self.threads} threads; memory {self.bandwidth:.1f} GB/s; 10^9 operations/s: units "
            f"{units}; matrix products of {MANY_ROWS} rows {', '.join(parts)}"
        )


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds."""

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory)


def precision(options: dict[str, Any]) -> str:
    """The form of the weights that an engine with these options has on a CPU."""
    if options.get("quantization"):
        return "int8"
    return "fp32" if options.get("dtype") == "float32" else "fp16"


def floor(
    needs: Needs, sizes: Sizes, machine: Machine, held: str, kv_bytes: float, kv: str = "fp32"
) -> Floor:
    """`held`: the form of the weights, a key of `BYTES_PER_WEIGHT`; `kv_bytes`: of one token's keys and
    values in all layers; `kv`: their form. Only "bf16" is multiplied as it is, others in fp32."""
    layers, output = _weights(sizes)
    matrices = 2 * (needs.unique_tokens * layers + needs.logit_rows * output)
    attention = 4 * sizes.num_layers * sizes.num_heads * sizes.head_dim * needs.context_sum
    rate = max(machine.rate("fp32"), machine.peaks.get(kv, 0.0) if kv == "bf16" else 0.0)
    compute = matrices / machine.rate(held) + attention / rate
    weights = needs.passes * (layers + output) * BYTES_PER_WEIGHT[held]
    keys = (needs.kv_reads + needs.unique_tokens) * kv_bytes
    return Floor(compute / 1e9, (weights + keys) / machine.bandwidth / 1e9)


def _weights(sizes: Sizes) -> tuple[int, int]:
    """(weights of all layers' matrices, weights of the output matrix)."""
    queries = sizes.num_heads * sizes.head_dim
    kv = sizes.num_kv_heads * sizes.head_dim
    attention = sizes.hidden_size * (2 * queries + 2 * kv)
    layer = attention + 3 * sizes.hidden_size * sizes.intermediate_size
    return sizes.num_layers * layer, sizes.vocab_size * sizes.hidden_size


# -- measuring -----------------------------------------------------------------------------------


def measure(threads: int | None = None, seconds: float = _SECONDS) -> Machine:
    """Takes about 16 times `seconds`. `threads`: those that the engine uses (default: as many as it)."""
    from ramet.kernels.threads import num_threads, set_num_threads

    before = num_threads()
    count = threads or before
    set_num_threads(count)
    try:
        products: dict[str, dict[int, float]] = {}
        kernels = {}
        for held in BYTES_PER_WEIGHT:
            best = {rows: _fastest(held, rows, seconds) for rows in (1, MANY_ROWS)}
            if any(rate for rate, _ in best.values()):
                products[held] = {rows: rate for rows, (rate, _) in best.items()}
                kernels[held] = best[MANY_ROWS][1]
        peaks = measure_peaks(count, seconds)
        bandwidth = max(peaks.bandwidth or 0.0, _torch_bandwidth(seconds))
        return Machine(count, bandwidth, peaks.compute, products, kernels)
    finally:
        set_num_threads(before)


def now(machine: Machine, seconds: float = _SECONDS) -> Machine:
    """`machine` with the limits that it has now, but for the matrix products: that of memory above all
    changes with whoever else uses the same memory."""
    peaks = measure_peaks(machine.threads, seconds)
    if peaks.bandwidth is None:
        return replace(machine, bandwidth=_torch_bandwidth(seconds))
    return replace(machine, bandwidth=peaks.bandwidth, peaks=peaks.compute)


def best_of(a: Machine, b: Machine) -> Machine:
    """The higher of each limit: what disturbed one measurement did not make the machine slower."""
    peaks = {kind: max(rate, b.peaks.get(kind, 0.0)) for kind, rate in a.peaks.items()}
    return replace(a, bandwidth=max(a.bandwidth, b.bandwidth), peaks=peaks)


def _torch_bandwidth(seconds: float) -> float:
    import torch

    data = torch.ones(_STREAM_BYTES // 4)
    return _STREAM_BYTES / _best_time(data.sum, seconds) / 1e9


def _fastest(held: str, rows: int, seconds: float) -> tuple[float, str]:
    found = [(0.0, "none")]
    for name, make in _candidates(held):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what one kernel lacks, another one has
                run = make(rows)
                time_each = _best_time(run, seconds / 2) / _copies(rows)
        except Exception:  # whatever is wrong with one kernel here, another one is measured
            continue
        found.append((2 * rows * _OUT * _IN / time_each / 1e9, name))
    return max(found)


def _candidates(held: str) -> Iterator[tuple[str, Callable[[int], Callable[[], Any]]]]:
    """Matrix products for weights in this form: those of the engine, and one of torch."""
    from ramet.kernels import linear

    packed = {"fp32": ("MklLinear", "TorchLinear"), "fp16": ("Fp16Linear",), "int8": ()}[held]
    for name in packed:
        yield name, functools.partial(_linear, getattr(linear, name))
    yield "NativeLinear", functools.partial(_linear, _native(held))
    if held == "int8":
        yield "torch._int_mm", _int_mm


def _native(held: str) -> Callable[[Any, Any], Any]:
    from ramet.kernels.cpu.linear import NativeLinear

    return lambda weight, bias: NativeLinear(weight, bias, held)


def _linear(kind: Callable[[Any, Any], Any], rows: int) -> Callable[[], Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_OUT, _IN, generator=generator)
    packed = [kind(weight, None) for _ in range(_copies(rows))]
    x = torch.randn(rows, _IN, generator=generator)
    return lambda: [linear(x) for linear in packed]


def _int_mm(rows: int) -> Callable[[], Any]:
    import torch

    x = torch.randint(-127, 128, (rows, _IN), dtype=torch.int8)
    one = torch.randint(-127, 128, (_IN, _OUT), dtype=torch.int8)
    weights = [one.clone() for _ in range(_copies(rows))]
    return lambda: [torch._int_mm(x, weight) for weight in weights]


def _copies(rows: int) -> int:
    """One row reads a matrix as fast as memory gives it, so it goes through more than caches hold."""
    return 1 if rows > 1 else max(2, _COLD_BYTES // (_OUT * _IN))


def _best_time(run: Callable[[], Any], seconds: float) -> float:
    """Of at least three calls, and as many as fit."""
    run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
