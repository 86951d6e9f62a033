"""`ramet bench`: how fast a model is on this machine, and what sharing is worth.

Four measurements on random token ids: a burst of requests over one prefix with an empty cache, the same
when the prefix is cached, as many requests that share nothing, and one stream alone. Knows the engine's
calls and counters; refuses to know programs. The workloads of the paper are programs and belong to the
repository: `run_workloads` finds its benchmarks and starts them.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from ramet.cli.failure import UsageError

__all__ = ["BenchOptions", "Figures", "bench", "measure", "run_workloads"]

STREAM_TOKENS = 64  # enough that the first token does not matter
_FIRST_ID = 3  # the lowest ids are often special tokens
_HEADING = (
    "                s  first ms  requests/s  prompt tok/s  new tok/s  computed   hit %  of optimum"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """`requests` prompts of `shared` tokens that all begin with and `own` of each, `out` new tokens;
    each measurement is the median of `rounds`."""

    requests: int = 64
    shared: int = 512
    own: int = 64
    out: int = 16
    rounds: int = 3

    def __post_init__(self) -> None:
        for name in ("requests", "own", "out", "rounds"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name}: {getattr(self, name)} is below 1")
        if self.shared < 0:
            raise UsageError(f"--shared: {self.shared} is below 0")

    def check_fits(self, max_context: int) -> None:
        total = self.shared + self.own + max(self.out, STREAM_TOKENS)
        if total > max_context:
            raise UsageError(
                f"--shared {self.shared}, --own {self.own} and {max(self.out, STREAM_TOKENS)} new "
                f"tokens are {total} tokens; the model's context has {max_context}"
            )


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement. `first_token`: mean seconds from the submission to a request's first token.
    `hit_rate`: share of the prompt tokens that the model did not compute; `optimum`: the highest there
    can be."""

    name: str
    seconds: float
    first_token: float
    requests: int
    prompt_tokens: int
    new_tokens: int
    computed_tokens: int
    hit_rate: float
    optimum: float


def bench(engine: Any, options: BenchOptions, json_file: str | None = None) -> None:
    """Measure and write a table, line by line, and the same as JSON."""
    options.check_fits(engine.max_context)
    typer.echo(
        f"{options.requests} requests: {options.shared} shared + {options.own} own + {options.out} new "
        f"tokens; median of {options.rounds}\n{_HEADING}"
    )
    found = []
    for figures in measure(engine, options):
        found.append(figures)
        typer.echo(_line(figures))
    if json_file is not None:
        record = {
            **engine.get_model_info(),
            **asdict(options),
            "figures": [asdict(f) for f in found],
        }
        try:
            Path(json_file).write_text(json.dumps(record, indent=1) + "\n")
        except OSError as error:
            raise UsageError(f"--json: cannot write {json_file}: {error}") from error


def measure(engine: Any, options: BenchOptions) -> Iterator[Figures]:
    """Each round has prompts of its own, so that nothing is cached but what is meant to be."""
    o, vocab = options, engine.config.vocab_size
    rng = random.Random(0)
    shared = _ids(rng, o.shared, vocab)

    def prompts(prefix: Callable[[], list[int]], count: int = o.requests) -> list[list[int]]:
        return [[*prefix(), *_ids(rng, o.own, vocab)] for _ in range(count)]

    def warm() -> None:
        engine.flush_cache()
        if shared:
            _generate(engine, [shared], 1)

    total = o.requests * (o.shared + o.own)
    some = o.shared / (o.shared + o.own)
    _round(engine, "warm-up", prompts(lambda: shared, 2), o.out, engine.flush_cache, 0)
    for name, prefix, count, out, before, optimum in (
        ("cold", lambda: shared, o.requests, o.out, engine.flush_cache, some - o.shared / total),
        ("warm", lambda: shared, o.requests, o.out, warm, some),
        (
            "unshared",
            lambda: _ids(rng, o.shared, vocab),
            o.requests,
            o.out,
            engine.flush_cache,
            0.0,
        ),
        ("one stream", lambda: shared, 1, STREAM_TOKENS, engine.flush_cache, 0.0),
    ):
        yield _middle(
            _round(engine, name, prompts(prefix, count), out, before, optimum)
            for _ in range(o.rounds)
        )


def _round(
    engine: Any,
    name: str,
    prompts: list[list[int]],
    out: int,
    before: Callable[[], object],
    optimum: float,
) -> Figures:
    before()
    computed, start = engine.stats.num_computed_tokens, time.perf_counter()
    answers = _generate(engine, prompts, out)
    seconds = time.perf_counter() - start
    computed = engine.stats.num_computed_tokens - computed
    prompt = sum(map(len, prompts))
    return Figures(
        name=name,
        seconds=seconds,
        first_token=statistics.fmean(a["meta_info"]["first_token_latency"] for a in answers),
        requests=len(prompts),
        prompt_tokens=prompt,
        new_tokens=out * len(prompts),
        computed_tokens=computed,
        # Of the new tokens the last one does not go through the model.
        hit_rate=1 - (computed - (out - 1) * len(prompts)) / prompt,
        optimum=optimum,
    )


def _generate(engine: Any, prompts: list[list[int]], out: int) -> list[dict[str, Any]]:
    sampling = {"max_new_tokens": out, "temperature": 0, "ignore_eos": True}
    answers: list[dict[str, Any]] = engine.generate(input_ids=prompts, sampling_params=sampling)
    return answers


def _ids(rng: random.Random, count: int, vocab: int) -> list[int]:
    return [rng.randrange(_FIRST_ID, vocab) for _ in range(count)]


def _middle(rounds: Iterator[Figures]) -> Figures:
    """The round that took the median time (of two, the longer)."""
    found = sorted(rounds, key=lambda figures: figures.seconds)
    return found[len(found) // 2]


def _line(f: Figures) -> str:
    of_optimum = f"{100 * f.hit_rate / f.optimum:10.1f}" if f.optimum else f"{'-':>10}"
    return (
        f"{f.name:10} {f.seconds:7.3f} {1000 * f.first_token:9.1f} {f.requests / f.seconds:11.2f} "
        f"{f.prompt_tokens / f.seconds:13.0f} {f.new_tokens / f.seconds:10.1f} "
        f"{f.computed_tokens:9} {100 * f.hit_rate:7.1f}  {of_optimum}"
    )


# -- the repository's workloads ------------------------------------------------------------------


def run_workloads(
    names: str, model: str, engine_options: dict[str, Any], json_file: str | None = None
) -> int:
    """`python -m benchmarks workloads` of the checkout that this is, or that the current folder lies in.
    Returns its exit code."""
    root = _checkout()
    words = [sys.executable, "-m", "benchmarks", "workloads", "--model", _absolute(model)]
    if names != "all":
        words += ["--only", names]
    options = {name: value for name, value in engine_options.items() if value is not None}
    if options:
        words += ["--options", *(f"{name}={value}" for name, value in options.items())]
    if json_file is not None:
        words += ["--json", json_file]
    paths = [str(root), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(words, env=environment, check=False).returncode


def _checkout() -> Path:
    here = Path.cwd()
    for folder in (Path(__file__).resolve().parents[3], here, *here.parents):
        if (folder / "benchmarks" / "run_workloads.py").is_file():
            return folder
    raise UsageError(
        "--workloads: the workloads belong to Ramet's repository, not to the installed package; run this "
        "in a checkout, or leave the option out to measure the model alone"
    )


def _absolute(model: str) -> str:
    return str(Path(model).absolute()) if Path(model).is_dir() else model
