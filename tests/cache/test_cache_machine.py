"""Random histories of leases, steps and evictions, compared with the slow twin after every operation."""

from __future__ import annotations

from itertools import count
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from tests.cache.cache_model import PUBLIC, Key, Model, ModelLease, Scope, key_of, prefixes

from ramet.cache import (
    CacheMisuse,
    Lease,
    OutOfSlots,
    RadixTree,
    SlotPool,
    audit,
    path_key,
    prefix_hashes,
    repair,
)
from ramet.cache.node import Node

TOKENS = st.lists(st.integers(0, 2), max_size=7)  # three tokens: most paths meet and part somewhere
# Salts, and how many leading tokens are public.
SCOPES = st.sampled_from(
    [*[PUBLIC] * 3, ("one", 0), ("one", 2), ("one", 2), ("one", 3), ("two", 2), ("two", 12)]
)
LIMITS = st.none() | st.integers(0, 8)


class CacheMachine(RuleBasedStateMachine):
    leases: Bundle[Any] = Bundle("leases")

    @initialize(num_slots=st.sampled_from([3, 8, 16, 48]), coarse=st.booleans())
    def start(self, num_slots: int, coarse: bool) -> None:
        self.now = 0
        self.pool = SlotPool(num_slots)
        self.tree = RadixTree(self.pool, (lambda: self.now) if coarse else None)
        self.model = Model(num_slots, (lambda: self.now) if coarse else count(1).__next__)
        self.twins: dict[Lease, ModelLease] = {}
        self.kv = np.zeros(num_slots, np.uint64)

    # Leases

    @rule(target=leases, tokens=TOKENS, scope=SCOPES, limit=LIMITS)
    def open(self, tokens: list[int], scope: Scope, limit: int | None) -> Lease:
        held = self.model.match(scope, tokens, limit)
        salt, num_public = scope
        assert self.tree.match(tokens, salt, limit, num_public) == held
        lease = self.tree.open(tokens, salt, limit, num_public)
        return self._enter(lease, ModelLease(scope, tokens[:held], held, held))

    @rule(
        target=leases,
        lease=leases,
        length=st.integers(1, 12),
        more=TOKENS,
        scope=SCOPES | st.none(),
        limit=LIMITS,
    )
    def open_along(
        self, lease: Lease, length: int, more: list[int], scope: Scope | None, limit: int | None
    ) -> Any:
        """The same text, of the same salt or another."""
        twin = self._twin(lease)
        if twin is None:
            return multiple()
        return self.open(twin.tokens[:length] + more, scope or twin.scope, limit)

    @rule(target=leases, lease=leases)
    def fork(self, lease: Lease) -> Any:
        twin = self._twin(lease)
        if twin is None or twin.tail:
            with pytest.raises(CacheMisuse):
                lease.fork()
            return multiple()
        copy = ModelLease(twin.scope, list(twin.tokens), twin.published, twin.computed)
        return self._enter(lease.fork(), copy)

    @rule(lease=leases, more=TOKENS, limit=LIMITS)
    def extend_match(self, lease: Lease, more: list[int], limit: int | None) -> None:
        twin = self._twin(lease)
        if twin is None or twin.tail:
            with pytest.raises(CacheMisuse):
                lease.extend_match([])
            return
        tokens = twin.tokens + more
        held = max(twin.published, self.model.match(twin.scope, tokens, limit))
        assert lease.extend_match(tokens, limit) == held - twin.published
        twin.tokens = tokens[:held]
        twin.published = twin.computed = held

    @rule(lease=leases, tokens=TOKENS)
    def reserve(self, lease: Lease, tokens: list[int]) -> None:
        twin = self._twin(lease)
        if twin is None:
            with pytest.raises(CacheMisuse):
                lease.reserve(len(tokens))
        else:
            self._reserve(lease, twin, tokens)

    @rule(lease=leases, share=st.floats(0, 1))
    def advance(self, lease: Lease, share: float) -> None:
        twin = self._twin(lease)
        if twin is not None:
            self._advance(lease, twin, round(share * (len(twin.tokens) - twin.computed)))

    @rule(lease=leases)
    def publish(self, lease: Lease) -> None:
        twin = self._twin(lease)
        if twin is None:
            return
        if twin.computed < len(twin.tokens) and not self.model.in_step:
            with pytest.raises(CacheMisuse):
                lease.publish(twin.tokens)
            self._advance(lease, twin, len(twin.tokens) - twin.computed)
        assert lease.publish(twin.tokens) == self.model.publish(twin)

    @rule(lease=leases, share=st.floats(0, 1))
    def truncate(self, lease: Lease, share: float) -> None:
        twin = self._twin(lease)
        if twin is not None:
            length = twin.published + round(share * len(twin.tail))
            lease.truncate(length)
            self.model.truncate(twin, length)

    @rule(lease=consumes(leases), again=st.booleans())
    def close(self, lease: Lease, again: bool) -> None:
        twin = self._twin(lease)
        lease.close()
        if again:
            lease.close()
        if twin is not None:
            self.model.close(self.twins.pop(lease))

    @rule(lease=leases, more=TOKENS)
    def run_prefill(self, lease: Lease, more: list[int]) -> None:
        """What a scheduler does with a request in a step; outside of one, with the KV at once."""
        twin = self._twin(lease)
        if twin is None:
            return
        if not twin.tail:
            tokens = twin.tokens + more
            self.extend_match(lease, more, len(tokens) - 1)
            more = tokens[twin.published :]
        if self._reserve(lease, twin, more):
            self.publish(lease)

    @rule(lease=leases, token=st.integers(0, 2), times=st.integers(1, 12))
    def decode_in_lockstep(self, lease: Lease, token: int, times: int) -> None:
        """All leases at one place choose the same tokens, as equal samples at temperature 0 do."""
        twin = self._twin(lease)
        if twin is None or twin.tail:
            return
        place = [one for one in self.twins if one.node is lease.node and not one.num_reserved]
        for _ in range(times):
            for one in place:
                if not self._reserve(one, self.twins[one], [token]):
                    return
                self.publish(one)

    # Eviction

    @rule(n=st.integers(0, 10))
    def evict(self, n: int) -> None:
        expected = min(n, self.model.num_evictable())
        assert self.tree.evict(n) == expected
        self._see_evicted(expected)

    @rule()
    def flush(self) -> None:
        expected = self.model.num_evictable()
        assert self.tree.flush() == expected
        self._see_evicted(expected)

    @rule(seconds=st.integers(-1, 3))
    def clock_ticks(self, seconds: int) -> None:
        self.now += seconds

    # Steps

    @precondition(lambda self: not self.model.in_step)
    @rule()
    def begin_step(self) -> None:
        self.tree.begin_step()
        self.model.in_step = True

    @precondition(lambda self: self.model.in_step)
    @rule()
    def commit_step(self) -> None:
        for key in self.model.pending:
            self._write(key, self.model.held[key])
        self.tree.commit_step()
        self.model.commit()

    @precondition(lambda self: self.model.in_step)
    @rule()
    def rollback_step(self) -> None:
        self.tree.rollback_step()
        self.model.rollback()

    # What must hold after each of them

    @invariant()
    def equals_the_twin(self) -> None:
        audit(self.tree, self.twins, lambda slots: self.kv[slots])
        held = self._held()
        assert held == self.model.held
        assert set(self.pool.free_slots.tolist()) == self.model.free()
        assert self.tree.num_evictable_tokens == self.model.num_evictable()
        for lease, twin in self.twins.items():
            assert lease.slots.tolist() == self.model.slots_of(twin)
            assert (lease.num_published, lease.num_computed) == (twin.published, twin.computed)

    @invariant()
    def leases_below_any_node_are_neighbours(self) -> None:
        order = sorted(self.twins, key=path_key)
        for node in self.tree.nodes():
            below = [i for i, lease in enumerate(order) if node in lease.node.path()]
            assert not below or below == list(range(below[0], below[-1] + 1))

    @invariant()
    def repair_finds_nothing(self) -> None:
        assert not repair(self.tree, self.twins).violations

    def teardown(self) -> None:
        if not hasattr(self, "tree"):
            return
        for lease in list(self.twins):
            lease.close()
        if self.model.in_step:
            self.tree.rollback_step()
        self.tree.flush()
        audit(self.tree, [])
        assert self.pool.num_free == self.pool.num_slots
        assert not self.tree.roots

    # Parts of the rules

    def _held(self) -> dict[Key, int]:
        held: dict[Key, int] = {}
        for node in self.tree.nodes():
            tokens = [token for above in node.path() for token in above.tokens.tolist()]
            keys = prefixes(_scope_of(node), tokens, node.depth)
            held.update(zip(keys, node.slots.tolist(), strict=True))
            assert self.model.pending.issuperset(keys[node.committed :])
            assert self.model.pending.isdisjoint(keys[: node.committed])
        return held

    def _see_evicted(self, n: int) -> None:
        gone = set(self.model.held) - set(self._held())
        assert len(gone) == n
        self.model.evict(gone)

    def _enter(self, lease: Lease, twin: ModelLease) -> Lease:
        self.twins[lease] = twin
        self.model.leases.append(twin)
        return lease

    def _twin(self, lease: Lease) -> ModelLease | None:
        return self.twins.get(lease)

    def _reserve(self, lease: Lease, twin: ModelLease, tokens: list[int]) -> bool:
        model = self.model
        num_free = len(model.free())
        available = num_free + model.num_evictable()
        if len(tokens) > available:
            version = self.tree.version
            with pytest.raises(OutOfSlots) as caught:
                lease.reserve(len(tokens))
            assert (caught.value.needed, caught.value.free) == (len(tokens), available)
            assert self.tree.version == version
            return False
        slots = lease.reserve(len(tokens))
        self.kv[slots] = 0
        self._see_evicted(max(0, len(tokens) - num_free))
        model.reserve(twin, tokens, slots.tolist())
        return True

    def _advance(self, lease: Lease, twin: ModelLease, n: int) -> None:
        lease.advance(n)
        for _ in range(n):
            slot = twin.tail[twin.computed - twin.published]
            twin.computed += 1
            self._write(key_of(twin.scope, tuple(twin.tokens[: twin.computed])), slot)

    def _write(self, key: Key, slot: int) -> None:
        self.kv[slot] = prefix_hashes(np.array(key[1], np.int64))[-1]


def _scope_of(node: Node) -> Scope:
    """Of the edge, by where its salt begins."""
    begins = next(above for above in node.path() if above.salt == node.salt)
    return (node.salt, begins.depth)


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=40)
