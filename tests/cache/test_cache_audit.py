"""Every way in which a cache can be broken is named by the audit and mended by the repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from tests.cache.cache_setup import SmallCache

from ramet.cache import AuditError, CacheMisuse, Lease, audit, prefix_hashes, repair
from ramet.cache.buffer import IntArray, IntBuffer
from ramet.cache.node import Node


class Scene:
    """Two branches below [1, 2], of which leases hold one and the end of the other; one cached path;
    another salt. 24 slots."""

    def __init__(self) -> None:
        self.cache = SmallCache(24)
        self.tree, self.pool = self.cache.tree, self.cache.pool
        self.tokens = [[1, 2, 3, 4], [1, 2, 5], [1, 2, 5], [7]]
        self.leases = [
            self.cache.put(tokens, salt)
            for tokens, salt in zip(self.tokens, ["", "", "", "other"], strict=True)
        ]
        self.cache.keep([8, 8, 8])
        self.cache.keep([1, 2, 6])
        self.leases[0].reserve(3)
        self.leases[0].advance(2)
        self.held = list(self.leases)

    def node(self, *tokens: int) -> Node:
        """The node at the end of `tokens`."""
        return next(
            node
            for node in self.tree.nodes()
            if [t for above in node.path() for t in above.tokens.tolist()] == list(tokens)
        )

    def finish(self) -> None:
        """Every request computes what it has lost, and ends: nothing may be left over."""
        for lease, tokens in zip(self.leases, self.tokens, strict=True):
            if lease in self.held:
                lease.truncate(lease.num_published)
                lease.extend_match(tokens)
                self.cache.extend(lease, tokens)
        audit(self.tree, self.held, self.cache.kv_prefix)
        for lease in self.held:
            lease.close()
        self.tree.flush()
        audit(self.tree, [])
        assert self.pool.num_free == self.pool.num_slots


Break = Callable[[Scene], Any]


def set_slot(node: Node, place: int, slot: int) -> None:
    slots = node.slots.copy()
    slots[place] = slot
    node._slots = IntBuffer(slots)


def lose_a_slot(scene: Scene) -> None:
    scene.pool.alloc(1)


def free_a_slot_of_the_tree(scene: Scene) -> None:
    scene.pool.free(scene.node(1, 2, 5).slots)


def free_a_slot_of_a_tail(scene: Scene) -> None:
    scene.pool.free(scene.leases[0].tail[1:2])


def give_one_slot_to_two_nodes(scene: Scene) -> None:
    set_slot(scene.node(1, 2, 3, 4), 1, int(scene.node(8, 8, 8).slots[1]))


def give_a_slot_of_the_tree_to_a_tail(scene: Scene) -> None:
    lease = scene.leases[0]
    lease._slots.write(6, scene.node(1, 2, 6).slots)


def name_a_slot_that_does_not_exist(scene: Scene) -> None:
    set_slot(scene.node(8, 8, 8), 2, 24)


def name_a_negative_slot(scene: Scene) -> None:
    set_slot(scene.node(1, 2), 0, -1)


def pin_once_too_often(scene: Scene) -> None:
    scene.node(8, 8, 8).pins += 1


def pin_once_too_little(scene: Scene) -> None:
    scene.node(1, 2, 5).pins -= 1


def miscount_tokens(scene: Scene) -> None:
    scene.tree.num_tree_tokens += 1


def miscount_pinned_tokens(scene: Scene) -> None:
    scene.tree.num_pinned_tokens -= 1


def miscount_nodes(scene: Scene) -> None:
    scene.tree.num_nodes += 1


def file_a_child_under_another_token(scene: Scene) -> None:
    children = scene.node(1, 2).children
    children[9] = children.pop(5)


def give_two_siblings_one_token(scene: Scene) -> None:
    scene.node(1, 2, 5)._tokens.write(0, np.array([3]))


def file_a_child_twice(scene: Scene) -> None:
    scene.node(1, 2).children[9] = scene.node(1, 2, 5)


def file_a_child_with_two_parents(scene: Scene) -> None:
    scene.node(8, 8, 8).children[5] = scene.node(1, 2, 5)


def put_a_child_at_another_depth(scene: Scene) -> None:
    scene.node(1, 2, 5).depth = 7


def put_a_child_into_another_salt(scene: Scene) -> None:
    scene.node(8, 8, 8).salt = "other"


def empty_an_edge(scene: Scene) -> None:
    scene.node(1, 2, 6).cut(0)


def shorten_the_tokens_of_an_edge(scene: Scene) -> None:
    scene.node(1, 2)._tokens.cut(1)


def shorten_an_edge_that_leases_hold(scene: Scene) -> None:
    scene.node(1, 2).cut(1)


def make_a_child_younger_than_its_parent(scene: Scene) -> None:
    scene.node(1, 2, 6).last_use = 99


def forget_a_leaf_in_the_queue(scene: Scene) -> None:
    scene.node(8, 8, 8).queued = False


def give_two_nodes_one_serial(scene: Scene) -> None:
    scene.node(1, 2, 6).serial = scene.node(8, 8, 8).serial


def leave_tokens_uncommitted(scene: Scene) -> None:
    scene.node(8, 8, 8).committed = 1


def commit_more_than_there_is(scene: Scene) -> None:
    scene.node(8, 8, 8).committed = 7


def lose_a_lease(scene: Scene) -> None:
    scene.held.pop(1)


def lose_the_last_lease_of_a_salt(scene: Scene) -> None:
    scene.held.pop()


def close_behind_the_back_of_the_tree(scene: Scene) -> None:
    scene.leases[0].closed = True


def forget_a_lease(scene: Scene) -> None:
    del scene.tree.leases[scene.leases[2]]


def overwrite_the_slots_of_a_lease(scene: Scene) -> None:
    scene.leases[1]._slots.write(1, np.array([0]))


def shorten_the_slots_of_a_lease(scene: Scene) -> None:
    scene.leases[1]._slots.cut(1)


def compute_more_than_there_is(scene: Scene) -> None:
    scene.leases[0]._num_tail_computed = 9


def move_a_lease_up(scene: Scene) -> None:
    scene.leases[0].node = scene.node(1, 2)


def move_a_lease_elsewhere(scene: Scene) -> None:
    scene.leases[1].node = scene.node(8, 8, 8)


def lose_a_branch(scene: Scene) -> None:
    scene.node(1, 2).drop()


def lose_a_root(scene: Scene) -> None:
    del scene.tree.roots[""]


BREAKS: list[tuple[Break, str]] = [
    (lose_a_slot, "1 slots are lost"),
    (free_a_slot_of_the_tree, "the free list: slots .* have several owners"),
    (free_a_slot_of_a_tail, "the tail of Lease.*: slots .* have several owners"),
    (give_one_slot_to_two_nodes, "1 slots are lost(.|\n)*Node.*: slots .* have several owners"),
    (give_a_slot_of_the_tree_to_a_tail, "the tail of Lease.*: slots .* have several owners"),
    (name_a_slot_that_does_not_exist, r"slots \[24\] do not exist"),
    (name_a_negative_slot, r"slots \[-1\] do not exist"),
    (pin_once_too_often, "1 pins.*: 0 leases hold it"),
    (pin_once_too_little, "1 pins.*: 2 leases hold it"),
    (miscount_tokens, "num_tree_tokens is 11, should be 10"),
    (miscount_pinned_tokens, "num_pinned_tokens is 5, should be 6"),
    (miscount_nodes, "num_nodes is 7, should be 6"),
    (file_a_child_under_another_token, "under the key 9, but the edge starts with 5"),
    (give_two_siblings_one_token, "under the key 5, but the edge starts with 3"),
    (file_a_child_twice, "under the key 9, but the edge starts with 5"),
    (file_a_child_with_two_parents, "the parent is Node"),
    (put_a_child_at_another_depth, "starts at 7, the parent ends at 2"),
    (put_a_child_into_another_salt, "another salt than its parent"),
    (empty_an_edge, "the edge is empty"),
    (shorten_the_tokens_of_an_edge, "1 tokens but 2 slots"),
    (shorten_an_edge_that_leases_hold, "starts at 2, the parent ends at 1"),
    (make_a_child_younger_than_its_parent, "used at 99, after its parent"),
    (forget_a_leaf_in_the_queue, "evictable, but not in the queue"),
    (give_two_nodes_one_serial, "the serial is that of another node"),
    (leave_tokens_uncommitted, "waits for a step, but nothing pins it"),
    (commit_more_than_there_is, "7 tokens are committed"),
    (lose_a_lease, "open, but nobody holds it"),
    (lose_the_last_lease_of_a_salt, "open, but nobody holds it"),
    (close_behind_the_back_of_the_tree, "closed, but somebody still holds it"),
    (forget_a_lease, "unknown to the tree"),
    (overwrite_the_slots_of_a_lease, "its slots are not those of its path"),
    (shorten_the_slots_of_a_lease, "its slots are not those of its path"),
    (compute_more_than_there_is, "the lengths are not in order"),
    (move_a_lease_up, "have several owners"),
    (move_a_lease_elsewhere, "its slots are not those of its path"),
    (lose_a_branch, "which is not in the tree"),
    (lose_a_root, "which is not in the tree"),
]


def test_a_whole_cache_passes_and_is_left_alone() -> None:
    scene = Scene()
    audit(scene.tree, scene.held, scene.cache.kv_prefix)
    version, edges = scene.tree.version, scene.cache.edges()
    report = repair(scene.tree, scene.held)
    assert (report.violations, report.shortened, report.num_forgotten_tokens) == ((), (), 0)
    assert (scene.tree.version, scene.cache.edges()) == (version, edges)
    scene.finish()


@pytest.mark.parametrize(
    ("break_it", "words"), BREAKS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_broken_cache_is_named_and_mended(break_it: Break, words: str) -> None:
    scene = Scene()
    break_it(scene)
    with pytest.raises(AuditError, match=words) as caught:
        audit(scene.tree, scene.held, scene.cache.kv_prefix)
    report = repair(scene.tree, scene.held)
    assert set(report.violations) == set(caught.value.violations)
    scene.held = [lease for lease in scene.held if not lease.closed]
    audit(scene.tree, scene.held, scene.cache.kv_prefix)
    scene.finish()


@given(st.lists(st.sampled_from(BREAKS), min_size=2, max_size=6), st.booleans())
def test_many_breaks_at_once_are_mended(breaks: list[tuple[Break, str]], in_step: bool) -> None:
    scene = Scene()
    if in_step:
        scene.tree.begin_step()
        scene.cache.extend(scene.leases[2], [1, 2, 5, 5])
        scene.cache.extend(scene.leases[3], [7, 7])
        scene.held.pop().close()
    for break_it, _ in breaks:
        try:
            break_it(scene)
        except (StopIteration, KeyError, IndexError, AssertionError, CacheMisuse):
            continue  # an earlier break took away what this one would have broken
    repair(scene.tree, scene.held)
    if in_step:
        scene.tree.rollback_step()
    scene.held = [lease for lease in scene.held if not lease.closed]
    audit(scene.tree, scene.held, scene.cache.kv_prefix)
    scene.finish()


def test_the_report_names_the_leases_that_must_compute_again() -> None:
    scene = Scene()
    give_one_slot_to_two_nodes(scene)
    report = repair(scene.tree, scene.held)
    lost = scene.leases[0]
    assert report.shortened == (lost,)
    assert (len(lost), lost.num_computed) == (3, 3)
    assert report.num_forgotten_tokens == 3  # [4], and behind [8] two
    assert scene.cache.edges()[-1] == [7]
    assert scene.tree.match([8, 8, 8]) == 1


@pytest.mark.parametrize(
    ("break_it", "lease", "length", "forgotten"),
    [(free_a_slot_of_the_tree, 1, 2, 1), (free_a_slot_of_a_tail, 0, 5, 0), (lose_a_slot, 0, 7, 0)],
)
def test_a_slot_that_was_free_for_a_time_is_not_believed(
    break_it: Break, lease: int, length: int, forgotten: int
) -> None:
    scene = Scene()
    break_it(scene)
    report = repair(scene.tree, scene.held)
    assert len(scene.leases[lease]) == length
    assert report.num_forgotten_tokens == forgotten


def test_a_lease_that_nobody_holds_is_closed_for_good() -> None:
    scene = Scene()
    lost = scene.held.pop(0)
    repair(scene.tree, scene.held)
    assert lost.closed
    lost.close()
    audit(scene.tree, scene.held, scene.cache.kv_prefix)


def test_kv_of_another_prefix_is_found() -> None:
    scene = Scene()
    scene.cache.kv[scene.node(1, 2, 3, 4).slots[1]] += np.uint64(1)
    with pytest.raises(AuditError, match=r"hold the KV of another prefix, from position 3 on"):
        audit(scene.tree, scene.held, scene.cache.kv_prefix)
    audit(scene.tree, scene.held)


def test_the_meaning_of_the_kv_can_be_given() -> None:
    """Say, the sum of the prefix."""
    scene = Scene()
    sums = np.zeros(24, np.int64)
    for node in scene.tree.nodes():
        tokens = np.concatenate([above.tokens for above in node.path()])
        sums[node.slots] = np.cumsum(tokens)[node.depth :]

    def kv_prefix(slots: IntArray) -> IntArray:
        return sums[slots]

    audit(scene.tree, scene.held, kv_prefix, np.cumsum)
    sums[scene.node(8, 8, 8).slots[0]] = 7
    with pytest.raises(AuditError, match="from position 0 on"):
        audit(scene.tree, scene.held, kv_prefix, np.cumsum)


def test_what_the_step_has_yet_to_compute_is_not_compared() -> None:
    cache = SmallCache()
    cache.tree.begin_step()
    lease = cache.put([1, 2])
    audit(cache.tree, [lease], cache.kv_prefix)
    cache.tree.commit_step()
    with pytest.raises(AuditError, match="another prefix"):
        audit(cache.tree, [lease], cache.kv_prefix)


@given(st.lists(st.integers(-2, 2)), st.lists(st.integers(-2, 2)))
def test_prefix_hashes_tell_prefixes_apart(a: list[int], b: list[int]) -> None:
    ones, others = (prefix_hashes(np.array(tokens, np.int64)).tolist() for tokens in (a, b))
    assert len(ones) == len(a)
    for i, one in enumerate(ones):
        for j, other in enumerate(others):
            assert (one == other) == (a[: i + 1] == b[: j + 1])


def test_leases_may_be_any_iterable() -> None:
    scene = Scene()

    def held() -> Any:
        yield from scene.held

    audit(scene.tree, held())
    assert isinstance(next(held()), Lease)
