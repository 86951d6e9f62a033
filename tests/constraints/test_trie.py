"""The prefix tree against its tokens, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from tests.constraints.languages import vocabularies, vocabulary

from ramet.constraints.trie import TokenTrie
from ramet.constraints.vocabulary import Vocabulary


def texts_of(trie: TokenTrie) -> list[bytes]:
    """The bytes from the root to each node."""
    path, found = bytearray(), []
    for node in range(trie.nodes):
        del path[trie.depth[node] - 1 :]
        path.append(trie.byte[node])
        assert len(path) == trie.depth[node], "a node without its parent"
        found.append(bytes(path))
    return found


@given(vocabularies)
def test_it_holds_every_beginning_once_in_order(vocabulary: Vocabulary) -> None:
    beginnings = {t[:n] for t in vocabulary.tokens for n in range(1, len(t) + 1)}
    assert texts_of(TokenTrie(vocabulary)) == sorted(beginnings)


@given(vocabularies)
def test_nodes_know_their_tokens_and_what_is_below(vocabulary: Vocabulary) -> None:
    trie, tokens = TokenTrie(vocabulary), vocabulary.tokens
    texts = texts_of(trie)
    for node, text in enumerate(texts):
        at, behind = trie.first[node], trie.first[node + 1]
        assert sorted(trie.order[at:behind]) == [i for i, t in enumerate(tokens) if t == text]
        below = [t for t in texts if t.startswith(text)]
        assert trie.end[node] == node + len(below)
        under = trie.order[at : trie.first[trie.end[node]]]
        assert sorted(under) == [i for i, t in enumerate(tokens) if t.startswith(text)]
        groups = {int(trie.group[b]) for t in below for b in t[len(text) :]}
        assert trie.below[node] == sum(1 << g for g in groups)
        assert trie.height[node] == max(map(len, below)) - len(text)
        parent = int(trie.parent[node])
        assert (texts[parent] if parent >= 0 else b"") == text[:-1]
    assert [sorted(texts[i] for i in level) for level in trie.levels] == [
        [t for t in sorted(texts) if len(t) == depth]
        for depth in range(1, max(map(len, texts), default=0) + 1)
    ]


@given(vocabularies)
def test_the_mask_of_all_tokens(vocabulary: Vocabulary) -> None:
    trie = TokenTrie(vocabulary)
    bits = np.unpackbits(trie.all.view(np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == [i for i, t in enumerate(vocabulary.tokens) if t]


def test_sizes_are_the_vocabularys() -> None:
    trie = TokenTrie(vocabulary([b"a", b"", b"ab"], size=70))
    assert (trie.size, trie.num_words, trie.nodes, trie.deepest) == (70, 3, 2, 2)
    assert trie.order.tolist() == [0, 2]


def test_a_vocabulary_without_texts() -> None:
    for tokens in ([], [b"", b""]):
        trie = TokenTrie(vocabulary(tokens, size=5))
        assert (trie.nodes, trie.deepest, len(trie.order), trie.all.tolist()) == (0, 0, 0, [0])
        assert trie.levels == []


def test_long_tokens_that_share_much() -> None:
    long = b"\x00" * 5000
    trie = TokenTrie(vocabulary([long, long + b"a", long[:1000], b"b"]))
    assert (trie.nodes, trie.deepest) == (5002, 5001)
    assert trie.order.tolist() == [2, 0, 1, 3]
    assert trie.height[[0, 4744, 4745, 4746, 5000]].tolist() == [255, 255, 255, 254, 0]
    assert trie.end[[0, 999, 4999, 5000, 5001]].tolist() == [5001, 5001, 5001, 5001, 5002]


def test_nobody_can_write_to_it() -> None:
    trie = TokenTrie(vocabulary([b"ab"]))
    with pytest.raises(ValueError, match="read-only"):
        trie.all[0] = 0
