"""Norm, rotation and gate against their formulas in float64, and row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from ramet.kernels import pointwise


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def table(rows: int, half: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = random(rows, 1, half, seed=9) * 3
    return angles.cos(), angles.sin()


def test_rms_norm() -> None:
    x, weight = random(5, 48), random(48, seed=1)
    wide = x.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 0.01).sqrt() * weight.double()
    got = pointwise.rms_norm(x, weight, 0.01)
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)
    assert pointwise.rms_norm(x.bfloat16(), weight, 0.01).dtype == torch.bfloat16


def test_rope_turns_planes_by_the_angle() -> None:
    x = random(3, 2, 8)
    angles = torch.tensor([0.0, 1.0, 2.5])[:, None, None].expand(3, 1, 4)
    got = pointwise.rope(x, angles.cos(), angles.sin())
    planes = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(got, torch.cat((planes.real, planes.imag), -1))
    assert torch.equal(got[0], x[0])


def test_silu_mul() -> None:
    gate, up = random(4, 10), random(4, 10, seed=1)
    got = pointwise.silu_mul(torch.cat((gate, up), dim=-1))
    wide = gate.double()
    torch.testing.assert_close(got.double(), wide / (1 + (-wide).exp()) * up, rtol=1e-6, atol=1e-6)


ROWS = 200
COUNTS = [*range(1, 71), 99, 127, 199]


def rope(x: torch.Tensor) -> torch.Tensor:
    cos, sin = table(ROWS, 32)
    return pointwise.rope(x.unflatten(1, (-1, 64)), cos[: len(x)], sin[: len(x)])


CASES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rms_norm": lambda x: pointwise.rms_norm(x, torch.linspace(0.5, 2, x.shape[1]), 1e-5),
    "rope": rope,
    "silu_mul": pointwise.silu_mul,
}


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    ("name", "width"),
    [(n, w) for n in ("rms_norm", "silu_mul") for w in (576, 1002, 3072)]
    + [("rope", 576), ("rope", 1024)],
)
def test_a_row_has_the_same_bits_in_any_batch(name: str, width: int, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    x = random(ROWS, width)
    full = CASES[name](x)
    different = [n for n in COUNTS if not torch.equal(CASES[name](x[:n]), full[:n])]
    assert different == []


def test_very_wide_gates_are_cut_at_fixed_columns() -> None:
    torch.set_num_threads(2)
    x = random(5, 2 * 40001)
    full = pointwise.silu_mul(x)
    assert all(torch.equal(pointwise.silu_mul(x[n : n + 1])[0], full[n]) for n in range(5))
    torch.testing.assert_close(full, torch.nn.functional.silu(x[:, :40001]) * x[:, 40001:])
