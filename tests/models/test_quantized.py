"""8-bit checkpoints: what is saved gives the bits of quantizing while loading; all other schemes
are refused.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.checkpoints import edit_json, make_checkpoint
from tests.models.oracle import Run
from typer.testing import CliRunner

from ramet import Engine
from ramet.cli import app
from ramet.errors import CheckpointError, InvalidRequest
from ramet.kernels.cpu.library import why_not
from ramet.kernels.quantize import quantize_int8
from ramet.models import load_model
from ramet.models.quantized import save_quantized
from ramet.models.scheme import INT8_SCHEME

if why_not() is not None:
    pytest.skip(f"no native kernels: {why_not()}", allow_module_level=True)

from ramet.kernels.cpu.linear import NativeLinear

IDS, PATH = list(range(4, 84)), list(range(80))
WEIGHTS = "model.safetensors"
ONE = "model.layers.1.self_attn.k_proj.weight"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def logprobs(folder: Path, **options: Any) -> torch.Tensor:
    return Run(load_model(folder, **options))((IDS, 0, PATH))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.view(torch.int32), b.view(torch.int32))


def linears(folder: Path, **options: Any) -> list[NativeLinear]:
    weights = load_model(folder, **options).weights
    found = [m for v in weights.layers for m in (v.qkv, v.o, v.gate_up, v.down)]
    assert all(isinstance(m, NativeLinear) for m in [*found, weights.lm_head])
    return [*found, weights.lm_head]  # type: ignore[list-item]


# -- the round trip ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama", "llama-tied", "llama-biased", "qwen2", "qwen3"])
def test_saved_and_loaded_it_has_the_same_bits(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    source = make_checkpoint(family, tmp_path / "source", dtype=dtype)
    want = logprobs(source, quantization="int8")
    target = save_quantized(source, tmp_path / "target")
    assert same_bits(logprobs(target), want)
    assert same_bits(logprobs(target, quantization="int8"), want)
    assert {m.kind for m in linears(target)} == {"int8"}
    assert (
        load_model(target).num_weight_bytes
        == load_model(source, quantization="int8").num_weight_bytes
    )
    assert not same_bits(want, logprobs(source))


def test_of_shards_comes_one_file(tmp_path: Path) -> None:
    source = make_checkpoint("llama", tmp_path / "source", shards=3)
    target = save_quantized(source, tmp_path / "target")
    assert [p.name for p in target.glob("*.safetensors*")] == [WEIGHTS]
    assert same_bits(logprobs(target), logprobs(source, quantization="int8"))


def test_what_is_in_the_file(tmp_path: Path) -> None:
    """Bytes and one scale per output for each projection; everything else is as it was."""
    source = make_checkpoint("llama-biased", tmp_path / "source", dtype=torch.bfloat16)
    target = save_quantized(source, tmp_path / "target")
    before, after = load_file(source / WEIGHTS), load_file(target / WEIGHTS)
    for name, tensor in before.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(after.pop(name), tensor)
            continue
        got, scale = after.pop(name), after.pop(f"{name}_scale")
        assert (got.dtype, scale.dtype) == (torch.int8, torch.float32)
        assert (got.shape, scale.shape) == (tensor.shape, (len(tensor), 1))
        step = tensor.float().abs().amax(1, keepdim=True) / 127
        torch.testing.assert_close(scale, step)
        assert ((got * scale - tensor.float()).abs() <= step * 0.5001).all()
        assert (got.abs().amax(1) == 127).all()
    assert after == {}
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (target / file).read_bytes() == (source / file).read_bytes()
    config = json.loads((target / "config.json").read_text())
    assert config.pop("quantization_config") == INT8_SCHEME
    assert config == json.loads((source / "config.json").read_text())


def test_rows_of_zeros_and_of_nearly_nothing(tmp_path: Path) -> None:
    source = make_checkpoint("llama", tmp_path / "source")
    weights = load_file(source / WEIGHTS)
    weights[ONE][3], weights[ONE][4] = 0.0, 1e-35
    save_file(weights, source / WEIGHTS)
    target = save_quantized(source, tmp_path / "target")
    assert load_file(target / WEIGHTS)[f"{ONE}_scale"][3:5].tolist() == [[0.0], [0.0]]
    got = logprobs(target)
    assert got.isfinite().all()
    assert same_bits(got, logprobs(source, quantization="int8"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_rounding_to_the_nearest(dtype: torch.dtype) -> None:
    weight = torch.randn(300, 50, generator=torch.Generator().manual_seed(1)).to(dtype)
    got, scale = quantize_int8(weight)
    wide = weight.float()
    magnitude = wide.abs().amax(1, keepdim=True)
    want = (wide.numpy() * (torch.full_like(magnitude, 127.0) / magnitude).numpy()).round()
    assert torch.equal(got, torch.from_numpy(want).to(torch.int8))
    assert torch.equal(scale[:, None], magnitude / 127)


def test_the_engine_gives_the_same_answers(tmp_path: Path) -> None:
    source = make_checkpoint("llama", tmp_path / "source")
    target = save_quantized(source, tmp_path / "target")
    answers = []
    for folder, options in ((source, {"quantization": "int8"}), (target, {})):
        with Engine(str(folder), **options) as engine:
            found = engine.generate(
                input_ids=[IDS, IDS[:30], IDS[10:]],
                sampling_params={"max_new_tokens": 12, "temperature": 0, "ignore_eos": True},
                return_logprob=True,
            )
        answers.append([(f["output_ids"], f["meta_info"]["output_token_logprobs"]) for f in found])
    assert answers[0] == answers[1]


# -- what is refused -----------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_quantized(make_checkpoint("llama", tmp_path / "source"), tmp_path / "saved")


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no scale": (
        lambda f: change(f, lambda w: w.pop(f"{ONE}_scale")),
        f"tensor '{ONE}_scale' is missing",
    ),
    "one scale for all": (
        lambda f: change(f, lambda w: w.update({f"{ONE}_scale": torch.ones(1)})),
        f"tensor '{ONE}_scale' has shape [1], config.json asks for [32, 1]",
    ),
    "a matrix not in bytes": (
        lambda f: change(f, lambda w: w.update({ONE: w[ONE].float()})),
        f"tensor '{ONE}' is float32",
    ),
    "a matrix of another shape": (
        lambda f: change(f, lambda w: w.update({ONE: w[ONE][:8].contiguous()})),
        f"tensor '{ONE}' has shape [8, 64], config.json asks for [32, 64]",
    ),
    "scales that are integers": (
        lambda f: change(
            f, lambda w: w.update({f"{ONE}_scale": torch.ones(32, 1, dtype=torch.int8)})
        ),
        f"tensor '{ONE}_scale' is int8",
    ),
    "config.json denies it": (
        lambda f: edit_json(f / "config.json", quantization_config=...),
        "is int8; Ramet reads float32, float16 and bfloat16",
    ),
    "cut short": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]),
        "not a whole safetensors file",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoints(name: str, saved: Path) -> None:
    damage, message = BROKEN[name]
    damage(saved)
    with pytest.raises(CheckpointError) as caught:
        load_model(saved)
    assert message in str(caught.value)
    assert str(saved) in str(caught.value)


GROUP = "config_groups.group_0."
SCHEMES: dict[str, tuple[dict[str, Any], str]] = {
    "gptq": ({"quant_method": "gptq"}, "names the method 'gptq'"),
    "no method": ({"quant_method": ...}, "names the method None"),
    "packed": ({"format": "pack-quantized"}, "names the format 'pack-quantized'"),
    "KV cache": ({"kv_cache_scheme": {"num_bits": 8}}, "quantizes the KV cache"),
    "two groups": (
        {"config_groups.group_1": {"targets": ["re:.*down"]}},
        "does not have one group of layers",
    ),
    "some layers": ({f"{GROUP}targets": ["re:.*mlp.*"]}, "does not treat all linear layers alike"),
    "outputs": ({f"{GROUP}output_activations": {"num_bits": 8}}, "quantizes outputs"),
    "weights alone": ({f"{GROUP}input_activations": None}, "says nothing of input_activations"),
    "4 bits": ({f"{GROUP}weights.num_bits": 4}, "has weights.num_bits 4 and not 8"),
    "fp8": ({f"{GROUP}weights.type": "float"}, "has weights.type 'float' and not 'int'"),
    "by tensor": ({f"{GROUP}weights.strategy": "tensor"}, "has weights.strategy 'tensor' and not"),
    "static": (
        {f"{GROUP}input_activations.dynamic": False},
        "has input_activations.dynamic False and not True",
    ),
    "asymmetric": (
        {f"{GROUP}input_activations.symmetric": False},
        "has input_activations.symmetric False and not True",
    ),
    "layers left out": (
        {"ignore": ["lm_head", "model.layers.0.mlp.down_proj"]},
        "and not just lm_head",
    ),
    "nothing left out": ({"ignore": []}, "leaves out [] and not just lm_head"),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_other_schemes_are_refused_by_name(name: str, saved: Path) -> None:
    changes, message = SCHEMES[name]
    scheme: dict[str, Any] = copy.deepcopy(INT8_SCHEME)
    for path, value in changes.items():
        *outer, last = path.split(".")
        inner = scheme
        for key in outer:
            inner = inner[key]
        inner[last] = value
        if value is ...:
            del inner[last]
    edit_json(saved / "config.json", quantization_config=scheme)
    with pytest.raises(CheckpointError) as caught:
        load_model(saved)
    assert message in str(caught.value)
    assert "config.json: quantization_config" in str(caught.value)
    assert "give the unquantized checkpoint" in str(caught.value)


@pytest.mark.parametrize("value", ["int8", 8, ["compressed-tensors"]])
def test_a_scheme_that_is_no_object(value: Any, saved: Path) -> None:
    edit_json(saved / "config.json", quantization_config=value)
    with pytest.raises(CheckpointError, match=r"quantization_config is .*, expected an object"):
        load_model(saved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float32"}, "dtype: 'float32' and 8-bit weights exclude each other"),
        ({"native": False}, "quantization: 'int8' does not run without the native CPU kernels"),
        ({"quantization": "int4"}, "quantization: 'int4' is not known; use \"int8\""),
    ],
)
def test_options_that_do_not_go_together(
    options: dict[str, Any], message: str, saved: Path
) -> None:
    for folder, more in ((saved, {}), (saved.parent / "source", {"quantization": "int8"})):
        with pytest.raises(InvalidRequest) as caught:
            load_model(folder, **more | options)
        assert message in str(caught.value)


def test_where_it_may_not_be_written(saved: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with pytest.raises(InvalidRequest, match=r"^target: .*exists and is not empty; name a new"):
        save_quantized(source, saved)
    with pytest.raises(InvalidRequest, match=r"^source: .*is quantized already"):
        save_quantized(saved, tmp_path / "again")
    with pytest.raises(CheckpointError, match=r"does not exist|is missing"):
        save_quantized(tmp_path / "nowhere", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    (tmp_path / "empty").mkdir()
    assert same_bits(logprobs(save_quantized(source, tmp_path / "empty")), logprobs(saved))


# -- ramet quantize ------------------------------------------------------------------------------


def test_ramet_quantize(tmp_path: Path) -> None:
    source = make_checkpoint("llama", tmp_path / "source", dtype=torch.float16)
    target = tmp_path / "target"
    done = CliRunner().invoke(app, ["quantize", str(source), str(target)])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{target}: 0.")
    assert same_bits(logprobs(target), logprobs(source, quantization="int8"))
    again = CliRunner().invoke(app, ["quantize", str(source), str(target)])
    assert again.exit_code == 2
    assert "exists and is not empty" in again.stderr
    assert "Traceback" not in again.stderr
