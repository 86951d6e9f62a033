"""The tokenizer of `pocket`: byte-level BPE of 2,048 tokens, trained on generated text.

Every digit is a token of its own (so that written addition sees its columns) and all 256 bytes are
in the vocabulary (so that any text round-trips). No normalizer, no added space, no start token.
`python -m ramet.pocket.tokenizer` writes tokenizer.json and its two companions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .skills import END, START, STOP, documents

VOCAB = 2048
SPECIALS = [STOP, START, END]  # ids 0, 1, 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _texts(count: int) -> Iterator[str]:
    for pieces in islice(documents("tokenizer"), count):
        for piece in pieces:
            yield piece.text.replace(STOP, "").replace(START, "").replace(END, "")


def train_tokenizer(count: int = 30000) -> Tokenizer:
    """Train on the first `count` documents of a fixed seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(count), trainer)
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json with the chat template, special_tokens_map.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": END, "pad_token": STOP, "additional_special_tokens": [START, END]}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
        **names,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")


def load(folder: Path | None = None) -> Tokenizer:
    folder = folder or Path(__file__).parent / "model"
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    write(train_tokenizer(), Path(__file__).parent / "model")
