"""From logits to tokens and log-probabilities.

Every row is computed on its own: what a spec gets depends on its own row, parameters, seed and step, never
on its neighbours or their number. Knows logits and sampling parameters; refuses to know requests,
constraints (beyond a mask) and text.

The order is fixed: logit bias, frequency and presence penalties, repetition penalty, bans and mask;
then temperature, top-k, top-p, min-p, each on what the one before left. Reported log-probabilities are
the log-softmax of the raw logits, before any of this.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from ramet.errors import BackendError, InvalidRequest, RametError
from ramet.kernels.cpu import sampling
from ramet.kernels.cpu.library import why_not
from ramet.kernels.cpu.sampling import Mask
from ramet.params import SamplingParams

__all__ = [
    "Mask",
    "Plain",
    "SampleSpec",
    "Sampled",
    "draw",
    "prompt_logprobs",
    "sample",
    "uniforms",
]

Ids = Sequence[int] | npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_FIRST_LOOK = 64  # tokens to rank before it is known how many are needed
_LOOK_FURTHER = 16  # times as many at each further look
_BLOCK = 512  # tokens whose weights are summed before it is known which of them is drawn
_SCORE_ROWS = 64  # rows of a prompt whose log-softmax exists at a time
_BROKEN = "the model gave logits that are NaN, infinite, or all -infinity"
_NOTHING = "nothing is left to draw: every token is banned or masked"


@dataclass(frozen=True, slots=True, eq=False)
class SampleSpec:
    """How one token is drawn. `step` counts the tokens generated before it. `prompt_ids` are read for the
    repetition penalty, `output_ids` for all penalties. `banned_ids` cannot be drawn; `allowed` is a mask
    of what can: bool [vocab], or bits packed into int32 or uint32 words, lowest bit first. Tokens that it
    does not reach are not allowed."""

    params: SamplingParams
    seed: int = 0
    step: int = 0
    output_ids: Ids = ()
    prompt_ids: Ids = ()
    banned_ids: Ids = ()
    top_logprobs_num: int = 0
    token_ids_logprob: tuple[int, ...] = ()
    allowed: npt.NDArray[np.bool_] | npt.NDArray[np.int32] | npt.NDArray[np.uint32] | None = None
    need_logprob: bool = True

    @property
    def wants_scores(self) -> bool:
        return self.need_logprob or self.top_logprobs_num > 0 or bool(self.token_ids_logprob)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token and its raw natural log-probability (NaN if it was not asked for), the most likely tokens
    (falling, ties by id) and the asked-for ones, as (logprob, id). With `error` set nothing else counts:
    `token_id` is -1."""

    token_id: int
    logprob: float
    top: list[tuple[float, int]] = field(default_factory=list)
    ids: list[tuple[float, int]] = field(default_factory=list)
    error: RametError | None = None


class Plain:
    """How tokens are drawn of logits that nothing but a mask changes. Built once for a request."""

    __slots__ = ("packed", "params", "seed")

    def __init__(self, params: SamplingParams, seed: int) -> None:
        self.params, self.seed = params, seed
        p = params
        temperature = 0.0 if p.greedy else p.temperature
        self.packed = sampling.pack(temperature, p.top_k, p.top_p, p.min_p, seed)


_BEST = Plain(SamplingParams(temperature=0.0), 0)


def sample(logits: torch.Tensor, rows: Ids, specs: Sequence[SampleSpec]) -> list[Sampled]:
    """Draw a token for each spec. `logits`: float32 [M, vocab]; `rows`: int [len(specs)], each spec's row
    (specs may share one). A row with NaN or infinite logits, and a spec that leaves nothing to draw or
    names a token that is not in the vocabulary, give a `Sampled` with an error; the others are not
    affected. Minus infinity is a legal logit: a token that cannot come."""
    logits = logits.detach().float()
    index = np.asarray(rows, np.int64)
    changes = [_changes(spec) for spec in specs]
    # Of all rows, since a row that is broken is broken whatever is added to it.
    hows = [_BEST if c else Plain(s.params, s.seed) for s, c in zip(specs, changes)]
    masks, refused = _masks_of(specs, logits.shape[1])
    seen = [None if c else mask for mask, c in zip(masks, changes)]
    tokens = draw(logits, index.tolist(), hows, [spec.step for spec in specs], seen)
    for i, spec in enumerate(specs):
        if isinstance(tokens[i], int):
            if i in refused:
                tokens[i] = refused[i]
            elif changes[i]:
                tokens[i] = _draw_changed(logits[int(index[i])], spec, masks[i])
    return _scored(logits, index, specs, tokens)


def draw(
    logits: torch.Tensor,
    rows: Sequence[int],
    hows: Sequence[Plain],
    steps: Sequence[int],
    masks: Sequence[Mask | None] | None = None,
) -> list[int | RametError]:
    """For each of `rows` (of `logits`, float [M, vocab]) the token that `sample` gives where no spec
    changes logits or asks for scores. `steps`: how many tokens were drawn before it. `masks`: for each
    the tokens that may come (None: all), as uint32 words, lowest bit first; those behind the last word may
    not. A mask that leaves nothing to draw gives that entry an error."""
    if not len(rows):
        return []
    if logits.is_cpu and _native():
        packed = [how.packed for how in hows]
        tokens, largest = sampling.draw(logits, rows, packed, steps, masks)
        found: list[int | RametError] = list(tokens)
        if not math.isfinite(sum(largest)):
            for i in [i for i, value in enumerate(largest) if not math.isfinite(value)]:
                nothing = tokens[i] == sampling.NOTHING
                found[i] = BackendError(_NOTHING if nothing else _BROKEN)
        return found
    return _draw_slowly(logits.detach(), rows, hows, steps, masks)


def _draw_slowly(
    logits: torch.Tensor,
    rows: Sequence[int],
    hows: Sequence[Plain],
    steps: Sequence[int],
    masks: Sequence[Mask | None] | None = None,
) -> list[int | RametError]:
    """`draw` in numpy and torch: what it means, and what other devices do."""
    wanted, places = np.unique(rows, return_inverse=True)
    best, maxima = _largest(logits, wanted)
    draws = uniforms([how.seed for how in hows], steps)
    found: list[int | RametError] = []
    for i, (how, u) in enumerate(zip(hows, draws.tolist())):
        row, token, largest = logits[rows[i]], int(best[places[i]]), float(maxima[places[i]])
        if not math.isfinite(largest):
            found.append(BackendError(_BROKEN))
            continue
        if masks is not None and (mask := masks[i]) is not None:
            row = _masked(row, mask)
            tokens, values = _largest(row[None], np.zeros(1, np.int64))
            token, largest = int(tokens[0]), float(values[0])
        if largest == -math.inf:
            found.append(BackendError(_NOTHING))
        elif how.params.greedy:
            found.append(token)
        else:
            found.append(_inverse_cdf(row, largest, how.params, u))
    return found


def _masked(row: torch.Tensor, mask: Mask) -> torch.Tensor:
    """The row with minus infinity for every token that may not come."""
    bits = np.unpackbits(np.ascontiguousarray(mask).view(np.uint8), bitorder="little")
    allowed = np.zeros(len(row), np.bool_)
    allowed[: len(bits)] = bits[: len(row)]
    return row.masked_fill(torch.as_tensor(~allowed, device=row.device), -torch.inf)


@functools.cache
def _native() -> bool:
    return why_not() is None


def prompt_logprobs(
    logits: torch.Tensor, next_ids: Ids, top_n: int = 0, ids: Sequence[int] = ()
) -> list[Sampled]:
    """Scores of given tokens: of `next_ids[i]` (int [M]) under row i of `logits` (float32 [M, vocab]),
    with the `top_n` most likely tokens and those of `ids` at each row. Errors as in `sample`."""
    spec = SampleSpec(
        SamplingParams(), top_logprobs_num=top_n, token_ids_logprob=tuple(int(i) for i in ids)
    )
    found: list[Sampled] = []
    for start in range(0, len(logits), _SCORE_ROWS):
        chunk = logits[start : start + _SCORE_ROWS].detach().float()
        sane = torch.isfinite(chunk.amax(-1)).tolist()
        tokens: list[int | RametError] = [
            int(token) if good else BackendError("the model gave logits that are NaN or infinite")
            for token, good in zip(next_ids[start : start + len(chunk)], sane)
        ]
        found += _scored(chunk, np.arange(len(chunk)), [spec] * len(chunk), tokens)
    return found


def uniforms(seeds: Sequence[int], steps: Sequence[int]) -> Floats:
    """A number in [0, 1) for each (seed, step), both uint64: output number `step` of SplitMix64 (Steele,
    Lea and Flood, OOPSLA 2014) seeded with a hash of `seed`, its upper 53 bits. There is no state, so a
    draw can be repeated after a preemption or on another machine."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        keys = _mix(np.array(seeds, np.uint64) + golden)
        words = _mix(keys + (np.array(steps, np.uint64) + np.uint64(1)) * golden)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _masks_of(
    specs: Sequence[SampleSpec], vocab: int
) -> tuple[list[Mask | None], dict[int, RametError]]:
    """Each spec's mask as words, and, by their places, what is wrong with specs."""
    masks: list[Mask | None] = []
    refused: dict[int, RametError] = {}
    for i, spec in enumerate(specs):
        mask = None
        try:
            _check_ids(spec, vocab)
            mask = None if spec.allowed is None else _words(spec.allowed)
        except InvalidRequest as error:
            refused[i] = error
        masks.append(mask)
    return masks, refused


def _words(allowed: npt.NDArray[np.generic]) -> Mask:
    """A mask in any form that `SampleSpec.allowed` may have, as uint32 words."""
    if allowed.ndim == 1 and allowed.dtype in (np.uint32, np.int32):
        return np.ascontiguousarray(allowed).view(np.uint32)
    if allowed.ndim != 1 or allowed.dtype != np.bool_:
        found = f"{allowed.dtype} {allowed.shape}"
        raise InvalidRequest("allowed", found, "is no row of bool, int32 or uint32")
    words = np.zeros(-(-len(allowed) // 32), np.uint32)
    packed = np.packbits(np.asarray(allowed, np.bool_), bitorder="little")
    words.view(np.uint8)[: len(packed)] = packed
    return words


def _check_ids(spec: SampleSpec, vocab: int) -> None:
    for name, ids in (
        ("logit_bias", [token for token, _ in spec.params.logit_bias]),
        ("token_ids_logprob", spec.token_ids_logprob),
    ):
        for token in ids:
            if not 0 <= token < vocab:
                raise InvalidRequest(
                    name, token, f"is no token id of this model (0 to {vocab - 1})"
                )


# -- choosing ------------------------------------------------------------------------------------------


def _largest(
    logits: torch.Tensor, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(where, value) of the first of the largest logits of each of `rows`, which rise. A NaN counts as
    the largest."""
    if not len(rows):
        return np.empty(0, np.int64), np.empty(0, np.float32)
    chosen = logits if len(rows) == len(logits) else logits[torch.from_numpy(rows)]
    if chosen.device.type == "cpu":  # several times as fast as torch's
        found = chosen.numpy().argmax(-1)
        return found, chosen.numpy()[np.arange(len(found)), found]
    best = chosen.argmax(-1, keepdim=True)
    values = chosen.gather(-1, best).squeeze(-1).cpu().numpy()
    return best.squeeze(-1).cpu().numpy(), values


def _changes(spec: SampleSpec) -> bool:
    """Do the logits that are drawn from differ from the model's, other than by a mask?"""
    p = spec.params
    return bool(
        p.logit_bias
        or ((p.frequency_penalty or p.presence_penalty) and len(spec.output_ids))
        or p.repetition_penalty != 1
        or len(spec.banned_ids)
    )


def _draw_changed(row: torch.Tensor, spec: SampleSpec, mask: Mask | None) -> int | RametError:
    row = _changed(row, spec)
    if float(row.amax()) == -np.inf:
        return BackendError(_NOTHING)
    return draw(row[None], [0], [Plain(spec.params, spec.seed)], [spec.step], [mask])[0]


def _changed(row: torch.Tensor, spec: SampleSpec) -> torch.Tensor:
    """The logits in float64, after bias, penalties and bans; the mask is for `draw`."""
    p, y = spec.params, row.double()

    def at(ids: Ids) -> torch.Tensor:
        return torch.as_tensor(np.asarray(ids, np.int64), device=y.device)

    if p.logit_bias:
        biases = torch.tensor([b for _, b in p.logit_bias], dtype=y.dtype, device=y.device)
        y.index_add_(0, at([token for token, _ in p.logit_bias]), biases)
    if (p.frequency_penalty or p.presence_penalty) and len(spec.output_ids):
        ids, counts = np.unique(np.asarray(spec.output_ids, np.int64), return_counts=True)
        penalty = p.frequency_penalty * counts + p.presence_penalty
        y[at(ids)] -= torch.as_tensor(penalty, device=y.device)
    if p.repetition_penalty != 1:
        seen = at(np.concatenate([np.asarray(spec.prompt_ids, np.int64), spec.output_ids]))
        v, r = y[seen], p.repetition_penalty
        y[seen] = torch.where(v > 0, v / r, v * r)
    banned = np.asarray(spec.banned_ids, np.int64)
    y[at(banned[banned < len(y)])] = -torch.inf
    return y


class _Ranking:
    """Token ids by falling logit, ties by id, as far as somebody has looked. Exact at any depth: a look
    takes every token down to the value of the last one wanted."""

    def __init__(self, row: torch.Tensor) -> None:
        self.row = row
        self.values: Floats = np.empty(0)
        self.ids: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.complete = False  # all tokens that can come are ranked

    def look(self, count: int) -> None:
        """Rank at least `count` tokens, or all."""
        if self.complete or count <= len(self.ids):
            return
        count = min(count, len(self.row))
        if count * 4 > len(self.row):
            ranked, order = torch.sort(self.row, descending=True, stable=True)
            possible = int((ranked > -torch.inf).sum())
            self.values = ranked[:possible].double().cpu().numpy()
            self.ids = order[:possible].cpu().numpy()
            self.complete = True
            return
        least = torch.topk(self.row, count).values[-1]
        self.complete = bool(least == -torch.inf)
        found = (self.row > least) if self.complete else (self.row >= least)
        if found.device.type == "cpu":  # several times as fast as torch's
            where = torch.from_numpy(np.flatnonzero(found.numpy()))
        else:
            where = found.nonzero().squeeze(1)
        values, ids = self.row[where].double().cpu().numpy(), where.cpu().numpy()
        by_value = np.lexsort((ids, -values))
        self.values, self.ids = values[by_value], ids[by_value]


def _weights(row: torch.Tensor, largest: float, temperature: float) -> Floats:
    """exp((logit - largest) / temperature) of every token, float64 [vocab], in order of ids."""
    if row.device.type != "cpu":
        return np.asarray(((row.double() - largest) / temperature).exp().cpu().numpy(), np.float64)
    scaled: Floats = row.numpy().astype(np.float64)  # a copy; numpy is several times as fast here
    scaled -= largest
    scaled /= temperature
    return np.exp(scaled, out=scaled)


def _inverse_cdf(row: torch.Tensor, largest: float, p: SamplingParams, u: float) -> int:
    """The first token at which the sum of kept weights exceeds u times their total, in float64. Kept
    tokens are taken by falling logit, ties by id; what is kept is always a beginning of that ranking, so
    only that much of it is made, and the sums are sequential, so they do not depend on how far it was
    made. Where nothing is filtered the order is that of the ids, which needs no ranking at all."""
    ranking, unlimited = _Ranking(row), p.top_k == -1 or p.top_k >= len(row)
    if not unlimited:
        ranking.look(p.top_k)
        weights = np.exp((ranking.values[: p.top_k] - largest) / p.temperature)
        kept = _num_kept(weights, float(np.cumsum(weights)[-1]), p)
        return int(ranking.ids[_pick(weights[:kept], u)])
    everything = _weights(row, largest, p.temperature)
    if p.top_p == 1 and p.min_p == 0:
        return _pick_in_blocks(everything, u)
    total, count = float(everything.sum()), _FIRST_LOOK
    while True:
        ranking.look(count)
        weights = np.exp((ranking.values - largest) / p.temperature)
        kept = _num_kept(weights, total, p)
        if kept is not None or ranking.complete:
            return int(ranking.ids[_pick(weights[:kept], u)])
        count = len(ranking.ids) * _LOOK_FURTHER


def _pick(weights: Floats, u: float) -> int:
    sums = np.cumsum(weights)
    return _first_above(sums, weights, u * float(sums[-1]))


def _pick_in_blocks(weights: Floats, u: float) -> int:
    """`_pick` over a whole vocabulary: first among the sums of blocks, then in the block."""
    padded = np.zeros((-(-len(weights) // _BLOCK), _BLOCK))
    padded.reshape(-1)[: len(weights)] = weights
    blocks = padded.sum(1)
    sums = np.cumsum(blocks)
    target = u * float(sums[-1])
    block = _first_above(sums, blocks, target)
    target -= float(sums[block - 1]) if block else 0.0
    inside = padded[block]
    return block * _BLOCK + _first_above(np.cumsum(inside), inside, target)


def _first_above(sums: Floats, weights: Floats, target: float) -> int:
    """The first index whose sum is above `target`; rounding may pass the end: then the last that weighs
    anything."""
    found = int(np.searchsorted(sums, target, side="right"))
    return found if found < len(sums) else int(np.flatnonzero(weights)[-1])


def _num_kept(weights: Floats, total: float, p: SamplingParams) -> int | None:
    """How many of the ranking's first tokens top-p and min-p keep: top-p the fewest whose mass reaches
    `top_p` of `total`, min-p those with at least `min_p` of the first one's weight. None if that lies
    beyond the tokens whose `weights` are given."""
    ends = []
    if p.top_p < 1:
        reached = int(np.searchsorted(np.cumsum(weights), p.top_p * total, side="left"))
        if reached < len(weights):
            ends.append(reached + 1)
    if p.min_p > 0 and weights[-1] < p.min_p:
        ends.append(int(np.searchsorted(-weights, -p.min_p, side="right")))
    return min(ends) if ends else None


# -- scoring -------------------------------------------------------------------------------------------


def _scored(
    logits: torch.Tensor,
    index: npt.NDArray[np.int64],
    specs: Sequence[SampleSpec],
    tokens: Sequence[int | RametError],
) -> list[Sampled]:
    """The answers, with the raw log-probabilities that were asked for."""
    scored = [i for i, t in enumerate(tokens) if isinstance(t, int) and specs[i].wants_scores]
    wanted, place = np.unique(index[scored], return_inverse=True)
    logprobs = logits[:0]
    if len(wanted):
        chosen = logits if len(wanted) == len(logits) else logits[torch.from_numpy(wanted)]
        logprobs = torch.log_softmax(chosen, -1)  # each row on its own, whatever their number
    own = np.full(len(specs), np.nan)
    picked = torch.as_tensor([tokens[i] for i in scored], dtype=torch.int64, device=logits.device)
    if len(scored):
        rows = torch.as_tensor(place, device=logits.device)
        own[scored] = logprobs[rows, picked].double().cpu().numpy()
    row_of = dict(zip(scored, place))
    tops = _tops(logprobs, [(int(row_of[i]), specs[i].top_logprobs_num) for i in scored])
    found = []
    for i, (spec, token) in enumerate(zip(specs, tokens)):
        if not isinstance(token, int):
            found.append(Sampled(-1, float("nan"), error=token))
            continue
        row = row_of.get(i)
        top = [] if row is None else tops.get(int(row), [])[: spec.top_logprobs_num]
        asked = [] if row is None else _asked(logprobs[int(row)], spec.token_ids_logprob)
        found.append(Sampled(token, float(own[i]), top, asked))
    return found


def _tops(
    logprobs: torch.Tensor, wanted: Sequence[tuple[int, int]]
) -> dict[int, list[tuple[float, int]]]:
    """For each row the most likely tokens, as many as any of `wanted` (row, count) asks for."""
    counts: dict[int, int] = {}
    for row, count in wanted:
        counts[row] = max(count, counts.get(row, 0))
    found = {}
    for row, count in counts.items():
        if count:
            ranking = _Ranking(logprobs[row])
            ranking.look(count)
            pairs = zip(ranking.values[:count].tolist(), ranking.ids[:count].tolist())
            found[row] = list(pairs)
    return found


def _asked(logprobs: torch.Tensor, ids: tuple[int, ...]) -> list[tuple[float, int]]:
    if not ids:
        return []
    values = logprobs[torch.as_tensor(ids, device=logprobs.device)].double().tolist()
    return list(zip(values, ids))
