"""Tiny random checkpoints, written as Hugging Face folders without transformers.

`make_checkpoint("llama", path)` writes config.json, safetensors, a working byte-level BPE
tokenizer.json and tokenizer_config.json. Nothing here reads Ramet's code, so that a misreading of the
format cannot hide in both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
BOS, EOS, IM_START, IM_END = range(4)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORDS = [
    "the",
    "and",
    "of",
    "to",
    "in",
    "is",
    "it",
    "that",
    "for",
    "was",
    "with",
    "his",
    "on",
    "be",
    "at",
    "by",
    "this",
    "had",
    "not",
    "are",
    "but",
    "from",
    "or",
    "have",
    "an",
    "they",
    "which",
    "one",
    "you",
    "were",
    "all",
    "her",
    "she",
    "there",
    "would",
    "their",
    "we",
    "him",
    "been",
    "has",
    "when",
    "who",
    "will",
    "no",
    "more",
    "if",
    "out",
    "so",
    "up",
    "said",
    "what",
    "its",
    "about",
    "than",
    "into",
    "them",
    "can",
    "only",
    "other",
    "time",
    "new",
    "some",
    "could",
    "these",
    "two",
    "may",
    "first",
    "then",
    "do",
    "any",
    "like",
    "my",
    "now",
    "over",
    "such",
    "our",
    "man",
    "me",
    "even",
    "most",
    "made",
    "after",
    "also",
    "did",
    "many",
    "off",
    "before",
]

_SIZES: dict[str, Any] = {
    "vocab_size": 640,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "llama-tied": _LLAMA | {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "llama-biased": _LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 24},
    "llama-linear": _LLAMA
    | {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "llama3": _LLAMA | {"rope_parameters": _LLAMA3_ROPE},
    "llama-yarn": _LLAMA | {"rope_parameters": _YARN_ROPE},
    "codellama": _LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": None,
        "head_dim": 32,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": 32,
        "max_window_layers": 1,
        "layer_types": ["full_attention", "full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 32,
        "attention_bias": False,
        "layer_types": ["full_attention", "full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
}


def make_checkpoint(
    family: str,
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    shards: int = 1,
    style: int = 5,
    chat_template: str | None = None,
    weight_scale: float = 1.0,
    **overrides: Any,
) -> Path:
    """Write a checkpoint of `family` (a key of FAMILIES) to the folder `path` and return it.

    `style`: 5 or 4, the major version of transformers whose config.json is imitated. `shards`: number
    of weight files. `weight_scale` multiplies matrices (larger: sharper distributions). `overrides`
    replace keys of config.json (in style 5).
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    config = _SIZES | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    config |= FAMILIES[family] | overrides
    if "layer_types" in config and "layer_types" not in overrides:
        config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    config["dtype"] = str(dtype).removeprefix("torch.")
    written = config if style == 5 else as_transformers_4(config)
    write_json(folder / "config.json", written)
    write_json(folder / "generation_config.json", {"eos_token_id": [EOS, IM_END]})
    weights = {n: t.to(dtype) for n, t in random_weights(config, seed, weight_scale).items()}
    save_weights(folder, weights, shards)
    write_tokenizer(folder, chat_template)
    return folder


def as_transformers_4(config: dict[str, Any]) -> dict[str, Any]:
    """The same model as transformers 4 wrote it."""
    old = {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype", "layer_types")}
    rope = dict(config["rope_parameters"])
    old["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    # "type" is the older spelling; llama3 came with the newer one
    name = "type" if kind in ("linear", "dynamic") else "rope_type"
    old["rope_scaling"] = None if kind == "default" else {name: kind, **rope}
    old["torch_dtype"] = config["dtype"]
    return old


def random_weights(config: dict[str, Any], seed: int, scale: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 2:
            # so that activations stay near one and the logits spread over several units
            size = {"model.embed_tokens.weight": 0.4, "lm_head.weight": 3 * shape[1] ** -0.5}
            weights[name] = noise * scale * size.get(name, shape[1] ** -0.5)
        else:
            weights[name] = 0.2 * noise + (0.0 if name.endswith("bias") else 1.0)
    return weights


def weight_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, as Hugging Face names them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    d = config.get("head_dim") or hidden // heads
    kind = config["model_type"]
    o_bias = bool(config.get("attention_bias"))
    qkv_bias, mlp_bias = o_bias or kind == "qwen2", bool(config.get("mlp_bias"))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden)
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        shapes[layer + "input_layernorm.weight"] = (hidden,)
        shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
        for name, num_out, num_in, bias in (
            ("self_attn.q_proj", heads * d, hidden, qkv_bias),
            ("self_attn.k_proj", kv_heads * d, hidden, qkv_bias),
            ("self_attn.v_proj", kv_heads * d, hidden, qkv_bias),
            ("self_attn.o_proj", hidden, heads * d, o_bias),
            ("mlp.gate_proj", inner, hidden, mlp_bias),
            ("mlp.up_proj", inner, hidden, mlp_bias),
            ("mlp.down_proj", hidden, inner, mlp_bias),
        ):
            shapes[f"{layer}{name}.weight"] = (num_out, num_in)
            if bias:
                shapes[f"{layer}{name}.bias"] = (num_out,)
        if kind == "qwen3":
            shapes[layer + "self_attn.q_norm.weight"] = (d,)
            shapes[layer + "self_attn.k_norm.weight"] = (d,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def save_weights(folder: Path, weights: dict[str, torch.Tensor], shards: int = 1) -> None:
    """One model.safetensors, or `shards` files with an index."""
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(weights)
    file_of = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        mine = {name: weights[name] for name in names[i::shards]}
        save_file(mine, folder / file, metadata={"format": "pt"})
        file_of |= dict.fromkeys(mine, file)
    size = sum(t.numel() * t.element_size() for t in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": file_of}
    write_json(folder / "model.safetensors.index.json", index)


def write_tokenizer(folder: Path, chat_template: str | None = None) -> None:
    """A byte-level BPE that knows common English words, every byte, and SPECIAL_TOKENS as ids 0-3.

    It has no more than 640 tokens, so it fits the default vocabulary.
    """
    vocab = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[byte] = len(vocab)
    merges: list[tuple[str, str]] = []
    pairs = [(word[:cut], word[cut]) for word in _WORDS for cut in range(1, len(word))]
    pairs += [("Ġ", word) for word in _WORDS]  # "Ġ" is the space
    for left, right in pairs:
        if left + right not in vocab:
            merges.append((left, right))
            vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[BOS],
        "eos_token": SPECIAL_TOKENS[EOS],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; the value `...` removes the key."""
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {k: v for k, v in values.items() if v is not ...})
