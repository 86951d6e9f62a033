"""Native attention: the definition in float64, and equal bits of a row however it comes to be
computed.

`test_cpu_levels.py` runs this file again for every instruction set that this machine has.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ramet.errors import InvalidRequest
from ramet.kernels import reference
from ramet.kernels.cpu.build import best_level
from ramet.kernels.cpu.library import library, why_not
from ramet.kernels.plan import AttentionPlan

if why_not() is not None:
    pytest.skip(f"no native kernels: {why_not()}", allow_module_level=True)

from ramet.kernels.cpu import attention as native

Ids = npt.NDArray[np.int64]
Segment = tuple[Ids, int]  # what its path holds, and how many of the last positions are rows
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Products of bfloat16 pairs: queries and weights are rounded as well (attention.h).
PAIRS = "avx512_bf16" in best_level().needs


def set_threads(count: int) -> None:
    library().ramet_set_num_threads(count)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    torch.set_num_threads(1)
    set_threads(2)
    yield
    set_threads(1)


# -- a world: contents with keys and values, and rows with queries -------------------------------


@dataclass(frozen=True)
class World:
    """keys, values: [contents, kv_heads, d]. A row and its query are known by its path."""

    heads: int
    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def random(
        cls, contents: int, kv_heads: int, group: int, d: int, dtype: torch.dtype, seed: int = 0
    ) -> World:
        generator = torch.Generator().manual_seed(seed)
        keys, values = torch.randn(2, contents, kv_heads, d, generator=generator).to(dtype)
        return cls(kv_heads * group, keys, values)

    def queries(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Drawn from each row's path, so that the same row has the same query anywhere."""
        shape = (self.heads, self.keys.shape[2])
        found = [torch.empty(0, *shape)]
        for path, num_rows in segments:
            for end in range(len(path) - num_rows + 1, len(path) + 1):
                seed = zlib.crc32(path[:end].tobytes())
                values = np.random.default_rng(seed).standard_normal(shape, np.float32)
                found.append(torch.from_numpy(values)[None])
        return torch.cat(found)


def plan_of(paths: Sequence[Ids], rows: Sequence[int]) -> AttentionPlan:
    starts = np.cumsum([0, *rows])
    firsts = np.array([len(path) - n for path, n in zip(paths, rows, strict=True)], np.int64)
    return AttentionPlan(starts, firsts, tuple(paths))


def run(
    world: World, segments: Sequence[Segment], *, share: bool = True, seed: int = 0
) -> torch.Tensor:
    """The kernel's answer. Contents lie at random slots, in one slot each or (`share` False) in one
    for every segment; all other slots hold NaN.
    """
    rng = np.random.default_rng(seed)
    num_contents = len(world.keys)
    wanted = [path if share else path + i * num_contents for i, (path, _) in enumerate(segments)]
    used = np.unique(np.concatenate([np.empty(0, np.int64), *wanted]))
    num_slots = len(used) + 7
    place = rng.permutation(num_slots)[: len(used)]
    keys = torch.full((num_slots + 1, *world.keys.shape[1:]), torch.nan, dtype=world.keys.dtype)
    values = keys.clone()
    keys[place], values[place] = world.keys[used % num_contents], world.values[used % num_contents]
    paths = [place[np.searchsorted(used, path)] for path in wanted]
    return call(world.queries(segments), keys, values, plan_of(paths, [n for _, n in segments]))


def call(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    prepared = native.prepare(plan, q.shape[1], *keys.shape[1:])
    return native.attention(q, keys, values, prepared)


# -- the definition ------------------------------------------------------------------------------


def expected(world: World, segments: Sequence[Segment]) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention in float64 and how far the kernel may be from it, both [rows, heads, d].

    A score is a chain of d multiply-adds whose partial sums are about as large as the score, so its
    error is about sqrt(d) half units of |score|, and that relative error is the weight's. Sixteen
    more units are for the exponential (2e-7), the sums over a block, the merges and the quotient.
    Where weights are rounded to bfloat16, each is off by up to 2^-9 of itself, and so is their sum.
    """
    q, rounds = world.queries(segments), PAIRS and world.keys.dtype == torch.bfloat16
    d = q.shape[2]
    scale = torch.tensor(np.float32(1 / (np.log(2) * d**0.5)))  # scores are powers of two
    q = (q * scale).bfloat16().double() if rounds else q.double() * (1 / (np.log(2) * d**0.5))
    found, room = [torch.empty(0, *q.shape[1:]).double()], [torch.empty(0, *q.shape[1:]).double()]
    row = 0
    group = world.heads // world.keys.shape[1]
    for path, num_rows in segments:
        k = world.keys[path].double().repeat_interleave(group, 1)
        v = world.values[path].double().repeat_interleave(group, 1)
        scores = torch.einsum("rhd,ihd->rhi", q[row : row + num_rows], k) * np.log(2)
        hidden = torch.ones(num_rows, len(path)).triu(len(path) - num_rows + 1).bool()
        weights = scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1)
        found.append(torch.einsum("rhi,ihd->rhd", weights, v))
        largest = scores.abs().amax((1, 2), keepdim=True)
        rounding = (2.0**-8 if rounds else 0.0) * torch.einsum("rhi,ihd->rhd", weights, v.abs())
        room.append((16 + d**0.5 * largest) * 2.0**-24 * v.abs().max() + rounding)
        row += num_rows
    return torch.cat(found), torch.cat(room)


def check(world: World, segments: Sequence[Segment], **options: bool) -> None:
    got = run(world, segments, **options)
    want, room = expected(world, segments)
    assert got.dtype == torch.float32
    assert got.shape == want.shape
    worst = ((got.double() - want).abs() / room).max().item() if len(want) else 0.0
    assert worst <= 1, f"{worst:.1f} times as far from the definition as float32 explains"


def ids(*parts: tuple[int, int]) -> Ids:
    """Contents start .. start + count of each part."""
    return np.concatenate([np.arange(start, start + count) for start, count in parts])


CLASSES: dict[str, list[Segment]] = {
    "prefill": [(ids((0, 200)), 200)],
    "one token": [(ids((0, 1)), 1)],
    "a block and one": [(ids((0, 65)), 65)],
    "chunk at a block": [(ids((0, 190)), 62)],
    "chunk inside a block": [(ids((0, 190)), 77)],
    "chunk of a block's end": [(ids((0, 64)), 3)],
    "decode": [(ids((0, 333)), 1)],
    "decode at a block's end": [(ids((0, 128)), 1)],
    "decode at a block's start": [(ids((0, 129)), 1)],
    "many decode": [(ids((100 * i, 17 * i + 1)), 1) for i in range(9)],
    "fork at a block": [(ids((0, 128), (300 + 9 * i, 9)), 1) for i in range(20)],
    "fork inside a block": [(ids((0, 150), (300 + 9 * i, 9)), 1) for i in range(20)],
    "fork twice": [
        (ids((0, 150), (300, 20 + 40 * i), (500 + 8 * j, 8)), 1) for i in range(3) for j in range(5)
    ],
    "branches that begin": [(ids((0, 100), (300 + 60 * i, 50)), 50) for i in range(5)],
    "prefill and its readers": [(ids((0, 140)), 140)]
    + [(ids((0, 140), (300 + 30 * i, 30)), 30) for i in range(4)],
    "verification": [(ids((0, 130 + 20 * i), (700 - 10 * i, 6)), 6) for i in range(5)],
    "the same row twice": [(ids((0, 100)), 1), (ids((0, 100)), 1), (ids((0, 100)), 30)],
    "out of order": [
        (ids((0, 130)), 40),
        (ids((300, 90)), 1),
        (ids((0, 131)), 1),
        (ids((0, 9)), 9),
    ],
    "more rows than a strip": [(ids((0, 450)), 450)],
    "a very long decode": [(ids((0, 6000)), 1), (ids((0, 5990), (6000, 9)), 1)],
    "nothing": [],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_plan(name: str, dtype: torch.dtype) -> None:
    world = World.random(6100, 2, 3, 16, dtype)
    for share in (True, False):
        check(world, CLASSES[name], share=share)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 16, 17, 31, 33, 48, 64, 80, 96, 100, 128, 192, 256])
def test_head_sizes(d: int, dtype: torch.dtype) -> None:
    world = World.random(400, 2, 2, d, dtype, seed=d)
    check(world, [*CLASSES["chunk inside a block"], *CLASSES["fork inside a block"][:3]])
    check(world, CLASSES["decode"])


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 5])
@pytest.mark.parametrize("group", range(1, 9))
def test_query_heads_per_kv_head(group: int, kv_heads: int) -> None:
    world = World.random(400, kv_heads, group, 16, torch.float32, seed=group)
    check(world, [*CLASSES["chunk inside a block"], *CLASSES["fork inside a block"][:3]])
    check(world, CLASSES["decode"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_agrees_with_the_reference(dtype: torch.dtype) -> None:
    """Both with the torch kernel and with its definition in float64, on the same pool."""
    world = World.random(500, 3, 2, 24, dtype)
    segments = [*CLASSES["chunk inside a block"], *CLASSES["fork inside a block"][:4]]
    plan = plan_of([path for path, _ in segments], [n for _, n in segments])
    q = world.queries(segments)
    got = call(q, world.keys, world.values, plan)
    torch_kernel = reference.attention(q, world.keys, world.values, reference.prepare(plan))
    definition = reference.attention_by_definition(q, world.keys, world.values, plan)
    near = 0.03 if PAIRS and dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(got, torch_kernel, rtol=0, atol=2 * near)
    torch.testing.assert_close(got.double(), definition, rtol=0, atol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [0.0, 1e-30, 30.0, 1e4])
def test_flat_and_sharp_weights(size: float, dtype: torch.dtype) -> None:
    """From the mean of all values to the value of the one largest score."""
    world = World.random(300, 2, 2, 32, dtype)
    world = World(world.heads, world.keys * size, world.values)
    check(world, [*CLASSES["chunk inside a block"], *CLASSES["decode"][:0], (ids((0, 300)), 1)])


# -- bits ----------------------------------------------------------------------------------------


def random_tree(rng: np.random.Generator, num_contents: int) -> list[Segment]:
    """A tree in depth-first order; branches leave anywhere, most of them inside a block."""
    free = rng.permutation(num_contents)
    segments: list[Segment] = []
    for _ in range(rng.integers(1, 9)):
        path = free[:0]
        if segments and rng.random() < 0.8:
            base = segments[rng.integers(max(0, len(segments) - 3), len(segments))][0]
            path = base[: rng.integers(0, len(base) + 1)]
        fresh = int(rng.choice([1, 2, 9, 63, 64, 65, 150, 260]))
        path, free = np.concatenate((path, free[:fresh])), free[fresh:]
        segments.append((path, min(len(path), int(rng.choice([1, 1, 1, 4, 40, fresh])))))
    return segments


def assert_same(got: torch.Tensor, want: torch.Tensor, what: str) -> None:
    """By bits: 0 and -0 differ."""
    rows = (got.view(torch.int32) != want.view(torch.int32)).flatten(1).any(1).nonzero().flatten()
    assert rows.tolist() == [], f"{what}: other bits in these rows"


def cut(rng: np.random.Generator, segments: Sequence[Segment]) -> list[Segment]:
    """The same rows in the same order, in more segments."""
    found: list[Segment] = []
    for path, num_rows in segments:
        ends = {num_rows, *rng.integers(1, num_rows + 1, rng.integers(0, 4)).tolist()}
        done = 0
        for end in sorted(ends):
            found.append((path[: len(path) - num_rows + end], end - done))
            done = end
    return found


def rows_of(segments: Sequence[Segment]) -> list[Segment]:
    """Each row as a segment of its own."""
    return [
        (path[:end], 1)
        for path, num_rows in segments
        for end in range(len(path) - num_rows + 1, len(path) + 1)
    ]


SHAPES = [(1, 1, 16), (3, 3, 16), (2, 4, 32), (1, 8, 24), (2, 1, 5), (4, 2, 64)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(30))
def test_a_row_has_the_same_bits_however_it_is_computed(seed: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    world = World.random(2300, *SHAPES[seed % len(SHAPES)], dtype, seed)
    segments = random_tree(rng, 2300)
    want = run(world, segments)
    check(world, segments)
    assert_same(run(world, segments, seed=1), want, "other slots")
    assert_same(run(world, segments, share=False), want, "no shared slots")
    for threads in (1, 3):
        set_threads(threads)
        assert_same(run(world, segments), want, f"{threads} threads")
        assert_same(run(world, segments, share=False), want, f"{threads} threads, nothing shared")
    set_threads(2)
    for _ in range(4):
        chunks = cut(rng, segments)
        assert_same(run(world, chunks), want, "other chunks")
        assert_same(run(world, chunks, share=False), want, "other chunks, nothing shared")
    alone = rows_of(segments)
    assert_same(run(world, alone), want, "rows as segments")
    for i in rng.permutation(len(alone))[:12]:
        assert_same(run(world, [alone[i]]), want[i : i + 1], "alone")
    some = sorted(rng.permutation(len(alone))[: rng.integers(1, len(alone) + 1)])
    assert_same(run(world, [alone[i] for i in some]), want[some], "among others")
    order = rng.permutation(len(alone))
    assert_same(run(world, [alone[i] for i in order]), want[order], "in another order")


@pytest.mark.parametrize("shape", [(3, 3, 64), (1, 1, 64), (4, 8, 32)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_keys_split_among_threads(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    """Long contexts and few rows: a row's blocks are computed by several threads and merged."""
    world = World.random(5200, *shape, dtype)
    segments = [(ids((0, 4000 + 37 * i), (5000 + 20 * i, 5)), 1 + i % 2) for i in range(8)]
    set_threads(1)
    want = run(world, segments)
    for threads in (2, 3, 5):
        set_threads(threads)
        for count in (1, 3, 8):
            rows = sum(n for _, n in segments[:count])
            assert_same(run(world, segments[:count]), want[:rows], f"{threads} threads, {count}")


def test_a_plan_may_run_on_another_number_of_threads() -> None:
    world = World.random(4000, 2, 2, 32, torch.float32)
    segments = [(ids((0, 3900)), 1), (ids((0, 3000), (3900, 90)), 90)]
    plan = plan_of([path for path, _ in segments], [n for _, n in segments])
    q = world.queries(segments)
    want = call(q, world.keys, world.values, plan)
    for planned, running in ((1, 3), (3, 1), (4, 2)):
        set_threads(planned)
        prepared = native.prepare(plan, *q.shape[1:2], *world.keys.shape[1:])
        set_threads(running)
        got = native.attention(q, world.keys, world.values, prepared)
        assert_same(got, want, f"planned for {planned} threads, run on {running}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_what_a_row_does_not_see_cannot_touch_it(dtype: torch.dtype, poison: float) -> None:
    """A broken key and value in the middle of a block: rows before it keep their bits."""
    world = World.random(700, 2, 2, 24, dtype)
    segments = [(ids((0, 200)), 90), (ids((0, 150), (300, 40)), 20), (ids((400, 130)), 130)]
    want = run(world, segments)
    bad = (170, 450)  # rows 60 .. of the first segment, 160 .. of all
    for content in bad:
        world.keys[content], world.values[content] = poison, poison
    got = run(world, segments)
    clean = [*range(60), *range(90, 160)]
    assert_same(got[clean], want[clean], "rows before")
    assert not got[[i for i in range(240) if i not in clean]].isfinite().any()


def test_queries_may_lie_apart() -> None:
    """As the columns of a wider matrix, which is how a decoder has them."""
    world = World.random(300, 2, 3, 16, torch.float32)
    segments = CLASSES["chunk inside a block"]
    q = world.queries(segments)
    wide = torch.full((len(q), 10 * 16), torch.nan)
    wide[:, 32:128] = q.flatten(1)
    plan = plan_of([path for path, _ in segments], [n for _, n in segments])
    got = call(wide[:, 32:128].unflatten(1, (6, 16)), world.keys, world.values, plan)
    assert_same(got, call(q, world.keys, world.values, plan), "in a wider matrix")


# -- refusals ------------------------------------------------------------------------------------


def ready() -> tuple[torch.Tensor, torch.Tensor, native.NativePlan]:
    plan = plan_of([np.arange(9)], [2])
    return torch.zeros(2, 4, 8), torch.zeros(10, 2, 8), native.prepare(plan, 4, 2, 8)


def test_wrong_tensors() -> None:
    q, kv, plan = ready()
    cases = {
        "attention.q": [
            (q[:1], kv, kv),
            (q.double(), kv, kv),
            (q[:, :2], kv, kv),
            (torch.zeros(2, 4, 16)[..., ::2], kv, kv),
            (torch.zeros(2, 8, 8)[:, ::2], kv, kv),
        ],
        "attention.keys": [
            (q, kv.double(), kv.double()),
            (q, kv[:, :1], kv),
            (q, torch.zeros(10, 2, 16)[..., :8], kv),
        ],
        "attention.values": [(q, kv, kv.half()), (q, kv, kv[..., :4]), (q, kv, kv.mT.contiguous())],
        "attention.device": [(q, kv.to("meta"), kv)],
    }
    for field, calls in cases.items():
        for arguments in calls:
            with pytest.raises(InvalidRequest, match=rf"^{field}: "):
                native.attention(*arguments, plan)


@pytest.mark.parametrize("shape", [(0, 1, 8), (4, 0, 8), (4, 3, 8), (4, 2, 0), (2, 4, 8)])
def test_wrong_shapes(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidRequest, match="KV heads"):
        native.prepare(plan_of([np.arange(3)], [1]), *shape)


@pytest.mark.parametrize(
    "plan",
    [
        AttentionPlan(np.array([0, 2]), np.array([4]), (np.arange(9),)),
        AttentionPlan(np.array([0, 2, 3]), np.array([7]), (np.arange(9),)),
        AttentionPlan(np.array([0, 2, 3]), np.array([7, 8]), (np.arange(9),)),
    ],
)
def test_plans_that_do_not_fit_together(plan: AttentionPlan) -> None:
    with pytest.raises(InvalidRequest, match="lengths of its segments' paths"):
        native.prepare(plan, 2, 1, 8)
