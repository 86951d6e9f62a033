"""A GPU gets Triton's attention where that works, and the reference with one warning where not. No GPU is
asked: what a trial on one would find is given."""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.models.checkpoints import make_checkpoint
from tests.models.oracle import Run

from ramet.kernels import attention, reference
from ramet.models import decoder, load_model

CUDA = torch.device("cuda")
SHAPE = (4, 2, 16, torch.bfloat16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _nothing_was_asked_before() -> Iterator[None]:
    for cache in (attention._why_not_triton, attention._say_once):
        cache.cache_clear()
    yield
    for cache in (attention._why_not_triton, attention._say_once):
        cache.cache_clear()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands for `ramet.kernels.triton.attention`; computes with the reference, on a CPU."""
    fake = ModuleType("ramet.kernels.triton.attention")
    fake.MAX_HEAD_DIM = 256  # type: ignore[attr-defined]
    fake.prepare = lambda plan, _: reference.prepare(plan)  # type: ignore[attr-defined]
    fake.attention = reference.attention  # type: ignore[attr-defined]
    import ramet.kernels.triton as room

    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(room, "attention", fake, raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: fake if name == "triton" else find(name, *a)
    )
    tensors = attention._probe
    monkeypatch.setattr(attention, "_probe", lambda _, *shape: tensors(torch.device("cpu"), *shape))
    return fake


def refused(message: str, *shape: Any) -> None:
    """The reference, twice, and the reason once."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = [attention.attention_for(CUDA, *(shape or SHAPE)) for _ in range(2)]
    assert found == [reference, reference]
    assert len(said) == 1
    assert re.search(message, str(said[0].message))


def test_a_cpu_gets_the_reference() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert attention.attention_for(torch.device("cpu"), *SHAPE) is reference


def test_a_gpu_gets_triton(kernel: ModuleType) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert attention.attention_for(CUDA, *SHAPE) is kernel


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    refused("no Triton attention: Triton is not installed .* Running the slower PyTorch reference")


def test_a_kernel_that_is_wrong(kernel: ModuleType) -> None:
    kernel.attention = lambda *given: reference.attention(*given) + 0.2  # type: ignore[attr-defined]
    refused("it gives wrong numbers")


def test_a_kernel_that_gives_nan(kernel: ModuleType) -> None:
    kernel.attention = lambda q, *_: q * torch.nan  # type: ignore[attr-defined]
    refused("it gives wrong numbers")


def test_a_kernel_that_does_not_compile(kernel: ModuleType) -> None:
    def fails(*_: Any) -> None:
        raise OSError("Failed to find C compiler")

    kernel.attention = fails  # type: ignore[attr-defined]
    refused(r"it fails on cuda \(OSError: Failed to find C compiler\)")


@pytest.mark.usefixtures("kernel")
def test_heads_that_are_too_large() -> None:
    refused("heads of 320 numbers are more than its 256", 4, 2, 320, torch.float16, torch.float16)


def test_a_model_asks_with_its_shape_and_uses_what_it_gets(
    tmp_path: Path, kernel: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is a CPU here, so it is told the name of another one."""
    asked = []
    calls = []

    def for_a_gpu(device: torch.device, *shape: Any) -> Any:
        asked.append((device, *shape))
        return attention.attention_for(CUDA, *shape)

    def counted(*given: Any) -> torch.Tensor:
        calls.append(given[0].shape)
        return reference.attention(*given)

    folder = make_checkpoint("mistral", tmp_path)
    expected = Run(load_model(folder, native=False))(([5, 6, 7], 0, [0, 1, 2]))
    monkeypatch.setattr(decoder, "attention_for", for_a_gpu)
    kernel.attention = counted  # type: ignore[attr-defined]
    run = Run(load_model(folder, native=False))
    calls.clear()  # those of the trial
    assert torch.equal(run(([5, 6, 7], 0, [0, 1, 2])), expected)
    assert asked == [(torch.device("cpu"), 4, 2, 32, torch.float32, torch.float32)]
    assert calls == [torch.Size([3, 4, 32])] * 2  # one for each layer
