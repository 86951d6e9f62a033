"""The simulation of tests/engine for as long as one likes. SOAK_MINUTES=60 make soak"""

from __future__ import annotations

import os
import time

from tests.engine.test_simulation import World

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))


def test_random_worlds(soak_seed: int) -> None:
    until, worlds, preemptions = time.monotonic() + 60 * MINUTES, 0, 0
    while time.monotonic() < until:
        seed = soak_seed + worlds
        world = World(seed)
        try:
            world.run()
            world.verify()
        except BaseException:
            print(f"\nworld {seed} failed; repeat with SOAK_SEED={seed}")
            raise
        worlds += 1
        preemptions += world.core.stats().num_preemptions
    print(f"\n{worlds} worlds, {preemptions} preemptions, first seed {soak_seed}")
    assert worlds
