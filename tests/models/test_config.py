"""config.json of every supported kind becomes the right record; everything else is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ramet.errors import CheckpointError
from ramet.models.config import SUPPORTED_ARCHITECTURES, ModelConfig
from ramet.models.rope import RopeConfig, frequencies

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 100}
QWEN3 = LLAMA | {"architectures": ["Qwen3ForCausalLM"]}
MISTRAL = LLAMA | {"architectures": ["MistralForCausalLM"], "max_position_embeddings": 100}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def read(values: dict[str, Any], **changes: Any) -> ModelConfig:
    return ModelConfig.from_dict(values | changes)


def test_what_is_missing_has_the_default_of_transformers() -> None:
    config = read(LLAMA)
    assert config.num_kv_heads == 4
    assert config.head_dim == 16
    assert config.rms_norm_eps == 1e-6
    assert config.rope == RopeConfig()
    assert config.max_position_embeddings == config.max_context == 2048
    assert config.sliding_window is None
    switches = ("tie_word_embeddings", "qkv_bias", "o_bias", "mlp_bias", "qk_norm")
    assert [name for name in switches if getattr(config, name)] == []
    assert config.bos_token_id is config.pad_token_id is config.checkpoint_dtype is None
    assert config.eos_token_ids == ()


def test_switches_of_the_families() -> None:
    assert read(QWEN2).qkv_bias
    assert not read(QWEN2, attention_bias=True).o_bias  # Qwen2 has no such switch
    assert read(QWEN3).qk_norm
    assert read(QWEN3).head_dim == 128  # whatever hidden_size / heads is
    assert read(QWEN3, attention_bias=True).o_bias
    biased = read(LLAMA, attention_bias=True, mlp_bias=True)
    assert biased.qkv_bias
    assert biased.o_bias
    assert biased.mlp_bias
    assert read(LLAMA, architectures=["LLaMAForCausalLM"]).num_layers == 2
    assert read(LLAMA, architectures=None, model_type="qwen3").qk_norm


@pytest.mark.parametrize("old", [True, False])
def test_rope_of_both_versions(old: bool) -> None:
    rope = LLAMA3 | {"original_max_position_embeddings": 8192}
    if old:
        config = read(LLAMA, rope_theta=500000.0, rope_scaling=rope, torch_dtype="bfloat16")
    else:
        rope = rope | {"rope_theta": 500000.0}
        config = read(LLAMA, rope_parameters=rope, dtype="bfloat16")
    assert config.rope == RopeConfig(
        kind="llama3", theta=500000.0, factor=8.0, original_context=8192
    )
    assert config.checkpoint_dtype == "bfloat16"


def test_rope_per_kind_of_layer() -> None:
    one = {"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0}
    assert read(QWEN3, rope_parameters={"full_attention": one}).rope.factor == 2.0
    two = {"full_attention": one, "sliding_attention": one | {"factor": 3.0}}
    with pytest.raises(CheckpointError, match="rope_parameters has different rules"):
        read(QWEN3, rope_parameters=two)


def test_rope_of_the_oldest_spelling() -> None:
    assert read(LLAMA, rope_scaling={"type": "linear", "factor": 4}).rope.factor == 4.0


def test_yarn_extends_the_context_it_names() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
    assert read(QWEN2, rope_scaling=rope).max_context == 400
    assert read(QWEN2, rope_scaling=rope, max_position_embeddings=512).max_context == 512
    assert (
        read(QWEN2, rope_scaling=rope, sliding_window=70, use_sliding_window=True).max_context
        == 100 * 4
    )
    assert read(QWEN2, rope_scaling={"rope_type": "yarn", "factor": 1.0}).rope.amplitude == 1.0


@pytest.mark.parametrize(
    ("values", "changes", "window"),
    [
        (MISTRAL, {"sliding_window": None}, None),
        (MISTRAL, {"sliding_window": 70}, 70),
        (MISTRAL, {}, 4096),
        (MISTRAL, {"sliding_window": 70, "layer_types": ["full_attention"] * 2}, None),
        (LLAMA, {"sliding_window": 70}, None),  # not a feature of Llama
        (QWEN2, {"sliding_window": 70}, None),
        (QWEN2, {"sliding_window": 70, "use_sliding_window": True}, None),  # from layer 28 on
        (QWEN2, {"sliding_window": 70, "use_sliding_window": True, "max_window_layers": 1}, 70),
        (QWEN2, {"sliding_window": 70, "use_sliding_window": True, "max_window_layers": 0}, 70),
        (QWEN2, {"sliding_window": 70, "use_sliding_window": True, "max_window_layers": 2}, None),
        (
            QWEN3,
            {
                "sliding_window": 70,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            70,
        ),
        (QWEN3, {"sliding_window": 70, "layer_types": ["full_attention"] * 2}, None),
    ],
)
def test_sliding_window(
    values: dict[str, Any], changes: dict[str, Any], window: int | None
) -> None:
    config = read(values, **changes)
    assert config.sliding_window == window
    longest = config.max_position_embeddings
    assert config.max_context == (longest if window is None else min(longest, window))


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        (LLAMA, {"architectures": ["GPT2LMHeadModel"]}, "architectures is ['GPT2LMHeadModel']; Ramet runs"),
        (LLAMA, {"architectures": [], "model_type": "gpt2"}, "model_type is 'gpt2'; Ramet runs"),
        (LLAMA, {"architectures": "LlamaForCausalLM"}, "architectures is"),
        (LLAMA, {"hidden_size": None}, "config.json: hidden_size is missing"),
        (LLAMA, {"hidden_size": "64"}, "hidden_size is '64', expected an integer"),
        (LLAMA, {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        (LLAMA, {"num_hidden_layers": True}, "num_hidden_layers is True"),
        (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads is 3, which does not divide"),
        (LLAMA, {"hidden_size": 66}, "hidden_size is 66, not a multiple"),
        (LLAMA, {"head_dim": 15}, "head_dim is 15; rotary"),
        (LLAMA, {"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'"),
        (LLAMA, {"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        (LLAMA, {"rope_theta": float("inf")}, "rope_theta is inf"),
        (LLAMA, {"hidden_act": "gelu"}, "hidden_act is 'gelu'; Ramet runs silu"),
        (LLAMA, {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        (LLAMA, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters: partial_rotary"),
        (LLAMA, {"rope_scaling": {"rope_type": "longrope"}}, "rope_type is 'longrope'; Ramet runs"),
        (LLAMA, {"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
        (LLAMA, {"rope_scaling": LLAMA3 | {"low_freq_factor": None}}, "low_freq_factor is missing"),
        (LLAMA, {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "expected more than"),
        (LLAMA, {"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object"),
        (LLAMA, {"quantization_config": {"quant_method": "gptq"}}, "method 'gptq'; give the unquantized"),
        (LLAMA, {"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
        (LLAMA, {"layer_types": ["sliding_attention"] * 2}, "which Llama does not have"),
        (QWEN3, {"layer_types": ["full_attention"]}, "layer_types has 1 entries for 2 layers"),
        (QWEN3, {"layer_types": ["linear_attention"] * 2}, "layer_types is"),
        (MISTRAL, {"sliding_window": -1}, "sliding_window is -1"),
    ],
)  # fmt: skip
def test_refused(values: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(values, **changes)
    assert message in str(caught.value)


def test_refusal_lists_what_is_supported() -> None:
    with pytest.raises(CheckpointError) as caught:
        read(LLAMA, architectures=["MixtralForCausalLM"])
    assert all(name in str(caught.value) for name in SUPPORTED_ARCHITECTURES)


def test_end_of_text_comes_from_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(LLAMA | {"eos_token_id": 7, "pad_token_id": -1})
    )
    assert ModelConfig.from_folder(tmp_path).eos_token_ids == (7,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 7, 8]}))
    config = ModelConfig.from_folder(str(tmp_path))
    assert config.eos_token_ids == (7, 9, 8)
    assert config.pad_token_id is None
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": "x"}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id is 'x'"):
        ModelConfig.from_folder(tmp_path)


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist; give the folder"):
        ModelConfig.from_folder(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json: file is missing"):
        ModelConfig.from_folder(tmp_path)
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        ModelConfig.from_folder(path)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read as JSON"):
        ModelConfig.from_folder(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        ModelConfig.from_folder(tmp_path)
    path.write_text("[1]")
    with pytest.raises(CheckpointError, match="holds a list, expected a JSON object"):
        ModelConfig.from_folder(tmp_path)


def test_linear_scaling_slows_every_frequency() -> None:
    plain = frequencies(RopeConfig(theta=100.0), 4)
    np.testing.assert_allclose(plain, [1.0, 0.1], rtol=1e-6)
    slow = frequencies(RopeConfig(kind="linear", theta=100.0, factor=4.0), 4)
    np.testing.assert_allclose(slow, [0.25, 0.025], rtol=1e-6)


def test_reading_a_config_does_not_import_torch() -> None:
    code = "import sys, ramet.models.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
