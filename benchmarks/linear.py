"""Matrix products: the native kernels, what PyTorch has for the same numbers, and the machine's
limits.

    python -m benchmarks.linear [--model 135m 1.1b] [--kind int8 fp16 fp32] [--rows 1 8 64 ...]
    [--threads 2]

One line per shape and number of rows. A floor is the longer of two times: reading the weights once
at the measured bandwidth, and the operations at the measured peak of registers (`peak.py`); "%" is
floor / time, so 100 cannot be passed but by what lies in caches. Weights are cold: calls go through
more copies than the caches hold, as a forward pass goes through its layers. Native int8 and
FBGEMM's dynamic one quantize the rows as well; oneDNN's is given rows that already are bytes.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.interleaved import interleaved
from benchmarks.machine import describe
from benchmarks.peak import Peaks, measure_peaks
from ramet.kernels import linear as packed
from ramet.kernels import threads
from ramet.kernels.cpu.library import library
from ramet.kernels.cpu.linear import NativeLinear

__all__ = ["main"]

# (inputs, outputs): queries, keys and values; o; gate and up; down; output.
SHAPES = {
    "135m": [(576, 960), (576, 576), (576, 3072), (1536, 576), (576, 8192)],
    "1.1b": [(2048, 2560), (2048, 2048), (2048, 11264), (5632, 2048), (2048, 32000)],
}
ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024]
WEIGHT_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}
_COLD = 80 << 20  # bytes of all copies together, more than the caches hold
_MOST_COPIES = 120

Run = Callable[[torch.Tensor], object]
Make = Callable[[torch.Tensor], Run]


# -- contestants ---------------------------------------------------------------------------------


def native(kind: str) -> Make:
    """The library's entry itself: a forward pass calls it from C++."""

    def make(weight: torch.Tensor) -> Run:
        matrix = NativeLinear(weight, None, kind)
        call, count = library().ramet_linear, threads.num_threads()
        num_in, num_out = matrix.in_features, matrix.out_features

        def run(x: torch.Tensor) -> object:
            y = torch.empty(len(x), num_out)
            call(matrix.struct, x.data_ptr(), num_in, len(x), y.data_ptr(), num_out, 0, count)
            return matrix, y

        return run

    return make


def f_linear(weight: torch.Tensor) -> Run:
    kept = weight.clone()
    return lambda x: F.linear(x, kept)


def fbgemm_dynamic(weight: torch.Tensor) -> Run:
    """One scale for all rows, unlike the others."""
    prepacked = torch.ops.quantized.linear_prepack(_per_channel(weight), None)
    return lambda x: torch.ops.quantized.linear_dynamic(x, prepacked, False)


def onednn(weight: torch.Tensor) -> Run:
    quantized = _per_channel(weight)
    prepacked = torch.ops.onednn.qlinear_prepack(quantized.int_repr(), None)
    scales = quantized.q_per_channel_scales().float()
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    call = torch.ops.onednn.qlinear_pointwise
    rows: dict[int, torch.Tensor] = {}

    def run(x: torch.Tensor) -> object:
        given = rows.setdefault(len(x), torch.full(x.shape, 7, dtype=torch.uint8))
        return call(
            given, 0.1, 128, prepacked, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )  # fmt: skip

    return run


def _per_channel(weight: torch.Tensor) -> torch.Tensor:
    scales = (weight.abs().amax(1) / 127).double()
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    return torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)


CONTESTANTS: dict[str, dict[str, Make]] = {
    "int8": {"native": native("int8"), "FBGEMM": fbgemm_dynamic, "oneDNN": onednn},
    "fp16": {"native": native("fp16"), "FBGEMM": packed.Fp16Linear},
    "fp32": {"native": native("fp32"), "F.linear": f_linear, "MKL packed": packed.MklLinear},
}


# -- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    kind: str
    num_in: int
    num_out: int
    rows: int

    @property
    def operations(self) -> float:
        return 2.0 * self.rows * self.num_in * self.num_out

    @property
    def num_bytes(self) -> float:
        """Of the weights, and of the rows in and out in float32."""
        weights = self.num_in * self.num_out * WEIGHT_BYTES[self.kind]
        return float(weights + 4 * self.rows * (self.num_in + self.num_out))

    def floor(self, peaks: Peaks) -> float:
        """Seconds; 0 if nothing is known of the machine."""
        rate = peaks.compute.get("int8" if self.kind == "int8" else "fp32")
        compute = self.operations / rate / 1e9 if rate else 0.0
        memory = self.num_bytes / peaks.bandwidth / 1e9 if peaks.bandwidth else 0.0
        return max(compute, memory)


def contestants(kind: str, num_in: int, num_out: int) -> dict[str, Run]:
    """Those that this torch has; each goes through copies of the same matrix."""
    weight = torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(0)) * 0.05
    size = num_in * num_out * WEIGHT_BYTES[kind]
    copies = min(_MOST_COPIES, _COLD // size + 2)
    found: dict[str, Run] = {}
    for name, make in CONTESTANTS[kind].items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # quantized tensors are deprecated
                runs = [make(weight) for _ in range(copies)]
                runs[0](torch.zeros(1, num_in))
        except (AttributeError, RuntimeError, NotImplementedError) as error:
            print(f"{name} ({kind}) does not run here: {str(error).splitlines()[0][:90]}")
            continue
        found[name] = _in_turns(runs)
    return found


def _in_turns(runs: list[Run]) -> Run:
    following = itertools.cycle(runs)

    def run(x: torch.Tensor) -> object:
        return next(following)(x)

    return run


def measure(
    kind: str, num_in: int, num_out: int, rows: list[int], turns: int
) -> Iterator[tuple[Cell, dict[str, float]]]:
    runs = contestants(kind, num_in, num_out)
    for count in rows:
        x = torch.randn(count, num_in, generator=torch.Generator().manual_seed(1))
        bound = {name: functools.partial(run, x) for name, run in runs.items()}
        yield Cell(kind, num_in, num_out, count), interleaved(bound, turns=turns)


def line(cell: Cell, times: dict[str, float], peaks: Peaks) -> str:
    """Rate and bandwidth of the native kernel, its share of the floor, and how much slower others
    are.
    """
    shape = f"{cell.num_in}x{cell.num_out}"
    own = times["native"]
    share = f"{100 * cell.floor(peaks) / own:4.0f}%" if cell.floor(peaks) else "    -"
    row = (
        f"{cell.kind:5} {shape:>11} {cell.rows:5} {own * 1e6:9.1f} "
        f"{cell.num_bytes / own / 1e9:7.1f} {cell.operations / own / 1e9:8.1f} {share}"
    )
    for name, time in times.items():
        if name != "native":
            row += f"   {name} {cell.operations / time / 1e9:6.1f} ({time / own:4.2f}x)"
    return row


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    parser.add_argument("--model", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--kind", nargs="*", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--rows", nargs="*", type=int, default=ROWS)
    parser.add_argument("--threads", type=int, default=threads.num_threads())
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args(arguments)
    threads.set_num_threads(args.threads)
    peaks = measure_peaks(args.threads, 0.3)
    rates = ", ".join(f"{kind} {rate:.0f} GOP/s" for kind, rate in peaks.compute.items())
    memory = f"{peaks.bandwidth:.1f} GB/s" if peaks.bandwidth else "not measured"
    print(f"machine: {describe()}\n{args.threads} threads; peak: {rates}; memory: {memory}")
    print(
        "          in x out  rows        us    GB/s    GOP/s floor   others: GOP/s (time / native)"
    )
    for model, kind in itertools.product(args.model, args.kind):
        for num_in, num_out in SHAPES[model]:
            for cell, times in measure(kind, num_in, num_out, args.rows, args.turns):
                print(line(cell, times, peaks), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
