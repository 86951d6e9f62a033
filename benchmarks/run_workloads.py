"""`python -m benchmarks workloads`: the paper's workloads under switches, taken in turn.

    python -m benchmarks workloads                       # the embedded model, small
    python -m benchmarks workloads --full                # random weights of 135M, all switches
    python -m benchmarks workloads --model FOLDER --only mmlu,tot --switches full,no_cache \\
        --scale 0.2 --options quantization=int8 --json out.json --plot out.png

Every round runs a workload once under each switch, each time on an empty cache. Figures are medians over
the rounds, ratios are medians of ratios of neighbouring runs. Seeds are fixed and answers do not depend
on the schedule, so every switch must give the same tokens, which is checked. The machine's limits are
measured at the start, those that drift again around every workload. Knows engines, programs and
switches; what a run must cost at least is known by `optimum` and `roofline`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import picture, report, results
from benchmarks.arguments import parse
from benchmarks.machine import describe
from benchmarks.one_run import Measured, run_once
from benchmarks.optimum import Needs, needs
from benchmarks.others import MUCH
from benchmarks.recorder import TracedCall
from benchmarks.roofline import Machine, best_of, floor, measure, now, precision
from benchmarks.switches import Switch
from benchmarks.weights import SHAPES, checkpoint
from benchmarks.workloads import Load, Size, Words, Workload
from ramet import Engine
from ramet.errors import RametError

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    given = parse(argv)
    head = {
        "machine": describe(),
        "model": str(given.model),
        "options": given.options,
        "memory": given.memory,
        "scale": given.scale,
        "lengths": given.lengths,
        "seed": given.seed,
        "rounds": given.rounds,
    }
    try:
        kept = results.kept(Path(given.json), head) if given.add else []
        machine = measure(given.options.get("num_threads"), given.measure_seconds)
        print(f"machine: {head['machine']}\n         {machine.describe()}")
        print(_about(given), end="\n\n")
        print(report.heading(), flush=True)
        rows = []
        for row in _measure_all(given, machine):
            rows.append(row)
            print(report.lines(row), flush=True)
    except (RametError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"\n{report.legend()}")
    data = {**head, "rates": machine.to_dict(), "workloads": results.merged(kept, rows)}
    if given.json:
        results.write(data, Path(given.json))
    if given.plot:
        picture.plot(data, Path(given.plot))
    return 0 if all(row["same_tokens"] for row in rows) else 3


def _about(given: argparse.Namespace) -> str:
    parts = [f"model: {given.model}", f"options: {json.dumps(given.options)}"]
    parts.append(f"scale {given.scale:g}, {given.rounds} rounds")
    if given.memory is not None:
        parts.append(f"memory for {given.memory:g} of the tokens")
    return "; ".join(parts)


# -- one workload after the other ----------------------------------------------------------------


def _measure_all(given: argparse.Namespace, machine: Machine) -> Iterator[dict[str, Any]]:
    model = checkpoint(given.model) if given.model in SHAPES else given.model
    size = Size(given.scale, given.lengths, given.seed)
    with ExitStack() as stack:
        engines = _Engines(model, given.options, stack)
        words = None
        for workload in given.only:
            base = engines.get(given.switches[0])
            words = words or Words(base.tokenizer, base.config.vocab_size)
            load = workload.make(words, size)
            if given.memory is None:
                yield _measure(workload, load, engines, given, machine)
            else:
                with ExitStack() as short:
                    slots = _slots(base, load, given.switches[0], given.memory)
                    options = {**given.options, "max_cache_tokens": slots}
                    limited = _Engines(model, options, short)
                    yield _measure(workload, load, limited, given, machine)


def _measure(
    workload: Workload,
    load: Load,
    engines: _Engines,
    given: argparse.Namespace,
    machine: Machine,
) -> dict[str, Any]:
    runs: dict[str, list[Measured]] = {switch.name: [] for switch in given.switches}
    trace: list[TracedCall] = []
    before = now(machine, given.measure_seconds / 4)
    for number in range(given.rounds):
        # A B, B A, A B: a machine that slows down favours none of them.
        for switch in given.switches[:: 1 if number % 2 == 0 else -1]:
            measured, traced = _undisturbed(engines.get(switch), load, switch, given.patience)
            runs[switch.name].append(measured)
            trace = trace or traced
    after = now(machine, given.measure_seconds / 4)
    limits = best_of(before, after)
    return _row(workload, load, engines.get(given.switches[0]), limits, runs, trace)


def _undisturbed(
    engine: Engine, load: Load, switch: Switch, patience: float
) -> tuple[Measured, list[TracedCall]]:
    """`run_once`, again while others took too much of the processors and for at most `patience` seconds;
    of several the least disturbed."""
    end = time.perf_counter() + patience
    runs = [run_once(engine, load, switch)]
    while (runs[-1][0].busy_with_others or 0) > MUCH and time.perf_counter() < end:
        runs.append(run_once(engine, load, switch))
    return min(runs, key=lambda run: run[0].busy_with_others or 0)


def _slots(engine: Engine, load: Load, switch: Switch, share: float) -> int:
    """KV slots for `share` of what the workload would fill, but enough for its longest call."""
    _, trace = run_once(engine, load, switch)
    longest = max(len(call.prompt) + call.generated for call in trace)
    return max(longest, round(share * needs(trace, load.concurrency).unique_tokens))


class _Engines:
    """One engine per set of options, made when it is first needed."""

    def __init__(self, model: Path | str, options: dict[str, Any], stack: ExitStack) -> None:
        self._model, self._options, self._stack = model, options, stack
        self._made: dict[str, Engine] = {}

    def get(self, switch: Switch) -> Engine:
        options = {**self._options, **switch.options}
        key = json.dumps(options, sort_keys=True, default=str)
        if key not in self._made:
            engine = self._stack.enter_context(Engine(self._model, **options))
            self._made[key] = engine
            _warm_up(engine)
        return self._made[key]


def _warm_up(engine: Engine) -> None:
    """What a first call pays is not the workload's: threads, memory for steps of full size and for keys,
    the tokenizer's memory of words."""
    words, rng = Words(engine.tokenizer, engine.config.vocab_size), random.Random(0)
    prompts = [words.text(rng, 64) for _ in range(32)]
    sampling = {"max_new_tokens": 8, "temperature": 0, "ignore_eos": True}
    engine.generate(prompts, sampling)


# -- what is known of it -------------------------------------------------------------------------


def _row(
    workload: Workload,
    load: Load,
    engine: Engine,
    machine: Machine,
    runs: dict[str, list[Measured]],
    trace: list[TracedCall],
) -> dict[str, Any]:
    """Everything about one workload, as plain data."""
    need = needs(trace, load.concurrency)
    least = _floor(need, engine, machine)
    base = next(iter(runs))
    return {
        "workload": workload.name,
        "about": workload.about,
        "programs": len(load.items),
        "concurrency": load.concurrency,
        "num_slots": engine.num_slots,
        "needs": {**asdict(need), "optimal_hit_rate": need.optimal_hit_rate},
        "floor": least,
        "same_tokens": len({run.tokens_digest for all_ in runs.values() for run in all_}) == 1,
        "switches": {
            name: _summary(measured, runs[base], None if least is None else least["seconds"], need)
            for name, measured in runs.items()
        },
    }


def _floor(need: Needs, engine: Engine, machine: Machine) -> dict[str, Any] | None:
    """None on a device whose limits `roofline` does not measure."""
    if engine.options.device != "cpu":
        return None
    kv_bytes, kv_dtype = engine.host.call(
        lambda core: (core.runner.kv.bytes_per_slot, core.runner.kv.dtype)
    )
    held = precision(engine.options.to_dict())
    kv = "bf16" if "bfloat16" in str(kv_dtype) else "fp32"
    least = floor(need, engine.config, machine, held, kv_bytes, kv)
    forms = {"held": held, "kv_bytes": kv_bytes, "kv": str(kv_dtype).removeprefix("torch.")}
    rates = {"matrix_rate": machine.rate(held), "bandwidth": machine.bandwidth}
    return {**asdict(least), "seconds": least.seconds, **forms, **rates}


def _summary(
    runs: list[Measured], base: list[Measured], least: float | None, need: Needs
) -> dict[str, Any]:
    """Medians over the rounds; `times_base`: seconds over those of the first switch in the same round."""
    figures = [asdict(run) for run in runs]
    middle = {
        name: statistics.median(f[name] for f in figures)
        for name, value in figures[0].items()
        if isinstance(value, (int, float))
    }
    optimum = need.optimal_hit_rate
    return {
        **middle,
        "times_floor": None if least is None else middle["seconds"] / least,
        "times_base": statistics.median(a.seconds / b.seconds for a, b in zip(runs, base)),
        "of_optimum": middle["hit_rate"] / optimum if optimum > 0 else None,
        "rounds": figures,
    }


if __name__ == "__main__":
    sys.exit(main())
