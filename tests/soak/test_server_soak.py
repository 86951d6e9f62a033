"""Storms over a server for as long as one likes. SOAK_MINUTES=60 make soak

Every world is a server of its own, with a few slots or many, in which requests of all kinds, clients that
leave, aborts and kills of the engine meet; what must hold is checked after every round.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter

from tests.server.chaos import Storm, resident, stats
from tests.server.launched import launched

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
ROUNDS = 40  # of one server
GROWTH = 200 << 20  # bytes that a server may grow by in so many rounds


async def _world(seed: int, until: float) -> Counter[str]:
    draw = random.Random(seed)
    options = {
        "--max-cache-tokens": draw.choice([2000, 6000, 40_000]),
        "--max-running": draw.choice([4, 16, 64]),
        "--max-queued": draw.choice([8, 64]),
        "--max-step-tokens": draw.choice([64, 512]),
        "--num-threads": draw.choice([1, 2]),
    }
    line = [str(part) for pair in options.items() for part in pair]
    with launched(*line, "--stall-timeout", "20", "--log-level", "warning") as server:
        storm = Storm(server, seed)
        await storm.prepare(20)
        before = 0
        for number in range(ROUNDS):
            if time.monotonic() > until:
                break
            await storm.round(size=draw.choice([8, 40, 120]), kill=draw.random() < 0.15)
            if number == 5:
                before = resident(server.process.pid)
        if before:
            assert resident(server.process.pid) - before < GROWTH
        found = await stats(server)
        assert found["num_repairs"] == 0
        assert server.stop() == 0
    return storm.counts


def test_storms(soak_seed: int) -> None:
    until, worlds = time.monotonic() + 60 * MINUTES, 0
    counts: Counter[str] = Counter()
    while time.monotonic() < until:
        seed = soak_seed + worlds
        try:
            counts += asyncio.run(_world(seed, until))
        except BaseException:
            print(f"\nworld {seed} failed; repeat with SOAK_SEED={seed}")
            raise
        worlds += 1
    print(f"\n{worlds} worlds, first seed {soak_seed}: {dict(counts)}")
    assert counts["right"]
