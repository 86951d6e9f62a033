"""The options of `python -m benchmarks workloads`, read and checked. Knows names and defaults only."""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmarks.switches import SWITCHES
from benchmarks.weights import SHAPES
from benchmarks.workloads import WORKLOADS

__all__ = ["parse"]

# What `--full` changes: random weights in a real shape, in 8 bits, every switch.
FULL = {"model": "135M-8k", "switches": "all", "scale": 0.5, "rounds": 1}
FULL_OPTIONS = {"quantization": "int8"}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """`only` and `switches` as objects, `options` as a dictionary. Exits with a message that names what
    is wrong."""
    parser = _parser()
    given = parser.parse_args(argv)
    defaults = {"model": "pocket", "switches": "full,no_cache", "scale": 0.25, "rounds": 1}
    for name, value in (FULL if given.full else defaults).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    if given.rounds < 1:
        parser.error("--rounds: at least 1")
    if given.memory is not None and not given.memory > 0:
        parser.error("--memory: above 0")
    if given.add and not given.json:
        parser.error("--add: needs --json FILE, which it adds to")
    given.only = _named(parser, "--only", given.only or ",".join(WORKLOADS), WORKLOADS)
    switches = ",".join(SWITCHES) if given.switches == "all" else given.switches
    given.switches = _named(parser, "--switches", switches, SWITCHES)
    options = dict(_option(parser, text) for text in given.options)
    given.options = {**FULL_OPTIONS, **options} if given.full else options
    return given


def _parser() -> argparse.ArgumentParser:
    about = [f"{w.name}: {w.about}" for w in WORKLOADS.values()]
    switches = [f"{s.name}: {s.about}" for s in SWITCHES.values()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks workloads",
        description="Runs the paper's workloads and says how far they are from the optimum.",
        epilog=f"workloads: {'; '.join(about)}.  switches: {'; '.join(switches)}.",
    )
    add = parser.add_argument
    add(
        "--full",
        action="store_true",
        help="random weights of 135M in 8 bits, all switches: about a quarter of an hour",
    )
    add("--model", help=f"pocket (the default), a folder, or random weights: {', '.join(SHAPES)}")
    add("--only", metavar="NAMES", help="of workloads, with commas between (default: all)")
    add("--switches", metavar="NAMES", help='the first is the base of ratios; or "all"')
    add("--scale", type=float, help="multiplies the number of programs")
    add("--lengths", type=float, default=1.0, help="multiplies all lengths of texts")
    add("--rounds", type=int, help="runs of each workload under each switch")
    add("--seed", type=int, default=0)
    add(
        "--memory",
        type=float,
        metavar="SHARE",
        help="cache only this share of the tokens that a workload would fill it with",
    )
    add(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="repeat a run for so long while others disturb it",
    )
    add("--options", nargs="*", default=[], metavar="NAME=VALUE", help="of the engine")
    add("--measure-seconds", type=float, default=0.4, help="per rate of the machine")
    add("--json", metavar="FILE", help="write everything, every round included")
    add("--add", action="store_true", help="keep the other workloads that the JSON file holds")
    add("--plot", metavar="FILE.png", help="needs matplotlib: pip install 'ramet[bench]'")
    return parser


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
