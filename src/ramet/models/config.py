"""What a Hugging Face config.json says about a decoder-only model, as one frozen record.

Knows the key names that transformers 4 and 5 write and which architectures Ramet runs; refuses to know
tensors. Anything that would make the numbers differ from the checkpoint's is refused by name here,
never ignored. Two features bound the context instead, because within the bound they change nothing: a
sliding window (all of a context no longer than the window is visible) and dynamic NTK scaling (up to
`max_position_embeddings` the frequencies are the unscaled ones).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramet.errors import CheckpointError
from ramet.models.fields import Fields, read_json
from ramet.models.rope import RopeConfig, read_rope
from ramet.models.scheme import read_scheme

__all__ = ["SUPPORTED_ARCHITECTURES", "ModelConfig"]


@dataclass(frozen=True, slots=True)
class _Family:
    """How an architecture differs from Llama. `None`: the config.json decides (default False)."""

    qkv_bias: bool | None = None
    o_bias: bool | None = None
    mlp_bias: bool | None = False
    qk_norm: bool = False
    default_head_dim: int | None = None
    default_sliding_window: int | None = None  # when the key is missing
    window_needs_switch: bool = False  # `use_sliding_window` must be true for it to count
    has_window: bool = True


_LLAMA = _Family(mlp_bias=None, has_window=False)
_FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "LLaMAForCausalLM": _LLAMA,  # the spelling of early Llama 1 conversions
    "MistralForCausalLM": _Family(qkv_bias=False, o_bias=False, default_sliding_window=4096),
    "Qwen2ForCausalLM": _Family(
        qkv_bias=True, o_bias=False, default_sliding_window=4096, window_needs_switch=True
    ),
    "Qwen3ForCausalLM": _Family(
        qk_norm=True, default_head_dim=128, default_sliding_window=4096, window_needs_switch=True
    ),
}
_BY_MODEL_TYPE = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
SUPPORTED_ARCHITECTURES = tuple(_BY_MODEL_TYPE.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and switches of one checkpoint. `sliding_window` is None unless some layer uses one.
    `checkpoint_dtype` is what config.json claims ("bfloat16", ...) or None, `quantization` "int8" for
    matrices in 8 bits."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    sliding_window: int | None
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    checkpoint_dtype: str | None
    quantization: str | None = None

    @property
    def max_context(self) -> int:
        """Tokens of the longest context whose numbers are the checkpoint's own. Linear scaling counts
        `max_position_embeddings` as it stands, because checkpoints disagree on whether it is the length
        before or after scaling; YaRN names the original length, so its factor is applied."""
        longest = max(self.max_position_embeddings, self.rope.scaled_context)
        return longest if self.sliding_window is None else min(longest, self.sliding_window)

    @classmethod
    def from_folder(cls, folder: str | Path) -> ModelConfig:
        """Read config.json, and generation_config.json where there is one.

        Raises CheckpointError naming the file and the key.
        """
        folder = Path(folder)
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "does not exist"
            raise CheckpointError(
                f"model folder {str(folder)!r} {problem}; give the folder that holds config.json and "
                "the *.safetensors files (Ramet never downloads)"
            )
        generation_path = folder / "generation_config.json"
        generation = read_json(generation_path) if generation_path.exists() else {}
        config_path = folder / "config.json"
        return cls.from_dict(
            read_json(config_path),
            source=str(config_path),
            generation=generation,
            generation_source=str(generation_path),
        )

    @classmethod
    def from_dict(
        cls,
        values: dict[str, Any],
        *,
        source: str = "config.json",
        generation: dict[str, Any] | None = None,
        generation_source: str = "generation_config.json",
    ) -> ModelConfig:
        """`values` is the parsed config.json, `generation` the parsed generation_config.json; the
        sources are how error messages name the two."""
        fields = Fields(values, source)
        architecture = _architecture(fields)
        family = _FAMILIES[architecture]
        _refuse_what_would_change_the_numbers(fields)
        num_layers = fields.integer("num_hidden_layers")
        attention_bias = fields.boolean("attention_bias", False)
        eos = fields.token_ids("eos_token_id")
        eos += Fields(generation or {}, generation_source).token_ids("eos_token_id")
        max_positions = fields.integer("max_position_embeddings", 2048)
        return cls(
            architecture=architecture,
            **_sizes(fields, family),
            num_layers=num_layers,
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
            rope=read_rope(fields, max_positions),
            max_position_embeddings=max_positions,
            sliding_window=_sliding_window(fields, family, num_layers),
            tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
            qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
            o_bias=attention_bias if family.o_bias is None else family.o_bias,
            mlp_bias=(
                fields.boolean("mlp_bias", False) if family.mlp_bias is None else family.mlp_bias
            ),
            qk_norm=family.qk_norm,
            bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
            eos_token_ids=tuple(dict.fromkeys(eos)),
            pad_token_id=next(
                (i for i in fields.token_ids("pad_token_id", minimum=-1) if i >= 0), None
            ),
            checkpoint_dtype=_dtype_name(fields),
            quantization=read_scheme(fields),
        )


def _architecture(fields: Fields) -> str:
    supported = ", ".join(SUPPORTED_ARCHITECTURES)
    names = fields.values.get("architectures")
    if names:
        if isinstance(names, list):
            for name in names:
                if name in _FAMILIES:
                    return str(name)
        raise fields.error("architectures", f"is {names!r}; Ramet runs {supported}")
    model_type = fields.values.get("model_type")
    if isinstance(model_type, str) and model_type in _BY_MODEL_TYPE:
        return _BY_MODEL_TYPE[model_type]
    raise fields.error(
        "architectures", f"is missing and model_type is {model_type!r}; Ramet runs {supported}"
    )


def _sizes(fields: Fields, family: _Family) -> dict[str, int]:
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.error(
            "num_key_value_heads", f"is {kv_heads}, which does not divide the {heads} heads"
        )
    if fields.has("head_dim") or family.default_head_dim is not None:
        head_dim = fields.integer("head_dim", family.default_head_dim)
    else:
        if hidden % heads:
            raise fields.error(
                "hidden_size",
                f"is {hidden}, not a multiple of num_attention_heads {heads}, and there is no head_dim",
            )
        head_dim = hidden // heads
    if head_dim % 2:
        raise fields.error("head_dim", f"is {head_dim}; rotary embeddings need an even number")
    return {
        "vocab_size": fields.integer("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": fields.integer("intermediate_size"),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
    }


def _refuse_what_would_change_the_numbers(fields: Fields) -> None:
    activation = fields.values.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):  # two names of one function
        raise fields.error("hidden_act", f"is {activation!r}; Ramet runs silu only")


def _sliding_window(fields: Fields, family: _Family, num_layers: int) -> int | None:
    """The window of the layers that use one, or None when no layer does."""
    layer_types = fields.values.get("layer_types")
    if layer_types is not None:
        known = ("full_attention", "sliding_attention")
        if not isinstance(layer_types, list) or any(t not in known for t in layer_types):
            raise fields.error(
                "layer_types", f"is {layer_types!r}; Ramet runs {' and '.join(known)}"
            )
        if len(layer_types) != num_layers:
            raise fields.error(
                "layer_types", f"has {len(layer_types)} entries for {num_layers} layers"
            )
    if not family.has_window:
        if layer_types is not None and "sliding_attention" in layer_types:
            raise fields.error(
                "layer_types", "asks for sliding_attention, which Llama does not have"
            )
        return None
    if family.window_needs_switch and not fields.boolean("use_sliding_window", False):
        return None
    if "sliding_window" in fields.values and fields.values["sliding_window"] is None:
        return None
    window = fields.integer("sliding_window", family.default_sliding_window)
    if layer_types is not None:
        return window if "sliding_attention" in layer_types else None
    if family.window_needs_switch:
        return window if fields.integer("max_window_layers", 28, minimum=0) < num_layers else None
    return window


def _dtype_name(fields: Fields) -> str | None:
    name = fields.values.get("dtype", fields.values.get("torch_dtype"))
    return name.removeprefix("torch.") if isinstance(name, str) else None
