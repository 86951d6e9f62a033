"""What a lease promises, one promise per test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.cache.cache_setup import SmallCache

from ramet.cache import CacheMisuse, Lease, OutOfSlots, audit
from ramet.errors import InvalidRequest


def test_the_way_of_one_request() -> None:
    cache = SmallCache()
    cache.keep([1, 2])
    lease = cache.tree.open([1, 2, 3, 4])
    assert (len(lease), lease.num_published, lease.num_computed, lease.num_reserved) == (2, 2, 2, 0)
    reserved = lease.reserve(2)
    assert lease.slots[2:].tolist() == lease.tail.tolist() == reserved.tolist()
    assert (len(lease), lease.num_published, lease.num_computed, lease.num_reserved) == (4, 2, 2, 2)
    lease.advance(1)
    assert lease.num_computed == 3
    lease.advance(1)
    assert lease.publish([1, 2, 3, 4]) == 0
    assert (lease.num_published, lease.num_computed, lease.num_reserved) == (4, 4, 0)
    assert cache.tree.match([1, 2, 3, 4]) == 4
    lease.close()
    assert cache.tree.num_evictable_tokens == 4
    assert len(lease) == lease.num_published == 0


def test_extend_match_finds_what_others_published_meanwhile() -> None:
    cache = SmallCache()
    early = cache.tree.open([1, 2, 3, 4, 5])
    assert len(early) == 0
    other = cache.put([1, 2, 3, 4, 9])
    assert early.extend_match([1, 2, 3, 4, 5], limit=3) == 3
    assert early.extend_match([1, 2, 3, 4, 5], limit=2) == 0
    assert early.extend_match([1, 2, 3, 4, 5]) == 1
    assert early.slots.tolist() == other.slots.tolist()[:4]
    other.close()
    cache.tree.flush()
    assert cache.edges() == [[1, 2, 3, 4]]
    audit(cache.tree, [early], cache.kv_prefix)


def test_publish_adopts_what_another_was_first_with() -> None:
    cache = SmallCache()
    first, second = cache.tree.open([1, 2, 3]), cache.tree.open([1, 2, 4])
    cache.extend(first, [1, 2, 3])
    free = cache.pool.num_free
    second.reserve(3)
    own = second.slots.tolist()
    cache.write(second, [1, 2, 4])
    second.advance(3)
    assert second.publish([1, 2, 4]) == 2
    assert second.slots.tolist() == [*first.slots.tolist()[:2], own[2]]
    assert cache.pool.num_free == free - 1
    audit(cache.tree, [first, second], cache.kv_prefix)


@pytest.mark.parametrize("same_step", [True, False])
def test_publish_adopts_before_anything_is_computed(same_step: bool) -> None:
    cache = SmallCache()
    first, second = cache.tree.open([]), cache.tree.open([])
    if same_step:
        cache.tree.begin_step()
    assert cache.extend(first, [1, 2, 3]) == 0
    if not same_step:
        cache.tree.begin_step()
    assert cache.extend(second, [1, 2, 4]) == 2
    audit(cache.tree, [first, second], cache.kv_prefix)
    for lease, tokens in ((first, [1, 2, 3]), (second, [1, 2, 4])):
        cache.write(lease, tokens)
    cache.tree.commit_step()
    assert first.slots.tolist()[:2] == second.slots.tolist()[:2]
    audit(cache.tree, [first, second], cache.kv_prefix)


def test_publishing_nothing_is_nothing() -> None:
    cache = SmallCache()
    lease = cache.put([1, 2])
    version = cache.tree.version
    assert lease.publish([1, 2]) == 0
    assert cache.tree.version == version


def test_reserve_evicts_what_it_needs_and_not_more() -> None:
    cache = SmallCache(6)
    cache.keep([1, 2, 3, 4])
    lease = cache.tree.open([1])
    assert lease.reserve(4).size == 4
    assert cache.edges() == [[1], [2]]
    audit(cache.tree, [lease], cache.kv_prefix)


def test_reserving_too_much_changes_nothing() -> None:
    cache = SmallCache(6)
    cache.keep([1, 2, 3, 4])
    lease = cache.tree.open([1, 2])
    lease.reserve(1)
    edges, version = cache.edges(), cache.tree.version
    with pytest.raises(OutOfSlots) as caught:
        lease.reserve(4)
    assert (caught.value.needed, caught.value.free) == (4, 3)
    assert (cache.edges(), cache.tree.version, len(lease)) == (edges, version, 3)
    assert lease.reserve(3).size == 3


def test_fork_holds_the_same_path() -> None:
    cache = SmallCache()
    lease = cache.put([1, 2])
    fork = lease.fork()
    lease.close()
    assert cache.tree.flush() == 0
    assert len(fork) == 2
    cache.extend(fork, [1, 2, 3])
    assert cache.edges() == [[1, 2, 3]]
    audit(cache.tree, [fork], cache.kv_prefix)


def test_truncate_gives_back_a_draft() -> None:
    cache = SmallCache()
    lease = cache.put([1, 2])
    lease.reserve(4)
    lease.advance(3)
    lease.truncate(4)
    assert (len(lease), lease.num_computed) == (4, 4)
    assert cache.pool.num_free == 60
    lease.truncate(2)
    assert (len(lease), lease.num_computed) == (2, 2)
    for length in (1, 3):
        with pytest.raises(InvalidRequest, match="length"):
            lease.truncate(length)
    audit(cache.tree, [lease], cache.kv_prefix)


def test_closing_twice_is_closing_once() -> None:
    cache = SmallCache()
    with cache.put([1, 2]) as lease:
        fork = lease.fork()
        lease.reserve(3)
        lease.close()
        assert fork.node.pins == 1
    lease.close()
    assert fork.node.pins == 1
    assert cache.pool.num_free == 62
    audit(cache.tree, [fork], cache.kv_prefix)


def test_a_with_block_closes_when_it_fails() -> None:
    cache = SmallCache()

    def fill() -> None:
        with cache.tree.open([1]) as lease:
            while True:
                lease.reserve(5)

    with pytest.raises(OutOfSlots):
        fill()
    assert cache.pool.num_free == 64
    assert not cache.tree.leases


def test_slots_cannot_be_written_from_outside() -> None:
    lease = SmallCache().put([1, 2])
    with pytest.raises(ValueError, match="read-only"):
        lease.slots[0] = 7


def test_an_empty_lease_is_true() -> None:
    assert SmallCache().tree.open([])


@pytest.mark.parametrize(
    "operation",
    [
        lambda lease: lease.extend_match([1, 2, 3]),
        lambda lease: lease.reserve(1),
        lambda lease: lease.advance(1),
        lambda lease: lease.publish([1, 2, 3]),
        lambda lease: lease.fork(),
        lambda lease: lease.truncate(2),
    ],
)
def test_a_closed_lease_does_nothing(operation: Callable[[Lease], object]) -> None:
    cache = SmallCache()
    lease = cache.put([1, 2])
    lease.close()
    with pytest.raises(CacheMisuse, match="closed"):
        operation(lease)
    audit(cache.tree, [], cache.kv_prefix)


def test_a_private_tail_is_in_the_way_of_matching_and_forking() -> None:
    lease = SmallCache().put([1, 2])
    lease.reserve(1)
    for operation in (lease.fork, lambda: lease.extend_match([1, 2, 3])):
        with pytest.raises(CacheMisuse, match="1 slots are private"):
            operation()


def test_publish_wants_the_tokens_of_the_whole_path_and_their_kv() -> None:
    cache = SmallCache()
    lease = cache.put([1, 2])
    lease.reserve(2)
    lease.advance(1)
    with pytest.raises(InvalidRequest, match="4"):
        lease.publish([1, 2, 3])
    with pytest.raises(CacheMisuse, match="1 tokens are not computed"):
        lease.publish([1, 2, 3, 4])
    assert cache.tree.match([1, 2, 3, 4]) == 2
    assert lease.num_reserved == 2


def test_what_is_computed_does_not_wait_for_the_step() -> None:
    """A request that is preempted while a step is planned leaves its KV in the tree, to be evicted for
    that same step if need be; a rollback does not touch it."""
    cache = SmallCache(6)
    victim = cache.put([1, 2])
    victim.reserve(3)
    cache.write(victim, [1, 2, 3, 4, 5])
    victim.advance(3)
    cache.tree.begin_step()
    victim.publish([1, 2, 3, 4, 5])
    victim.close()
    assert cache.tree.num_evictable_tokens == 5
    taker = cache.tree.open([9])
    taker.reserve(3)
    assert cache.edges() == [[1, 2, 3]]
    taker.publish([9, 9, 9])
    cache.tree.rollback_step()
    assert cache.edges() == [[1, 2, 3]]
    audit(cache.tree, [taker], cache.kv_prefix)


def test_only_the_computed_part_of_a_tail_survives_a_rollback() -> None:
    cache = SmallCache()
    lease = cache.put([1])
    lease.reserve(3)
    cache.write(lease, [1, 2, 3, 4])
    lease.advance(1)
    cache.tree.begin_step()
    lease.publish([1, 2, 3, 4])
    cache.tree.rollback_step()
    assert (len(lease), lease.num_computed, cache.edges()) == (2, 2, [[1, 2]])
    audit(cache.tree, [lease], cache.kv_prefix)


def test_what_is_computed_behind_tokens_of_the_step_goes_with_them() -> None:
    cache = SmallCache()
    late = cache.tree.open([])
    late.reserve(2)
    cache.write(late, [1, 2])
    late.advance(2)
    cache.tree.begin_step()
    early = cache.put([1])
    assert late.publish([1, 2]) == 1
    audit(cache.tree, [early, late], cache.kv_prefix)
    cache.tree.rollback_step()
    assert (len(early), len(late), cache.edges()) == (0, 0, [])
    audit(cache.tree, [early, late], cache.kv_prefix)


@pytest.mark.parametrize("n", [-1, 3])
def test_advance_counts_what_is_reserved(n: int) -> None:
    lease = SmallCache().put([1])
    lease.reserve(2)
    with pytest.raises(InvalidRequest, match="between 0 and 2"):
        lease.advance(n)
    assert lease.num_computed == 1


def test_leases_say_what_they_are() -> None:
    lease = SmallCache().put([1, 2])
    lease.reserve(1)
    assert repr(lease) == "Lease(3 tokens, 2 published, 2 computed)"
    assert repr(lease.node) == "Node(1, tokens 0..2, 0 children, 1 pins)"
    lease.close()
    assert repr(lease) == "Lease(closed)"
