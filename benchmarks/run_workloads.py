"""`python -m benchmarks workloads`: the paper's workloads under switches, taken in turn.

    python -m benchmarks workloads --model FOLDER --only mmlu,tot --switches full,no_cache \\
        --scale 0.2 --options quantization=int8 --json out.json --plot out.png

Every round runs a workload once under each switch, each time on an empty cache. Figures are medians
over the rounds, ratios are medians of ratios of neighbouring runs. Seeds are fixed and answers do not depend on the
schedule, so every switch must give the same tokens, which is checked. Knows engines, programs and
switches; what a run must cost at least is known by `optimum` and `roofline`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.machine import describe
from benchmarks.optimum import Needs, needs
from benchmarks.recorder import Recorder, TracedCall
from benchmarks.roofline import Machine, floor, measure, precision
from benchmarks.switches import SWITCHES, Switch
from benchmarks.weights import SHAPES, checkpoint
from benchmarks.workloads import WORKLOADS, Load, Size, Words, Workload
from ramet import Engine
from ramet.errors import RametError

__all__ = ["Measured", "main", "run_once"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. Times in seconds; `first_token` from a call to its first token, `program` from a program's
    beginning to its end; p95: the time that 95 % stay below. `hit_rate` counts what the model computed
    of prompts, announced prefixes too: 1 - computed prompt tokens / prompt tokens; `told_hit_rate` is
    the engine's own count, which leaves those out."""

    seconds: float
    programs: int
    programs_per_second: float
    first_token_mean: float | None
    first_token_p95: float | None
    program_mean: float
    program_p95: float
    calls: int
    prompt_tokens: int
    generated_tokens: int
    computed_tokens: int
    hit_rate: float
    told_hit_rate: float
    steps: int
    preemptions: int
    tokens_digest: str


def run_once(engine: Engine, load: Load, switch: Switch) -> tuple[Measured, list[TracedCall]]:
    """Run all programs of `load` on an empty cache. What fails in a program is raised."""
    recorder = Recorder(engine, hints=switch.hints, serial=switch.serial)
    engine.flush_cache()
    before = engine.stats
    start = time.perf_counter()
    latencies = _run_programs(recorder, load, switch)
    seconds = time.perf_counter() - start
    after = engine.stats
    trace = recorder.trace()
    return _measured(seconds, latencies, trace, before, after), trace


def _run_programs(recorder: Recorder, load: Load, switch: Switch) -> list[float]:
    def one(number: int) -> float:
        start = time.perf_counter()
        state = load.program.run(
            **load.items[number],
            backend=recorder.client(number),
            temperature=load.temperature,
            sampling_seed=number,
        )
        state.sync()
        return time.perf_counter() - start

    workers = 1 if switch.one_by_one else min(load.concurrency, len(load.items))
    with ThreadPoolExecutor(workers, thread_name_prefix="program") as pool:
        return list(pool.map(one, range(len(load.items))))


def _measured(
    seconds: float, latencies: list[float], trace: list[TracedCall], before: Any, after: Any
) -> Measured:
    prompt = sum(len(call.prompt) for call in trace)
    generated = sum(call.generated for call in trace)
    computed = after.num_computed_tokens - before.num_computed_tokens
    # A call that draws n tokens feeds n - 1 of them to the model.
    of_prompts = computed - sum(max(0, call.generated - 1) for call in trace)
    told = after.num_prompt_tokens - before.num_prompt_tokens
    firsts = [call.first_token for call in trace if call.first_token is not None]
    return Measured(
        seconds=seconds,
        programs=len(latencies),
        programs_per_second=len(latencies) / seconds,
        first_token_mean=statistics.fmean(firsts) if firsts else None,
        first_token_p95=_p95(firsts) if firsts else None,
        program_mean=statistics.fmean(latencies),
        program_p95=_p95(latencies),
        calls=len(trace),
        prompt_tokens=prompt,
        generated_tokens=generated,
        computed_tokens=computed,
        hit_rate=1 - of_prompts / prompt,
        told_hit_rate=(after.num_cached_tokens - before.num_cached_tokens) / max(1, told),
        steps=after.num_steps - before.num_steps,
        preemptions=after.num_preemptions - before.num_preemptions,
        tokens_digest=_digest(trace),
    )


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _digest(trace: list[TracedCall]) -> str:
    """Of all tokens of all calls, whatever order they came in."""
    lines = sorted(
        f"{call.program}|{call.prompt.tolist()}|{call.output.tolist()}" for call in trace
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# -- all of it -----------------------------------------------------------------------------------


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
    """What a first call pays (threads, first touch of tables) is not the workload's."""
    ids = [[3 + (i + j) % (engine.config.vocab_size - 3) for i in range(96)] for j in range(4)]
    engine.generate(input_ids=ids, sampling_params={"max_new_tokens": 4, "temperature": 0})


def _row(
    workload: Workload,
    load: Load,
    engine: Engine,
    machine: Machine,
    runs: dict[str, list[Measured]],
    need: Needs,
) -> dict[str, Any]:
    """Everything about one workload, as plain data."""
    kv_bytes = _kv_bytes(engine)
    held = precision(engine.options.to_dict())
    least = floor(need, engine.config, machine, held, kv_bytes)
    base = next(iter(runs))
    return {
        "workload": workload.name,
        "about": workload.about,
        "programs": len(load.items),
        "concurrency": load.concurrency,
        "needs": {**asdict(need), "optimal_hit_rate": need.optimal_hit_rate},
        "floor": {**asdict(least), "seconds": least.seconds, "held": held, "kv_bytes": kv_bytes},
        "same_tokens": len({run.tokens_digest for all_ in runs.values() for run in all_}) == 1,
        "switches": {
            name: _summary(measured, runs[base], least.seconds, need)
            for name, measured in runs.items()
        },
    }


def _summary(
    runs: list[Measured], base: list[Measured], least: float, need: Needs
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
        "times_floor": middle["seconds"] / least,
        "times_base": statistics.median(a.seconds / b.seconds for a, b in zip(runs, base)),
        "of_optimum": middle["hit_rate"] / optimum if optimum > 0 else None,
        "rounds": figures,
    }


def _kv_bytes(engine: Engine) -> float:
    """Of one token's keys and values in all layers."""
    return float(engine.host.call(lambda core: core.runner.model.kv_bytes_per_slot))


def _measure_all(given: argparse.Namespace, machine: Machine) -> Iterator[dict[str, Any]]:
    size = Size(given.scale, given.lengths, given.seed)
    with ExitStack() as stack:
        engines = _Engines(given.model, given.options, stack)
        base = engines.get(given.switches[0])
        words = Words(base.tokenizer, base.config.vocab_size)
        for workload in given.only:
            load = workload.make(words, size)
            runs: dict[str, list[Measured]] = {switch.name: [] for switch in given.switches}
            trace: list[TracedCall] = []
            for number in range(given.rounds):
                # A B, B A, A B: a machine that slows down favours none of them.
                for switch in given.switches[:: 1 if number % 2 == 0 else -1]:
                    measured, traced = run_once(engines.get(switch), load, switch)
                    runs[switch.name].append(measured)
                    trace = trace or traced
            yield _row(workload, load, base, machine, runs, needs(trace, load.concurrency))


def main(argv: list[str] | None = None) -> int:
    given = _parse(argv)
    machine = measure(given.options.get("num_threads"), seconds=given.measure_seconds)
    head = {
        "machine": describe(),
        "rates": machine.to_dict(),
        "model": str(given.model),
        "options": given.options,
        "scale": given.scale,
        "lengths": given.lengths,
        "seed": given.seed,
        "rounds": given.rounds,
    }
    print(f"machine: {head['machine']}\n         {machine.describe()}")
    print(
        f"model: {given.model}; options: {given.options or 'default'}; scale {given.scale:g}, ",
        end="",
    )
    print(f"{given.rounds} rounds\n\n{report.heading()}", flush=True)
    rows = []
    try:
        for row in _measure_all(given, machine):
            rows.append(row)
            print(report.lines(row), flush=True)
    except (RametError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"\n{report.legend()}")
    if given.json:
        Path(given.json).write_text(json.dumps({**head, "workloads": rows}, indent=1) + "\n")
    if given.plot:
        report.plot({**head, "workloads": rows}, Path(given.plot))
    return 0 if all(row["same_tokens"] for row in rows) else 3


# -- the command line ----------------------------------------------------------------------------


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks workloads",
        description="Runs the paper's workloads and says how far they are from the optimum.",
        epilog="workloads: "
        + "; ".join(f"{w.name}: {w.about}" for w in WORKLOADS.values())
        + ".  switches: "
        + "; ".join(f"{s.name}: {s.about}" for s in SWITCHES.values()),
    )
    parser.add_argument(
        "--model", default="135M-8k", help=f"a folder, pocket, or of {', '.join(SHAPES)}"
    )
    parser.add_argument("--only", help="names of workloads, with commas between (default: all)")
    parser.add_argument("--switches", default="full,no_cache", help='names, or "all"')
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the number of programs"
    )
    parser.add_argument(
        "--lengths", type=float, default=1.0, help="multiplies all lengths of texts"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--options", nargs="*", default=[], metavar="NAME=VALUE", help="of the engine"
    )
    parser.add_argument(
        "--measure-seconds", type=float, default=0.4, help="per rate of the machine"
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE.png", help="needs matplotlib")
    given = parser.parse_args(argv)
    if given.rounds < 1:
        parser.error("--rounds: at least 1")
    given.only = _named(parser, "--only", given.only or ",".join(WORKLOADS), WORKLOADS)
    switches = ",".join(SWITCHES) if given.switches == "all" else given.switches
    given.switches = _named(parser, "--switches", switches, SWITCHES)
    given.options = dict(_option(parser, text) for text in given.options)
    if given.model in SHAPES:
        given.model = checkpoint(given.model)
    return given


def _named(
    parser: argparse.ArgumentParser, flag: str, text: str, known: dict[str, Any]
) -> list[Any]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"{flag}: {name!r} is unknown; known are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def _option(parser: argparse.ArgumentParser, text: str) -> tuple[str, Any]:
    """`name=value`; a value is JSON if it can be read as such, else a text."""
    name, equals, value = text.partition("=")
    if not equals:
        parser.error(f"--options: {text!r} is not of the form name=value")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


if __name__ == "__main__":
    sys.exit(main())
