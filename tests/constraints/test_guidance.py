"""The library's matchers behind our protocol: masks bit by bit, going back, copies, threads, ends."""

from __future__ import annotations

import json
import random
import threading

import numpy as np
import pytest

from ramet.constraints import guidance, schema
from ramet.constraints.limits import DEFAULT
from ramet.constraints.vocabulary import Vocabulary
from ramet.errors import InvalidRequest
from tests.constraints.words import SPECIAL, TOKENS, VOCABULARY, compiled, encode, ids, takes

_TREE = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "next": {"$ref": "#"}, "n": {"type": "integer"}},
        "required": ["name", "n"],
        "additionalProperties": False,
    }
)


def _tree() -> guidance.GuidanceConstraint:
    return compiled(schema.read(_TREE).grammar, "json_schema", _TREE)


@pytest.mark.parametrize("seed", range(6))
def test_masks_are_what_accept_takes(seed: int) -> None:
    """Every token of the vocabulary is tried on a copy, at each place of a walk."""
    chance = random.Random(seed)
    matcher = _tree().start()
    for _ in range(25):
        mask = matcher.mask()
        assert mask.dtype == np.uint32
        assert mask.shape == (VOCABULARY.num_words,)
        allowed = ids(mask)
        assert allowed == [i for i in range(VOCABULARY.size) if matcher.fork().accept(i)]
        for token in allowed:  # and each leads on: bytes are all tokens
            after = matcher.fork()
            assert after.accept(token)
            assert after.may_end or after.mask().any()
        if not allowed:
            assert matcher.done
            break
        assert matcher.accept(chance.choice(allowed))


def test_no_forcing_of_one_division_into_tokens() -> None:
    matcher = _tree().start()
    assert matcher.accept(ord("{"))
    shown = {TOKENS[i] for i in ids(matcher.mask())}
    assert shown == {b'"', b" ", b"\n", b"\n  "}
    assert matcher.accept(ord('"'))
    assert {TOKENS[i] for i in ids(matcher.mask())} == {b"n", b"name"}


def test_ends_and_specials_are_never_in_a_mask() -> None:
    for grammar in ("start: /(?s:.*)/", "start: A\nA: ~/abc/", 'start: "a"? <|call|>?'):
        found = ids(compiled(grammar).start().mask())
        assert max(found) <= SPECIAL
        assert (SPECIAL in found) == ("<|call|>" in grammar)
    matcher = compiled('start: "a" <|call|> "b"').start()
    assert [matcher.accept(t) for t in (ord("a"), ord("<"), SPECIAL, ord("b"))] == [True, False, True, True]
    assert matcher.done


def test_a_token_that_may_not_come_changes_nothing() -> None:
    matcher = _tree().start()
    for token in (ord("x"), -1, SPECIAL, SPECIAL + 1, VOCABULARY.size, VOCABULARY.size + 7):
        assert not matcher.accept(token)
    assert takes(matcher, '{"name": "x", "n": 1}')
    assert not matcher.accept(ord(" "))
    assert matcher.may_end
    assert matcher.done
    assert not matcher.mask().any()


def test_rollback_leads_to_the_same_masks() -> None:
    chance = random.Random(5)
    matcher = _tree().start()
    tokens = encode('{"name": "日本\\n😀", "next": {"name": "", "n": -12}, "n": 3}')
    masks = [matcher.mask().copy()]
    for token in tokens:
        assert matcher.accept(token)
        masks.append(matcher.mask().copy())
    at = len(tokens)
    for _ in range(60):
        count = chance.randrange(at + 1)
        matcher.rollback(count)
        at -= count
        assert np.array_equal(matcher.mask(), masks[at])
        assert matcher.may_end == (at == len(tokens))
        for _ in range(chance.randrange(len(tokens) - at + 1)):
            assert matcher.accept(tokens[at])
            at += 1


def test_a_fork_is_independent() -> None:
    one = _tree().start()
    assert one.accept(ord("{"))
    two = one.fork()
    before = one.mask().copy()
    assert two.accept(ord('"'))
    assert takes(two, 'name":"a","n":5}')
    assert np.array_equal(one.mask(), before)
    assert takes(one, '"name": "b", "n": 6}')


def test_forced_text_is_divided_by_the_tokenizer() -> None:
    matcher = _tree().start()
    assert matcher.forced() == []  # '{' is the beginning of longer tokens
    assert matcher.accept(ord("{"))
    assert matcher.accept(ord('"'))
    forced = list(matcher.forced())
    assert b"".join(TOKENS[t] for t in forced) == b"name"
    for token in forced:
        assert matcher.accept(token)


def test_nothing_is_forced_inside_a_character() -> None:
    matcher = compiled('start: "é日x"').start()
    assert matcher.accept(0xC3)
    assert list(matcher.forced()) == []
    assert matcher.accept(0xA9)
    assert b"".join(TOKENS[t] for t in matcher.forced()) == "日x".encode()


@pytest.mark.parametrize("seed", range(20))
def test_steering_ends_within_the_budget(seed: int) -> None:
    chance = random.Random(seed)
    matcher = _tree().start()
    budget = chance.randint(20, 120)
    text = b""
    while not matcher.may_end and budget:
        narrow = matcher.steer(budget)
        mask = matcher.mask()
        if narrow is not None:
            assert not (narrow & ~mask).any()
        token = chance.choice(ids(mask if narrow is None else narrow))
        assert matcher.accept(token)
        text += TOKENS[token]
        budget -= 1
    assert matcher.may_end, text
    json.loads(text)


def test_steering_says_nothing_where_it_cannot_help() -> None:
    matcher = _tree().start()
    assert matcher.steer(3) is None
    assert matcher.steer(1_000_000) is None


def test_many_threads_get_the_masks_of_one() -> None:
    constraint = _tree()
    texts = [
        json.dumps({"name": "x" * i, "next": {"name": "\\é", "n": i}, "n": -i}, ensure_ascii=False)
        for i in range(12)
    ]

    def masks(text: str) -> list[bytes]:
        matcher, found = constraint.start(), []
        for token in encode(text):
            found.append(matcher.mask().tobytes())
            assert matcher.accept(token)
            copy = matcher.fork()
            assert copy.mask().tobytes() == matcher.mask().tobytes()
        return [*found, matcher.mask().tobytes()]

    expected = [masks(text) for text in texts]
    wrong: list[str] = []

    def run(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(20):
            i = chance.randrange(len(texts))
            if masks(texts[i]) != expected[i]:
                wrong.append(texts[i])

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_errors_name_the_field() -> None:
    with pytest.raises(InvalidRequest, match=r"^ebnf: .*cannot be enforced: .*unknown name") as caught:
        compiled("start: x", "ebnf", "start: x")
    assert caught.value.value == "start: x"
    assert "backtrace" not in str(caught.value)
    with pytest.raises(InvalidRequest, match="over"):
        guidance.compile("start: " + '"a"' * 600_000, VOCABULARY, DEFAULT, "ebnf", "")


def test_a_step_beyond_its_limits_is_refused_and_stays_refused() -> None:
    powers = "\n".join(f"R{i}: R{i + 1} R{i + 1}" for i in range(19))
    with pytest.raises(InvalidRequest, match=r"needs too much|cannot be enforced"):
        takes(compiled(f'start: R0 | "b"\n{powers}\nR19: "a"?').start(), "aaaa")


def test_a_vocabulary_smaller_than_its_logits() -> None:
    few = Vocabulary([b"a", b"b"], 33, lambda t: [0] * len(t), lambda t, _: [])
    matcher = guidance.compile('start: "ab"', few, DEFAULT, "ebnf", "").start()
    assert matcher.mask().tolist() == [1, 0]
    assert matcher.accept(0)
    assert matcher.accept(1)
    assert matcher.done
