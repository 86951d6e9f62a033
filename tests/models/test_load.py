"""Loading: what is converted to what, and what every broken checkpoint says."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.checkpoints import edit_json, make_checkpoint, write_json
from tests.models.oracle import Run

from ramet.errors import CheckpointError, InvalidRequest
from ramet.kernels.linear import TorchLinear
from ramet.kernels.plan import AttentionPlan
from ramet.models import load, load_model
from ramet.models.decoder import Decoder

IDS, PATH = list(range(4, 64)), list(range(60))
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def logprobs(folder: Path, **options: Any) -> torch.Tensor:
    return Run(load_model(folder, **options))((IDS, 0, PATH))


@pytest.mark.parametrize("family", ["llama-tied", "qwen2"])
def test_fp16_weights_with_fp32_arithmetic_are_the_default(family: str, tmp_path: Path) -> None:
    """The same numbers as an fp32 model whose matrices were rounded to fp16 beforehand."""
    folder = make_checkpoint(family, tmp_path / "a")
    got = logprobs(folder)
    assert torch.equal(got, logprobs(folder, dtype="float16"))
    rounded = load_file(folder / WEIGHTS)
    rounded = {n: t.half().float() if t.ndim == 2 else t for n, t in rounded.items()}
    save_file(rounded, make_checkpoint(family, tmp_path / "b") / WEIGHTS)
    assert (got - logprobs(tmp_path / "b", dtype="float32")).abs().max() < 1e-4
    assert (got - logprobs(folder, dtype="float32")).abs().max() > 1e-4


def test_sizes_that_a_runner_needs(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    num_weights = sum(t.numel() for t in load_file(folder / WEIGHTS).values())
    norms = 5 * 64
    half, full = load_model(folder), load_model(folder, dtype="float32", max_context=100)
    assert half.num_weight_bytes == 2 * (num_weights - norms) + 4 * norms
    assert full.num_weight_bytes == 4 * num_weights
    assert (half.max_context, full.max_context) == (512, 100)
    assert half.device == torch.device("cpu")
    pool = half.make_kv_pool(10)
    assert half.kv_bytes_per_slot == pool.bytes_per_slot == 2 * 2 * 2 * 16 * 4
    assert pool.keys(1).dtype == torch.float32


def test_progress_ends_with_everything_read(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path, shards=2)
    calls: list[tuple[int, int]] = []
    load_model(folder, progress=lambda done, total: calls.append((done, total)))
    total = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    assert {t for _, t in calls} == {total}
    assert [d for d, _ in calls] == sorted({d for d, _ in calls})
    assert 0.9 * total < calls[-1][0] <= total


def test_a_matrix_beyond_fp16_is_kept_as_fp32(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    weights = load_file(folder / WEIGHTS)
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = 2e5
    weights["model.embed_tokens.weight"][639, 0] = -1e5
    save_file(weights, folder / WEIGHTS)
    with pytest.warns(UserWarning, match=r"model\.layers\.1\.mlp\.down_proj holds numbers beyond"):
        got = logprobs(folder)
    assert got.isfinite().all()
    assert (got - logprobs(folder, dtype="float32")).abs().max() < 0.1


def test_zero_biases_that_the_config_denies_do_not_matter(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    expected = logprobs(folder)
    weights = load_file(folder / WEIGHTS)
    weights["model.layers.0.self_attn.k_proj.bias"] = torch.zeros(32)
    save_file(weights, folder / WEIGHTS)
    assert torch.equal(logprobs(folder), expected)
    weights["model.layers.0.self_attn.k_proj.bias"][5] = 1.0
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"k_proj\.bias', but by config\.json"):
        load_model(folder)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "has no model.safetensors"),
    "only pickle": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
        "pickle files can run code, so Ramet never opens them. Convert",
    ),
    "no index": (
        lambda f: (f / WEIGHTS).rename(f / "model-00001-of-00002.safetensors"),
        "neither model.safetensors nor model.safetensors.index.json; fetch the index",
    ),
    "truncated": (cut, "not a whole safetensors file"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "not a whole safetensors file"),
    "garbage": (lambda f: (f / WEIGHTS).write_bytes(b"PK" * 500), "not a whole safetensors file"),
    "missing tensor": (
        lambda f: change_weights(f, lambda w: w.pop("model.layers.1.mlp.up_proj.weight")),
        "tensor 'model.layers.1.mlp.up_proj.weight' is missing",
    ),
    "missing head": (
        lambda f: change_weights(f, lambda w: w.pop("lm_head.weight")),
        "tensor 'lm_head.weight' is missing",
    ),
    "wrong shape": (
        lambda f: edit_json(f / "config.json", vocab_size=700),
        "tensor 'model.embed_tokens.weight' has shape [640, 64], config.json asks for [700, 64]",
    ),
    "other model's config": (
        lambda f: edit_json(f / "config.json", num_key_value_heads=4),
        "k_proj.weight' has shape [32, 64], config.json asks for [64, 64]",
    ),
    "integers": (
        lambda f: change_weights(
            f, lambda w: w.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)})
        ),
        "tensor 'model.norm.weight' is int8; Ramet reads float32, float16 and bfloat16",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: file is missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoints(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    damage, message = BROKEN[name]
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
BROKEN_SHARDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (
        lambda f: (f / SECOND).unlink(),
        f"1 of 2 weight files that {INDEX} names are missing ({SECOND}); fetch them",
    ),
    "swapped": (
        lambda f: (f / FIRST).write_bytes((f / SECOND).read_bytes()),
        f"is missing, though {INDEX} places it there",
    ),
    "truncated": (
        lambda f: (f / SECOND).write_bytes((f / SECOND).read_bytes()[:-1]),
        "not a whole safetensors file",
    ),
    "empty index": (lambda f: write_json(f / INDEX, {}), "weight_map is missing or empty"),
    "broken index": (lambda f: (f / INDEX).write_text("{"), "cannot be read as JSON"),
    "escaping": (
        lambda f: write_json(f / INDEX, {"weight_map": {"a": "../x.safetensors"}}),
        "outside the folder",
    ),
}


@pytest.mark.parametrize("name", BROKEN_SHARDS)
def test_broken_shards(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path, shards=2)
    damage, message = BROKEN_SHARDS[name]
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert message in str(caught.value)


def test_missing_folder() -> None:
    with pytest.raises(CheckpointError, match="'/nowhere/at/all' does not exist"):
        load_model("/nowhere/at/all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype: 'int4' is not known; use float32"),
        ({"dtype": "bfloat16"}, "is not run on a CPU; use"),
        ({"dtype": torch.float64}, "dtype: 'float64' is not known"),
        ({"device": "tpu"}, "device: 'tpu' is not a device"),
        ({"device": "mps"}, "device: 'mps' is not a device"),
        ({"device": 3.5}, "device: 3.5 is not a device"),
        ({"max_context": 0}, "max_context: 0 is not a positive integer"),
        ({"max_context": True}, "max_context: True is not a positive integer"),
        ({"max_context": 513}, "is more than the 512 tokens of this checkpoint"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load_model(make_checkpoint("llama", tmp_path), **options)
    assert message in str(caught.value)


def test_cuda_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidRequest, match="is not available: torch sees no CUDA GPU"):
        load_model(make_checkpoint("llama", tmp_path), device="cuda")


@pytest.mark.parametrize("family", ["llama-biased", "qwen3"])
def test_arithmetic_in_half_precision_as_on_a_gpu(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        _name: str,
        *,
        native: bool,
    ) -> TorchLinear:
        assert not native
        return TorchLinear(weight.to(dtype), None if bias is None else bias.to(dtype))

    folder = make_checkpoint(family, tmp_path)
    expected = logprobs(folder, dtype="float32")
    monkeypatch.setattr(load, "pack_linear", plain)
    for dtype, tolerance in ((torch.bfloat16, 0.5), (torch.float16, 0.05)):
        monkeypatch.setattr(load, "_dtype", lambda *_, dtype=dtype: dtype)
        loaded = load_model(folder, native=False)
        decoder = Decoder(loaded.config, loaded.weights, dtype=dtype)
        got = Run(decoder)((IDS, 0, PATH))
        assert decoder.make_kv_pool(1).keys(0).dtype == dtype
        assert 1e-4 < (got - expected).abs().max() < tolerance


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")


@needs_cuda
@pytest.mark.parametrize("family", ["llama-biased", "llama-tied", "qwen3"])
def test_cuda_in_every_dtype(family: str, tmp_path: Path) -> None:
    for saved, natural in ((torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16)):
        folder = make_checkpoint(family, tmp_path / str(saved), dtype=saved)
        expected = logprobs(folder, dtype="float32")
        assert load_model(folder, device="cuda").dtype == natural
        for dtype, tolerance in (
            (None, 0.3),
            ("bfloat16", 0.3),
            ("float16", 0.03),
            ("float32", 1e-4),
        ):
            got = logprobs(folder, device="cuda", dtype=dtype).cpu()
            assert (got - expected).abs().max() < tolerance, dtype


@needs_cuda
def test_cuda_refuses_numbers_beyond_fp16(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    change_weights(folder, lambda w: w["lm_head.weight"].mul_(1e6))
    with pytest.raises(InvalidRequest, match="cannot hold the numbers of lm_head"):
        load_model(folder, device="cuda")


def test_no_rows_and_arrays_that_cannot_be_written(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder = load_model(make_checkpoint("llama", tmp_path))
        for count in (0, 1, 3):
            rows = np.arange(count)
            starts = np.array([0, count] if count else [0])
            firsts = np.zeros(len(starts) - 1, np.int64)
            for array in (rows, starts, firsts):
                array.setflags(write=False)
            plan = AttentionPlan(starts, firsts, (rows,) * len(firsts))
            logits = decoder.forward(rows, rows, rows, plan, rows, decoder.make_kv_pool(4))
            assert logits.shape == (count, 640)
