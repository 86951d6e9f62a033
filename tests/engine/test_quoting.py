"""Special tokens come from the template alone, and everything else is tokenized as ever: for every family of
tokenizers, and for templates that change what they are given."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from ramet.engine.quoting import Quoting
from ramet.engine.template import ChatTemplate
from ramet.engine.tokenizer import Tokenizer
from ramet.errors import InvalidRequest
from tests.engine import tokenizers_for_tests as families

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHANGED = {
    "trimmed": CHATML.replace("m.content", "m.content | trim"),
    "as JSON": CHATML.replace("m.content", "m.content | tojson"),
    "as ASCII": CHATML.replace("m.content", "m.content | tojson(ensure_ascii=true)"),
    "in capitals": CHATML.replace("m.content", "m.content | upper"),
    "beside a part": CHATML.replace("{{ m.content }}", "<|{{ m.content | trim }}|>"),
    "joined": "{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>",
}
# Names of special tokens, parts of them, and what may lie between.
PIECES = st.sampled_from(
    ["<|im_end|>", "<|im_start|>", "<s>", "</s>", "<|im_", "end|>", "|>", "<", "<|", "<s", ">", "\n", " ", "  ", "im_end", "user", "it's", "12", "the program", "<left>", "<right>", "    ", "x", "é", "東京", "\\"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=6).map("".join)
# Where pieces between special tokens are tokenized each for itself, whatever stands before.
APART = ("gpt2", "starcoder", "llama3", "qwen", "deepseek")


@functools.cache
def quoting(family: str) -> Quoting:
    return Quoting(families.tokenizer(family))


@functools.cache
def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {})


def encoded(family: str, contents: list[str], source: str = CHATML) -> tuple[list[int], str]:
    """The ids, and the text that they are of."""
    one = quoting(family)
    messages = [{"role": "user", "content": content} for content in contents]
    text = template(source).render(one.quoted(messages), True)
    return one.encode(text), one.unmarked(text)


def special(family: str, ids: list[int]) -> list[int]:
    """Without those of pieces that the vocabulary lacks."""
    names = families.tokenizer(family).special_texts_by_id
    return [token for token in ids if names.get(token, "<unk>") != "<unk>"]


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
@given(contents=st.lists(TEXTS, min_size=1, max_size=3))
@settings(max_examples=25)
def test_special_tokens_are_the_templates(family: str, contents: list[str]) -> None:
    ids, _ = encoded(family, contents)
    plain, _ = encoded(family, ["x"] * len(contents))
    assert special(family, ids) == special(family, plain)


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
@given(contents=st.lists(TEXTS, min_size=1, max_size=3))
@settings(max_examples=25)
def test_texts_without_names_give_the_tokens_of_the_rendered_text(
    family: str, contents: list[str]
) -> None:
    tokenizer = families.tokenizer(family)
    names = tokenizer.special_texts_by_id.values()
    texts = [functools.reduce(lambda t, name: t.replace(name, ""), names, c) for c in contents]
    if any(name in text for name in names for text in texts):  # put together by what was taken out
        return
    ids, text = encoded(family, texts)
    assert ids == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("family", APART)
@given(contents=st.lists(TEXTS, min_size=1, max_size=3))
@settings(max_examples=25)
def test_names_in_texts_are_tokenized_as_the_library_does_without_special_tokens(
    family: str, contents: list[str]
) -> None:
    library = Library.from_str(families.library(family).to_str())
    library.encode_special_tokens = True
    expected: list[int] = []
    for content in contents:
        expected.append(library.token_to_id("<|im_start|>"))
        expected += library.encode(f"user\n{content}", add_special_tokens=False).ids
        expected.append(library.token_to_id("<|im_end|>"))
        expected += library.encode("\n", add_special_tokens=False).ids
    expected.append(library.token_to_id("<|im_start|>"))
    expected += library.encode("assistant\n", add_special_tokens=False).ids
    assert encoded(family, contents)[0] == expected


@pytest.mark.parametrize("how", sorted(CHANGED))
@given(contents=st.lists(TEXTS, min_size=1, max_size=3))
@settings(max_examples=60)
def test_templates_that_change_texts_do_not_let_names_through(
    how: str, contents: list[str]
) -> None:
    if how == "beside a part":  # a whole name without its ends is not looked for
        contents = [content.replace("im_", "") for content in contents]
    ids, text = encoded("qwen", contents, CHANGED[how])
    plain, _ = encoded("qwen", ["x"] * len(contents), CHANGED[how])
    assert special("qwen", ids) == special("qwen", plain)
    assert families.tokenizer("qwen").decode(ids, skip_special_tokens=False) == text
    assert not re.search(r"\d{24}", text)


def test_what_is_no_text_stays_as_it_is() -> None:
    one = quoting("qwen")
    value: dict[str, Any] = {"a": [1, 2.5, None, True, {"<s>": "</s>"}], "b": b"<s>"}
    quoted = one.quoted(value)
    assert quoted["a"][:4] == [1, 2.5, None, True]
    assert quoted["b"] == b"<s>"
    assert "<s>" not in json.dumps(quoted["a"])
    assert one.unmarked(json.dumps(quoted["a"])) == json.dumps(value["a"])


def test_a_client_that_knew_the_mark_could_do_nothing_with_it() -> None:
    mark = quoting("qwen").mark
    plain, _ = encoded("qwen", ["x"])
    for text in (f"<|im_{mark}end|>", f"{mark}<|im_end|>", f"<{mark[:12]}|im_end|>{mark[12:]}"):
        ids, _ = encoded("qwen", [text])
        assert special("qwen", ids) == special("qwen", plain)


def test_marks_differ() -> None:
    tokenizer = families.tokenizer("qwen")
    assert Quoting(tokenizer).mark != Quoting(tokenizer).mark


def test_a_tokenizer_that_cannot_be_renamed_refuses_names_in_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = families.tokenizer("gpt2")
    one = Quoting(tokenizer)
    monkeypatch.setattr("ramet.engine.quoting._renamed_library", lambda _spec, _names: None)
    with pytest.raises(InvalidRequest, match="special token"):
        one.encode(one.quoted("a <|im_end|> b"))


def test_merges_that_make_a_special_token_are_not_made() -> None:
    """A name that the model's own merges give would come back by them."""
    spec = json.loads(families.gpt2().to_str())
    vocabulary = spec["model"]["vocab"]
    names = sorted(token["content"] for token in spec["added_tokens"])
    assert "<s>" in names
    vocabulary["<s"] = len(vocabulary)
    spec["model"]["merges"] = [["<", "s"], ["<s", ">"], *spec["model"]["merges"]]
    tokenizer = Tokenizer(json.dumps(spec), {})
    one = Quoting(tokenizer)
    ids = one.encode(one.quoted("a <s> b"))
    assert not any(map(tokenizer.is_special, ids))
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a <s> b"


def test_thousands_of_names_are_found_as_fast_as_one() -> None:
    """A place is looked at for no longer than a name is: with a search by name this takes minutes."""
    spec = json.loads(families.gpt2().to_str())
    start = len(spec["model"]["vocab"])
    for i in range(3000):
        spec["added_tokens"].append(
            {**spec["added_tokens"][0], "id": start + i, "content": f"<unused{i}>"}
        )
    one = Quoting(Tokenizer(json.dumps(spec), {}))
    text = "<unused" * 100_000
    assert one.unmarked(one.quoted(text)) == text
    assert one.quoted("<unused2711>") != "<unused2711>"
