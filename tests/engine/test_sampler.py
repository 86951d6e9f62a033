from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet.engine import sampler
from ramet.engine.sampler import Plain, Sampled, SampleSpec, prompt_logprobs, sample, uniforms
from ramet.errors import BackendError, InvalidRequest
from ramet.params import SamplingParams

torch.set_num_threads(1)

GREEDY = SamplingParams(temperature=0.0)


def logits_of(seed: int, rows: int = 4, vocab: int = 300, spread: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab, generator=generator) * spread


def draw(row: torch.Tensor, params: SamplingParams = GREEDY, **spec: Any) -> Sampled:
    return sample(row[None], [0], [SampleSpec(params, **spec)])[0]


# -- the slow twin ------------------------------------------------------------------------------------------


def slow_logits(row: np.ndarray[Any, Any], spec: SampleSpec) -> np.ndarray[Any, Any]:
    """What is drawn from, token by token."""
    p, y = spec.params, row.astype(np.float64)
    for token, bias in p.logit_bias:
        y[token] += bias
    for token in set(spec.output_ids):
        count = list(spec.output_ids).count(token)
        y[token] -= p.frequency_penalty * count + p.presence_penalty
    for token in {*spec.output_ids, *spec.prompt_ids}:
        y[token] *= 1 / p.repetition_penalty if y[token] > 0 else p.repetition_penalty
    for token in spec.banned_ids:
        y[token] = -np.inf
    if spec.allowed is not None:
        y[~spec.allowed] = -np.inf
    return y


def slow_kept(row: np.ndarray[Any, Any], spec: SampleSpec) -> tuple[list[int], list[float]]:
    """Kept tokens by falling probability, and their probabilities: sort everything, filter in turn."""
    p, y = spec.params, slow_logits(row, spec)
    order = sorted((t for t in range(len(y)) if y[t] > -np.inf), key=lambda t: (-y[t], t))
    weights = [math.exp((y[t] - y[order[0]]) / p.temperature) for t in order]
    if p.top_k != -1:
        order, weights = order[: p.top_k], weights[: p.top_k]
    if p.top_p < 1:
        total, mass, kept = math.fsum(weights), 0.0, 0
        while kept < len(weights) and mass < p.top_p * total:
            mass, kept = mass + weights[kept], kept + 1
        order, weights = order[:kept], weights[:kept]
    kept = sum(weight >= p.min_p * weights[0] for weight in weights)
    order, weights = order[:kept], weights[:kept]
    return order, [weight / math.fsum(weights) for weight in weights]


specs = st.builds(
    lambda temperature, top_k, top_p, min_p, frequency, presence, repetition, bias, seed, step, out, prompt, banned, allowed: SampleSpec(
        SamplingParams(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            frequency_penalty=frequency, presence_penalty=presence, repetition_penalty=repetition,
            logit_bias=tuple(sorted(bias.items())),
        ),
        seed=seed, step=step, output_ids=out, prompt_ids=prompt, banned_ids=banned,
        allowed=None if allowed is None else np.isin(np.arange(40) % 7, allowed),
    ),
    st.sampled_from([0.01, 0.5, 1.0, 1.0, 3.0]),
    st.sampled_from([-1, -1, 2, 5, 39, 40, 1000]),
    st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.01, 0.9999]),
    st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0]),
    st.sampled_from([0.0, 0.0, 1.5, -1.0]),
    st.sampled_from([0.0, 0.0, 0.7, -0.3]),
    st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    st.dictionaries(st.integers(0, 39), st.sampled_from([-100.0, 2.5, 5.0]), max_size=3),
    st.integers(0, 2**64 - 1),
    st.integers(0, 10_000),
    st.lists(st.integers(0, 39), max_size=6),
    st.lists(st.integers(0, 39), max_size=4),
    st.lists(st.integers(0, 39), max_size=3),
    st.none() | st.lists(st.integers(0, 6), min_size=1, max_size=3),
)  # fmt: skip


@settings(max_examples=150)
@given(spec=specs, seed=st.integers(0, 20), ties=st.booleans())
def test_draws_against_the_slow_twin(spec: SampleSpec, seed: int, ties: bool) -> None:
    row = logits_of(seed, 1, 40)[0]
    row = row.round() if ties else row
    found = draw(
        row, spec.params, **{n: getattr(spec, n) for n in SampleSpec.__slots__ if n != "params"}
    )
    if not np.isfinite(slow_logits(row.numpy(), spec)).any():
        assert isinstance(found.error, BackendError)
        return
    order, probabilities = slow_kept(row.numpy(), spec)
    p = spec.params
    if p.top_k in (-1, 40, 1000) and p.top_p == 1 and p.min_p == 0:  # unfiltered: in order of ids
        order, probabilities = zip(*sorted(zip(order, probabilities)))  # type: ignore[assignment]
    u = float(uniforms([spec.seed], [spec.step])[0])
    sums = np.cumsum(probabilities)
    expected = order[min(int(np.searchsorted(sums, u, side="right")), len(order) - 1)]
    near = np.abs(sums - u).min() < 1e-9  # the twin rounds differently
    assert found.token_id == expected or near


@settings(max_examples=80)
@given(spec=specs, seed=st.integers(0, 20), ties=st.booleans())
def test_greedy_against_the_slow_twin(spec: SampleSpec, seed: int, ties: bool) -> None:
    row = logits_of(seed, 1, 40)[0]
    row = row.round() if ties else row
    fields = {n: getattr(spec, n) for n in SampleSpec.__slots__ if n != "params"}
    y = slow_logits(row.numpy(), spec)
    found = draw(row, spec.params.replace(temperature=0.0), **fields)
    if np.isfinite(y).any():
        assert found.token_id == int(np.argmax(y))


WAYS = [
    {},
    {"top_p": 0.9},
    {"top_p": 0.999, "temperature": 3.0},
    {"top_p": 1e-6},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 40},
    {"top_k": 2000, "top_p": 0.95},
    {"top_k": 50, "min_p": 0.2, "top_p": 0.8, "temperature": 1.7},
    {"temperature": 0.0},
    {"temperature": 1e-5},
]


@pytest.mark.parametrize("vocab", [1, 2, 31, 513, 2048, 49_152])
@pytest.mark.parametrize("spread", [0.0, 0.01, 2.0, 30.0, 400.0, "rounded", "few"])
def test_native_draws_against_numpy(vocab: int, spread: float | str) -> None:
    if not sampler._native():
        pytest.skip("no native kernels")
    logits = logits_of(vocab, 3, vocab, 2.0 if isinstance(spread, str) else spread)
    if spread == "rounded":  # many equal ones
        logits = logits.round()
    if spread == "few":
        logits[:, torch.arange(vocab) % 9 != 0] = -torch.inf
    hows = [Plain(SamplingParams(**way), seed) for way in WAYS for seed in range(4)]
    rows = [i % 3 for i in range(len(hows))]
    steps = [i * 7 for i in range(len(hows))]
    found = sampler.draw(logits, rows, hows, steps)
    assert found == sampler._draw_slowly(logits, rows, hows, steps)
    assert found == [sampler.draw(logits[r][None], [0], [h], [s])[0]
                     for r, h, s in zip(rows, hows, steps)]  # fmt: skip
    if vocab < 49_152:
        wide = logits.double()
        assert sampler.draw(wide, rows, hows, steps) == found


# -- distributions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.02, "temperature": 1.5},
    ],
)
def test_frequencies_fit_the_probabilities(options: dict[str, Any]) -> None:
    """Chi-square over 4,000 steps of one seed, bounded five standard deviations above its mean."""
    row, count = logits_of(5, 1, 50)[0], 4_000
    params = SamplingParams(**options)
    steps = [SampleSpec(params, seed=11, step=step, need_logprob=False) for step in range(count)]
    drawn = [s.token_id for s in sample(row[None], [0] * count, steps)]
    order, probabilities = slow_kept(row.numpy(), SampleSpec(params))
    observed = np.bincount(drawn, minlength=50)
    assert observed.sum() == observed[order].sum()  # nothing that was filtered out
    expected = np.array(probabilities) * count
    big = expected >= 8
    o = np.append(observed[order][big], observed[order][~big].sum())
    e = np.append(expected[big], expected[~big].sum())
    o, e = o[e > 0], e[e > 0]
    freedom = len(e) - 1
    assert ((o - e) ** 2 / e).sum() < freedom + 5 * math.sqrt(2 * freedom)


def test_uniforms() -> None:
    u = uniforms([7] * 100_000, range(100_000))
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    assert np.abs(np.histogram(u, 20, (0, 1))[0] - 5000).max() < 400
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02
    other = uniforms(range(100_000), [0] * 100_000)
    assert abs(np.corrcoef(u, other)[0, 1]) < 0.02
    assert len(set(u) | set(other)) > 199_990
    far = uniforms([7, 2**64 - 1], [2**40, 0])  # any 64-bit numbers
    assert ((far >= 0) & (far < 1)).all()


def test_uniforms_stay_what_they_are() -> None:
    """Stored seeds keep their meaning: pinned against plain integer arithmetic."""

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    assert mix(golden) == 0xE220A8397B1DCDAF  # SplitMix64's first output for seed 0
    for seed, step in ((0, 0), (1, 5), (2**64 - 1, 2**40)):
        word = mix((mix((seed + golden) % 2**64) + (step + 1) * golden) % 2**64)
        assert uniforms([seed], [step])[0] == (word >> 11) / 2**53


def test_seeds_and_steps_matter() -> None:
    row, params = logits_of(1, 1, 1000, spread=0.1)[0], SamplingParams()
    tokens = {draw(row, params, seed=s, step=t).token_id for s in range(8) for t in range(8)}
    assert len(tokens) > 50
    again = [draw(row, params, seed=3, step=4).token_id for _ in range(3)]
    assert len(set(again)) == 1


# -- neighbours -----------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    chosen=st.lists(st.tuples(st.integers(0, 11), specs), min_size=1, max_size=12),
    size=st.integers(0, 11),
)
def test_neighbours_change_no_bit(chosen: list[tuple[int, SampleSpec]], size: int) -> None:
    logits = logits_of(3, 12, 40)
    wide = [
        (row, SampleSpec(**{
            **{n: getattr(spec, n) for n in SampleSpec.__slots__},
            "top_logprobs_num": 3, "token_ids_logprob": (1, 2),
        }))
        for row, spec in chosen
    ]  # fmt: skip
    together = sample(logits, [row for row, _ in wide], [spec for _, spec in wide])
    for (row, spec), found in zip(wide, together):
        alone = sample(logits[row : row + 1].clone(), [0], [spec])[0]
        some = sample(logits[max(0, row - size) : row + 1], [min(size, row)], [spec])[0]
        for other in (alone, some):
            assert (other.token_id, other.top, other.ids) == (found.token_id, found.top, found.ids)
            assert np.float64(other.logprob).tobytes() == np.float64(found.logprob).tobytes()


def test_a_large_vocabulary_in_batches_of_any_size() -> None:
    logits = logits_of(9, 6, 50_257)
    options = [
        SamplingParams(), SamplingParams(top_p=0.9), SamplingParams(top_k=50), SamplingParams(min_p=0.01),
        GREEDY, SamplingParams(top_p=0.999, temperature=4.0),
    ]  # fmt: skip
    many = [SampleSpec(p, seed=i, top_logprobs_num=5) for i, p in enumerate(options)]
    together = sample(logits, np.arange(6), many)
    for i in range(6):
        alone = sample(logits[i : i + 1], [0], [many[i]])[0]
        assert alone == together[i]


# -- greedy, bans, penalties ------------------------------------------------------------------------------


def test_greedy_takes_the_lowest_of_equals() -> None:
    row = torch.tensor([0.0, 3.0, 1.0, 3.0, 3.0])
    assert draw(row).token_id == 1
    assert draw(row, SamplingParams(top_k=1)).token_id == 1
    assert draw(row, SamplingParams(top_k=2, temperature=0.0), banned_ids=[1]).token_id == 3


def test_penalties_by_hand() -> None:
    row = torch.tensor([2.0, 1.5, -1.0, 0.0])
    frequency = SamplingParams(temperature=0.0, frequency_penalty=0.3)
    assert draw(row, frequency, output_ids=[0]).token_id == 0
    assert draw(row, frequency, output_ids=[0, 0]).token_id == 1
    assert (
        draw(row, frequency, prompt_ids=[0, 0, 0]).token_id == 0
    )  # only what was generated counts
    presence = SamplingParams(temperature=0.0, presence_penalty=0.6)
    assert draw(row, presence, output_ids=[0]).token_id == 1
    repetition = SamplingParams(temperature=0.0, repetition_penalty=1.5)
    assert draw(row, repetition, prompt_ids=[0]).token_id == 1
    assert draw(torch.tensor([-1.0, -1.2]), repetition, output_ids=[0]).token_id == 1
    biased = SamplingParams(temperature=0.0, logit_bias=((3, 5.0),))
    assert draw(row, biased).token_id == 3


def test_reported_logprobs_are_the_models() -> None:
    row = logits_of(2, 1, 60)[0]
    raw = torch.log_softmax(row.double(), -1)
    params = SamplingParams(temperature=3.0, top_k=4, logit_bias=((7, 50.0),), presence_penalty=1.0)
    found = draw(row, params, output_ids=[7], top_logprobs_num=60, token_ids_logprob=(5, 7))
    assert found.token_id == 7
    assert found.logprob == pytest.approx(float(raw[7]), abs=1e-5)
    assert [token for _, token in found.top] == raw.argsort(descending=True).tolist()
    assert [lp for lp, _ in found.top] == pytest.approx(
        raw.sort(descending=True)[0].tolist(), abs=1e-5
    )
    assert found.ids == [(found.top[[t for _, t in found.top].index(i)][0], i) for i in (5, 7)]


def test_equal_logprobs_are_listed_by_id() -> None:
    row = torch.tensor([1.0, 2.0] * 40)
    found = draw(row, top_logprobs_num=3)
    assert [token for _, token in found.top] == [1, 3, 5]


def test_logprobs_only_where_wanted() -> None:
    found = draw(logits_of(1)[0], need_logprob=False)
    assert math.isnan(found.logprob)
    assert (found.top, found.ids, found.error) == ([], [], None)


def test_masks() -> None:
    row = logits_of(4, 1, 70)[0]
    mask = np.zeros(70, bool)
    mask[[3, 33, 69]] = True
    bits = np.packbits(np.pad(mask, (0, 26)), bitorder="little").view(np.int32)
    for seed in range(20):
        allowed = draw(row, SamplingParams(), seed=seed, allowed=mask)
        assert allowed.token_id in (3, 33, 69)
        assert draw(row, SamplingParams(), seed=seed, allowed=bits) == allowed
        assert draw(row, SamplingParams(top_p=0.9), seed=seed, allowed=bits).token_id in (3, 33, 69)
    assert draw(row, SamplingParams(), allowed=mask[:34]).token_id in (
        3,
        33,
    )  # a shorter mask ends there


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(), SamplingParams(top_p=0.9)])
def test_a_mask_alone_is_drawn_like_one_with_a_change(params: SamplingParams) -> None:
    """A mask goes with the row to `draw`, a penalty through a changed row: both mean the same."""
    row, mask = logits_of(5, 1, 700)[0], np.arange(700) % 6 == 2
    mask[row.argmax()] = False
    nothing_seen = params.replace(logit_bias=((0, 0.0),))
    for step in range(30):
        alone = draw(row, params, seed=3, step=step, allowed=mask, top_logprobs_num=4)
        changed = draw(row, nothing_seen, seed=3, step=step, allowed=mask, top_logprobs_num=4)
        assert alone == changed
        assert mask[alone.token_id]
        assert alone.top == draw(row, params, top_logprobs_num=4).top  # of the raw logits
        raw = torch.log_softmax(row.double(), -1)
        assert alone.logprob == pytest.approx(float(raw[alone.token_id]), abs=1e-5)


def test_masks_of_no_known_kind_are_an_error_of_their_own() -> None:
    good = np.ones(40, bool)
    masks = [good, np.ones(40, np.int64), good.reshape(4, 10), np.full(2, -1, np.int32)]
    many = [SampleSpec(GREEDY, allowed=mask) for mask in masks]  # type: ignore[arg-type]
    found = sample(logits_of(1, 1, 40), [0] * 4, many)
    assert [isinstance(f.error, InvalidRequest) for f in found] == [False, True, True, False]
    assert found[0] == found[3]


def test_the_slow_way_knows_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, mask = logits_of(7, 2, 90), np.arange(90) % 4 == 1
    many = [
        SampleSpec(SamplingParams(), seed=i, allowed=(mask, None, np.zeros(90, bool))[i % 3])
        for i in range(12)
    ]
    native = sample(logits, [i % 2 for i in range(12)], many)
    monkeypatch.setattr(sampler, "_native", lambda: False)
    slow = sample(logits, [i % 2 for i in range(12)], many)
    assert [f.token_id for f in slow] == [f.token_id for f in native]
    assert [str(f.error) for f in slow] == [str(f.error) for f in native]
    assert "nothing is left to draw" in str(slow[2].error)


# -- faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(), SamplingParams(top_p=0.5)])
def test_a_broken_row_is_an_error_of_its_own(params: SamplingParams) -> None:
    logits = logits_of(6, 5, 30)
    logits[1, 4], logits[2, 4], logits[3, :] = float("nan"), float("inf"), -float("inf")
    logits[4, 4] = -float("inf")
    spec = SampleSpec(params, top_logprobs_num=2, token_ids_logprob=(4,))
    found = sample(logits, [0, 1, 2, 3, 4, 0], [spec] * 6)
    assert [isinstance(f.error, BackendError) for f in found] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert [f.token_id == -1 for f in found] == [False, True, True, True, False, False]
    assert found[4].ids == [(-math.inf, 4)]
    assert found[0] == found[5] == sample(logits[:1], [0], [spec])[0]


def test_nothing_left_to_draw() -> None:
    spec = SampleSpec(SamplingParams(), banned_ids=[0, 1], allowed=np.array([True, True, False]))
    fine = SampleSpec(SamplingParams())
    found = sample(torch.zeros(1, 3), [0, 0], [spec, fine])
    assert isinstance(found[0].error, BackendError)
    assert found[1].error is None


def test_tokens_outside_the_vocabulary() -> None:
    row = torch.zeros(8)
    assert isinstance(draw(row, SamplingParams(logit_bias=((8, 1.0),))).error, InvalidRequest)
    assert isinstance(draw(row, token_ids_logprob=(9,)).error, InvalidRequest)
    assert draw(row, banned_ids=[8, 100]).error is None  # cannot come anyway


def test_nothing_to_do() -> None:
    assert sample(torch.zeros(0, 5), [], []) == []
    assert prompt_logprobs(torch.zeros(0, 5), []) == []


# -- prompts ------------------------------------------------------------------------------------------------


def test_prompt_logprobs() -> None:
    logits = logits_of(8, 130, 40)  # more than one chunk
    next_ids = np.arange(130) % 40
    logits[70, 3] = float("nan")
    found = prompt_logprobs(logits, next_ids, top_n=2, ids=(1, 5))
    raw = torch.log_softmax(logits.double(), -1)
    assert isinstance(found[70].error, BackendError)
    for i in (0, 63, 64, 129):
        assert found[i].token_id == next_ids[i]
        assert found[i].logprob == pytest.approx(float(raw[i, next_ids[i]]), abs=1e-5)
        assert [t for _, t in found[i].top] == raw[i].argsort(descending=True)[:2].tolist()
        alone = prompt_logprobs(logits[i : i + 1], next_ids[i : i + 1], 2, (1, 5))
        assert alone == [found[i]]
    drawn = sample(logits[:1], [0], [SampleSpec(GREEDY)])[
        0
    ]  # the same bits as when it was generated
    assert prompt_logprobs(logits[:1], [drawn.token_id])[0].logprob == drawn.logprob
