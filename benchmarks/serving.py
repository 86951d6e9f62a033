"""`python -m benchmarks serving`: LLM servers under load, side by side: Ramet's, llama.cpp's, vLLM's.

    python -m benchmarks serving --json out.json --resume --plot out.png

Requests leave at times that are drawn beforehand and wait for nobody; latency counts from those times.
For each workload each server's peak goodput is looked for (rates on one ladder), then all are offered the
rates at 0.5 and 0.9 of the weakest's and the strongest's peak, then each gets ten times its own peak for a
while and is watched afterwards. Servers take turns, the others are stopped. With --json every measurement
is written as it ends, and --resume goes on.

Knows the order of things; a measurement is `serving_cells`', servers are `serving_peers`'.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.peers import process
from benchmarks.peers.store import Store
from benchmarks.serving_arguments import parse
from benchmarks.serving_fleet import PRECISION, Cell, Fleet
from benchmarks.serving_ladder import common_steps, next_step, rate_of
from benchmarks.serving_peers import SERVERS
from benchmarks.serving_report import peaks, report
from benchmarks.serving_server import more_files

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """0 if every server that is installed gave every figure, 1 if one failed, 2 for a wrong question, 4 if
    --minutes ended first."""
    given = parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        store = Store(given.json, _head(given), given.resume)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    store.forget(given.again, [PRECISION])
    more_files()
    if "machine" not in store.data:
        store.set(machine=_machine())
    with Fleet(given, store) as fleet:
        finished = all(_workload(given, store, fleet, name) for name in given.workloads)
    print(f"\n{store.data['machine']}; {given.model}, {given.threads} threads")
    print(_versions(store.data), report(store.data), sep="\n")
    _plot(store.data, given.plot)
    if not finished:
        return 4
    about = store.data["engines"].get(PRECISION, {}).values()
    failed = any(found.get("missing", "").startswith("failed") for found in about)
    return 1 if failed or any("error" in run for run in store.runs) else 0


def _machine() -> str:
    """In a process of its own: torch has no business in the one that keeps the time."""
    script = "from benchmarks import machine; print(machine.describe())"
    start = [sys.executable, "-c", script]
    env = process.environment("ramet", 1)
    done = subprocess.run(start, env=env, cwd=process.ROOT, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode().strip()


# -- the order of things -----------------------------------------------------------------------------


def _workload(given: argparse.Namespace, store: Store, fleet: Fleet, workload: str) -> bool:
    """False if the time was over before the end."""
    if given.rates:
        finished = _at(given, fleet, workload, given.rates)
    else:
        finished = _search(given, store, fleet, workload)
        found = peaks(store.data, workload, SERVERS)
        if finished and len(found) > 1:
            steps = common_steps(found.values())
            finished = _at(given, fleet, workload, [rate_of(step) for step in steps])
    if not finished or not given.times.flood:
        return finished
    found = peaks(store.data, workload, given.servers)
    cells = [
        Cell("overload", workload, name, found[name]) for name in given.servers if name in found
    ]
    return fleet.take_turns(cells)


def _at(given: argparse.Namespace, fleet: Fleet, workload: str, rates: Iterable[float]) -> bool:
    for number, rate in enumerate(rates):
        # A B C, C B A: a machine that slows down favours none of them.
        turns = given.servers[:: 1 if number % 2 == 0 else -1]
        if not fleet.take_turns([Cell("rate", workload, name, rate) for name in turns]):
            return False
    return True


def _search(given: argparse.Namespace, store: Store, fleet: Fleet, workload: str) -> bool:
    """All servers' peaks, a step of each in turn."""
    tried: set[tuple[str, int]] = set()
    turns = list(given.servers)
    while turns:
        cells = []
        for name in turns:
            step = next_step(_shares(store, workload, name, given.calm), given.finest)
            if step is not None and (name, step) not in tried:  # a failed one is not tried again
                tried.add((name, step))
                cells.append(Cell("rate", workload, name, rate_of(step)))
        if not fleet.take_turns(cells):
            return False
        turns = [cell.server for cell in reversed(cells)]
    return True


def _shares(store: Store, workload: str, server: str, calm: float) -> dict[int, float]:
    """Shares of good requests by steps of the ladder, as far as they are measured in peace."""
    steps = {rate_of(step): step for step in range(-12, 41)}
    return {
        steps[run["rate"]]: run["share_good"] or 0.0
        for run in store.runs
        if run["workload"] == workload
        and run["engine"] == server
        and run["kind"] == "rate"
        and "error" not in run
        and run["rate"] in steps
        and (run["others"] or 0) <= calm
    }


# -- what was found -----------------------------------------------------------------------------------


def _versions(data: dict[str, Any]) -> str:
    found = data["engines"].get(PRECISION, {}).items()
    lines = [", ".join(f"{name} {about['version']}" for name, about in found if "version" in about)]
    lines += [f"{name}: {about['missing']}" for name, about in found if "missing" in about]
    lines += [f"{name}: {note}" for name, about in found for note in about.get("notes", ())]
    return "\n".join(lines)


def _plot(data: dict[str, Any], path: Path | None) -> None:
    if path is None:
        return
    from benchmarks.serving_picture import plot

    try:
        plot(data, path)
    except ImportError:
        print("--plot: matplotlib is not installed, so there is no picture", file=sys.stderr)


def _head(given: argparse.Namespace) -> dict[str, Any]:
    """What must be the same for figures to stand in one file."""
    return {
        "model": given.model,
        "threads": given.threads,
        "options": given.options,
        "limits": dataclasses.asdict(given.limits),
        "times": dataclasses.asdict(given.times),
        "seed": given.seed,
        "workloads": {name: {} for name in given.workloads},
    }


if __name__ == "__main__":
    sys.exit(main())
