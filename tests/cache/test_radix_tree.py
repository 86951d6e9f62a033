"""What the radix tree promises, one promise per test."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests.cache.cache_setup import SmallCache

from ramet.cache import CacheMisuse, Lease, RadixTree, SlotPool, audit, depth_first_key, path_key
from ramet.cache.buffer import as_tokens
from ramet.cache.node import Node
from ramet.cache.queue import LeafQueue
from ramet.errors import InvalidRequest

# Matching and shape


def test_match_counts_leading_tokens_and_changes_nothing() -> None:
    cache = SmallCache()
    cache.keep([1, 2, 3, 4])
    version, edges = cache.tree.version, cache.edges()
    assert cache.tree.match([1, 2, 9]) == 2
    assert cache.tree.match([1, 2, 3, 4, 5]) == 4
    assert cache.tree.match(as_tokens([1, 2, 3])) == 3
    assert cache.tree.match([2]) == 0
    assert cache.tree.match([]) == 0
    assert [cache.tree.match([1, 2, 3, 4], limit=n) for n in (-1, 0, 3, 9)] == [0, 0, 3, 4]
    assert (cache.tree.version, cache.edges()) == (version, edges)


def test_a_lease_that_ends_inside_an_edge_splits_it() -> None:
    cache = SmallCache()
    long = cache.put([1, 2, 3, 4])
    node, slots = long.node, long.slots.tolist()
    short = cache.tree.open([1, 2, 9])
    assert cache.edges() == [[1, 2], [3, 4]]
    assert short.slots.tolist() == slots[:2]
    assert short.node.pins == 2
    assert long.node is node
    assert long.slots.tolist() == slots


def test_paths_that_part_share_their_beginning() -> None:
    cache = SmallCache()
    cache.keep([1, 2, 3])
    cache.keep([1, 2, 4, 5])
    assert cache.edges() == [[1, 2], [3], [4, 5]]
    assert cache.tree.num_tree_tokens == 5
    assert cache.pool.num_free == 64 - 5


def test_salts_share_nothing() -> None:
    cache = SmallCache()
    cache.keep([1, 2, 3], salt="a")
    assert cache.tree.match([1, 2, 3]) == 0
    assert cache.tree.match([1, 2, 3], salt="b") == 0
    assert cache.tree.match([1, 2, 3], salt="a") == 3
    cache.keep([1, 2, 3])
    assert cache.tree.num_tree_tokens == 6


def test_a_salt_that_nobody_uses_any_more_leaves_nothing_behind() -> None:
    cache = SmallCache()
    for number in range(10):
        with cache.tree.open([1], salt=str(number)):
            assert list(cache.tree.roots) == [str(number)]
        cache.keep([1, 2], salt=str(number))
        cache.tree.flush()
    assert not cache.tree.roots


def test_bad_tokens_open_nothing() -> None:
    cache = SmallCache()
    with pytest.raises(InvalidRequest, match="tokens"):
        cache.tree.open([1.5])  # type: ignore[list-item]
    assert not cache.tree.leases
    assert not cache.tree.roots


def test_version_follows_the_set_of_prefixes() -> None:
    cache = SmallCache()
    lease = cache.put([1, 2, 3])
    version = cache.tree.version
    assert version > 0
    with cache.tree.open([1, 2]):  # splits, and joins again when it closes
        pass
    with cache.put([1, 2, 3]):
        pass
    lease.close()
    assert cache.tree.version == version
    cache.tree.evict(1)
    assert cache.tree.version > version
    version = cache.tree.version
    cache.keep([1, 2, 3])
    assert cache.tree.version > version


def test_depth_first_order() -> None:
    cache = SmallCache()
    paths = [[1, 2, 3], [1, 5], [7, 8], [1, 2, 4], [7], [1], [1, 2, 3, 3], [7, 9, 9]]
    random.Random(1).shuffle(paths)
    leases = {str(path): cache.put(path) for path in paths}
    order = sorted(leases, key=lambda path: path_key(leases[path]))
    for beginning in ("[1", "[1, 2", "[1, 2, 3", "[7"):
        places = [i for i, path in enumerate(order) if path.startswith(beginning)]
        assert places == list(range(places[0], places[-1] + 1))
    assert path_key(leases["[1]"]) == depth_first_key(leases["[1]"].node)
    assert path_key(leases["[1, 5]"])[:2] == path_key(leases["[1]"])


# Growing and joining


def test_a_generation_stays_one_edge() -> None:
    cache = SmallCache(4096)
    lease = cache.tree.open([])
    for length in range(1, 2001):
        cache.extend(lease, list(range(length)))
    assert cache.tree.num_nodes == 1
    assert lease.slots.tolist() == lease.node.slots.tolist()
    audit(cache.tree, [lease], cache.kv_prefix)


def test_equal_generations_in_lockstep_stay_one_edge() -> None:
    cache = SmallCache(512)
    forks = [cache.put([0])]
    forks += [forks[0].fork() for _ in range(3)]
    adopted = 0
    for length in range(2, 102):
        cache.tree.begin_step()
        adopted += sum(cache.extend(lease, list(range(length))) for lease in forks)
        cache.write(forks[0], list(range(length)))
        cache.tree.commit_step()
        audit(cache.tree, forks, cache.kv_prefix)
    assert adopted == 3 * 100
    assert cache.tree.num_nodes == 1
    assert cache.tree.num_tree_tokens == 101


def test_one_generation_ahead_of_an_equal_one_makes_no_chain() -> None:
    cache = SmallCache(512)
    ahead = cache.put([0, 1])
    behind = cache.tree.open([0])
    for length in range(3, 103):
        cache.extend(ahead, list(range(length)))
        assert cache.extend(behind, list(range(length - 1))) == 1
    assert cache.tree.num_nodes == 2


def test_turns_of_a_conversation_make_no_chain() -> None:
    cache = SmallCache(4096)
    for turn in range(1, 200):
        tokens = list(range(turn * 10))
        with cache.tree.open(tokens, limit=len(tokens) - 1) as lease:
            assert len(lease) == (turn - 1) * 10
            cache.extend(lease, tokens)
        with cache.tree.open(tokens, limit=len(tokens) - 1) as lease:
            assert cache.extend(lease, tokens) == 1
    assert cache.tree.num_nodes == 1
    audit(cache.tree, [], cache.kv_prefix)


def test_a_boundary_between_ages_stays() -> None:
    """The shared beginning of two conversations outlives both, though one of them goes first."""
    cache = SmallCache()
    cache.keep([1, 2, 3, 4])
    with cache.tree.open([1, 2]):
        pass
    assert cache.edges() == [[1, 2], [3, 4]]
    with cache.tree.open([1, 2, 3, 4]):
        pass
    assert cache.edges() == [[1, 2, 3, 4]]


# Eviction


def test_least_recently_used_leaf_first() -> None:
    cache = SmallCache()
    for path in ([1, 1], [2, 2], [3, 3]):
        cache.keep(path)
    with cache.tree.open([1, 1]):
        pass
    assert cache.tree.evict(2) == 2
    assert [cache.tree.match(path) for path in ([1, 1], [2, 2], [3, 3])] == [2, 0, 2]
    assert cache.tree.evict(2) == 2
    assert [cache.tree.match(path) for path in ([1, 1], [3, 3])] == [2, 0]
    assert cache.tree.evict(2) == 2
    assert not cache.edges()


def test_a_parent_goes_after_its_last_child() -> None:
    cache = SmallCache()
    cache.keep([1, 2])
    cache.keep([1, 3])
    cache.keep([9])
    assert cache.tree.evict(2) == 2
    assert cache.edges() == [[1], [9]]
    assert cache.tree.evict(1) == 1
    assert cache.edges() == [[9]]


def test_the_last_victim_is_cut_from_its_end() -> None:
    cache = SmallCache()
    cache.keep([1, 2, 3, 4, 5])
    assert cache.tree.evict(2) == 2
    assert cache.edges() == [[1, 2, 3]]
    audit(cache.tree, [], cache.kv_prefix)
    with cache.put([1, 2, 3, 7]) as lease:
        assert cache.edges() == [[1, 2, 3, 7]]
        audit(cache.tree, [lease], cache.kv_prefix)


def test_what_a_lease_holds_stays() -> None:
    cache = SmallCache()
    held = cache.put([1, 2])
    cache.keep([1, 2, 3])
    cache.keep([4])
    assert (cache.tree.num_pinned_tokens, cache.tree.num_evictable_tokens) == (2, 2)
    assert cache.tree.evict(100) == 2
    assert cache.edges() == [[1, 2]]
    held.close()
    assert cache.tree.evict(100) == 2
    assert not cache.edges()


def test_times_may_stand_still() -> None:
    pool = SlotPool(8)
    tree = RadixTree(pool, clock=lambda: 5.0)
    for tokens in ([1, 2], [3, 4], [1, 5]):
        with tree.open(tokens) as lease:
            lease.advance(lease.reserve(2 - len(lease)).size)
            lease.publish(tokens)
    assert tree.evict(1) == 1
    assert tree.match([1, 2]) == 1  # ties: the node that was made first
    audit(tree, [])


def test_a_clock_that_goes_back_stands_still() -> None:
    times = iter([10.0, 5.0, 5.0])
    tree = RadixTree(SlotPool(8), clock=lambda: next(times))
    for tokens in ([1, 2], [1], [3]):
        with tree.open(tokens) as lease:
            lease.advance(lease.reserve(len(tokens) - len(lease)).size)
            lease.publish(tokens)
        audit(tree, [])
    assert {node.last_use for node in tree.nodes() if node.parent is not None} == {10.0}


def test_flush_drops_all_that_nobody_holds() -> None:
    cache = SmallCache()
    with cache.put([1, 2]) as lease:
        cache.keep([1, 2, 3], salt="x")
        cache.keep([4, 5])
        assert cache.tree.flush() == 5
        assert cache.edges() == [[1, 2]]
        assert list(cache.tree.roots) == [""]
        audit(cache.tree, [lease], cache.kv_prefix)
    assert cache.tree.flush() == 2
    assert cache.tree.flush() == 0


def test_the_queue_stays_as_small_as_the_tree() -> None:
    """A cached leaf that two equal continuations absorb leaves its place in the queue behind."""
    cache = SmallCache(512)
    for length in range(1, 400):
        forks = [cache.tree.open(list(range(length - 1))) for _ in range(2)]
        for lease in forks:
            cache.extend(lease, list(range(length)))
        for lease in forks:
            lease.close()
    assert cache.tree.num_nodes == 1
    assert len(list(cache.tree.leaves.nodes())) <= 65
    assert cache.tree.evict(399) == 399


def test_the_queue_stays_in_order_when_it_sheds_what_is_gone() -> None:
    root = Node(0, "", None, as_tokens([]), as_tokens([]), 0)
    ages = random.Random(3).sample(range(1000), 200)
    queue = LeafQueue()
    for serial, age in enumerate(ages):
        node = Node(serial, "", root, as_tokens([serial]), as_tokens([0]), age)
        queue.push(node)
        if serial % 4:
            node.drop()
    assert len(list(queue.nodes())) < 150
    left = [node.last_use for node in iter(queue.pop, None)]
    assert left == sorted(ages[::4])


# Steps


def test_a_later_request_of_the_same_step_matches_an_earlier_one() -> None:
    cache = SmallCache()
    cache.tree.begin_step()
    first = cache.put([1, 2, 3, 4])
    second = cache.tree.open([1, 2, 3, 9])
    assert second.slots.tolist() == first.slots.tolist()[:3]
    cache.extend(second, [1, 2, 3, 9])
    assert cache.tree.num_tree_tokens == 5
    for lease, tokens in ((first, [1, 2, 3, 4]), (second, [1, 2, 3, 9])):
        cache.write(lease, tokens)
    cache.tree.commit_step()
    audit(cache.tree, [first, second], cache.kv_prefix)


def test_rollback_takes_back_what_the_step_published() -> None:
    cache = SmallCache()
    first = cache.put([1, 2])
    before = first.slots.tolist()
    cache.tree.begin_step()
    cache.extend(first, [1, 2, 3, 4])  # the edge grows: it is committed in part
    second = cache.put([1, 2, 3, 5])  # splits what is not committed
    third = cache.put([7], salt="x")
    second.reserve(3)
    audit(cache.tree, [first, second, third])
    cache.tree.rollback_step()
    audit(cache.tree, [first, second, third], cache.kv_prefix)
    assert cache.edges() == [[1, 2]]
    assert first.slots.tolist() == second.slots.tolist() == before
    assert (second.num_published, second.num_reserved, second.num_computed) == (2, 0, 2)
    assert len(third) == 0
    assert cache.pool.num_free == 62


def test_rollback_where_a_committed_edge_was_split_in_the_new_part() -> None:
    cache = SmallCache()
    first = cache.put([1, 2])
    cache.tree.begin_step()
    cache.extend(first, [1, 2, 3, 4, 5])
    second = cache.tree.open([1, 2, 3])
    assert [node.committed for node in first.node.path()] == [0, 2, 0]
    cache.tree.rollback_step()
    assert cache.edges() == [[1, 2]]
    audit(cache.tree, [first, second], cache.kv_prefix)
    assert cache.tree.match([1, 2, 3]) == 2


def test_rollback_where_two_equal_ones_were_joined() -> None:
    cache = SmallCache()
    first = cache.put([1, 2])
    second = first.fork()
    cache.tree.begin_step()
    for lease in (first, second):
        cache.extend(lease, [1, 2, 3])
    assert cache.edges() == [[1, 2, 3]]
    cache.tree.rollback_step()
    assert cache.edges() == [[1, 2]]
    audit(cache.tree, [first, second], cache.kv_prefix)


def test_rollback_leaves_tails_alone_that_were_not_published() -> None:
    cache = SmallCache()
    lease = cache.put([1])
    cache.tree.begin_step()
    lease.reserve(2)
    cache.tree.rollback_step()
    assert lease.num_reserved == 2
    audit(cache.tree, [lease], cache.kv_prefix)


@pytest.mark.parametrize("good", [True, False])
def test_what_a_lease_published_outlives_it_until_the_step_ends(good: bool) -> None:
    cache = SmallCache(4)
    other = cache.put([9])
    cache.tree.begin_step()
    lease = cache.put([1, 2, 3])
    cache.write(lease, [1, 2, 3])
    lease.close()
    audit(cache.tree, [other])
    assert cache.tree.evict(3) == 0  # the step's rows still write there
    if good:
        cache.tree.commit_step()
        assert cache.tree.match([1, 2, 3]) == 3
    else:
        cache.tree.rollback_step()
        assert cache.tree.match([1, 2, 3]) == 0
    audit(cache.tree, [other], cache.kv_prefix)
    cache.tree.flush()
    assert cache.pool.num_free == 3


def test_steps_do_not_nest() -> None:
    tree = SmallCache().tree
    for end in (tree.commit_step, tree.rollback_step):
        with pytest.raises(CacheMisuse, match="no step is running"):
            end()
        tree.begin_step()
        with pytest.raises(CacheMisuse, match="a step is running"):
            tree.begin_step()
        end()
        assert not tree.in_step


# Size


def test_long_edges_through_a_long_history() -> None:
    """The state machine's paths are short; here edges have hundreds of tokens."""
    random_ = np.random.default_rng(7)
    cache = SmallCache(3000)
    documents = [random_.integers(0, 2, 400).tolist() for _ in range(6)]
    leases: list[Lease] = []
    for _ in range(300):
        start = documents[random_.integers(6)][: random_.integers(1, 401)]
        tokens = start + random_.integers(0, 2, random_.integers(0, 30)).tolist()
        with cache.tree.open(tokens) as probe:
            needed = len(tokens) - len(probe)
        while needed > cache.pool.num_free + cache.tree.num_evictable_tokens - len(tokens):
            leases.pop(int(random_.integers(len(leases)))).close()
        leases.append(cache.put(tokens))
        if random_.random() < 0.3:
            leases.pop(int(random_.integers(len(leases)))).close()
    audit(cache.tree, leases, cache.kv_prefix)
    for lease in leases:
        lease.close()
    audit(cache.tree, [], cache.kv_prefix)
