"""Random checkpoints in real shapes: Hugging Face folders that any engine can load.

    python -m benchmarks.weights 135M-8k --to FOLDER

Speed does not depend on what the weights say, so nothing is downloaded. Knows shapes, names of tensors
and the files of a checkpoint folder; refuses to know Ramet, so that a misreading of the format cannot
hide in both.

The tokenizer is a byte-level BPE that is built, not trained: its merges spell words of consonant-vowel
syllables, with and without a space before them. Every word of two syllables behind a space is one token,
in any context, so a text of n words has n tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["SHAPES", "Shape", "build_tokenizer", "checkpoint", "default_folder"]

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_ROLES = ("user", "assistant", "system")
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxz", "aeiou"
_SPACE = "\u0120"  # how byte-level BPE writes a space
_STD = 0.02  # of every matrix; norms are one


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's sizes. `tied`: the output matrix is the embedding."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool
    max_positions: int = 8192
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def num_weights(self) -> int:
        return sum(rows * cols for _, (rows, cols) in _matrices(self))


SHAPES: dict[str, Shape] = {
    "tiny": Shape(64, 2, 4, 2, 128, 2048, tied=True),  # for tests
    "135M": Shape(576, 30, 9, 3, 1536, 49152, tied=True),
    "135M-8k": Shape(576, 30, 9, 3, 1536, 8192, tied=True),
    "1.1B": Shape(2048, 22, 32, 4, 5632, 32000, tied=False),
}


def default_folder(name: str) -> Path:
    """Where `checkpoint(name)` is kept: below `$RAMET_CACHE`, or `ramet` in the user's cache folder."""
    base = os.environ.get("RAMET_CACHE")
    if base is None:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ramet")
    return Path(base) / "bench" / name


def checkpoint(name: str, to: str | Path | None = None, seed: int = 0) -> Path:
    """The folder of a random checkpoint of `SHAPES[name]`; made if it is not there.

    A folder is complete when it exists: it is written beside its place and moved. Raises `ValueError` for
    an unknown name, and for a folder that holds something else.
    """
    if name not in SHAPES:
        raise ValueError(f"no shape is called {name!r}; known are {', '.join(SHAPES)}")
    folder = default_folder(name) if to is None else Path(to).expanduser()
    made_as = {"shape": name, "seed": seed}
    if folder.is_dir() and any(folder.iterdir()):
        note = folder / "random_weights.json"
        if not note.is_file() or json.loads(note.read_text()) != made_as:
            raise ValueError(f"{folder} holds something else; name another folder with --to")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        fresh = Path(place) / "checkpoint"
        fresh.mkdir()
        _write(SHAPES[name], fresh, seed)
        (fresh / "random_weights.json").write_text(json.dumps(made_as))
        if folder.is_dir():
            folder.rmdir()
        shutil.move(fresh, folder)
    return folder


# -- weights -------------------------------------------------------------------------------------


def _write(shape: Shape, folder: Path, seed: int) -> None:
    from safetensors.numpy import save_file

    tensors = dict(_tensors(shape, seed))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=2) + "\n")
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(ids) + "\n")
    _write_tokenizer(shape, folder)


def _tensors(shape: Shape, seed: int) -> Iterator[tuple[str, npt.NDArray[np.float16]]]:
    rng = np.random.default_rng(seed)
    for name, size in _matrices(shape):
        values = rng.standard_normal(size, np.float32)
        yield name, (values * np.float32(_STD)).astype(np.float16)
    ones = np.ones(shape.hidden, np.float16)
    yield "model.norm.weight", ones
    for layer in range(shape.layers):
        yield f"model.layers.{layer}.input_layernorm.weight", ones
        yield f"model.layers.{layer}.post_attention_layernorm.weight", ones


def _matrices(shape: Shape) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, [out, in]) of every matrix that is stored."""
    hidden, kv = shape.hidden, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab, hidden)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.self_attn.q_proj.weight", (hidden, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (kv, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (kv, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{prefix}.mlp.gate_proj.weight", (shape.intermediate, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (shape.intermediate, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, shape.intermediate)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, hidden)


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": shape.max_positions,
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": _STD,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float16",
        "use_cache": True,
    }


# -- tokenizer -----------------------------------------------------------------------------------


def build_tokenizer(vocab: int) -> str:
    """The text of a tokenizer.json with exactly `vocab` tokens. Raises `ValueError` below 600."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIALS, *alphabet]
    known = set(pieces)
    merges: list[tuple[str, str]] = []
    for left, right in _merges():
        if len(pieces) == vocab:
            break
        if left + right not in known:
            known.add(left + right)
            pieces.append(left + right)
            merges.append((left, right))
    if vocab < 600 or len(pieces) != vocab:
        raise ValueError(f"a vocabulary of {vocab} tokens cannot be built: 600 to 100000 can")
    tokenizer = Tokenizer(
        models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return str(tokenizer.to_str(pretty=False))


def _merges() -> Iterator[tuple[str, str]]:
    """Best first. A syllable merges before anything else, then the space with the first syllable, so a
    longer word is found from the left."""
    syllables = [c + v for c, v in itertools.product(_CONSONANTS, _VOWELS)]
    yield from itertools.product(_CONSONANTS, _VOWELS)
    yield from ((_SPACE, syllable) for syllable in syllables)
    for role in _ROLES:
        yield from _chain(role)
    spaced = list(itertools.product(syllables, syllables))
    # In an order that mixes first syllables, so that a small vocabulary is not all words with b.
    spaced.sort(
        key=lambda pair: (syllables.index(pair[0]) + syllables.index(pair[1])) % len(syllables)
    )
    yield from ((_SPACE + first, second) for first, second in spaced)
    yield from spaced
    yield from ((_SPACE + a + b, c) for (a, b), c in itertools.product(spaced, syllables))


def _chain(word: str) -> Iterator[tuple[str, str]]:
    """Merges that make `word` one token, over the syllables that are merged already."""
    parts: list[str] = []
    rest = word
    while rest:
        size = 2 if len(rest) > 1 and rest[0] in _CONSONANTS and rest[1] in _VOWELS else 1
        parts.append(rest[:size])
        rest = rest[size:]
    for end in range(1, len(parts)):
        yield "".join(parts[:end]), parts[end]


def _write_tokenizer(shape: Shape, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(build_tokenizer(shape.vocab))
    names = {"bos_token": SPECIALS[1], "eos_token": SPECIALS[2], "pad_token": SPECIALS[0]}
    settings = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.max_positions,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weights", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument(
        "--to", metavar="FOLDER", help="default: bench/SHAPE in Ramet's cache folder"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    try:
        print(checkpoint(given.shape, given.to, given.seed))
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
