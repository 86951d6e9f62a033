"""Native matrix products: equal to their definitions bit by bit, whatever rows come along.

The definitions are those of kernels/cpu/linear.h, written again in numpy. `test_cpu_levels.py` runs
this file again for every instruction set that this machine has.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.kernels.fused import Floats, chain, fused

from ramet.errors import InvalidRequest
from ramet.kernels import quantize, threads
from ramet.kernels.cpu.build import best_level
from ramet.kernels.cpu.library import library, why_not

if why_not() is not None:
    pytest.skip(f"no native kernels: {why_not()}", allow_module_level=True)

from ramet.kernels.cpu.linear import KINDS, NativeLinear

# Inputs and outputs: one, none a multiple of 4 or 32, whole panels, wide and tall.
SHAPES = [(1, 1), (3, 5), (4, 32), (5, 33), (65, 97), (64, 64), (131, 259), (576, 192), (48, 1000)]
FUSES = "fma" in best_level().needs  # the portable level rounds a multiply-add twice


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    monkeypatch.setattr(threads, "_asked", 2)
    yield
    library().ramet_set_num_threads(1)


def matrices(
    num_in: int, num_out: int, rows: int = 20, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [rows, in], weight [out, in], bias [out]; rows and columns of very different sizes."""
    generator = torch.Generator().manual_seed(1000 * num_in + num_out + seed)
    x = torch.randn(rows, num_in, generator=generator)
    weight = torch.randn(num_out, num_in, generator=generator)
    bias = torch.randn(num_out, generator=generator)
    x *= 10 ** (4 * torch.rand(rows, 1, generator=generator) - 2)
    weight *= 10 ** (2 * torch.rand(num_out, 1, generator=generator) - 1)
    return x, weight, bias


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.view(torch.int32), b.view(torch.int32))


# -- definitions ---------------------------------------------------------------------------------


def in_bytes(x: Floats) -> tuple[np.ndarray, Floats]:
    """Rows as integers -127 .. 127 and their scales."""
    largest = np.abs(x).max(1, keepdims=True)
    zero = largest < np.float32(1e-30)
    inverse = np.float32(127) / np.where(zero, np.float32(1), largest)
    integers = np.where(zero, np.float32(0), np.rint(x * inverse))
    return integers.astype(np.int64), np.where(zero, np.float32(0), largest / np.float32(127))[:, 0]


def by_definition(
    kind: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """One rounding per operation, in float32 throughout."""
    if kind == "int8":
        (q, row_scale), (w, scale) = in_bytes(x.numpy()), in_bytes(weight.numpy())
        y = (q @ w.T).astype(np.float32) * (row_scale[:, None] * scale[None, :])
    else:
        rounded = weight.half().float() if kind == "fp16" else weight
        y = chain(x.numpy(), rounded.numpy(), fuse=FUSES)
    return torch.from_numpy(y if bias is None else y + bias.numpy())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_its_definition(kind: str, shape: tuple[int, int], bias: bool) -> None:
    x, weight, b = matrices(*shape)
    given = b if bias else None
    got = NativeLinear(weight, given, kind)(x)
    assert got.dtype == torch.float32
    assert same_bits(got, by_definition(kind, x, weight, given))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["fp16", "fp32"])
def test_float_kinds_are_near_the_exact_product(kind: str, shape: tuple[int, int]) -> None:
    """A chain of n multiply-adds errs by at most n half units of the sum of magnitudes (Higham,
    section 3.1), with the bias and a rounding twice on the portable level 2 n + 1.
    """
    x, weight, bias = matrices(*shape)
    got = NativeLinear(weight, bias, kind)(x).double()
    w = (weight.half() if kind == "fp16" else weight).double()
    want = x.double() @ w.T + bias.double()
    room = (2 * shape[0] + 1) * 2.0**-24 * (x.double().abs() @ w.abs().T + bias.double().abs())
    assert ((got - want).abs() <= room).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_is_near_the_product_of_the_numbers(shape: tuple[int, int]) -> None:
    """Each factor is off by at most half a step, a step being 1/127 of its row's largest."""
    x, weight, bias = matrices(*shape)
    got = NativeLinear(weight, bias, "int8")(x).double()
    x, weight = x.double(), weight.double()
    step_x, step_w = (t.abs().amax(1, keepdim=True) / 254 * 1.0001 for t in (x, weight))
    room = step_x * weight.abs().sum(1) + x.abs().sum(1, keepdim=True) * step_w.T
    room = room + shape[0] * step_x * step_w.T + 1e-6 * bias.abs()
    assert ((got - (x @ weight.T + bias.double())).abs() <= room).all()


def test_the_slow_twin_of_the_kernels_equals_the_native_one() -> None:
    for shape in SHAPES:
        x, weight, bias = matrices(*shape)
        packed, scale = quantize.quantize_int8(weight)
        want = by_definition("int8", x, weight, bias)
        assert same_bits(quantize.linear_int8(x, packed, scale, bias), want)
        assert same_bits(NativeLinear(packed, bias, "int8", scale=scale)(x), want)


def test_the_slow_twin_rounds_as_the_kernel_does() -> None:
    """Numbers of few bits, which often lie in the middle between two integers."""
    x = torch.randn(400, 64, generator=torch.Generator().manual_seed(5)).bfloat16().float()
    identity, scale = torch.eye(64, dtype=torch.int8), torch.ones(64)
    want, row_scale = in_bytes(x.numpy())
    got = NativeLinear(identity, None, "int8", scale=scale)(x)
    assert same_bits(got, torch.from_numpy(want.astype(np.float32) * row_scale[:, None]))
    integers, scales = quantize.quantize_rows(x)
    assert torch.equal(integers.long(), torch.from_numpy(want))
    assert same_bits(scales, torch.from_numpy(row_scale))


def test_halves_are_taken_as_they_are() -> None:
    """Every fp16 number: normal, subnormal, zero of both signs, infinite and NaN."""
    weight = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.float16)[:, None]
    got = NativeLinear(weight, None, "fp16")(torch.ones(1, 1))[0]
    want = weight[:, 0].float() + 0.0  # the sum begins with 0, so there is no -0
    assert torch.equal(got[~want.isnan()], want[~want.isnan()])
    assert torch.equal(got.isnan(), want.isnan())


def test_the_largest_integers() -> None:
    """The most inputs there may be, all at the ends of their ranges: sums just below 2^31 / 2."""
    num_in = 1 << 16
    weight = torch.full((3, num_in), -128, dtype=torch.int8)
    weight[1], weight[2] = 127, torch.arange(num_in).remainder(2) * 255 - 128
    x = torch.ones(2, num_in)
    x[1, ::2] = -1.0
    scale = torch.tensor([1.0, 2.0, 0.5])
    got = NativeLinear(weight, None, "int8", scale=scale)(x)
    sums = (x * 127).double() @ weight.double().T
    want = sums.float() * (torch.tensor(1.0) / 127 * scale)
    assert same_bits(got, want)


def test_ties_go_to_even() -> None:
    """With a largest of 127 the scale is 1 and x is rounded as it is."""
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 126.5, -126.5]])
    got = NativeLinear(torch.eye(10), None, "int8", scale=None)(x)
    integers = torch.tensor([[127.0, 0, 2, 2, 0, -2, -2, 0, 126, -126]])
    scale = torch.tensor(1.0) / 127 * 1  # of the identity's rows, whose integers are 127
    assert torch.equal(got, integers * 127 * scale)


# -- bits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(65, 97), (131, 259), (576, 192), (7, 2000)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_in_any_batch(
    kind: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, bias = matrices(*shape, rows=700)
    linear = NativeLinear(weight, bias, kind)
    full = linear(x)
    alone = torch.cat([linear(x[i : i + 1]) for i in range(len(x))])
    assert same_bits(alone, full)
    for count in (1, 3):
        monkeypatch.setattr(threads, "_asked", count)
        different = [
            n for n in [*range(71), 127, 255, 512] if not same_bits(linear(x[:n]), full[:n])
        ]
        assert different == [], f"{count} threads"
        assert same_bits(linear(x), full)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert same_bits(linear(x[order]), full[order])
    assert all(same_bits(linear(x[n:]), full[n:]) for n in range(1, 40))


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_does_not_depend_on_the_other_outputs(kind: str) -> None:
    """Matrices that read the same input are fused when loading: each part keeps its bits."""
    x, weight, bias = matrices(100, 150)
    full = NativeLinear(weight, bias, kind)(x)
    for first, last in ((0, 1), (1, 40), (31, 33), (149, 150), (5, 150)):
        part = NativeLinear(weight[first:last], bias[first:last], kind)(x)
        assert same_bits(part, full[:, first:last].contiguous())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_row_does_not_touch_the_others(kind: str, bad: float) -> None:
    x, weight, bias = matrices(70, 90, rows=50)
    linear = NativeLinear(weight, bias, kind)
    want = linear(x)
    for row, column in ((0, 0), (7, 69), (30, 33), (49, 1)):
        x[row, column] = bad
    got = linear(x)
    kept = [i for i in range(50) if i not in (0, 7, 30, 49)]
    assert same_bits(got[kept], want[kept])
    broken = got[[0, 7, 30, 49]]
    assert not broken.isfinite().any()
    assert kind != "int8" or broken.isnan().all()


def test_rows_of_nothing_and_next_to_nothing() -> None:
    x, weight, bias = matrices(37, 40, rows=5)
    x[0], x[1], x[2], x[3] = 0.0, 1e-38, -1e-31, 3e38 * torch.ones(37)
    for kind in KINDS:
        got = NativeLinear(weight * 1e-3, bias, kind)(x)
        assert same_bits(got, by_definition(kind, x, weight * 1e-3, bias))
        assert got.isfinite().all()
    assert same_bits(NativeLinear(torch.zeros(3, 37), None, "int8")(x), torch.zeros(5, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_may_lie_apart(kind: str) -> None:
    x, weight, bias = matrices(37, 70, rows=30)
    linear = NativeLinear(weight, bias, kind)
    wide = torch.full((30, 50), torch.nan)
    wide[:, 5:42] = x
    assert same_bits(linear(wide[:, 5:42]), linear(x))
    assert same_bits(linear(x.T.contiguous().T), linear(x))
    assert same_bits(linear(x[:1].expand(30, -1)), linear(x[:1]).expand(30, -1).contiguous())
    assert same_bits(linear(wide[::2, 5:42]), linear(x[::2].contiguous()))


@pytest.mark.parametrize("kind", KINDS)
def test_adding_to_what_is_there(kind: str) -> None:
    """As a residual: the product with its bias is rounded, then added, outputs at any distance."""
    x, weight, bias = matrices(45, 67, rows=29)
    linear = NativeLinear(weight, bias, kind)
    there = torch.randn(29, 80, generator=torch.Generator().manual_seed(2))
    got = there.clone()
    library().ramet_linear(
        linear.struct, x.data_ptr(), x.stride(0), 29, got.data_ptr(), got.stride(0), 1, 2
    )
    assert same_bits(got[:, :67].contiguous(), there[:, :67] + linear(x))
    assert same_bits(got[:, 67:].contiguous(), there[:, 67:].contiguous())


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind: str) -> None:
    _, weight, bias = matrices(8, 12)
    assert NativeLinear(weight, bias, kind)(torch.empty(0, 8)).shape == (0, 12)


def test_callers_at_the_same_time_take_turns() -> None:
    x, weight, bias = matrices(200, 150, rows=40)
    linears = [NativeLinear(weight, bias, kind) for kind in KINDS]
    wanted = [linear(x) for linear in linears]
    wrong: list[str] = []

    def caller(number: int) -> None:
        for _ in range(60):
            if not same_bits(linears[number](x), wanted[number]):
                wrong.append(KINDS[number])

    callers = [threading.Thread(target=caller, args=(i % 3,)) for i in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert wrong == []


# -- what it owns, and refusals ------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "size"), [("int8", 1), ("fp16", 2), ("fp32", 4)])
def test_bytes(kind: str, size: int) -> None:
    """Whole panels of 32 outputs, the bias, and for int8 a scale and an offset per output."""
    linear = NativeLinear(torch.zeros(64, 40), torch.zeros(64), kind)
    assert linear.num_bytes == 64 * 40 * size + 64 * 4 * (3 if kind == "int8" else 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_dtype(kind: str, dtype: torch.dtype) -> None:
    x, weight, bias = matrices(33, 20)
    got = NativeLinear(weight.to(dtype), bias.to(dtype), kind)(x)
    want = by_definition(kind, x, weight.to(dtype).float(), bias.to(dtype).float())
    assert same_bits(got, want)


def test_refusals() -> None:
    weight = torch.zeros(5, 4)
    for make in (
        lambda: NativeLinear(weight, None, "int4"),
        lambda: NativeLinear(torch.zeros(0, 4), None),
        lambda: NativeLinear(torch.zeros(5, 0), None),
        lambda: NativeLinear(torch.zeros(1, (1 << 16) + 1), None, "int8"),
        lambda: NativeLinear(weight, torch.zeros(4)),
        lambda: NativeLinear(weight.to(torch.int8), None, "int8", scale=torch.zeros(4)),
    ):
        with pytest.raises(InvalidRequest):
            make()
    linear = NativeLinear(weight)
    for x in (torch.zeros(4), torch.zeros(2, 5), torch.zeros(2, 4).double(), torch.zeros(1, 2, 4)):
        with pytest.raises(InvalidRequest, match=r"^x: .* is not float32 \[rows, 4\]"):
            linear(x)


def test_the_fused_twin_itself() -> None:
    """Cases in which rounding twice is wrong: a * b + c just above or below the middle of two
    floats.
    """
    one, tiny = np.float32(1), np.float32(2.0**-40)
    half = np.float32(2.0**-24)  # half a unit of 1
    odd = one + np.float32(2.0**-23)
    got = fused(np.array([tiny, -tiny, tiny, -tiny]), one, np.array([one, one, odd, odd]))
    assert got.tolist() == [1, 1, odd, odd]
    # (1 + 2^-12)(2^-24 - 2^-36) = 2^-24 - 2^-48: a little below half a unit, which float64 cannot
    # hold
    a, b = np.float32(1 + 2.0**-12), np.float32(2.0**-24 - 2.0**-36)
    assert fused(a, b, odd) == odd
    assert fused(a, half, odd) == odd + np.float32(2.0**-23)
    # 2^-24 + 2^-60 is above half a unit; float64 drops the rest and would then round to even
    c = np.float32(1.0)
    x = np.array([2.0**-24 * (1 + 2.0**-23)], np.float32)
    assert fused(x, np.array([1 + 2.0**-23], np.float32), c) == np.float32(1 + 2.0**-23)
