"""The forward pass in one native call: what the PyTorch operations give, and each row by itself.

Whole schedules are in tests/engine/test_exact.py; here a forward pass is called by hand.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.checkpoints import make_checkpoint
from tests.models.oracle import Run

from ramet.cache.pool import KVPool
from ramet.kernels import threads
from ramet.kernels.cpu.library import why_not
from ramet.kernels.plan import AttentionPlan
from ramet.models import load_model
from ramet.models.decoder import Decoder

if why_not() is not None:
    pytest.skip(f"no native kernels: {why_not()}", allow_module_level=True)

KINDS: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": "float32"},
    "fp16": {},
    "int8": {"quantization": "int8", "kv_dtype": "float32"},
    "int8, bf16 KV": {"quantization": "int8", "kv_dtype": "bfloat16"},
    "fp16 KV": {"dtype": "float32", "kv_dtype": "float16"},
    "bf16 KV": {"dtype": "float32", "kv_dtype": "bfloat16"},
}
# How far log-probabilities may be from the slow twin's, which multiplies by the same matrices: at
# most, and on average. A number that lies between two of 8 bits, or of 16 where keys and values are
# that, may be rounded either way; with bfloat16, queries and weights may be rounded as well.
NEAR = {
    "fp32": (1e-4, 1e-5),
    "fp16": (1e-4, 1e-5),
    "int8": (0.2, 2e-3),
    "int8, bf16 KV": (0.8, 0.1),
    "fp16 KV": (5e-3, 1e-4),
    "bf16 KV": (0.15, 0.01),
}
IDS = np.random.default_rng(3).integers(0, 640, 150).tolist()
SLOTS = np.random.default_rng(4).permutation(256).tolist()


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    monkeypatch.setattr(threads, "_asked", 2)
    return


def load(family: str, folder: Path, kind: str, **overrides: Any) -> Decoder:
    checkpoint = make_checkpoint(family, folder / f"{family}-{kind}", **overrides)
    return load_model(checkpoint, native=True, **KINDS[kind])


def slow_twin(decoder: Decoder) -> Decoder:
    """The same packed matrices between PyTorch's operations."""
    return Decoder(
        decoder.config,
        decoder.weights,
        dtype=decoder.dtype,
        kv_dtype=decoder.kv_dtype,
        max_context=decoder.max_context,
    )


def check_near(a: torch.Tensor, b: torch.Tensor, kind: str) -> None:
    distance = (a.float() - b.float()).abs()
    assert (distance.max() <= NEAR[kind][0], distance.mean() <= NEAR[kind][1]) == (True, True)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "llama-tied", "llama-biased", "qwen2", "qwen3"])
def test_it_gives_what_the_slow_twin_gives(family: str, kind: str, tmp_path: Path) -> None:
    fast = load(family, tmp_path, kind)
    assert fast.native is not None
    got, want = Run(fast), Run(slow_twin(fast))
    for segments in (
        [(IDS[:90], 0, SLOTS[:90])],
        [
            (IDS[90:91], 90, SLOTS[:91]),
            (IDS[100:107], 80, [*SLOTS[:80], *SLOTS[120:127]]),
            (IDS[110:115], 0, SLOTS[130:135]),
        ],
    ):
        check_near(got(*segments), want(*segments), kind)
        for layer in range(fast.config.num_layers):
            check_near(got.kv.keys(layer), want.kv.keys(layer), kind)
            check_near(got.kv.values(layer), want.kv.values(layer), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10},
        {"hidden_size": 130, "intermediate_size": 33, "head_dim": 6, "vocab_size": 641},
        {"num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 2},
    ],
    ids=str,
)
def test_odd_sizes(sizes: dict[str, Any], kind: str, tmp_path: Path) -> None:
    fast = load("llama", tmp_path, kind, **sizes)
    a, b = (Run(d)((IDS[:70], 0, SLOTS[:70])) for d in (fast, slow_twin(fast)))
    check_near(a, b, kind)


# -- bits ----------------------------------------------------------------------------------------


def forward(decoder: Decoder, kv: KVPool, ids: list[int], first: int, wanted: list[int]) -> Any:
    """Rows at positions first ... of the one path SLOTS; logits of those `wanted`."""
    positions = np.arange(first, first + len(ids))
    path = np.array(SLOTS[: first + len(ids)])
    plan = AttentionPlan(np.array([0, len(ids)]), np.array([first]), (path,))
    return decoder.forward(np.array(ids), positions, path[first:], plan, np.array(wanted), kv)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_do_not_depend_on_which_rows_want_them(kind: str, tmp_path: Path) -> None:
    decoder = load("llama", tmp_path, kind)
    full = forward(decoder, decoder.make_kv_pool(256), IDS, 0, list(range(150)))
    for wanted in ([], [0], [149], [3, 70, 71, 149], list(range(1, 150))):
        kv = decoder.make_kv_pool(256)
        assert same_bits(forward(decoder, kv, IDS, 0, wanted), full[wanted])


@pytest.mark.parametrize("kind", KINDS)
def test_keys_and_values_do_not_depend_on_chunks_or_threads(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = load("qwen3", tmp_path, kind)
    whole = decoder.make_kv_pool(256)
    want = forward(decoder, whole, IDS, 0, [149])
    for step, count in ((1, 1), (7, 3), (64, 2), (149, 1)):
        monkeypatch.setattr(threads, "_asked", count)
        kv = decoder.make_kv_pool(256)
        for first in range(0, 150, step):
            ids = IDS[first : first + step]
            got = forward(decoder, kv, ids, first, [len(ids) - 1])
        assert same_bits(got, want)
        for layer in range(2):
            assert torch.equal(kv.keys(layer), whole.keys(layer))
            assert torch.equal(kv.values(layer), whole.values(layer))


@pytest.mark.parametrize("kind", ["fp16", "int8", "int8, bf16 KV"])
def test_more_rows_than_are_computed_at_once(kind: str, tmp_path: Path) -> None:
    """A prompt of 700 tokens in one pass, and in passes of 100."""
    decoder = load("llama", tmp_path, kind, max_position_embeddings=1024)
    ids = np.random.default_rng(5).integers(0, 640, 700)
    path = np.random.default_rng(6).permutation(800)[:700]
    results = []
    for step in (700, 100):
        kv = decoder.make_kv_pool(800)
        pieces = []
        for first in range(0, 700, step):
            rows = np.arange(first, first + step)
            plan = AttentionPlan(np.array([0, step]), np.array([first]), (path[: first + step],))
            pieces.append(decoder.forward(ids[rows], rows, path[rows], plan, np.arange(step), kv))
        results.append(torch.cat(pieces))
    assert same_bits(*results)


def test_only_the_slots_of_its_rows_are_written(tmp_path: Path) -> None:
    decoder = load("llama", tmp_path, "fp32")
    kv = decoder.make_kv_pool(256)
    for layer in range(2):
        kv.keys(layer).fill_(7.0), kv.values(layer).fill_(7.0)
    forward(decoder, kv, IDS[:20], 0, [19])
    others = [s for s in range(257) if s not in SLOTS[:20]]
    for layer in range(2):
        for pool in (kv.keys(layer), kv.values(layer)):
            assert (pool[others] == 7.0).all()
            assert (pool[SLOTS[:20]] != 7.0).any(-1).all()


def test_rows_computed_again_for_their_logits(tmp_path: Path) -> None:
    """They write to the scratch slot and read what is cached: the same bits."""
    decoder = load("llama", tmp_path, "int8")
    run = Run(decoder)
    want = run((IDS, 0, SLOTS[:150]))
    kept = [run.kv.keys(i).clone() for i in range(2)]
    again = run((IDS[140:], 140, SLOTS[:150]), (IDS[70:72], 70, SLOTS[:72]), recompute=True)
    assert same_bits(again, torch.cat((want[140:], want[70:72])))
    for layer in range(2):
        assert torch.equal(run.kv.keys(layer)[:-1], kept[layer][:-1])


# -- ownership -----------------------------------------------------------------------------------


def test_two_models_in_two_threads(tmp_path: Path) -> None:
    decoders = [load("llama", tmp_path, kind) for kind in ("fp16", "int8")]
    wanted = [Run(d)((IDS, 0, SLOTS[:150])) for d in decoders]
    wrong: list[int] = []

    def caller(i: int) -> None:
        run = Run(decoders[i])
        wrong.extend(i for _ in range(15) if not same_bits(run((IDS, 0, SLOTS[:150])), wanted[i]))

    callers = [threading.Thread(target=caller, args=(i,)) for i in (0, 1)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert wrong == []


def test_pools_come_and_go(tmp_path: Path) -> None:
    """Each has its own memory, and none is kept alive by the model."""
    decoder = load("llama", tmp_path, "fp32")
    first, second = decoder.make_kv_pool(256), decoder.make_kv_pool(256)
    want = forward(decoder, first, IDS[:60], 0, [59])
    assert same_bits(forward(decoder, second, IDS[:60], 0, [59]), want)
    forward(decoder, first, IDS[60:61], 60, [0])
    assert not second.keys(0)[SLOTS[60]].any()
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    for _ in range(20):
        assert same_bits(forward(decoder, decoder.make_kv_pool(256), IDS[:60], 0, [59]), want)


def test_a_pool_of_another_dtype(tmp_path: Path) -> None:
    decoder = load("llama", tmp_path, "fp32")
    pool = KVPool(2, 256, 2, 16, torch.float16)
    with pytest.raises(ValueError, match=r"KV pool of torch\.float16"):
        forward(decoder, pool, IDS[:5], 0, [4])


def test_a_model_outlives_what_it_was_made_of(tmp_path: Path) -> None:
    """The native side holds addresses only; Python keeps what they point to."""
    decoder = load("qwen3", tmp_path, "fp16")
    kv = decoder.make_kv_pool(256)
    want = forward(decoder, kv, IDS[:30], 0, [29])
    native = decoder.native
    assert native is not None
    del decoder
    gc.collect()
    filler = [torch.full((640, 64), torch.nan) for _ in range(50)]
    plan = AttentionPlan(np.array([0, 30]), np.array([0]), (np.array(SLOTS[:30]),))
    rows = np.arange(30)
    got = native(np.array(IDS[:30]), rows, np.array(SLOTS[:30]), plan, np.array([29]), kv)
    assert filler[0].isnan().all()
    assert same_bits(got, want)
