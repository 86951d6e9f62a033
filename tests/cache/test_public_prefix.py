"""Public beginnings: what everybody calls public is shared, and what lies behind it is one salt's alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.cache.cache_setup import SmallCache

from ramet.cache import AuditError, Lease, audit, repair
from ramet.cache.node import Node
from ramet.cache.scope import PUBLIC, Scope
from ramet.errors import InvalidRequest

SYSTEM = [1, 2, 3]


def test_two_tenants_share_the_public_beginning_and_nothing_behind_it() -> None:
    cache = SmallCache()
    a = cache.put([*SYSTEM, 4, 5], "a", 3)
    b = cache.tree.open([*SYSTEM, 4, 5], "b", num_public=3)
    assert b.slots.tolist() == a.slots[:3].tolist()
    assert cache.extend(b, [*SYSTEM, 4, 5]) == 0
    assert not set(b.slots[3:].tolist()) & set(a.slots.tolist())
    assert cache.tree.num_tree_tokens == 3 + 2 + 2
    assert cache.edges() == [[1, 2, 3], [4, 5], [4, 5]]
    audit(cache.tree, [a, b], cache.kv_prefix)


def test_a_key_without_salt_is_public_all_through() -> None:
    cache = SmallCache()
    cache.keep([*SYSTEM, 4, 5])
    assert cache.tree.match([*SYSTEM, 4, 5], "a", num_public=3) == 3
    assert cache.tree.match([*SYSTEM, 4, 5], "a", num_public=4) == 4
    assert cache.tree.match([*SYSTEM, 4, 5], "a") == 0
    assert cache.tree.match([*SYSTEM, 4, 5], num_public=2) == 5


def test_what_is_behind_the_border_is_reached_by_its_salt_and_border_alone() -> None:
    cache = SmallCache()
    cache.keep([*SYSTEM, 4, 5], "a", 3)
    found = {
        (salt, border): cache.tree.match([*SYSTEM, 4, 5], salt, num_public=border)
        for salt in ("", "a", "b")
        for border in range(6)
    }
    for (salt, border), length in found.items():
        if (salt, border) == ("a", 3):
            assert length == 5
        else:
            assert length == (min(3, border) if salt else 3), (salt, border)


def test_a_border_inside_a_public_edge_splits_it() -> None:
    cache = SmallCache()
    cache.keep([1, 2, 3, 4, 5])
    cache.keep([1, 2, 3, 4, 5], "a", 2)
    assert cache.edges() == [[1, 2], [3, 4, 5], [3, 4, 5]]
    assert cache.tree.match([1, 2, 3, 4, 5]) == 5
    assert cache.tree.match([1, 2, 3, 4, 5], "a", num_public=2) == 5


def test_tokens_that_cross_the_border_at_once_become_two_edges() -> None:
    cache = SmallCache()
    lease = cache.put([1, 2], "a", 4)
    cache.extend(lease, [1, 2, 3, 4, 5, 6])
    assert cache.edges() == [[1, 2, 3, 4], [5, 6]]
    cache.extend(lease, [1, 2, 3, 4, 5, 6, 7])
    assert cache.edges() == [[1, 2, 3, 4], [5, 6, 7]]
    assert cache.tree.match([1, 2, 3, 4, 5, 6], "b", num_public=4) == 4
    audit(cache.tree, [lease], cache.kv_prefix)


def test_an_only_child_behind_the_border_never_joins_the_public_edge() -> None:
    cache = SmallCache()
    cache.keep([1, 2, 3, 4], "a", 2)
    cache.tree.open([1, 2, 3, 4], "a", num_public=2).close()
    assert cache.edges() == [[1, 2], [3, 4]]
    assert [node.salt for node in cache.tree.nodes()] == ["", "", "a"]
    audit(cache.tree, [], cache.kv_prefix)


def test_eviction_takes_the_private_part_before_what_it_stands_on() -> None:
    cache = SmallCache()
    cache.keep([1, 2, 3, 4], "a", 2)
    cache.keep([1, 2, 3, 4], "b", 2)
    assert cache.tree.evict(3) == 3
    assert cache.tree.match([1, 2, 3, 4], "a", num_public=2) == 2
    assert cache.tree.match([1, 2, 3, 4], "b", num_public=2) == 3
    assert cache.tree.evict(9) == 3
    assert not cache.tree.roots
    assert cache.tree.num_evicted_tokens == 6


def test_a_failed_step_takes_back_both_sides_of_the_border() -> None:
    cache = SmallCache()
    cache.tree.begin_step()
    a = cache.put([1, 2, 3, 4], "a", 2)
    b = cache.tree.open([1, 2, 3, 4], "b", num_public=2)
    assert len(b) == 2, "it shares what this very step computes"
    cache.tree.rollback_step()
    assert (len(a), len(b)) == (0, 0)
    assert cache.tree.num_tree_tokens == 0
    cache.extend(a, [1, 2, 3, 4])
    assert cache.edges() == [[1, 2], [3, 4]]
    audit(cache.tree, [a, b], cache.kv_prefix)


def test_a_fork_stays_in_its_scope() -> None:
    cache = SmallCache()
    lease = cache.put([1, 2], "a", 2)
    fork = lease.fork()
    cache.extend(fork, [1, 2, 3])
    assert cache.tree.match([1, 2, 3], "a", num_public=2) == 3
    assert cache.tree.match([1, 2, 3]) == 2


def test_scopes_agree_up_to_the_first_border() -> None:
    a2, a3, b3 = Scope.of("a", 2), Scope.of("a", 3), Scope.of("b", 3)
    assert a2.agrees(a3) == a3.agrees(a2) == 2
    assert a3.agrees(b3) == a3.agrees(PUBLIC) == PUBLIC.agrees(b3) == 3
    assert min(a3.agrees(a3), PUBLIC.agrees(PUBLIC)) > 10**9
    assert [a2.at(i) for i in range(4)] == ["", "", "a", "a"]
    assert Scope.of("", 7) == PUBLIC
    with pytest.raises(InvalidRequest, match="num_public"):
        Scope.of("a", -1)


# What the audit and the repair make of a salt that leaks

Break = Callable[[Node, Node, Lease], None]


def file_a_private_child_among_the_public_ones(public: Node, _private: Node, _lease: Lease) -> None:
    public.children[4] = public.children.pop(("a", 4))


def file_a_child_under_another_salt(public: Node, _private: Node, _lease: Lease) -> None:
    public.children["b", 4] = public.children.pop(("a", 4))


def change_the_salt_of_a_child(_public: Node, private: Node, _lease: Lease) -> None:
    private.salt = "b"


def declare_a_child_public(_public: Node, private: Node, _lease: Lease) -> None:
    private.salt = ""


def change_the_scope_of_a_lease(_public: Node, _private: Node, lease: Lease) -> None:
    lease.scope = Scope.of("b", 3)


def change_the_border_of_a_lease(_public: Node, _private: Node, lease: Lease) -> None:
    lease.scope = Scope.of("a", 2)


@pytest.mark.parametrize(
    ("break_it", "words", "kept"),
    [
        (file_a_private_child_among_the_public_ones, "another salt than its parent", 3),
        (file_a_child_under_another_salt, "hangs under the salt of", 3),
        (change_the_salt_of_a_child, "hangs under the salt of", 3),
        (declare_a_child_public, "hangs under the salt of", 3),
        (change_the_scope_of_a_lease, "its path is not of its salt", 3),
        (change_the_border_of_a_lease, "its path is not of its salt", 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_salt_that_leaks_is_named_and_forgotten(break_it: Break, words: str, kept: int) -> None:
    cache = SmallCache()
    lease = cache.put([*SYSTEM, 4, 5], "a", 3)
    break_it(lease.node.path()[1], lease.node, lease)
    with pytest.raises(AuditError, match=words):
        audit(cache.tree, [lease], cache.kv_prefix)
    repair(cache.tree, [lease])
    assert len(lease) == kept, "what lies behind the border is in doubt"
    audit(cache.tree, [lease], cache.kv_prefix)
    for salt in ("", "b"):
        assert cache.tree.match([*SYSTEM, 4, 5], salt, num_public=3) == 3
    lease.close()
    cache.tree.flush()
    assert cache.pool.num_free == cache.pool.num_slots
