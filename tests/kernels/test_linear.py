"""Packed linears: right numbers, and a row's bits do not depend on the other rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from ramet.kernels import linear
from ramet.kernels.linear import Fp16Linear, MklLinear, TorchLinear, pack_linear

COUNTS = [*range(1, 71), 100, 127, 200, 255]
PACKED = {"fp16": (Fp16Linear, torch.float16), "fp32": (MklLinear, torch.float32)}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


def need(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem = linear.why_not(kind)
    if problem is not None:
        pytest.skip(f"packed {kind} linear {problem}")


def matrices(num_out: int, num_in: int, rows: int = 256) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(num_out)
    shapes = ((rows, num_in), (num_out, num_in), (num_out,))
    return tuple(torch.randn(s, generator=generator) for s in shapes)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", PACKED)
def test_numbers(kind: str, bias: bool) -> None:
    need(kind)
    make, dtype = PACKED[kind]
    x, weight, b = matrices(97, 65)
    got = make(weight, b if bias else None)(x)
    expected = F.linear(x.double(), weight.to(dtype).double(), b.double() if bias else None)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("shape", [(64, 64), (97, 65), (576, 192), (300, 800)], ids=str)
@pytest.mark.parametrize("kind", PACKED)
def test_a_row_has_the_same_bits_in_any_batch(
    kind: str, shape: tuple[int, int], num_threads: int
) -> None:
    need(kind)
    torch.set_num_threads(num_threads)
    x, weight, bias = matrices(*shape)
    packed = PACKED[kind][0](weight, bias)
    full = packed(x)
    different = [n for n in COUNTS if not torch.equal(packed(x[:n]), full[:n])]
    assert different == []
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert torch.equal(packed(x[order]), full[order])
    assert all(torch.equal(packed(x[n:]), full[n:]) for n in range(1, 20))


@pytest.mark.parametrize("kind", PACKED)
def test_no_rows(kind: str) -> None:
    need(kind)
    _, weight, bias = matrices(12, 8)
    assert PACKED[kind][0](weight, bias)(torch.empty(0, 8)).shape == (0, 12)


def test_fp16_keeps_small_numbers() -> None:
    need("fp16")
    weight = torch.logspace(-9, 4, 64).reshape(8, 8)
    got = Fp16Linear(weight)(torch.eye(8))
    assert torch.equal(got.T, weight.half().float())


def test_choice_by_dtype() -> None:
    _, weight, bias = matrices(12, 8)
    if linear.why_not("fp16") is None:
        assert isinstance(pack_linear(weight, bias, torch.float16), Fp16Linear)
    if linear.why_not("fp32") is None:
        assert isinstance(pack_linear(weight, bias, torch.float32), MklLinear)


def test_numbers_beyond_fp16_stay_fp32_and_say_so() -> None:
    x, weight, bias = matrices(12, 8)
    weight[3, 4] = -1e6
    with pytest.warns(UserWarning, match="layer 3 holds numbers beyond float16's 65504"):
        packed = pack_linear(weight, bias, torch.float16, "layer 3")
    torch.testing.assert_close(packed(x), F.linear(x, weight, bias))


def test_missing_operators_are_replaced_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise AttributeError("no such operator")

    monkeypatch.setattr(Fp16Linear, "__init__", gone)
    monkeypatch.setattr(MklLinear, "__init__", gone)
    linear.why_not.cache_clear()
    try:
        x, weight, bias = matrices(12, 8)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            packed = pack_linear(weight, bias, torch.float16)
            pack_linear(weight, bias, torch.float16)
        assert isinstance(packed, TorchLinear)
        assert [str(w.message).split(" linear")[0] for w in said] == ["packed fp16", "packed fp32"]
        torch.testing.assert_close(packed(x), F.linear(x, weight.half().float(), bias))
    finally:
        linear.why_not.cache_clear()


def test_wrong_numbers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    need("fp16")
    right = Fp16Linear.__call__
    monkeypatch.setattr(Fp16Linear, "__call__", lambda self, x: right(self, x) * 1.001)
    linear.why_not.cache_clear()
    try:
        with pytest.warns(UserWarning, match="wrong numbers"):
            assert linear.why_not("fp16") == "gives wrong numbers on this machine"
    finally:
        linear.why_not.cache_clear()
