"""All tokens of a vocabulary as one prefix tree in flat arrays, so that a walk over them touches each shared
beginning once.

Knows the bytes of tokens; refuses to know automata. Nodes lie in depth-first order, so what is below a node
is a range of nodes, and the tokens below it are a range of the tokens in the order of their bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ramet.constraints.bits import mask_of
from ramet.constraints.vocabulary import Vocabulary

__all__ = ["TokenTrie"]

Ints = npt.NDArray[np.int32]
_DELETE, _FIRST_LEAD = 0x7F, 0xC0
_MOST = np.uint8(255)


class TokenTrie:
    """Arrays, `nodes` without the root: `byte` uint8 [nodes]; `depth` int32 [nodes] (1: a token's first
    byte); `end` int32 [nodes], the node behind the subtree; `order` int32 [tokens], ids of all tokens that
    have bytes, in the order of these; `first` int32 [nodes + 1]: order[first[i]] .. order[first[i + 1]] end
    at node i (ids with equal bytes end together), order[first[i]] .. order[first[end[i]]] at it or below it;
    `below` uint64 [nodes], the groups of the bytes below a node, `group` uint8 [256] of each byte; `height`
    uint8 [nodes], levels below a node, at most 255; `all` uint32 [words], the mask of every token. 22 bytes per node and 4 per token: about 8 MB for 128,000
    tokens. Never written to after it is built; one per vocabulary serves all automata and threads.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = vocabulary.tokens
        self.size, self.num_words = vocabulary.size, vocabulary.num_words
        ids = sorted((i for i in range(len(tokens)) if tokens[i]), key=tokens.__getitem__)
        self.order = np.asarray(ids, np.int32)
        texts = _Texts([tokens[i] for i in ids])
        shared = texts.shared_with_previous()
        new = texts.length - shared  # nodes that a text adds; 0: the same text as the one before
        begin = np.concatenate([[0], np.cumsum(new)])
        self.nodes = int(begin[-1])
        owner = np.repeat(np.arange(len(ids)), new)  # the first text that goes through a node
        self.depth = (np.arange(self.nodes) - begin[owner] + shared[owner] + 1).astype(np.int32)
        self.byte = texts.flat[texts.begin[owner] + self.depth - 1]
        self.end = begin[_behind(shared, owner, self.depth)].astype(np.int32)
        last = begin[1:] - 1  # the node at which a text ends
        count = np.bincount(last, minlength=self.nodes) if len(ids) else np.zeros(0, np.int64)
        self.first = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
        self.group = _groups()
        self.below, self.height = _below(self)
        self.all = mask_of(self.order, self.num_words)
        self.deepest = int(self.depth.max(initial=0))
        for array in (
            self.order,
            self.depth,
            self.byte,
            self.end,
            self.first,
            self.below,
            self.height,
            self.all,
        ):
            array.flags.writeable = False

    @functools.cached_property
    def levels(self) -> list[npt.NDArray[np.int64]]:
        """The nodes of each depth, from 1."""
        by_depth = np.argsort(self.depth, kind="stable")
        return np.split(by_depth, np.cumsum(np.bincount(self.depth)[1:])[:-1]) if self.nodes else []

    @functools.cached_property
    def parent(self) -> npt.NDArray[np.int64]:
        """Of each node; -1 for a token's first byte."""
        parent = np.full(self.nodes, -1, np.int64)
        for above, level in zip(self.levels, self.levels[1:]):
            parent[level] = above[np.searchsorted(above, level) - 1]
        return parent

    @property
    def num_bytes(self) -> int:
        per_node = (self.depth, self.byte, self.end, self.first, self.below, self.height)
        return sum(array.nbytes for array in (*per_node, self.order, self.all))


class _Texts:
    """Sorted texts, none empty, in one array."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.flat = np.frombuffer(b"".join(texts), np.uint8)
        self.length = np.fromiter(map(len, texts), np.int64, len(texts))
        self.begin = np.cumsum(self.length) - self.length

    def shared_with_previous(self) -> npt.NDArray[np.int64]:
        """How many first bytes each text has in common with the one before it: byte by byte for those
        that are equal so far, which soon are few."""
        shared = np.zeros(len(self.length), np.int64)
        open_ = np.arange(1, len(self.length))
        depth = 0
        while len(open_):
            open_ = open_[np.minimum(self.length[open_], self.length[open_ - 1]) > depth]
            now, before = (
                self.flat[self.begin[open_] + depth],
                self.flat[self.begin[open_ - 1] + depth],
            )
            open_ = open_[now == before]
            depth += 1
            shared[open_] = depth
        return shared


def _behind(
    shared: npt.NDArray[np.int64], owner: npt.NDArray[np.int64], depth: Ints
) -> npt.NDArray[np.int64]:
    """For each node the first text behind its owner that does not go through it."""
    behind = owner + 1
    through = np.arange(
        1, len(shared)
    )  # texts that have `level` bytes in common with the one before
    by_depth = np.argsort(depth, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(depth, minlength=1))])
    for level in range(1, int(shared.max(initial=0)) + 1):
        through = through[shared[through] >= level]
        ends = np.append(np.flatnonzero(np.diff(through) != 1), len(through) - 1)
        nodes = by_depth[bounds[level] : bounds[level + 1]]
        run = np.searchsorted(through, owner[nodes] + 1)
        run = np.minimum(run, len(through) - 1)
        starts = through[run] == owner[nodes] + 1  # the next text goes through the node as well
        last = through[ends[np.searchsorted(ends, run[starts])]]
        behind[nodes[starts]] = last + 1
    return behind


def _groups() -> npt.NDArray[np.uint8]:
    """Bytes in 64 groups: automata mostly tell ASCII's punctuation apart, letters less often, and of other
    characters hardly more than how their bytes begin."""
    group = np.zeros(256, np.uint8)
    marks = [b for b in range(0x20, _DELETE) if not chr(b).isalnum()]
    group[marks] = np.arange(len(marks))  # 33
    free = len(marks)
    for k, members in enumerate(
        (
            [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), _DELETE],
            [0x09],
            [0x0A],
            [0x0D],
            range(0x30, 0x3A),
            range(0x41, 0x47),
            range(0x47, 0x5B),
            range(0x61, 0x67),
            range(0x67, 0x7B),
            range(0x80, _FIRST_LEAD),
            range(_FIRST_LEAD, 0xE0),
            range(0xE0, 0xF0),
            range(0xF0, 0x100),
        )
    ):
        group[list(members)] = free + k
    return group


def _below(trie: TokenTrie) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
    """Bottom up, one depth after the other."""
    own = np.uint64(1) << trie.group[trie.byte].astype(np.uint64)
    below, height = np.zeros(trie.nodes, np.uint64), np.zeros(trie.nodes, np.uint8)
    levels, parent = trie.levels, trie.parent
    for level in reversed(levels[1:]):
        np.bitwise_or.at(below, parent[level], below[level] | own[level])
        np.maximum.at(height, parent[level], np.minimum(height[level], _MOST - 1) + np.uint8(1))
    return below, height
