"""The cache's state machine against its slow twin, far longer than in the fast suite."""

from __future__ import annotations

from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.cache.test_cache_machine import CacheMachine


def test_many_long_histories(soak_seed: int) -> None:
    @seed(soak_seed)
    def machine() -> CacheMachine:
        return CacheMachine()

    run_state_machine_as_test(
        machine, settings=settings(max_examples=1500, stateful_step_count=80, deadline=None)
    )
