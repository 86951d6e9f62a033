"""The command line of `python -m benchmarks serving`. Knows flags and bounds."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving_cells import Times
from benchmarks.serving_figures import Limits
from benchmarks.serving_peers import SERVERS
from benchmarks.serving_workloads import WORKLOADS
from benchmarks.weights import SHAPES, checkpoint

__all__ = ["parse"]

_POCKET = Path(__file__).resolve().parents[1] / "src" / "ramet" / "pocket" / "model"
# Seconds before what counts; of the moderate rate before a flood and after it. By --quick.
AROUND = {False: (4.0, 10.0, 45.0), True: (1.0, 3.0, 20.0)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks serving",
        description="Offers the same load to LLM servers, in turn, and finds how much of it they serve well.",
    )
    add = parser.add_argument
    add(
        "--model",
        default="135M-8k",
        help=f"pocket, a folder, or random weights: {', '.join(SHAPES)}",
    )
    add("--only", default=",".join(SERVERS), metavar="SERVERS", help=f"of {', '.join(SERVERS)}")
    add("--workloads", default=",".join(WORKLOADS), metavar="NAMES")
    add("--rates", metavar="LIST", help="requests per second; these and no search, e.g. 2,4,8")
    add("--seconds", type=float, help="of each measured rate (default 15)")
    add("--overload", type=float, metavar="SECONDS", help="of the flood (default 25); 0: none")
    add("--timeout", type=float, default=15.0, help="seconds after which a client gives up")
    add("--first", type=float, default=1.0, help="limit for the first token, seconds")
    add(
        "--per-token",
        type=float,
        default=0.1,
        help="limit for each other token on average, seconds",
    )
    add("--quick", action="store_true", help="short times, a coarser search: to see that it works")
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0, help="another one gives other requests at other times")
    add("--options", nargs="*", default=[], metavar="SERVER.NAME=VALUE",
        help="of a server's command line, e.g. vllm.block_size=16; null leaves a default out")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write every measurement as it ends")
    add("--resume", action="store_true", help="go on with the JSON file: measure what it lacks")
    add(
        "--again",
        default="",
        metavar="SERVERS",
        help="measure these again, whatever the file holds",
    )
    add("--calm", type=float, default=float("inf"), metavar="CORES",
        help="with --resume: repeat what others disturbed by more than so many cores")  # fmt: skip
    add("--minutes", type=float, metavar="N", help="begin no measurement after this time")
    add(
        "--plot", type=Path, metavar="FILE.png", help="needs matplotlib: pip install 'ramet[bench]'"
    )
    return _checked(parser, parser.parse_args(argv))


def _checked(parser: argparse.ArgumentParser, given: argparse.Namespace) -> argparse.Namespace:
    given.servers = _names(parser, "--only", given.only, SERVERS)
    given.workloads = _names(parser, "--workloads", given.workloads, WORKLOADS)
    given.again = _names(parser, "--again", given.again, SERVERS)
    given.finest = 2 if given.quick else 1
    seconds = given.seconds if given.seconds is not None else 4.0 if given.quick else 15.0
    flood = given.overload if given.overload is not None else 5.0 if given.quick else 25.0
    lead, before, after = AROUND[given.quick]
    given.times = Times(lead, seconds, given.timeout, before, flood, after)
    given.limits = Limits(given.first, given.per_token)
    if not 1 <= seconds <= 600 or not 0 <= flood <= 600 or not 1 <= given.timeout <= 600:
        parser.error("--seconds, --timeout: 1 to 600 seconds; --overload: 0 to 600")
    if given.threads < 1 or given.first <= 0 or given.per_token <= 0:
        parser.error("--threads: at least 1; --first, --per-token: above 0")
    if given.resume and given.json is None:
        parser.error("--resume: needs --json FILE, which it goes on with")
    given.deadline = float("inf")
    if given.minutes is not None:
        given.deadline = time.monotonic() + 60 * given.minutes
    given.rates = _rates(parser, given.rates, lead + seconds)
    given.options = _options(parser, given.options)
    if given.model in SHAPES:
        given.folder = checkpoint(given.model)
    else:
        given.folder = _POCKET if given.model == "pocket" else Path(given.model).resolve()
    if not (given.folder / "config.json").is_file():
        parser.error(
            f"--model: {given.model} is no checkpoint's folder, and none of {', '.join(SHAPES)}"
        )
    return given


def _names(
    parser: argparse.ArgumentParser, flag: str, text: str, known: Sequence[str]
) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"{flag}: {name!r} is unknown; known are {', '.join(known)}")
    return list(dict.fromkeys(names))


def _rates(parser: argparse.ArgumentParser, text: str | None, seconds: float) -> list[float]:
    if text is None:
        return []
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate <= 2000 and rate * seconds >= 1 for rate in rates):
        parser.error(f"--rates: {text!r} is no list of requests per second up to 2000, like 2,4,8")
    return rates


def _options(parser: argparse.ArgumentParser, texts: list[str]) -> dict[str, dict[str, Any]]:
    """`server.name=value`; a value is JSON if it can be read as such, else a text."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        owner, dot, name = key.partition(".")
        if not (equals and dot) or owner not in SERVERS:
            parser.error(f"--options: {text!r} is not SERVER.NAME=VALUE with {', '.join(SERVERS)}")
        try:
            found.setdefault(owner, {})[name] = json.loads(value)
        except json.JSONDecodeError:
            found[owner][name] = value
    return found
