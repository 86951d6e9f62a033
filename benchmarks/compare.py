"""`python -m benchmarks compare`: Ramet beside vLLM, OpenVINO, llama.cpp and transformers, in turn, in one run.

    python -m benchmarks compare --model 135M-8k --precision int8,fp32 --rounds 2 \
        --json out.json --plot out.png

Every engine runs in its own process and its own virtual environment (benchmarks/peers/install/ makes
them) on the same weights, token ids and output lengths. In each round every engine runs each workload once,
one after the other, on tokens that it has not seen; those that wait are stopped. What is not installed,
or fails, has a line that says so. With --json every run is written as it ends, and --resume goes on.
Knows the order of things; the protocol is `peers.serve`'s, the figures are `peers.figures`'.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import figures, process
from benchmarks.peers.cores import Others
from benchmarks.peers.models import home, kv_bytes, read_config
from benchmarks.peers.serve import ENGINES
from benchmarks.peers.store import Store
from benchmarks.peers.workloads import DEFAULTS, build, sizes
from benchmarks.weights import SHAPES, checkpoint

__all__ = ["main"]

PRECISIONS = ("int8", "fp32")
SCALES = {"full": 1.0, "small": 0.25}
_LOAD_SECONDS, _RUN_SECONDS = 900.0, 900.0  # compiling and converting happen at the first load
_WARM_UP = {"few_shot": {"requests": 4, "shared": 128, "own": 16, "out": 4}}
_NOTICEABLE = 0.1  # cores
_KEEP_FREE = 3 << 30  # bytes of memory, for everything else


def main(argv: list[str] | None = None) -> int:
    """0 if every engine that is installed gave every figure, 1 if one failed, 2 for a wrong question, 4
    if --minutes ended first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    given = _parse(argv)
    try:
        store = Store(given.json, _head(given), given.resume)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if given.again:
        store.forget(given.again, given.precision)
    quiet = _Quiet(given.hold)
    if given.rates and "rates" not in store.data:
        with quiet:
            store.set(**_machine(given.threads))
    for precision in given.precision:
        with _Fleet(given, precision, store, quiet) as fleet:
            finished = _rounds(given, precision, store, fleet)
        if not finished:
            break
    _report(store, given)
    if not finished:
        return 4
    return 1 if any("error" in run for run in store.runs) or _failed(store) else 0


def _rounds(given: argparse.Namespace, precision: str, store: Store, fleet: _Fleet) -> bool:
    """False if the time was over before the last."""
    for number in range(given.rounds):
        for workload in given.workloads:
            # A B C, C B A: a machine that slows down favours none of them.
            turns = [
                {"precision": precision, "engine": engine, "workload": workload, "round": number}
                for engine in given.engines[:: 1 if number % 2 == 0 else -1]
            ]
            turns = [key for key in turns if not store.has(key, given.calm)]
            if turns and time.monotonic() > given.deadline:
                return False
            fleet.take_turns(turns)
    return True


def _say(run: dict[str, Any]) -> None:
    if "error" in run:
        got = f"failed: {run['error'].splitlines()[0]}"
    else:
        got = f"{run['seconds']:8.3f} s"
        if (run["others"] or 0) > _NOTICEABLE:
            got += f" (others took {run['others']:.2f} cores)"
    print(
        f"  {run['precision']} round {run['round']} {run['workload']:9} {run['engine']:12} {got}",
        flush=True,
    )


# -- engines -------------------------------------------------------------------------------------


class _Fleet:
    """The engines of one precision: loaded when they are first asked, kept while memory allows."""

    def __init__(
        self, given: argparse.Namespace, precision: str, store: Store, quiet: _Quiet
    ) -> None:
        self._given, self._precision = given, precision
        self._store, self._quiet = store, quiet
        self._running: dict[str, process.Process] = {}  # the one asked last is the last
        self._useless: set[str] = set()
        config = read_config(given.folder)
        self._vocab = int(config["vocab_size"])
        self._capacity = _capacity(given.parameters, self._vocab)
        weights = sum(path.stat().st_size for path in given.folder.glob("*.safetensors"))
        # While it loads an engine may hold the fp16 checkpoint and its fp32 form at once.
        self._bytes = 3 * weights + self._capacity["cache_tokens"] * kv_bytes(config, 4)

    def __enter__(self) -> _Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        while self._running:
            self._end(next(iter(self._running)))

    def take_turns(self, turns: list[dict[str, Any]]) -> None:
        """Run and store what `turns` say, one after the other, as far as there are the engines."""
        turns = [key for key in turns if key["engine"] not in self._useless]
        if not turns:
            return
        with self._quiet:
            for key in turns:
                run = self._run(key["engine"], key["workload"], key["round"])
                if run is not None:
                    self._store.add({**key, **run})
                    _say({**key, **run})

    def _run(self, engine: str, workload: str, number: int) -> dict[str, Any] | None:
        """The figures of one run, or its "error"; None for an engine that cannot be started."""
        if engine not in self._running and not self._start(engine):
            return None
        running = self._running[engine] = self._running.pop(engine)
        request = {
            "do": "run",
            "workload": workload,
            "parameters": self._given.parameters[workload],
            "vocab": self._vocab,
            "seed": number,
        }
        others = Others(running.pid)
        try:
            answer = running.ask(request, _RUN_SECONDS)
        except process.Failed as error:
            self._end(engine)
            return {"error": str(error)}
        return {"seed": number, "when": int(time.time()), "others": others.cores(), **answer}

    def _start(self, engine: str) -> bool:
        """Load `engine` and let it answer something; False, with the reason noted, if it cannot."""
        try:
            command = process.command(engine)
        except process.NotInstalled as error:
            self._give_up(engine, str(error))
            return False
        self._make_room()
        print(f"  {self._precision} loading {engine}", flush=True)
        log = home() / "logs" / f"{engine}-{self._precision}.log"
        env = process.environment(engine, self._given.threads)
        self._running[engine] = running = process.Process(command, env, log)
        request = {
            "do": "load",
            "model": str(self._given.folder.resolve()),
            "precision": self._precision,
            "threads": self._given.threads,
            "options": self._given.options.get(engine, {}),
            **self._capacity,
        }
        try:
            loaded = running.ask(request, _LOAD_SECONDS)
            for name, parameters in _WARM_UP.items():
                warm = {"workload": name, "parameters": parameters, "vocab": self._vocab}
                running.ask({"do": "run", **warm, "seed": -1}, _RUN_SECONDS)
        except process.Failed as error:
            self._end(engine)
            self._give_up(engine, f"failed: {error}")
            return False
        self._store.about(
            self._precision, engine, load_seconds=loaded["seconds"], about=loaded["about"]
        )
        return True

    def _give_up(self, engine: str, reason: str) -> None:
        print(f"  {self._precision} {engine}: {reason}", flush=True)
        self._useless.add(engine)
        self._store.about(self._precision, engine, missing=reason)

    def _make_room(self) -> None:
        while self._running and _free_bytes() < self._bytes + _KEEP_FREE:
            self._end(next(iter(self._running)))

    def _end(self, engine: str) -> None:
        self._running.pop(engine).close()


def _capacity(parameters: dict[str, dict[str, int]], vocab: int) -> dict[str, int]:
    """What fits any of the workloads, also in an engine that shares nothing."""
    asked = [sizes(build(name, given, vocab, 0)) for name, given in parameters.items()]
    return {
        "cache_tokens": max(of["live_tokens"] for of in asked),
        "requests": max(of["widest"] for of in asked),
        "longest": max(of["longest"] for of in asked),
    }


def _free_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# -- the machine ---------------------------------------------------------------------------------


class _Quiet:
    """Holds the machine quiet during a measurement, by a command of the user's if there is one: it says a
    line when it is quiet, and ends when its input does."""

    def __init__(self, command: str | None) -> None:
        self._command = command
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> None:
        if self._command is None:
            return
        self._holder = subprocess.Popen(
            shlex.split(self._command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        if not self._holder.stdout.readline():
            raise SystemExit(f"--hold: {self._command!r} ended without a line")

    def __exit__(self, *_: object) -> None:
        if self._holder is None:
            return
        if self._holder.poll() is not None:
            print("  --hold ended before the measurement did: look at what others took", flush=True)
        self._holder.communicate()
        self._holder = None


def _machine(threads: int) -> dict[str, Any]:
    """In a process of its own, which gives its memory and threads back."""
    script = (
        "import json; from benchmarks import machine, roofline; "
        f"print(json.dumps([machine.describe(), roofline.measure({threads}).to_dict()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=process.environment("ramet", threads),
        cwd=process.ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    described, rates = json.loads(done.stdout.splitlines()[-1])
    return {"machine": described, "rates": rates}


# -- what was found ------------------------------------------------------------------------------


def _failed(store: Store) -> bool:
    reasons = [
        about.get("missing", "")
        for engines in store.data["engines"].values()
        for about in engines.values()
    ]
    return any(reason.startswith("failed") for reason in reasons)


def _report(store: Store, given: argparse.Namespace) -> None:
    rows = figures.summary(store.data)
    store.set(summary=rows)
    caption = f"{store.data.get('machine', 'machine not described')}; {store.data['model']}, "
    caption += f"{given.threads} threads"
    print(f"\n{caption}\n{_versions(store.data)}\n\n{figures.table(rows)}")
    if given.plot is None:
        return
    from benchmarks.peers.picture import plot

    try:
        plot(rows, f"{caption}\n{_versions(store.data)}", given.plot)
    except ImportError:
        print("--plot: matplotlib is not installed, so there is no picture", file=sys.stderr)


def _versions(data: dict[str, Any]) -> str:
    found = {
        name: about["about"]["version"]
        for engines in data["engines"].values()
        for name, about in engines.items()
        if "about" in about
    }
    return ", ".join(f"{name} {version}" for name, version in found.items())


# -- the command line ----------------------------------------------------------------------------


def _head(given: argparse.Namespace) -> dict[str, Any]:
    """What must be the same for figures to stand in one file."""
    return {
        "model": given.folder.name,
        "config": read_config(given.folder),
        "threads": given.threads,
        "options": given.options,
        "workloads": given.parameters,
    }


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description="Runs Ramet and other engines on the same workloads, in turn.",
    )
    add = parser.add_argument
    add("--model", default="135M-8k", help=f"a folder, or random weights: {', '.join(SHAPES)}")
    add("--engines", default=",".join(ENGINES), metavar="NAMES")
    add("--workloads", default=",".join(DEFAULTS), metavar="NAMES")
    add("--precision", default="int8", metavar="NAMES", help=f"of {', '.join(PRECISIONS)}")
    add("--rounds", type=int, default=2)
    add("--threads", type=int, default=2)
    add(
        "--scale",
        default="full",
        help="multiplies requests and lengths: full (1), small (0.25) or a number",
    )
    add(
        "--set",
        nargs="*",
        default=[],
        metavar="WORKLOAD.NAME=N",
        help="one size of one workload, e.g. few_shot.requests=16",
    )
    add(
        "--options",
        nargs="*",
        default=[],
        metavar="ENGINE.NAME=VALUE",
        help="of an engine, e.g. vllm.block_size=16",
    )
    add("--json", type=Path, metavar="FILE", help="write every run as it ends")
    add("--resume", action="store_true", help="go on with the JSON file: run what it lacks")
    add("--again", default="", metavar="ENGINES", help="run these again, whatever the file holds")
    add(
        "--calm",
        type=float,
        default=float("inf"),
        metavar="CORES",
        help="with --resume: repeat runs during which others took more than so many cores",
    )
    add("--minutes", type=float, metavar="N", help="begin no run after this time")
    add(
        "--no-rates", dest="rates", action="store_false", help="do not measure the machine's limits"
    )
    add(
        "--hold",
        metavar="COMMAND",
        help="on a shared machine: runs beside each measurement; prints a line when the machine is "
        "quiet, ends when its input does",
    )
    add(
        "--plot", type=Path, metavar="FILE.png", help="needs matplotlib: pip install 'ramet[bench]'"
    )
    return _checked(parser, parser.parse_args(argv))


def _checked(parser: argparse.ArgumentParser, given: argparse.Namespace) -> argparse.Namespace:
    given.engines = _names(parser, "--engines", given.engines, ENGINES)
    given.workloads = _names(parser, "--workloads", given.workloads, DEFAULTS)
    given.precision = _names(parser, "--precision", given.precision, PRECISIONS)
    given.again = _names(parser, "--again", given.again, ENGINES)
    if given.rounds < 1 or given.threads < 1:
        parser.error("--rounds and --threads: at least 1")
    if given.resume and given.json is None:
        parser.error("--resume: needs --json FILE, which it goes on with")
    given.deadline = float("inf")
    if given.minutes is not None:
        given.deadline = time.monotonic() + 60 * given.minutes
    given.options = _by_owner(parser, "--options", given.options, ENGINES)
    changes = _by_owner(parser, "--set", given.set, DEFAULTS)
    given.parameters = {
        name: {**_scaled(name, _scale(parser, given.scale)), **changes.get(name, {})}
        for name in given.workloads
    }
    try:
        for name, parameters in given.parameters.items():
            build(name, parameters, 1000, 0)
    except (TypeError, ValueError) as error:
        parser.error(f"--set: {error}")
    given.folder = checkpoint(given.model) if given.model in SHAPES else Path(given.model)
    if not (given.folder / "config.json").is_file():
        parser.error(
            f"--model: {given.model} is neither a checkpoint's folder nor of {', '.join(SHAPES)}"
        )
    return given


def _names(
    parser: argparse.ArgumentParser, flag: str, text: str, known: Sequence[str] | dict[str, Any]
) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"{flag}: {name!r} is unknown; known are {', '.join(known)}")
    return list(dict.fromkeys(names))


def _scale(parser: argparse.ArgumentParser, text: str) -> float:
    try:
        scale = SCALES.get(text) or float(text)
    except ValueError:
        scale = 0
    if not scale > 0:
        parser.error(f"--scale: {text!r} is neither {', '.join(SCALES)} nor a number above 0")
    return scale


def _scaled(workload: str, scale: float) -> dict[str, int]:
    """Depths stay: a conversation of one turn would be another workload."""
    deep = ("levels", "turns")
    return {
        name: value if name in deep else max(1, round(value * scale))
        for name, value in DEFAULTS[workload].items()
    }


def _by_owner(
    parser: argparse.ArgumentParser, flag: str, texts: list[str], known: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """`owner.name=value`; a value is JSON if it can be read as such, else a text."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        owner, dot, name = key.partition(".")
        if not (equals and dot) or owner not in known:
            parser.error(
                f"{flag}: {text!r} is not of the form OWNER.NAME=VALUE with {', '.join(known)}"
            )
        found.setdefault(owner, {})[name] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    sys.exit(main())
