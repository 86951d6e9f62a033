"""Vocabularies that constraints are measured on: the embedded model's, and two that are trained here.

`pocket` has 2,048 tokens; `bpe128k` is a byte-level BPE of 128,000 as large models have it; `fallback32k`
is a BPE of 32,000 in the style of SentencePiece, where a space is U+2581 and a byte that no token has is a
token like <0x0A>. The last two are trained once on generated text (words of syllables, JSON, code, numbers,
several scripts) from a fixed seed. Knows tokenizer files; refuses to know constraints.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.weights import default_folder

__all__ = ["NAMES", "folder", "save_tokens"]

NAMES = ("pocket", "bpe128k", "fallback32k")
SIZES = {"bpe128k": 128_000, "fallback32k": 32_000}
_END = {"bpe128k": "<|end|>", "fallback32k": "</s>"}
_MARK = "▁"
# How large models' byte-level tokenizers divide a text before they merge: letters, up to three digits,
# marks with the lines behind them, lines, spaces.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ONSETS = "b br c ch cl cr d dr f fl g gr h j k l m n p pl pr qu r s sh sl sp st t th tr v w y z"
_CORES = "a e i o u ai ea ee ie oo ou io"
_CODAS = "   n r s t l m d ng nt st ck nd th x"  # four times of 18 none
_ENDS = (".", ".", ",", "?", "!", ":", " (1984).", ".\n\n")
_LETTERS = (  # first and last letter of other scripts
    ("а", "я"), ("α", "ω"), ("א", "ת"), ("ا", "ي"), ("अ", "ह"), ("ぁ", "ん"), ("가", "갛"), ("一", "丠"),
)  # fmt: skip


def folder(name: str) -> Path:
    """The checkpoint folder whose tokenizer it is; trained if it is not there (half a minute)."""
    if name == "pocket":
        from ramet.pocket import model_path

        return model_path()
    if name not in SIZES:
        raise ValueError(f"no vocabulary is called {name!r}; known are {', '.join(NAMES)}")
    place = default_folder(f"vocabulary-{name}")
    if not (place / "tokenizer.json").is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as fresh:
            made = Path(fresh) / "made"
            made.mkdir()
            spec = byte_level(SIZES[name]) if name == "bpe128k" else byte_fallback(SIZES[name])
            (made / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False))
            settings = {
                "eos_token": _END[name],
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
            }
            (made / "tokenizer_config.json").write_text(json.dumps(settings))
            shutil.rmtree(place, ignore_errors=True)
            shutil.move(made, place)
    return place


def save_tokens(tokens: list[bytes], ends: list[int], path: Path) -> None:
    """As a file that other engines' processes read: hexadecimal, special and unused ids empty."""
    path.write_text(json.dumps({"tokens": [token.hex() for token in tokens], "ends": ends}))


# -- two tokenizers ------------------------------------------------------------------------------


def byte_level(size: int, lines: int = 120_000) -> dict[str, Any]:
    """tokenizer.json, as data, of exactly `size` tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=[_END["bpe128k"]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(lines), trainer)
    return _checked(json.loads(tokenizer.to_str()), size)


def byte_fallback(size: int, lines: int = 60_000) -> dict[str, Any]:
    """The same, in the style of SentencePiece: no letter is sure to have a token, every byte has one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=first, limit_alphabet=400
    )
    tokenizer.train_from_iterator(corpus(lines), trainer)
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    # As converted SentencePiece models are: the space is replaced by a normalizer, and bytes are no
    # special tokens but what the decoder turns back.
    spec["pre_tokenizer"] = None
    spec["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": _MARK},
            {"type": "Replace", "pattern": {"String": " "}, "content": _MARK},
        ],
    }
    spec["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": _MARK}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] < 3]
    return _checked(spec, size)


def _checked(spec: dict[str, Any], size: int) -> dict[str, Any]:
    found = len(spec["model"]["vocab"])
    if found != size:
        raise ValueError(f"{found} tokens were trained, not {size}: the text is too small")
    return spec


# -- text ----------------------------------------------------------------------------------------


def corpus(lines: int, seed: int = 0) -> Iterator[str]:
    """Lines of generated text; of ten, six are prose, two JSON, one code and one another script."""
    rng = random.Random(seed)
    words = _words(rng, 3 * lines)
    weights = list(itertools.accumulate(1 / (rank + 10) ** 0.8 for rank in range(len(words))))
    kinds = [_prose] * 6 + [_json] * 2 + [_code, _script]
    for number in range(lines):
        chosen = rng.choices(words, cum_weights=weights, k=14)
        yield kinds[number % len(kinds)](rng, chosen)


def _words(rng: random.Random, count: int) -> list[str]:
    """Different ones, the shorter the more often used."""
    onsets, cores, codas = (parts.split(" ") for parts in (_ONSETS, _CORES, _CODAS))
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = 1 + min(4, len(found) * 4 // count + rng.randrange(2))
        parts = (
            rng.choice(onsets) + rng.choice(cores) + rng.choice(codas) for _ in range(syllables)
        )
        found["".join(parts)] = None
    return list(found)


def _prose(rng: random.Random, words: list[str]) -> str:
    text = " ".join(word.capitalize() if rng.random() < 0.12 else word for word in words)
    return text[:1].upper() + text[1:] + rng.choice(_ENDS)


def _json(rng: random.Random, words: list[str]) -> str:
    values: list[Any] = [
        words[0],
        f"{words[1]} {words[2]}",
        rng.randrange(10_000),
        rng.random() * 180,
    ]
    values += [True, None, [words[3], words[4]], {words[5]: words[6]}]
    data = {
        f"{key}_{words[8]}" if rng.random() < 0.2 else key: rng.choice(values) for key in words[7:]
    }
    indent = rng.choice([None, None, 2, 4])
    return json.dumps([data], indent=indent, separators=rng.choice([None, (",", ":")]))


def _code(rng: random.Random, words: list[str]) -> str:
    a, b, c, d = words[:4]
    return (
        f"def {a}_{b}(self, {c}: int = {rng.randrange(1000)}) -> list[str]:\n"
        f"    if {c} != {rng.randrange(256):#x} and not self.{d}:\n        return [{a!r}, f\"{{{b}}}\"]\n"
        f"    # https://{a}.example/{b}/{c}?{d}={rng.randrange(9999)}&x=%20\n\tfor (i = 0; i < {d}.{b}(); ++i) {{\n"
    )  # fmt: skip


def _script(rng: random.Random, words: list[str]) -> str:
    first, last = map(ord, rng.choice(_LETTERS))
    made = ["".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 5))) for _ in words]
    return " ".join(made) + " é ü ñ – “" + rng.choice(words) + "” 🙂 😀 € ∑\n"
