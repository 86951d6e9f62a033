"""The shortest time that this machine could take for a workload, from its measured limits.

`measure` finds the machine's rates; `floor` divides what a trace needs (`optimum.Needs`) by them:

    compute = operations of the unique tokens' matrices / matrix rate at many rows
            + operations of attention / fp32 matrix rate
    memory  = (passes that depend on one another x bytes of the weights
            + readings of keys and values by later passes + writing them once) / bandwidth
    floor   = max(compute, memory)

An operation is a multiplication or an addition. Every token is computed once, at the rate of large
matrices; a row of logits only where one is read. Norms, activations, sampling, the tokenizer and Python
cost nothing here, so nothing reaches 1. Two things can make a figure fall below 1: weights or keys that
fit the processor's caches are read faster than memory is, and a kernel that is faster than every one that
was measured. Knows sizes and rates, no engine.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from benchmarks.optimum import Needs

__all__ = ["BYTES_PER_WEIGHT", "Floor", "Machine", "Sizes", "floor", "measure", "precision"]

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
    """`rates[precision][rows]`: 10^9 operations per second of the fastest matrix product there is for
    that form of the weights, with 1 row and with many. `bandwidth`: 10^9 bytes per second read."""

    threads: int
    bandwidth: float
    rates: dict[str, dict[int, float]]
    kernels: dict[str, str]  # which one was fastest at many rows

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        parts = [
            f"{name} {rate[MANY_ROWS]:.0f} ({rate[1]:.0f} at one row)"
            for name, rate in self.rates.items()
        ]
        return (
            f"{self.threads} threads; memory {self.bandwidth:.1f} GB/s; 10^9 operations/s at "
            f"{MANY_ROWS} rows: {', '.join(parts)}"
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


def floor(needs: Needs, sizes: Sizes, machine: Machine, held: str, kv_bytes: float) -> Floor:
    """`held`: the form of the weights, a key of `BYTES_PER_WEIGHT`; `kv_bytes`: of one token's keys and
    values in all layers."""
    layers, output = _weights(sizes)
    matrices = 2 * (needs.unique_tokens * layers + needs.logit_rows * output)
    attention = 4 * sizes.num_layers * sizes.num_heads * sizes.head_dim * needs.context_sum
    compute = (
        matrices / machine.rates[held][MANY_ROWS] + attention / machine.rates["fp32"][MANY_ROWS]
    )
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
    """Takes about 12 times `seconds`. `threads`: those that the engine uses (default: torch's)."""
    import torch

    before = torch.get_num_threads()
    _set_threads(threads or before)
    try:
        rates: dict[str, dict[int, float]] = {}
        kernels = {}
        for held in BYTES_PER_WEIGHT:
            best = {rows: _fastest(held, rows, seconds) for rows in (1, MANY_ROWS)}
            if any(rate for rate, _ in best.values()):
                rates[held] = {rows: rate for rows, (rate, _) in best.items()}
                kernels[held] = best[MANY_ROWS][1]
        return Machine(torch.get_num_threads(), _bandwidth(seconds), rates, kernels)
    finally:
        _set_threads(before)


def _set_threads(count: int) -> None:
    import torch

    try:
        from ramet.kernels.threads import set_num_threads
    except ImportError:  # an engine whose kernels are torch's alone
        torch.set_num_threads(count)
    else:
        set_num_threads(count)


def _bandwidth(seconds: float) -> float:
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
        yield name, lambda rows, name=name: _linear(getattr(linear, name), rows)
    yield "NativeLinear", lambda rows: _linear(_native(held), rows)
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
