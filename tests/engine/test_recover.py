"""Faults of the engine itself, wherever a step may be: requests end with it, and the next ones are right."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from ramet.cache.audit import audit
from ramet.cache.lease import Lease
from ramet.cache.slots import SlotPool
from ramet.cache.tree import RadixTree
from ramet.engine import schedule
from ramet.engine.host import EngineHost
from ramet.engine.policy import WaitingQueue
from ramet.engine.schedule import Limits, Scheduler
from ramet.engine.simulate import expected_tokens
from ramet.errors import BackendError
from tests.engine.worlds import VOCAB, ask, make_core, run_all

PLACES: list[tuple[Any, str]] = [
    (schedule, "build_batch"),
    (Scheduler, "_take"),
    (Scheduler, "_want"),
    (Scheduler, "commit"),
    (Scheduler, "_publish"),
    (Lease, "reserve"),
    (Lease, "publish"),
    (Lease, "extend_match"),
    (Lease, "advance_all"),
    (Lease, "close"),
    (RadixTree, "begin_step"),
    (RadixTree, "open"),
    (RadixTree, "attach"),
    (RadixTree, "commit_step"),
    (SlotPool, "alloc"),
    (WaitingQueue, "next"),
    (WaitingQueue, "published"),
]


def failing(function: Callable[..., Any], at: int) -> tuple[Callable[..., Any], list[int]]:
    """`function`, but call number `at` raises."""
    count = [0]

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            raise ArithmeticError("a fault put here")
        return function(*args, **kwargs)

    return sometimes, count


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=lambda x: getattr(x, "__name__", x))
def test_a_fault_ends_requests_and_nothing_else(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(name)
    reached = 0
    for _ in range(12):
        core = make_core(400, limits=Limits(max_step_tokens=32))
        core.audit_every_step = False
        shared = [rng.randrange(VOCAB) for _ in range(40)]
        requests = [ask([*shared[: rng.randrange(1, 40)], i], new=6) for i in range(12)]
        for request in requests:
            core.add(request)
        original = getattr(owner, name)
        at = rng.randrange(1, 30)
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fault, count = failing(original, at)
            patch.setattr(owner, name, fault)
            for _ in range(2_000):
                if not core.has_work:
                    break
                try:
                    core.step()
                except ArithmeticError as error:
                    core.recover(error)
            reached += count[0] >= at
        assert not core.has_work
        for request in requests:
            assert request.finished
            assert request.error is None or isinstance(request.error, BackendError)
            if request.error is None:  # it ended before the fault
                prompt = request.prompt_ids.tolist()
                assert request.output_ids == expected_tokens(prompt, 6, request.seed, VOCAB)
        audit(core.tree, [])
        assert not core.scheduler.running
        assert core.slots.num_free + core.tree.num_tree_tokens == 400
        core.audit_every_step = True
        after = [ask([*shared, 7], new=5), ask([*shared, 9], new=5)]
        run_all(core, after)
        for request in after:
            prompt = request.prompt_ids.tolist()
            assert request.output_ids == expected_tokens(prompt, 5, request.seed, VOCAB)
    assert reached >= 2, "the fault was hardly ever reached"


def test_a_host_counts_faults_in_a_row() -> None:
    core = make_core(100)
    host = EngineHost(core)
    try:
        plan = core.scheduler.plan
        core.scheduler.plan = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        with pytest.warns(UserWarning, match="an engine step failed"):
            ended = [host.submit([ask([1, 2, 3])]).result(5)[0] for _ in range(2)]
        assert all(isinstance(request.error, BackendError) for request in ended)
        assert host.num_faults == 2
        core.scheduler.plan = plan  # type: ignore[method-assign]
        (request,) = host.submit([ask([1, 2, 3])]).result(5)
        assert request.error is None
        assert host.call(lambda _core: host.num_faults) == 0
    finally:
        host.close()
