"""The library's matchers behind our protocol: masks bit by bit, going back, copies, threads, ends."""

from __future__ import annotations

import json
import random
import threading

import numpy as np
import pytest
from tests.constraints.words import SPECIAL, TOKENS, VOCABULARY, compiled, encode, ids, takes

from ramet.constraints import grammar, guidance, schema
from ramet.constraints.limits import DEFAULT
from ramet.constraints.matcher import Mask
from ramet.constraints.vocabulary import Vocabulary
from ramet.errors import InvalidRequest

_TREE = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "next": {"$ref": "#"}, "n": {"type": "integer"}},
        "required": ["name", "n"],
        "additionalProperties": False,
    }
)


def _mask(matcher: guidance.GuidanceMatcher) -> Mask:
    matcher.prepare()
    mask = matcher.mask()
    assert mask is not None
    return mask.copy()


def _tree() -> guidance.GuidanceConstraint:
    return compiled(schema.read(_TREE).grammar, "json_schema", _TREE)


@pytest.mark.parametrize("seed", range(6))
def test_masks_are_what_accept_takes(seed: int) -> None:
    """Every token of the vocabulary is tried on a copy, at each place of a walk."""
    chance = random.Random(seed)
    matcher = _tree().start()
    for _ in range(25):
        mask = _mask(matcher)
        assert mask.dtype == np.uint32
        assert mask.shape == (VOCABULARY.num_words,)
        allowed = ids(mask)
        assert allowed == [i for i in range(VOCABULARY.size) if matcher.fork().accept(i)]
        for token in allowed:  # and each leads on: bytes are all tokens
            after = matcher.fork()
            assert after.accept(token)
            assert after.may_end or _mask(after).any()
        if not allowed:
            assert matcher.done
            break
        assert matcher.accept(chance.choice(allowed))


def test_no_forcing_of_one_division_into_tokens() -> None:
    matcher = _tree().start()
    assert matcher.accept(ord("{"))
    shown = {TOKENS[i] for i in ids(_mask(matcher))}
    assert shown == {b'"', b" ", b"\n", b"\n  "}
    assert matcher.accept(ord('"'))
    assert {TOKENS[i] for i in ids(_mask(matcher))} == {b"n", b"name"}


def test_ends_and_specials_are_never_in_a_mask() -> None:
    for source in ("start: /(?s:.*)/", "start: A\nA: ~/abc/", 'start: "a"? <|call|>?'):
        found = ids(compiled(source).start().mask())
        assert max(found) <= SPECIAL
        assert (SPECIAL in found) == ("<|call|>" in source)
    matcher = compiled('start: "a" <|call|> "b"').start()
    assert [matcher.accept(t) for t in (ord("a"), ord("<"), SPECIAL, ord("b"))] == [
        True,
        False,
        True,
        True,
    ]
    assert matcher.done


def test_a_token_that_may_not_come_changes_nothing() -> None:
    matcher = _tree().start()
    for token in (ord("x"), -1, SPECIAL, SPECIAL + 1, VOCABULARY.size, VOCABULARY.size + 7):
        assert not matcher.accept(token)
    assert takes(matcher, '{"name": "x", "n": 1}')
    assert not matcher.accept(ord(" "))
    assert matcher.may_end
    assert matcher.done
    assert not _mask(matcher).any()


def test_rollback_leads_to_the_same_masks() -> None:
    chance = random.Random(5)
    matcher = _tree().start()
    tokens = encode('{"name": "日本\\n😀", "next": {"name": "", "n": -12}, "n": 3}')
    masks = [_mask(matcher)]
    for token in tokens:
        assert matcher.accept(token)
        masks.append(_mask(matcher))
    at = len(tokens)
    for _ in range(60):
        count = chance.randrange(at + 1)
        matcher.rollback(count)
        at -= count
        assert np.array_equal(_mask(matcher), masks[at])
        assert matcher.may_end == (at == len(tokens))
        for _ in range(chance.randrange(len(tokens) - at + 1)):
            assert matcher.accept(tokens[at])
            at += 1


def test_a_fork_is_independent() -> None:
    one = _tree().start()
    assert one.accept(ord("{"))
    two = one.fork()
    before = _mask(one)
    assert two.accept(ord('"'))
    assert takes(two, 'name":"a","n":5}')
    assert np.array_equal(_mask(one), before)
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
        matcher.prepare(budget)
        narrow = matcher.mask(budget)
        assert narrow is not None
        assert not (narrow & ~_mask(matcher)).any()
        token = chance.choice(ids(narrow))
        assert matcher.accept(token)
        text += TOKENS[token]
        budget -= 1
    assert matcher.may_end, text
    json.loads(text)


def test_steering_says_nothing_where_it_cannot_help() -> None:
    matcher = _tree().start()
    for budget in (3, 1_000_000):
        matcher.prepare(budget)
        assert ids(matcher.mask(budget)) == ids(_mask(matcher))


def test_many_threads_get_the_masks_of_one() -> None:
    constraint = _tree()
    texts = [
        json.dumps({"name": "x" * i, "next": {"name": "\\é", "n": i}, "n": -i}, ensure_ascii=False)
        for i in range(12)
    ]

    def masks(text: str) -> list[bytes]:
        matcher, found = constraint.start(), []
        for token in encode(text):
            found.append(_mask(matcher).tobytes())
            assert matcher.accept(token)
            copy = matcher.fork()
            assert _mask(copy).tobytes() == _mask(matcher).tobytes()
        return [*found, _mask(matcher).tobytes()]

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
    with pytest.raises(
        InvalidRequest, match=r"^ebnf: .*cannot be enforced: .*unknown name"
    ) as caught:
        compiled("start: x", "ebnf", "start: x")
    assert caught.value.value == "start: x"
    assert "backtrace" not in str(caught.value)
    with pytest.raises(InvalidRequest, match="over"):
        guidance.compile("start: " + '"a"' * 600_000, VOCABULARY, DEFAULT, "ebnf", "")


def test_a_step_beyond_its_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text has a number of readings that grows with its length."""
    monkeypatch.setattr(guidance, "_TOO_SLOW", 0.01)
    matcher = compiled(grammar.read('root ::= s\ns ::= s s | s s s | [a-z ]+ | ""')).start()
    with pytest.raises(InvalidRequest, match="needs too much"):
        takes(matcher, "a " * 300)


def test_slow_masks_are_left_to_prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "_SLOW", -1.0)
    matcher = _tree().start()
    assert matcher.mask() is not None  # nothing is known yet
    assert matcher.accept(ord("{"))
    assert matcher.mask() is None
    assert matcher.fork().mask(20) is None
    matcher.prepare(20)
    assert matcher.mask(19) is None
    assert ord('"') in ids(matcher.mask(20))
    assert ord('"') in ids(matcher.mask())


def test_a_vocabulary_smaller_than_its_logits() -> None:
    few = Vocabulary([b"a", b"b"], 33, lambda t: [0] * len(t), lambda _t, _f: [])
    matcher = guidance.compile('start: "ab"', few, DEFAULT, "ebnf", "").start()
    assert _mask(matcher).tolist() == [1, 0]
    assert matcher.accept(0)
    assert matcher.accept(1)
    assert matcher.done
