"""Small tokenizers of every family that checkpoints use, made on the spot.

Trained on generated text with the `tokenizers` library, with the pipelines (normalizer, pre-tokenizer,
decoder, added tokens) that real families have.
"""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library
from tokenizers.processors import TemplateProcessing

from ramet.engine.tokenizer import Tokenizer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
WORDS = [
    "the", "a", "program", "prompt", "forks", "it's", "we'll", "token", "TOKEN", "naïve", "café", "東京",
    "тест", "12", "1234", "3.14", ":-)", "//", "==", "😀",
]  # fmt: skip


def corpus() -> list[str]:
    rng = random.Random(7)
    joints = [" ", " ", " ", "  ", "\n", ", ", "\n\n", ". ", "\t"]
    return ["".join(rng.choice(WORDS) + rng.choice(joints) for _ in range(30)) for _ in range(120)]


def _byte_level(stages: list[Any], normalizer: Any = None, **trainer: Any) -> Library:
    library = Library(models.BPE())
    library.normalizer = normalizer
    library.pre_tokenizer = stages[0] if len(stages) == 1 else pre_tokenizers.Sequence(stages)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=500,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=SPECIALS,
            **trainer,
        ),
    )
    return library


def _split(pattern: str) -> list[Any]:
    return [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def gpt2() -> Library:
    return _byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False)])


def gpt2_prefix_space() -> Library:
    return _byte_level([pre_tokenizers.ByteLevel(add_prefix_space=True)])


def starcoder() -> Library:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return _byte_level([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def llama3() -> Library:
    library = _byte_level(_split(LLAMA3))
    library.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return library


def qwen() -> Library:
    return _byte_level(_split(QWEN), normalizers.NFC())


def deepseek() -> Library:
    stages = [
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(Regex("[一-龥぀-ゟ゠-ヿ]+"), "isolated"),
        *_split(LLAMA3),
    ]
    return _byte_level(stages)


def odd_added_tokens() -> Library:
    library = gpt2()
    library.add_tokens(
        [
            AddedToken("<left>", lstrip=True),
            AddedToken("<right>", rstrip=True),
            AddedToken("the program", normalized=True),
            AddedToken("<s>x", special=True),
            AddedToken("    ", normalized=False),
        ]
    )
    return library


def llama2() -> Library:
    """SentencePiece's BPE as converted: no pieces, bytes for what is unknown, "▁" in front."""
    library = Library(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Sequence([normalizers.Replace(" ", "▁")])
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    library.train_from_iterator(
        [text.replace("😀", "").replace("東京", "") for text in corpus()],
        trainers.BpeTrainer(
            vocab_size=600, show_progress=False, special_tokens=["<unk>", *SPECIALS, *byte_tokens]
        ),
    )
    spec = json.loads(library.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["content"].startswith("<0x")]
    spec["pre_tokenizer"] = None
    spec["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    spec["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    library = Library.from_str(json.dumps(spec))
    bos = library.token_to_id("<s>")
    library.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return library


def mistral() -> Library:
    """The same vocabulary, with "▁" in front of the text's first piece only."""
    spec = json.loads(llama2().to_str())
    spec["normalizer"] = None
    spec["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    return Library.from_str(json.dumps(spec))


def llama2_across_words() -> Library:
    """With a token that reaches across words, so that nothing can be cut at spaces."""
    spec = json.loads(llama2().to_str())
    vocabulary = spec["model"]["vocab"]
    vocabulary["e▁p"] = len(vocabulary)
    vocabulary["▁p"] = vocabulary.get("▁p", len(vocabulary))
    spec["model"]["merges"].insert(0, ["e", "▁p"])
    spec["model"]["merges"].insert(0, ["▁", "p"])
    spec["model"]["merges"] = list(map(list, dict.fromkeys(map(tuple, spec["model"]["merges"]))))
    return Library.from_str(json.dumps(spec))


def unigram() -> Library:
    library = Library(models.Unigram())
    library.normalizer = normalizers.Sequence([normalizers.NFKC()])
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    library.decoder = decoders.Metaspace(prepend_scheme="always")
    library.train_from_iterator(
        corpus(),
        trainers.UnigramTrainer(
            vocab_size=300,
            show_progress=False,
            special_tokens=["<unk>", *SPECIALS],
            unk_token="<unk>",
        ),
    )
    return library


def unigram_plain() -> Library:
    library = Library.from_str(unigram().to_str())
    spec = json.loads(library.to_str())
    spec["normalizer"] = None
    return Library.from_str(json.dumps(spec))


FAMILIES = {
    maker.__name__: maker
    for maker in (
        gpt2,
        gpt2_prefix_space,
        starcoder,
        llama3,
        qwen,
        deepseek,
        odd_added_tokens,
        llama2,
        mistral,
        llama2_across_words,
        unigram,
        unigram_plain,
    )
}
CUTTING = set(FAMILIES) - {"llama2_across_words", "unigram"}  # those that are cut at spaces


@functools.cache
def library(family: str) -> Library:
    return FAMILIES[family]()


@functools.cache
def tokenizer(family: str) -> Tokenizer:
    settings = {"bos_token": "<s>", "eos_token": "</s>"}
    return Tokenizer(library(family).to_str(), settings)


def save(family: str, folder: Path, **files: Any) -> Path:
    """A checkpoint folder with the tokenizer; `files` are contents of NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(library(family).to_str(), "utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return folder
