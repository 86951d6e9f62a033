"""One place sets the number of threads, for PyTorch and the native pool, whoever computes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ramet.kernels import threads
from ramet.kernels.cpu.library import library, why_not

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "_asked", None)
    monkeypatch.setattr(threads, "_local", threading.local())
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


def need_native() -> None:
    if why_not() is not None:
        pytest.skip(f"no native kernels: {why_not()}")


def test_by_default_the_cores_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert threads.num_threads() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads.num_threads() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.num_threads() == 1


def test_what_is_set_holds_for_both() -> None:
    threads.set_num_threads(3)
    assert threads.num_threads() == 3
    assert torch.get_num_threads() == 3


def test_a_thread_that_computes_alone_leaves_the_others_theirs() -> None:
    torch.set_num_threads(2)
    threads.set_num_threads(2)
    seen: dict[str, int] = {}

    def engine() -> None:
        threads.compute_alone()
        seen["engine"] = torch.get_num_threads()
        seen["native"] = threads.num_threads()

    thread = threading.Thread(target=engine)
    thread.start()
    thread.join()
    assert seen == {"engine": 1, "native": 2}
    assert torch.get_num_threads() == 2


def test_the_native_pool_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    need_native()
    from ramet.kernels.cpu.linear import NativeLinear

    linear = NativeLinear(torch.ones(70, 9))
    for count in (2, 1, 5, 2):
        monkeypatch.setattr(threads, "_asked", count)
        linear(torch.ones(40, 9))
        assert library().ramet_num_threads() == count
    library().ramet_set_num_threads(0)
    assert library().ramet_num_threads() == 1


# Nothing but native calls while there are two threads: PyTorch itself does not promise to survive a fork.
FORKED = """
import os, threading, torch
from ramet.kernels.cpu.library import library
from ramet.kernels.cpu.linear import NativeLinear

x, linear = torch.ones(50, 64), NativeLinear(torch.randn(3000, 64))
outs = [torch.empty(50, 3000), torch.empty(50, 3000)]
call = library().ramet_linear

def compute(out):
    call(linear.struct, x.data_ptr(), 64, 50, out.data_ptr(), 3000, 0, 3)

mine, others = outs
seen, want = memoryview(mine.numpy()).cast("B"), bytes(linear(x).numpy())
started, done = threading.Event(), threading.Event()

def beside():
    while not done.is_set():
        compute(others)
        started.set()

thread = threading.Thread(target=beside)
thread.start()
started.wait()
try:
    for _ in range(10):
        mine.zero_()
        child = os.fork()
        if child == 0:
            compute(mine)
            os._exit(0 if bytes(seen) == want else 7)
        _, status = os.wait()
        assert status == 0, status
        compute(mine)
        assert bytes(seen) == want
finally:
    done.set()
    thread.join()
"""


def test_a_forked_process_has_a_pool_of_its_own() -> None:
    """The parent's workers do not exist in the child, which would wait for them for ever, as it would
    for another thread of the parent that was computing and held the lock."""
    need_native()
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", FORKED],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=45)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a child that hangs outlives its parent
    assert process.returncode == 0, errors
