from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ramet.engine import cuts, pattern
from ramet.engine import tokenizer as tokenizer_module
from ramet.engine.tokenizer import Tokenizer
from ramet.errors import CheckpointError, InvalidRequest, Unsupported
from ramet.prompt import EMPTY, Media, Prompt, Tokens
from tests.engine.tokenizers_for_tests import (
    CUTTING,
    FAMILIES,
    LLAMA3,
    SPECIALS,
    WORDS,
    corpus,
    library,
    save,
    tokenizer,
)

families = pytest.mark.parametrize("family", sorted(FAMILIES))

_ODD = [
    *SPECIALS, "<left>", "<right>", "the program", "<s>x", "    ", "<", "|>", "im_", "▁", "\u0301", "e\u0301",
    "\u0338", "=", "ﬁ", "\u3000", "\u00a0", "\u0085", "\u2028", "\u200b", "\u180e", "\x1c", "\x00", "ſ", "K", "'ſ",
    "'", "'S", "'ll", " ", "  ", "\n", "\r\n", "\t", " \n ", "1", "12", "²", "٣", "A", "é", "東", "京", "。", "🇩🇪", "👩‍💻",
    "e p", "the p", "▁p", "<0x0A>", "\ufeff", "\uffff", "\U000f0000",
]  # fmt: skip
fragment = st.one_of(
    st.sampled_from(_ODD), st.sampled_from(WORDS), st.text(max_size=4), st.sampled_from(["", " "])
)
fragments = st.lists(fragment, max_size=14)


def ids_of(encoder: Tokenizer, prompt: Prompt) -> list[int]:
    return encoder.encode_prompt(prompt).tolist()


# -- the property that everything rests on ---------------------------------------------------------------


@families
@settings(max_examples=80)
@given(parts=fragments, asked=st.lists(st.booleans(), min_size=14, max_size=14))
@example(parts=["<s", ">hi"], asked=[True] * 14)
@example(parts=["a  ", " <left> b"], asked=[True] * 14)
@example(parts=["x<right> ", " y"], asked=[True] * 14)
@example(parts=["the ", "program"], asked=[True] * 14)
@example(parts=["a b <s>", "x c"], asked=[True] * 14)
@example(parts=["a e", "\u0301 b", "=\u0338"], asked=[True] * 14)
@example(parts=["one 12", "34 two"], asked=[True] * 14)
@example(parts=["don'", "t stop \n\n", " go"], asked=[True] * 14)
def test_split_text_is_tokenized_as_one_piece(
    family: str, parts: list[str], asked: list[bool]
) -> None:
    """However a text is appended, and whichever of the prompts on the way were encoded too."""
    encoder = tokenizer(family)
    prompt = EMPTY
    for part, ask in zip(parts, asked):
        prompt = prompt + part
        if ask:
            encoder.encode_prompt(prompt)
    assert ids_of(encoder, prompt) == encoder.encode("".join(parts))


@families
@settings(max_examples=50)
@given(head=fragments, tail=fragments, data=st.data())
def test_text_after_tokens_is_a_continuation(
    family: str, head: list[str], tail: list[str], data: st.DataObject
) -> None:
    encoder = tokenizer(family)
    ids = data.draw(st.lists(st.integers(0, encoder.vocab_size - 1), max_size=4))
    prompt = EMPTY.extend(head) + Tokens(tuple(ids), "")
    for part in tail:
        prompt = prompt + part
        encoder.encode_prompt(prompt)
    begin = encoder.encode("".join(head)) if any(head) else []
    assert ids_of(encoder, prompt) == begin + ids + encoder.encode_continuation("".join(tail))


@families
@settings(max_examples=30)
@given(parts=fragments)
def test_encode_is_the_librarys(family: str, parts: list[str]) -> None:
    """Except that the first token (BOS) is not put in front of a text that begins with it."""
    encoder, text = tokenizer(family), "".join(parts)
    plain = library(family).encode(text, add_special_tokens=False).ids
    assert encoder.encode(text, add_special_tokens=False) == plain
    full = library(family).encode(text, add_special_tokens=True).ids
    first = full[: len(full) - len(plain)]
    assert encoder.encode(text) == (plain if plain[: len(first)] == first else full)


# -- cost -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(CUTTING))
def test_an_append_encodes_only_what_it_adds(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tokenizer(family)
    prompt = EMPTY + " ".join(corpus()).replace("\n", " ")
    encoder.encode_prompt(prompt)
    seen: list[int] = []

    def recording(library: object, text: str) -> object:
        seen.append(len(text))
        return real(library, text)

    real = tokenizer_module._run
    monkeypatch.setattr(tokenizer_module, "_run", recording)
    ids = encoder.encode_prompt(prompt + "the token forks")
    assert 0 < sum(seen) < 100
    assert len(ids) > 2000


def test_a_special_token_is_a_cut() -> None:
    """Also where nothing else is."""
    encoder = tokenizer("llama2_across_words")
    text = "the token " * 50 + "<|im_end|>"
    assert encoder._last_cut(text)[0] == text.index("<|im_end|>")
    # "e p" is a token, and the other neighbours stand side by side in tokens, too
    assert encoder._last_cut("the " * 50)[0] == 0
    assert encoder._last_cut("the token " * 50)[0] > 0


def test_ten_thousand_spans() -> None:
    encoder = tokenizer("llama3")
    words = ["it", " ", "forks ", "12", "3 ", "<|im_end|>", "\n"]
    parts = [random.Random(i).choice(words) for i in range(10_000)]
    whole = encoder.encode("".join(parts))
    assert ids_of(encoder, EMPTY.extend(parts)) == whole
    prompt = EMPTY
    started = time.perf_counter()
    for part in parts:
        prompt = prompt + part
        encoder._encoded(prompt)
    assert ids_of(encoder, prompt) == whole
    assert time.perf_counter() - started < 20  # seconds; one millisecond each would be ten


def test_a_long_append_is_linear() -> None:
    """The search for a cut looks at each character once."""
    encoder = tokenizer("llama2_across_words")
    started = time.perf_counter()
    encoder.encode_prompt(EMPTY + "東京" * 50_000)
    assert time.perf_counter() - started < 10


# -- the rules of prompts ---------------------------------------------------------------------------------


def test_bos() -> None:
    encoder = tokenizer("llama3")
    bos = library("llama3").token_to_id("<s>")
    assert encoder.bos_token == "<s>"
    assert ids_of(encoder, EMPTY) == [bos]
    assert ids_of(encoder, EMPTY + "hi")[0] == bos
    assert ids_of(encoder, EMPTY + "<s>hi") == ids_of(encoder, EMPTY + "hi")
    assert ids_of(encoder, EMPTY + Tokens((9,), "x") + "hi")[:1] == [9]
    assert bos not in encoder.encode_continuation("hi")
    assert bos not in encoder.encode("hi", add_special_tokens=False)
    assert ids_of(tokenizer("gpt2"), EMPTY) == []


def test_continuations_have_no_dummy_space() -> None:
    for family in ("llama2", "mistral", "unigram_plain", "gpt2_prefix_space"):
        encoder = tokenizer(family)
        start = encoder.encode("the", add_special_tokens=False)
        assert encoder.encode_continuation("the") != start
        assert encoder.encode_continuation(" the") == start


def test_tokens_stay() -> None:
    encoder = tokenizer("gpt2")
    odd = tuple(encoder.encode(letter)[0] for letter in "the")  # three tokens where "the" has one
    prompt = EMPTY + "a " + Tokens(odd, "the") + " program"
    expected = encoder.encode("a ") + list(odd) + encoder.encode(" program")
    assert ids_of(encoder, prompt) == expected


def test_encoded_ids_are_read_only_and_the_root_remembers_nothing() -> None:
    encoder = tokenizer("gpt2")
    ids = encoder.encode_prompt(EMPTY + "the program")
    assert ids.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 0
    assert not EMPTY.memo


def test_asking_twice_gives_the_same_state() -> None:
    encoder = tokenizer("gpt2")
    prompt = EMPTY + "the program"
    assert encoder._encoded(prompt) is encoder._encoded(prompt)


def test_refusals() -> None:
    encoder = tokenizer("gpt2")
    with pytest.raises(InvalidRequest, match="surrogate"):
        encoder.encode("a\ud800b")
    with pytest.raises(InvalidRequest, match="surrogate"):
        encoder.encode_prompt(EMPTY + "a " + "\udfff")
    with pytest.raises(InvalidRequest, match="not a string"):
        encoder.encode(17)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="image"):
        encoder.encode_prompt(EMPTY + "a" + Media("image", b"x", 4))


def test_threads() -> None:
    encoder = tokenizer("qwen")
    texts = corpus()
    expected = [encoder.encode(text) for text in texts]
    shared = EMPTY + texts[0]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(encoder.encode, texts)) == expected
        same = list(pool.map(lambda _: ids_of(encoder, shared + " it"), range(32)))
    assert all(ids == encoder.encode(texts[0] + " it") for ids in same)


# -- choices ----------------------------------------------------------------------------------------------


@families
@settings(max_examples=25)
@given(text=fragments, choices=st.lists(fragment.filter(bool), min_size=1, max_size=4, unique=True))
def test_choices_compete_from_one_point(family: str, text: list[str], choices: list[str]) -> None:
    encoder = tokenizer(family)
    prompt = EMPTY.extend(text)
    prompt_ids, full, start = encoder.choice_tokens(prompt, choices)
    assert list(prompt_ids) == ids_of(encoder, prompt)
    assert [list(ids) for ids in full] == [ids_of(encoder, prompt + c) for c in choices]
    assert all(list(ids)[:start] == list(prompt_ids)[:start] for ids in full)
    assert all(len(ids) > start or len(ids) == 0 for ids in full)


def test_a_choice_that_merges_with_the_prompt_moves_the_start() -> None:
    encoder = tokenizer("gpt2")
    prompt = EMPTY + "a prog"
    ids, _, start = encoder.choice_tokens(prompt, [" x", " y"])
    assert start == len(ids)
    ids, full, start = encoder.choice_tokens(prompt, [" x", "ram"])
    assert start == 1 < len(ids)
    assert len(full) == 2


@pytest.mark.parametrize("choices", [[], ["a", ""], ["a", "b", "a"]])
def test_choices_are_checked(choices: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="choices"):
        tokenizer("gpt2").choice_tokens(EMPTY + "x", choices)


# -- decoding ---------------------------------------------------------------------------------------------


@families
@settings(max_examples=30)
@given(parts=fragments, skip=st.booleans())
def test_decode_is_the_librarys(family: str, parts: list[str], skip: bool) -> None:
    encoder = tokenizer(family)
    ids = encoder.encode("".join(parts))
    assert encoder.decode(ids, skip) == library(family).decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize(
    "family", sorted(set(FAMILIES) - {"llama2", "mistral", "llama2_across_words"})
)
@settings(max_examples=30)
@given(data=st.data(), skip=st.booleans())
def test_decode_of_any_tokens_is_the_librarys(family: str, data: st.DataObject, skip: bool) -> None:
    encoder = tokenizer(family)
    ids = data.draw(st.lists(st.integers(0, encoder.vocab_size + 3), max_size=12))
    assert encoder.decode(ids, skip) == library(family).decode(ids, skip_special_tokens=skip)


@families
def test_token_texts_add_up(family: str) -> None:
    encoder = tokenizer(family)
    ids = encoder.encode("the program forks 12", add_special_tokens=False)
    assert "".join(map(encoder.token_text, ids)).lstrip() == "the program forks 12"
    special = library(family).token_to_id("<|im_end|>")
    assert encoder.token_text(special) == "<|im_end|>"
    assert encoder.is_special(special)
    assert not encoder.is_special(ids[0])
    assert encoder.special_id("<|im_end|>") == special
    assert encoder.special_id("the") is None
    assert encoder.vocab_size == library(family).get_vocab_size()


def test_broken_bytes() -> None:
    encoder = tokenizer("llama2")
    token = {f"<0x{b:02X}>": library("llama2").token_to_id(f"<0x{b:02X}>") for b in range(256)}
    smile = [token[f"<0x{b:02X}>"] for b in "😀".encode()]
    assert encoder.decode(smile) == "😀"
    assert encoder.decode(smile[:3]) == "\ufffd"
    assert encoder.decode([*smile, smile[3]]) == "😀\ufffd"


# -- checkpoints ------------------------------------------------------------------------------------------


def test_load(tmp_path: Path) -> None:
    save(
        "llama3",
        tmp_path,
        tokenizer_config={
            "bos_token": {"content": "<s>"},
            "eos_token": "</s>",
            "chat_template": [
                {"name": "tool_use", "template": "T"},
                {"name": "default", "template": "D"},
            ],
        },
        generation_config={"eos_token_id": [1, 3]},
        config={"text_config": {"eos_token_id": 5}},
    )
    loaded = Tokenizer.load(tmp_path)
    assert loaded.eos_token_ids == {1, 3, 5}
    assert loaded.encode("the program") == tokenizer("llama3").encode("the program")
    assert loaded.chat_template == "D"
    assert loaded.chat_templates["tool_use"] == "T"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert Tokenizer.load(tmp_path).chat_template == "file"


@pytest.mark.parametrize(("setting", "expected"), [(True, True), (False, False), (None, True)])
def test_add_bos_token_of_the_config_counts(
    tmp_path: Path, setting: bool | None, expected: bool
) -> None:
    save("llama3", tmp_path, tokenizer_config={"bos_token": "<s>", "add_bos_token": setting})
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.encode("it")[0] == loaded.special_id("<s>")) is expected


def test_padding_and_truncation_of_the_file_do_not_count(tmp_path: Path) -> None:
    save("gpt2", tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    spec["padding"] = {
        "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    text = "the program forks it and the token"
    assert Tokenizer.load(tmp_path).encode(text) == tokenizer("gpt2").encode(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no tokenizer.json"),
        ("{", "broken"),
        ("[]", "broken|refuses"),
        ('{"model": {"type": "Nonsense"}}', "refuses"),
    ],
)
def test_broken_checkpoints(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(tmp_path)


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    save("gpt2", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)
    save("gpt2", tmp_path, tokenizer_config={}, generation_config={"eos_token_id": "end"})
    with pytest.raises(CheckpointError, match="eos_token_id"):
        Tokenizer.load(tmp_path)


def test_an_unknown_decoder_is_refused(tmp_path: Path) -> None:
    save("gpt2", tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(CheckpointError, match="WordPiece"):
        Tokenizer.load(tmp_path)


# -- reading expressions ----------------------------------------------------------------------------------


def test_pairs_of_a_known_expression() -> None:
    found = pattern.adjacency(pattern.parse(LLAMA3))
    assert " " not in found.next["a"]  # a word ends at a space
    assert "a" in found.next[" "]  # and takes the space before it
    assert "\n" in found.next["."]
    assert "\n" not in found.next["a"]
    assert {"a", " ", "\n", "1"} <= found.alone
    assert found.next["'"] >= {"s", "S", "Lo"}  # also letters that fold to s


@pytest.mark.parametrize(
    "text",
    [r"a\b", "^a", "(?<=a)b", "(?<!a)b", r"(a)\1", "[[:alpha:]]", "a{,3}", "(", "a*", "(?x)a", "["],
)
def test_what_is_not_understood_is_not_guessed(text: str) -> None:
    with pytest.raises(pattern.NotUnderstood):
        pattern.adjacency(pattern.parse(text))


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abc", 3), ("a|bcd|", 3), ("a{2,5}", 5), ("(?:ab){3}", 6), ("a?b", 2), ("a+", None), ("a*b", None),
        (r"\d{4}-\d\d", 7), ("^a$", 1), (r"(?i)x[0-9a-f]{2}", 3), ("(?=abc)a", 1), (r"\p{Lu}.", 2),
    ],
)  # fmt: skip
def test_widths(text: str, width: int | None) -> None:
    assert pattern.max_width(pattern.parse(text)) == width


def test_unknown_pipelines_are_not_cut() -> None:
    lower = {"type": "Lowercase"}
    whitespace = {"type": "Whitespace"}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    bpe = {"type": "BPE"}
    assert not cuts.safe_cuts(byte_level, lower, bpe, (), ()).before
    assert not cuts.safe_cuts(whitespace, None, bpe, (), ()).before
    assert not cuts.safe_cuts(None, None, bpe, (), ()).before
    assert cuts.safe_cuts(byte_level, None, bpe, (), ()).before
