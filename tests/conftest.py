"""What holds for every test: one thread per process, no network, no hub, soak tests only when asked for.

Imports neither torch nor ramet, so that the torch-free rooms' tests start at once.
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported: as many test processes run as there are cores. A test that is about
# threads sets its own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A deadline on a shared machine finds noise, and pytest's timeout finds the real hangs.
settings.register_profile(
    "ramet", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ramet")

SOAK = os.environ.get("SOAK") == "1"
SOAK_SEED = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(2**32))
SOAK_FOLDER = Path(__file__).parent / "soak"


def pytest_report_header() -> list[str]:
    return [f"soak seed: {SOAK_SEED} (repeat with SOAK_SEED={SOAK_SEED})"] if SOAK else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SOAK:
        return
    skip = pytest.mark.skip(reason="soak tests take minutes: run them with `make soak`")
    for item in items:
        if SOAK_FOLDER in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def soak_seed() -> int:
    """The seed that a soak test derives everything from; printed in pytest's header."""
    return SOAK_SEED


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Any:
    """Connecting to anything but this machine fails the test that tried."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "::1") and not str(host).startswith("127."):
            raise RuntimeError(f"a test tried to reach {host}; tests run without a network")
        real(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        yield
