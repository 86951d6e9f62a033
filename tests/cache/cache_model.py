"""The slow twin of the cache: a dictionary from prefix to slot, one entry per token.

Knows no nodes, edges, pins or heaps. What `ramet.cache` does in arrays and trees, this does by going
through all prefixes, and the state machine compares the two after every operation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Scope = tuple[str, int]
"""A salt, and how many leading tokens are public all the same."""
Key = tuple[Scope, tuple[int, ...]]
"""Whose a prefix is, and its tokens, of which there is at least one."""
PUBLIC: Scope = ("", 0)


def key_of(scope: Scope, tokens: tuple[int, ...]) -> Key:
    """A prefix without a token of the salt's own is everybody's."""
    salt, num_public = scope
    return (PUBLIC if not salt or len(tokens) <= num_public else scope, tokens)


def parent_of(key: Key) -> Key:
    return key_of(key[0], key[1][:-1])


def prefixes(scope: Scope, tokens: list[int], start: int = 0) -> list[Key]:
    return [key_of(scope, tuple(tokens[:end])) for end in range(start + 1, len(tokens) + 1)]


@dataclass(eq=False)
class ModelLease:
    """`tokens` are those of the whole path, the private tail included, whose slots are `tail`."""

    scope: Scope
    tokens: list[int] = field(default_factory=list)
    published: int = 0
    computed: int = 0
    tail: list[int] = field(default_factory=list)


@dataclass
class Model:
    num_slots: int
    clock: Callable[[], int]
    held: dict[Key, int] = field(default_factory=dict)
    used: dict[Key, int] = field(default_factory=dict)
    pending: set[Key] = field(default_factory=set)
    leases: list[ModelLease] = field(default_factory=list)
    closing: list[ModelLease] = field(default_factory=list)
    in_step: bool = False
    time: int = 0

    def match(self, scope: Scope, tokens: list[int], limit: int | None = None) -> int:
        keys = prefixes(scope, tokens[: max(0, len(tokens) if limit is None else limit)])
        return next((i for i, key in enumerate(keys) if key not in self.held), len(keys))

    def slots_of(self, lease: ModelLease) -> list[int]:
        path = prefixes(lease.scope, lease.tokens[: lease.published])
        return [self.held[key] for key in path] + lease.tail

    def free(self) -> set[int]:
        owned = set(self.held.values())
        for lease in self.leases:
            owned.update(lease.tail)
        return set(range(self.num_slots)) - owned

    def pinned(self) -> set[Key]:
        found: set[Key] = set()
        for lease in self.leases + self.closing:
            found.update(prefixes(lease.scope, lease.tokens[: lease.published]))
        return found

    def num_evictable(self) -> int:
        return len(set(self.held) - self.pinned())

    def evict(self, gone: set[Key]) -> None:
        """Token by token: what goes must be one of the longest-unused prefixes that nothing pins and
        nothing extends."""
        pinned = self.pinned()
        while gone:
            extended = {parent_of(key) for key in self.held}
            leaves = [k for k in self.held if k not in pinned and k not in extended]
            oldest = min(self.used[key] for key in leaves)
            choice = next((k for k in leaves if k in gone and self.used[k] == oldest), None)
            assert choice is not None, f"{gone} went, but others were unused for longer"
            gone = gone - {choice}
            del self.held[choice], self.used[choice]

    def reserve(self, lease: ModelLease, tokens: list[int], slots: list[int]) -> None:
        assert len(set(slots)) == len(tokens)
        assert set(slots) <= self.free()
        lease.tokens += tokens
        lease.tail += slots

    def publish(self, lease: ModelLease) -> int:
        adopted = 0
        new = prefixes(lease.scope, lease.tokens, lease.published)
        for key, slot in zip(new, lease.tail, strict=True):
            if key in self.held:
                adopted += 1
                continue
            self.held[key] = slot
            self.used[key] = self.time
            if len(key[1]) > lease.computed or parent_of(key) in self.pending:
                self.pending.add(key)
        lease.tail = []
        lease.published = lease.computed = len(lease.tokens)
        return adopted

    def truncate(self, lease: ModelLease, length: int) -> None:
        del lease.tokens[length:], lease.tail[length - lease.published :]
        lease.computed = min(lease.computed, length)

    def close(self, lease: ModelLease) -> None:
        self.truncate(lease, lease.published)
        self.leases.remove(lease)
        if lease.tokens and key_of(lease.scope, tuple(lease.tokens)) in self.pending:
            self.closing.append(lease)
        else:
            self._stamp(lease)

    def commit(self) -> None:
        self.pending.clear()
        self._end_step()

    def rollback(self) -> None:
        for lease in self.leases + self.closing:
            path = prefixes(lease.scope, lease.tokens[: lease.published])
            if path and path[-1] in self.pending:
                kept = sum(key not in self.pending for key in path)
                lease.tail = []
                del lease.tokens[kept:]
                lease.published = lease.computed = kept
        for key in self.pending:
            del self.held[key], self.used[key]
        self.pending.clear()
        self._end_step()

    def _end_step(self) -> None:
        self.in_step = False
        for lease in self.closing:
            self._stamp(lease)
        self.closing = []

    def _stamp(self, lease: ModelLease) -> None:
        self.time = max(self.time, self.clock())
        for key in prefixes(lease.scope, lease.tokens):
            self.used[key] = self.time
