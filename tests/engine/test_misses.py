"""Why prompt tokens had to be computed: each cause alone, and all of them together."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from ramet.cache import RadixTree, SlotPool
from ramet.cache.scope import PUBLIC
from ramet.engine.loop import EngineCore
from ramet.engine.misses import (
    BLOCK,
    CAUSES,
    MOST_READ,
    PrefixHashes,
    SeenPrefixes,
    agreeing_tokens,
)
from ramet.engine.schedule import Limits
from tests.engine.worlds import VOCAB, ask, make_core, run_all


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).tolist()


def missed(core: EngineCore) -> dict[str, int]:
    """By cause, without those that are none."""
    stats = core.stats()
    found = {cause: getattr(stats, f"num_missed_{cause}") for cause in (*CAUSES, "logits")}
    assert sum(found.values()) == stats.num_prompt_tokens - stats.num_cached_tokens
    return {cause: count for cause, count in found.items() if count}


def test_a_new_text_was_never_seen() -> None:
    core = make_core()
    run_all(core, [ask(tokens(100)), ask(tokens(50, 1))])
    assert missed(core) == {"never_seen": 150}


def test_what_another_request_computes_meanwhile_is_nobodys_miss() -> None:
    core = make_core(limits=Limits(max_step_tokens=16))
    run_all(core, [ask(tokens(100)) for _ in range(5)])
    assert missed(core) == {"never_seen": 100}


def test_a_cached_prompt_computes_its_last_token_for_the_logits() -> None:
    core = make_core()
    run_all(core, [ask(tokens(100))])
    run_all(core, [ask(tokens(100))])
    assert missed(core) == {"never_seen": 100, "logits": 1}


def test_scores_of_a_cached_prompt_are_computed_for_the_logits() -> None:
    core = make_core()
    run_all(core, [ask(tokens(100))])
    run_all(core, [ask(tokens(100), start=90, new=0)])
    assert missed(core) == {"never_seen": 100, "logits": 10}


@pytest.mark.parametrize("length", [5, 32, 70, 96])
def test_the_same_prompt_after_it_was_forgotten(length: int) -> None:
    core = make_core()
    run_all(core, [ask(tokens(length))])
    core.flush()
    run_all(core, [ask(tokens(length))])
    assert missed(core) == {"never_seen": length, "evicted": length}
    assert core.stats().num_evicted_tokens == length


def test_what_was_generated_is_known_when_it_comes_back_in_a_prompt() -> None:
    core = make_core()
    first = ask(tokens(40), new=30)
    run_all(core, [first])
    core.flush()
    # The last token was drawn and never computed.
    run_all(core, [ask([*first.known.tolist(), *tokens(31, 5)])])
    assert missed(core) == {"never_seen": 40 + 101 - 64, "evicted": 64}


def test_a_tail_that_was_forgotten_counts_from_where_it_was_cut() -> None:
    core = make_core()
    run_all(core, [ask(tokens(100))])
    core.tree.evict(30)
    run_all(core, [ask(tokens(100))])
    assert missed(core) == {"never_seen": 100, "evicted": 30}


def test_another_tenants_text() -> None:
    core = make_core()
    run_all(core, [ask(tokens(100), salt="a")])
    run_all(core, [ask(tokens(100), salt="b")])
    run_all(core, [ask(tokens(100))])
    assert missed(core) == {"never_seen": 100, "salt": 200}
    core.flush()
    run_all(core, [ask(tokens(100), salt="b")])
    assert missed(core) == {"never_seen": 100, "salt": 200, "evicted": 100}


def test_a_salt_after_a_text_without_one() -> None:
    core = make_core()
    run_all(core, [ask(tokens(100))])
    run_all(core, [ask(tokens(100), salt="b")])
    assert missed(core) == {"never_seen": 100, "salt": 100}


def test_the_public_beginning_is_no_miss_and_the_rest_is_the_salts() -> None:
    core = make_core()
    run_all(core, [ask(tokens(100), salt="a", num_public=64)])
    run_all(core, [ask(tokens(100), salt="b", num_public=64)])
    assert missed(core) == {"never_seen": 100, "salt": 36}
    core.flush()
    run_all(core, [ask(tokens(100), salt="b", num_public=64)])
    assert missed(core) == {"never_seen": 100, "salt": 36, "evicted": 100}


def test_a_prefetch_is_not_counted_but_remembered() -> None:
    core = make_core()
    run_all(core, [ask(tokens(64), new=0, background=True)])
    assert missed(core) == {}
    core.flush()
    run_all(core, [ask(tokens(64))])
    assert missed(core) == {"evicted": 64}


def test_an_aborted_prompt_was_not_computed_and_not_seen() -> None:
    core = make_core(limits=Limits(max_step_tokens=10))
    request = ask(tokens(100))
    core.add(request)
    core.step()
    core.abort(request.rid)
    assert missed(core) == {}
    core.flush()
    run_all(core, [ask(tokens(100))])
    assert missed(core) == {"never_seen": 100}


def test_without_a_cache_nothing_was_ever_seen() -> None:
    core = make_core(limits=Limits(use_cache=False))
    run_all(core, [ask(tokens(40)), ask(tokens(40))])
    run_all(core, [ask(tokens(40))])
    assert missed(core) == {"never_seen": 120}


# Text that is divided into other tokens. A token is its letters: 12 is "ab", 3 is "c".


def letters(token: int) -> bytes:
    return bytes(ord("a") + int(digit) - 1 for digit in str(token)) if token else b""


@pytest.mark.parametrize(
    ("cached", "prompt", "boundary"),
    [
        ([9, 12, 3], [9, 1, 2, 3], 3),  # ab|c, a|b|c
        ([9, 12, 3], [9, 123], 1),
        ([9, 123, 4, 5], [9, 1, 23, 4, 5], 4),  # the same division again behind it
        ([9, 12, 3], [9, 1, 2, 4], 2),  # a|b agree, then the texts part
        ([9, 12, 3], [9, 1], 1),  # ends within cached text
        ([9, 1], [9, 123], 1),  # goes on from where cached text ends
        ([9, 1], [9, 123, 4], 1),
        ([9, 12], [9, 1, 2, 3], 2),
        ([9, 12, 3], [9, 1, 3], 0),  # begins like a cached token, and is another text
        ([9, 1, 2], [9, 13], 0),
        ([9, 12], [9, 3, 4], 0),
        ([9, 12, 3], [12, 3], 0),
        ([9, 12, 3], [9, 1, 0, 2], 0),  # a token without text
    ],
    ids=str,
)
def test_cached_text_in_other_tokens(cached: list[int], prompt: list[int], boundary: int) -> None:
    core = make_core(token_bytes=letters)
    run_all(core, [ask(cached)])
    before = core.stats().num_missed_never_seen
    run_all(core, [ask(prompt)])
    stats = core.stats()
    assert stats.num_missed_boundary == boundary
    assert stats.num_missed_boundary + stats.num_missed_never_seen - before == len(prompt) - (
        prompt[0] == 9
    )


def test_text_is_followed_into_branches() -> None:
    core = make_core(token_bytes=letters)
    run_all(core, [ask([9, 12, 7]), ask([9, 12, 34, 5]), ask([9, 12, 34, 6])])
    run_all(core, [ask([9, 1, 2, 3, 4, 6, 8])])
    assert core.stats().num_missed_boundary == 5, "ab|cd|f"


def test_text_of_another_tenant_is_not_looked_at() -> None:
    core = make_core(token_bytes=letters)
    run_all(core, [ask([9, 12, 3], salt="a", num_public=1)])
    run_all(core, [ask([9, 1, 2, 3], salt="b", num_public=1)])
    assert core.stats().num_missed_boundary == 0
    run_all(core, [ask([9, 1, 2, 3, 3], salt="a", num_public=1)])
    assert core.stats().num_missed_boundary == 3


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.data())
def test_any_two_divisions_of_one_text_agree(text: list[int], data: st.DataObject) -> None:
    def divided() -> list[int]:
        found: list[int] = []
        rest = "".join(map(str, text))
        while rest:
            size = data.draw(st.integers(1, 3))
            found.append(int(rest[:size]))
            rest = rest[size:]
        return found

    held, mine = divided(), divided()
    tree = RadixTree(SlotPool(64))
    lease = tree.open(held)
    lease.reserve(len(held))
    lease.advance(len(held))
    lease.publish(held)
    same = tree.match(mine)
    place = tree.open(mine).node
    rest = np.array(mine[same:], np.int64)
    assert agreeing_tokens(rest, place, PUBLIC, letters) == (rest.size if same < len(held) else 0)


def test_texts_that_stay_divided_differently_are_not_read_for_ever() -> None:
    calls = []

    def counted(token: int) -> bytes:
        calls.append(token)
        return letters(token)

    tree = RadixTree(SlotPool(4000))
    held = [12] * 2000
    lease = tree.open(held)
    lease.reserve(len(held))
    lease.advance_all()
    lease.publish(held)
    mine = np.array([1, 2] * 2000)
    assert 10 < agreeing_tokens(mine, tree.open([]).node, PUBLIC, counted) < MOST_READ
    assert len(calls) < 2 * MOST_READ
    again = np.array([1, *[2, 1] * 5, 2, *held])
    assert agreeing_tokens(again, tree.open([]).node, PUBLIC, counted) == 12 + 2000 - 6


# Hashes


@given(st.lists(st.integers(-3, 3), max_size=150), st.integers(0, 4))
def test_prefixes_hash_alike_whatever_comes_behind_them(text: list[int], first: int) -> None:
    of = PrefixHashes(b"a key of 16 byte")
    array = np.array(text, np.int64)
    lengths, hashes = of.of(array)
    assert lengths.tolist() == [*range(BLOCK, len(text), BLOCK), *([len(text)] if text else [])]
    for length, value in zip(lengths.tolist(), hashes.tolist()):
        assert of.of(array[:length])[1][-1] == value
    if 0 < first * BLOCK <= len(text):
        later = of.of(array, first, int(hashes[first - 1]))
        assert [part.tolist() for part in later] == [
            lengths[first:].tolist(),
            hashes[first:].tolist(),
        ]


def test_hashes_depend_on_tokens_places_lengths_scope_and_key() -> None:
    of, other = PrefixHashes(b"a key of 16 byte"), PrefixHashes()
    texts = [[1], [2], [1, 0], [0, 1], [1] * 32, [1] * 33, [*[0] * 32, 1], [*[0] * 31, 1]]
    found = set()
    for source in (of, other):
        for text in texts:
            _, hashes = source.of(np.array(text, np.int64))
            for key in (source.key_of(PUBLIC), source.key_of(None)):
                found.add(int(source.keyed(hashes, key)[-1]))
    assert len(found) == 2 * 2 * len(texts)


def test_the_seen_prefixes_have_a_bound_and_the_newest_stay() -> None:
    seen = SeenPrefixes(1 << 10)
    numbers = np.random.default_rng(0).integers(1, 1 << 64, (100, 64), np.uint64)
    for row in numbers:
        seen.add(row)
    share = [seen.have(row).mean() for row in numbers]
    assert min(share[-2:]) > 0.8
    assert 0.25 < share[-16] < 0.5  # 1024 came since: 1/e
    assert max(share[:50]) < 0.15
    with pytest.raises(ValueError, match="power of two"):
        SeenPrefixes(1000)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9))
def test_the_causes_add_up(seed: int) -> None:
    """Random texts of few tokens under random salts in a small cache that is flushed at times."""
    rng = random.Random(seed)
    core = make_core(300, token_bytes=letters, limits=Limits(max_step_tokens=rng.choice([7, 64])))
    texts = [[rng.randint(1, 13) for _ in range(rng.randint(1, 80))] for _ in range(4)]
    for _ in range(12):
        text = rng.choice(texts)
        prompt = text[: rng.randint(1, len(text))] + [
            rng.randint(1, 13) for _ in range(rng.randint(0, 40))
        ]
        request = ask(
            prompt,
            new=rng.randint(0, 40),
            start=rng.choice([None, 0]),
            salt=rng.choice(["", "a", "b"]),
            num_public=rng.randint(0, len(prompt)),
            background=rng.random() < 0.1,
        )
        core.add(request)
        if rng.random() < 0.5:
            run_all(core)
            texts.append(request.known.tolist())
        if rng.random() < 0.2:
            core.flush()
    run_all(core)
    missed(core)
