from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
import re2  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ramet.engine.text import GenerationText, IncrementalDetokenizer, StopChecker
from ramet.engine.tokenizer import Tokenizer
from ramet.errors import InvalidRequest
from ramet.params import SamplingParams
from tests.engine.tokenizers_for_tests import library, tokenizer

FAMILIES = ["gpt2", "llama2", "unigram_plain"]
families = pytest.mark.parametrize("family", FAMILIES)
END = "<|im_end|>"


def any_ids(encoder: Tokenizer, rnd: Any, size: int) -> list[int]:
    return [rnd.randrange(encoder.vocab_size) for _ in range(size)]


# -- tokens to text ---------------------------------------------------------------------------------------


@families
@settings(max_examples=100)
@given(rnd=st.randoms(use_true_random=False), size=st.integers(0, 20), skip=st.booleans())
def test_pieces_add_up_to_the_decoded_text(family: str, rnd: Any, size: int, skip: bool) -> None:
    """Of any tokens, with any bytes in them: the slow twin decodes everything at once."""
    encoder = tokenizer(family)
    ids = any_ids(encoder, rnd, size)
    stream = IncrementalDetokenizer(encoder, (), skip)
    text = "".join(map(stream.push, ids)) + stream.flush()
    assert text == encoder.decode(ids, skip)


@families
@settings(max_examples=100)
@given(rnd=st.randoms(use_true_random=False), sizes=st.tuples(st.integers(0, 6), st.integers(0, 8)))
def test_in_the_context_of_a_prompt(family: str, rnd: Any, sizes: tuple[int, int]) -> None:
    encoder = tokenizer(family)
    prompt, ids = any_ids(encoder, rnd, sizes[0]), any_ids(encoder, rnd, sizes[1])
    before = encoder.token_bytes.join(prompt, True)
    whole = encoder.token_bytes.join([*prompt, *ids], True)
    stream = IncrementalDetokenizer(encoder, prompt, True)
    text = "".join(map(stream.push, ids)) + stream.flush()
    try:
        known = before.decode()
    except UnicodeDecodeError:
        # the prompt ends inside a character, or is broken: its broken end is its own, the rest is ours
        shown, whole_text = before.decode("utf-8", "replace"), whole.decode("utf-8", "replace")
        assert whole_text.endswith(text)
        assert shown[:-1] == whole_text[: len(shown) - 1]
        assert len(whole_text) - len(text) in (len(shown), len(shown) - 1)
    else:
        assert known + text == whole.decode("utf-8", "replace")


@families
@settings(max_examples=100)
@given(text=st.text(max_size=12))
def test_never_half_a_character(family: str, text: str) -> None:
    encoder = tokenizer(family)
    ids = encoder.encode(text, add_special_tokens=False)
    stream = IncrementalDetokenizer(encoder, encoder.encode("a"), True)
    pieces = [stream.push(token) for token in ids]
    if "\ufffd" not in text and "<unk>" not in encoder.decode(ids, False):
        assert "\ufffd" not in "".join(pieces)
        assert stream.flush() == ""


def test_a_characters_bytes_come_together() -> None:
    encoder = tokenizer("llama2")
    smile = [library("llama2").token_to_id(f"<0x{byte:02X}>") for byte in "😀".encode()]
    stream = IncrementalDetokenizer(encoder, encoder.encode("a"))
    assert [stream.push(token) for token in smile] == ["", "", "", "😀"]
    assert [stream.push(token) for token in [*smile[:2], smile[0], *smile]] == [
        "", "", "\ufffd", "\ufffd", "", "", "😀",
    ]  # fmt: skip
    assert (stream.push(smile[0]), stream.flush()) == ("", "\ufffd")


def test_a_prompts_unfinished_character_can_be_finished() -> None:
    encoder = tokenizer("llama2")
    smile = [library("llama2").token_to_id(f"<0x{byte:02X}>") for byte in "😀".encode()]
    word = encoder.encode_continuation("the")
    finished = IncrementalDetokenizer(encoder, [*word, *smile[:2]])
    assert "".join(map(finished.push, [*smile[2:], *word])) == "😀the"
    given_up = IncrementalDetokenizer(encoder, [*word, *smile[:2]])
    assert "".join(map(given_up.push, word)) + given_up.flush() == "the"
    silent = IncrementalDetokenizer(encoder, [*word, *smile[:2]])
    assert silent.flush() == ""


def test_the_space_of_a_first_word() -> None:
    encoder = tokenizer("llama2")
    word = encoder.encode("the", add_special_tokens=False)
    for prompt, shown in (([], "the"), (encoder.encode(""), "the"), (encoder.encode("a"), " the")):
        stream = IncrementalDetokenizer(encoder, prompt)
        assert "".join(map(stream.push, word)) == shown


# -- stops ------------------------------------------------------------------------------------------------

letters = st.text("ab\n", min_size=1, max_size=4)


def slow_stop(text: str, stops: list[str], floor: int) -> tuple[int, int] | None:
    """The first end after `floor` at which any stop ends, and the longest that does."""
    for end in range(floor + 1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return end - max(map(len, found)), end
    return None


@settings(max_examples=100)
@given(
    stops=st.lists(letters, min_size=1, max_size=4),
    pieces=st.lists(st.text("ab\n", max_size=5), max_size=8),
    quiet=st.integers(0, 4),
)
def test_stop_strings_against_searching_everything(
    stops: list[str], pieces: list[str], quiet: int
) -> None:
    checker = StopChecker(stops)
    text, safe, floor = "", 0, 0
    for i, piece in enumerate(pieces):
        may_stop = i >= quiet
        found = checker.push(piece, may_stop)
        text += piece
        floor = floor if may_stop else len(text)
        expected = slow_stop(text, stops, floor) if may_stop else None
        assert (found and (found.start, found.end)) == expected
        if found:
            assert found.matched == text[found.start : found.end]
            assert safe <= found.start  # nothing was let go that is cut away now
            return
        assert checker.safe_length >= safe
        safe = checker.safe_length
        held = text[safe:]  # exactly the longest end that can become a stop
        assert not held or any(stop.startswith(held) for stop in stops)
        longer = [text[i:] for i in range(safe)]
        assert not any(stop.startswith(end) and stop != end for stop in stops for end in longer)


@settings(max_examples=100)
@given(
    stops=st.lists(letters, min_size=1, max_size=3),
    text=st.text("ab\n", max_size=20),
    rnd=st.randoms(),
)
def test_stops_do_not_depend_on_token_borders(stops: list[str], text: str, rnd: Any) -> None:
    def run(borders: list[int]) -> tuple[int, int] | None:
        checker = StopChecker(stops)
        for a, b in pairwise([0, *borders, len(text)]):
            if (found := checker.push(text[a:b])) is not None:
                return found.start, found.end
        return None

    borders = sorted(rnd.sample(range(len(text) + 1), rnd.randint(0, len(text))))
    assert run(borders) == run([]) == run(list(range(1, len(text))))


@settings(max_examples=100)
@given(
    pattern=st.sampled_from(["a+b", "b{2,3}", r"a\nb", "(?i)BA", "^ab", "a|bb", r"\bb"]),
    pieces=st.lists(st.text("ab\n ", max_size=5), max_size=8),
)
@example(pattern="^ab", pieces=["b", "ab"])
def test_patterns_against_searching_everything(pattern: str, pieces: list[str]) -> None:
    checker = StopChecker((), (pattern,))
    text, safe = "", 0
    for piece in pieces:
        found = checker.push(piece)
        text += piece
        match = re2.search(pattern, text)
        assert (found and (found.start, found.end)) == (match and match.span())
        if found:
            assert safe <= found.start
            return
        safe = checker.safe_length


def test_patterns_of_unlimited_length_hold_everything_back() -> None:
    unlimited, limited = StopChecker((), ("ab+",)), StopChecker((), ("ab{1,2}",))
    unlimited.push("xxxxxx")
    limited.push("xxxxxx")
    assert (unlimited.safe_length, limited.safe_length) == (0, 3)


def test_a_string_and_a_pattern() -> None:
    assert StopChecker(["b"], ["ab"]).push("xxab").matched == "ab"  # type: ignore[union-attr]
    assert StopChecker(["ab"], ["b"]).push("xxab").matched == "ab"  # type: ignore[union-attr]
    assert StopChecker(["ab"], ["ab."]).push("xxabc").matched == "ab"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "RE2"), (r"(a)\1", "RE2"), ("(?=a)b", "RE2"), ("a*", "empty"), ("", "empty"), ("a{1000}{1000}", "RE2"), ("\ud800", "RE2")],
)  # fmt: skip
def test_patterns_are_checked(pattern: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        StopChecker((), (pattern,))


def test_a_hostile_pattern_costs_bounded_time() -> None:
    checker = StopChecker((), ("(a|aa|aaa)+(a?){30}b", "(.*)(.*)(.*)(.*)(.*)c"))
    started = time.perf_counter()
    for _ in range(200):
        assert checker.push("a" * 100) is None
    assert time.perf_counter() - started < 20


def test_a_window_does_not_begin_a_text() -> None:
    checker = StopChecker((), ("^b",))
    for _ in range(40):
        assert checker.push("ab" * 250) is None


# -- one request ------------------------------------------------------------------------------------------


def generation(family: str, prompt: str = "a", **params: Any) -> GenerationText:
    encoder = tokenizer(family)
    options = SamplingParams.from_dict({"max_new_tokens": 1000, **params})
    return GenerationText(encoder, encoder.encode(prompt), options)


@families
@settings(max_examples=100)
@given(
    rnd=st.randoms(use_true_random=False),
    text=st.text("the program it's 12😀é ", max_size=30),
    stop=st.lists(st.text("the pro12😀", min_size=1, max_size=4), max_size=3),
    keep=st.booleans(),
    least=st.integers(0, 5),
    size=st.integers(0, 3),
)
def test_a_generation_against_decoding_everything_each_time(
    family: str, rnd: Any, text: str, stop: list[str], keep: bool, least: int, size: int
) -> None:
    encoder = tokenizer(family)
    ids = encoder.encode_continuation(text) + any_ids(encoder, rnd, size)
    rnd.shuffle(ids)
    prompt = encoder.encode("a")
    output = generation(family, stop=stop, no_stop_trim=keep, min_new_tokens=least)

    def shown(count: int) -> str:
        whole = encoder.decode([*prompt, *ids[:count]])
        return whole.removeprefix(encoder.decode(prompt))

    def certain(count: int) -> str:  # without bytes that the next token may complete
        data = encoder.token_bytes.join([*prompt, *ids[:count]], True)
        begun = [data[-cut:] for cut in (1, 2, 3) if _is_start(data[-cut:])]
        data = data[: len(data) - len(begun[0])] if begun else data
        return data.decode("utf-8", "replace").removeprefix(encoder.decode(prompt))

    streamed, expected, floor = "", None, 0
    for count in range(1, len(ids) + 1):
        output.push(ids[count - 1])
        streamed += output.take_new()
        seen = certain(count)
        if count < least:
            floor = len(seen)
        elif (found := slow_stop(seen, stop, floor)) is not None and expected is None:
            expected = seen[: found[1] if keep else found[0]]
            assert output.finished in stop
        if expected is not None:
            break
        assert output.finished is None
        assert output.text == seen
        assert seen.startswith(streamed)
    used = ids[: len(output._ids)]
    final = output.finish({"type": "stop"})
    assert final == output.text == (shown(len(used)) if expected is None else expected)
    assert streamed + output.take_new() == final
    assert output.emitted == len(final)
    kept, rest = output.kept()
    prefixes = [n for n in range(len(used) + 1) if final.startswith(shown(n))]
    assert kept == tuple(used[: max(prefixes)])
    assert shown(len(kept)) + rest == final


def _is_start(data: bytes) -> bool:
    """Can these bytes begin a character?"""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start == 0 and error.reason == "unexpected end of data"
    return False


def test_kept_tokens_end_where_the_stop_cuts_a_token() -> None:
    encoder = tokenizer("gpt2")
    ids = encoder.encode("the program")
    output = generation("gpt2", stop="ogra")
    for token in ids:
        output.push(token)
    assert output.finish() == "the pr"
    kept, rest = output.kept()
    assert encoder.decode(kept) + rest == "the pr"
    assert kept == tuple(ids[: len(kept)])
    assert rest


def test_a_stop_string_that_names_a_special_token() -> None:
    encoder = tokenizer("gpt2")
    ids = [*encoder.encode("the program"), encoder.special_id(END)]
    for skip in (True, False):
        output = generation("gpt2", stop=END, skip_special_tokens=skip)
        for token in ids:
            assert output.finished is None
            output.push(token)
        assert output.finished == END
        assert output.finish() == "the program"
        assert output.kept() == (tuple(ids[:-1]), "")


def test_hidden_tokens_within_the_text_are_kept() -> None:
    encoder = tokenizer("gpt2")
    ids = [encoder.special_id("<s>"), *encoder.encode("the"), encoder.special_id(END)]
    output = generation("gpt2")
    for token in ids:
        output.push(token)
    assert output.finish() == "the"
    assert output.kept() == (tuple(ids), "")


def test_an_unfinished_character_at_the_end() -> None:
    encoder = tokenizer("llama2")
    smile = [library("llama2").token_to_id(f"<0x{byte:02X}>") for byte in "😀".encode()]
    output = generation("llama2")
    for token in [*encoder.encode_continuation("the"), *smile[:3]]:
        output.push(token)
    assert output.text == "the"
    assert output.take_new() == "the"
    assert output.finish() == "the\ufffd" == output.finish()
    assert output.take_new() == "\ufffd"
    assert output.kept()[1] == ""


def test_min_new_tokens() -> None:
    encoder = tokenizer("gpt2")
    ids = encoder.encode("the the the")
    assert len(ids) == 3
    for least, expected in ((0, ""), (1, ""), (2, "the "), (3, "the the ")):
        output = generation("gpt2", stop="the", min_new_tokens=least)
        for token in ids:
            if output.finished is None:
                output.push(token)
        assert output.finish() == expected
        assert output.finished == "the"


def test_each_token_costs_the_same() -> None:
    encoder = tokenizer("gpt2")
    ids = encoder.encode("the program forks 12 ") * 8000
    output = generation("gpt2", stop=["never", "not this", "x" * 5000])
    started = time.perf_counter()
    for token in ids:
        output.push(token)
        output.take_new()
    assert len(ids) > 30_000
    assert time.perf_counter() - started < 15  # seconds; quadratic work would take minutes
