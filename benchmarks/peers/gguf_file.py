"""A plain Llama checkpoint as a GGUF file, for llama.cpp.

Written with llama.cpp's own `gguf` package: names, metadata and its order of rotary rows. Its script in
the source tree refuses tokenizers that it has not met, and these are built for benchmarks; here the
tokens are only carried along, because every request is token ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.models import kept, read_config, read_tensors

__all__ = ["gguf", "interleaved"]

_NORMAL, _CONTROL = 1, 3  # kinds of token in the format


def gguf(model: Path, precision: str) -> Path:
    """The GGUF file: Q8_0 for "int8" (all matrices, the embedding too), F32 for "fp32".

    Raises `ValueError` for a checkpoint that is no plain Llama.
    """
    config = read_config(model)
    if config.get("architectures") != ["LlamaForCausalLM"] or config.get("rope_scaling"):
        raise ValueError(f"{model} is no plain Llama (LlamaForCausalLM without rope scaling)")

    def make(folder: Path) -> None:
        _write(model, config, precision, folder / "model.gguf")

    return kept(model, f"gguf-{precision}", make) / "model.gguf"


def interleaved(matrix: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of a query or key projection in the order that llama.cpp rotates: neighbours are a pair, where
    Hugging Face's layout pairs row i with row i + head_dim / 2. [heads * head_dim, in] both ways."""
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def _write(model: Path, config: dict[str, Any], precision: str, path: Path) -> None:
    import gguf as format

    int8 = precision == "int8"
    writer = format.GGUFWriter(path, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_name(model.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    kind = format.LlamaFileType.MOSTLY_Q8_0 if int8 else format.LlamaFileType.ALL_F32
    writer.add_file_type(kind)
    _add_tokens(writer, model, config)
    for name, tensor in read_tensors(model).items():
        if "q_proj" in name or "k_proj" in name:
            tensor = interleaved(tensor, heads if "q_proj" in name else kv_heads)
        values = tensor.astype(np.float32)
        if int8 and values.ndim == 2:
            q8 = format.GGMLQuantizationType.Q8_0
            packed = format.quants.quantize(values, q8)
            writer.add_tensor(_name(name), packed, raw_dtype=q8)
        else:
            writer.add_tensor(_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def _name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    if name in _WHOLE:
        return _WHOLE[name]
    layer, _, part = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
    if part not in _PARTS:
        raise ValueError(f"tensor {name} belongs to no plain Llama")
    return f"blk.{layer}.{_PARTS[part]}.weight"


def _add_tokens(writer: Any, model: Path, config: dict[str, Any]) -> None:
    data = json.loads((model / "tokenizer.json").read_text())
    pieces: list[str] = [f"[unused{i}]" for i in range(config["vocab_size"])]
    kinds = [_NORMAL] * len(pieces)
    for piece, i in data["model"]["vocab"].items():
        pieces[i] = piece
    for added in data.get("added_tokens", []):
        pieces[added["id"]] = added["content"]
        kinds[added["id"]] = _CONTROL
    merges = data["model"].get("merges", [])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
