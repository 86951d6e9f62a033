"""The tokenizer: any text round-trips, digits stand alone, the chat template is ours."""

from __future__ import annotations

import json

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet.pocket import model_path
from ramet.pocket.data import encode
from ramet.pocket.skills import END, SHARES, START, STOP, Source, Turn, chat_pieces, rendered, task
from ramet.pocket.tokenizer import VOCAB, load, train_tokenizer

TOKENIZER = load()


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_round_trip(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_vocabulary() -> None:
    assert TOKENIZER.get_vocab_size() == VOCAB
    assert [TOKENIZER.token_to_id(t) for t in (STOP, START, END)] == [0, 1, 2]
    digits = [t for t in TOKENIZER.get_vocab() if any(c.isdigit() for c in t) and len(t) > 1]
    assert digits == []


@pytest.mark.parametrize("skill", list(SHARES))
def test_every_skill_tokenizes(skill: str) -> None:
    source = Source(2)
    for _ in range(30):
        pieces = rendered(task(source, skill))
        ids, weights = encode(TOKENIZER, pieces)
        assert len(ids) == len(weights) < 2048
        text = TOKENIZER.decode(ids, skip_special_tokens=False)
        assert text == "".join(p.text for p in pieces)


def test_chat_template_renders_what_training_shows() -> None:
    config = json.loads((model_path() / "tokenizer_config.json").read_text())
    template = jinja2.Environment().from_string(config["chat_template"])
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ]
    trained = "".join(p.text for p in chat_pieces([Turn("Hi", "Hello!")], "Be brief."))
    assert template.render(messages=messages) == trained
    asked = template.render(messages=messages[:2], add_generation_prompt=True)
    assert trained.startswith(asked)
    assert asked.endswith(f"{START}assistant\n")


def test_training_the_tokenizer_is_deterministic() -> None:
    assert train_tokenizer(300).to_str() == train_tokenizer(300).to_str()
