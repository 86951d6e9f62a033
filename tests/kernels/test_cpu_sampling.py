"""Drawing under masks: the native library against its own draws of rows in which every forbidden token
is minus infinity, and against the slow twin in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet.engine import sampler
from ramet.engine.sampler import Plain
from ramet.errors import BackendError, InvalidRequest
from ramet.kernels.cpu import sampling
from ramet.kernels.cpu.library import why_not
from ramet.params import SamplingParams

if why_not() is not None:
    pytest.skip(f"no native kernels: {why_not()}", allow_module_level=True)

Mask = npt.NDArray[np.uint32]

WAYS: list[dict[str, Any]] = [
    {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    for temperature in (0.0, 0.3, 1.0, 2.5)
    for top_k in (-1, 1, 3, 50, 4000)
    for top_p in (1.0, 0.95, 0.3)
    for min_p in (0.0, 0.02, 0.7)
]
DENSITIES = ["one", "few", "quarter", "half", "all but one", "all", "first", "last"]


def chosen(kind: str, vocab: int, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """bool [vocab]; at least one is True."""
    found = np.zeros(vocab, np.bool_)
    shares = {"one": 1, "few": min(vocab, 40), "quarter": vocab // 4, "half": -(-vocab // 2)}
    if kind in shares:
        found[random.choice(vocab, max(1, shares[kind]), replace=False)] = True
    elif kind in ("first", "last"):
        found[0 if kind == "first" else -1] = True
    else:
        found[:] = True
        found[random.integers(vocab)] = kind == "all" or vocab == 1
    return found


def words(allowed: npt.NDArray[np.bool_]) -> Mask:
    padded = np.pad(allowed, (0, -len(allowed) % 32))
    return np.packbits(padded, bitorder="little").view(np.uint32)


def forbidden(logits: torch.Tensor, allowed: npt.NDArray[np.bool_]) -> torch.Tensor:
    return logits.masked_fill(torch.from_numpy(~allowed), -torch.inf)


def logits_of(vocab: int, spread: float | str, seed: int = 0) -> torch.Tensor:
    """[1, vocab]"""
    row = torch.randn(1, vocab, generator=torch.Generator().manual_seed(seed))
    if spread == "rounded":
        return (row * 2).round()
    if spread == "gaps":  # some that cannot come by themselves
        return (row * 2).masked_fill(torch.arange(vocab) % 3 == 1, -torch.inf)
    return row * float(spread)


def packed(ways: list[dict[str, Any]], seed: int) -> list[bytes]:
    return [Plain(SamplingParams(**way), seed + i).packed for i, way in enumerate(ways)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.0, 2.0, 40.0, 400.0, "rounded", "gaps"])
@pytest.mark.parametrize("vocab", [1, 31, 32, 77, 640, 1601, 8192, 20_001])
def test_a_mask_gives_the_bits_of_minus_infinity(
    vocab: int, spread: float | str, dtype: torch.dtype
) -> None:
    logits, random = logits_of(vocab, spread).to(dtype), np.random.default_rng(vocab)
    ways = WAYS if vocab < 1000 else WAYS[:: 7 if vocab < 8000 else 23]
    zeros, steps = [0] * len(ways), list(range(len(ways)))
    for seed, kind in enumerate(DENSITIES):
        allowed, hows = chosen(kind, vocab, random), packed(ways, seed)
        found = sampling.draw(logits, zeros, hows, steps, [words(allowed)] * len(ways))
        plain = sampling.draw(forbidden(logits, allowed), zeros, hows, steps)
        if np.isfinite(plain[1][0]):
            assert found == plain
            assert allowed[found[0]].all()
        else:
            assert set(found[0]) == {sampling.NOTHING}
            assert set(found[1]) == {-np.inf}


@pytest.mark.parametrize("spread", [0.0, 2.0, 40.0, "rounded", "gaps"])
@pytest.mark.parametrize("vocab", [1, 45, 513, 4100])
def test_masked_draws_against_numpy(vocab: int, spread: float | str) -> None:
    logits = torch.cat([logits_of(vocab, spread, seed) for seed in range(3)])
    random, ways = np.random.default_rng(vocab), WAYS if vocab < 1000 else WAYS[::5]
    hows = [Plain(SamplingParams(**way), i) for i, way in enumerate(ways)]
    masks: list[Mask | None] = [words(chosen(kind, vocab, random)) for kind in DENSITIES]
    masks += [
        masks[3],
        None,
        np.zeros(0, np.uint32),
        words(np.ones(vocab, np.bool_))[: vocab // 64],
    ]
    entries = [masks[i % len(masks)] for i in range(len(hows))]
    rows, steps = [i % 3 for i in range(len(hows))], [i * 7 for i in range(len(hows))]
    found = sampler.draw(logits, rows, hows, steps, entries)
    twin = sampler._draw_slowly(logits, rows, hows, steps, entries)
    assert list(map(str, found)) == list(map(str, twin))
    assert any(isinstance(token, int) for token in found)
    wide = sampler.draw(logits.double(), rows, hows, steps, entries)
    assert list(map(str, found)) == list(map(str, wide))
    alone = [
        sampler.draw(logits[r][None], [0], [how], [step], [mask])[0]
        for r, how, step, mask in zip(rows, hows, steps, entries)
    ]
    assert list(map(str, found)) == list(map(str, alone))


@settings(max_examples=150)
@given(
    vocab=st.integers(1, 200),
    bits=st.lists(st.integers(0, 2**32 - 1), max_size=8),
    way=st.sampled_from(WAYS),
    seed=st.integers(0, 2**64 - 1),
    spread=st.sampled_from([0.0, 1.0, "rounded", "gaps"]),
)
def test_any_mask(
    vocab: int, bits: list[int], way: dict[str, Any], seed: int, spread: float | str
) -> None:
    """Shorter than the row, longer, and with bits behind its last token."""
    logits, mask = logits_of(vocab, spread, 5), np.array(bits, np.uint32)
    how = Plain(SamplingParams(**way), seed)
    token = sampler.draw(logits, [0], [how], [3], [mask])[0]
    allowed = {i for i in range(vocab) if i < 32 * len(bits) and bits[i // 32] >> i % 32 & 1}
    possible = {i for i in allowed if logits[0, i] > -torch.inf}
    hopeless = not torch.isfinite(logits).any()
    if not possible:
        assert isinstance(token, BackendError)
        assert ("nothing is left" in str(token)) != hopeless
        return
    assert token in possible
    kept = np.array([i in allowed for i in range(vocab)])
    assert token == sampler.draw(forbidden(logits, kept), [0], [how], [3])[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("share", [1, 3])
def test_broken_rows_and_empty_masks_are_errors_of_their_own(
    temperature: float, share: int
) -> None:
    """A row is broken by what it holds anywhere, in tokens that the mask forbids too."""
    logits = torch.zeros(6, 100)
    logits[1, 50], logits[2, 98], logits[3, :] = torch.nan, torch.inf, -torch.inf
    logits[4, ::share], logits[5, 0] = -torch.inf, -torch.inf
    mask = words(np.arange(100) % share == 0) if share > 1 else words(np.arange(100) < 7)
    none = np.zeros(4, np.uint32)
    how = Plain(SamplingParams(temperature=temperature), 3)
    masks = [mask, mask, mask, mask, mask, None, none, none, mask]
    rows = [0, 1, 2, 3, 4, 5, 0, 3, 0]
    for wide in (logits, logits.double()):
        found = sampler.draw(wide, rows, [how] * 9, [1] * 9, masks)
        broken = [isinstance(f, BackendError) and "the model gave" in str(f) for f in found]
        empty = [isinstance(f, BackendError) and "nothing is left" in str(f) for f in found]
        assert broken == [i in (1, 2, 3, 7) or (i == 4 and share == 1) for i in range(9)]
        assert empty == [i == 6 or (i == 4 and share == 3) for i in range(9)]
        assert found[0] == found[8]
        twin = sampler._draw_slowly(wide, rows, [how] * 9, [1] * 9, masks)
        assert list(map(str, twin)) == list(map(str, found))


def test_masks_in_any_place_of_memory() -> None:
    logits, how = logits_of(90, 2.0), Plain(SamplingParams(), 1)
    mask = words(np.arange(90) % 5 == 0)
    strided = np.zeros(6, np.uint32)
    strided[::2] = mask
    frozen = mask.copy()
    frozen.flags.writeable = False
    odd = np.frombuffer(b"x" + mask.tobytes(), np.uint8)[1:].view(np.uint32)
    many = [mask, strided[::2], frozen, odd, None]
    found = sampler.draw(logits, [0] * 5, [how] * 5, [0] * 5, many)
    assert found[:4] == [found[0]] * 4
    assert isinstance(found[0], int)
    assert found[0] % 5 == 0


@pytest.mark.parametrize(
    "masks",
    [
        [np.zeros(2, np.uint32)],
        [None, np.zeros(2, np.int64)],
        [None, np.zeros(64, np.bool_)],
        [np.zeros((1, 2), np.uint32), None],
    ],
)
def test_masks_that_are_none_are_refused(masks: list[Any]) -> None:
    how = Plain(SamplingParams(), 1).packed
    with pytest.raises(InvalidRequest, match="masks"):
        sampling.draw(torch.zeros(1, 64), [0, 0], [how, how], [0, 0], masks)


def test_a_mask_changes_no_neighbour() -> None:
    logits, how = logits_of(3000, 2.0), Plain(SamplingParams(top_p=0.95), 9)
    mask = words(np.arange(3000) % 11 == 0)
    masks = [None if i % 2 else mask for i in range(20)]
    mixed = sampler.draw(logits, [0] * 20, [how] * 20, range(20), masks)
    free = sampler.draw(logits, [0] * 20, [how] * 20, range(20))
    bound = sampler.draw(logits, [0] * 20, [how] * 20, range(20), [mask] * 20)
    assert mixed == [(free if i % 2 else bound)[i] for i in range(20)]
    assert len(set(bound)) > 5
