"""`python -m benchmarks constraints`: what constraints cost, and whether they are right.

    python -m benchmarks constraints                              # both parts, the embedded model, small
    python -m benchmarks constraints --part masks --vocabulary bpe128k --only character,city,person --detail
    python -m benchmarks constraints --part decoding --model tiny,135M-8k --options quantization=int8 \\
        --scale 0.2 --json out.json --plot out.png

Masks: regular expressions and JSON Schemas, each with documents that are walked token by token, in Ramet
and in other engines, in turn (`constraint_masks`). Decoding: objects by Ramet's engine with and without
forced text, and free (`constraint_decoding`). Knows options and the order of the parts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    constraint_decoding,
    constraint_masks,
    constraint_report,
    constraint_results,
    constraint_vocabularies,
)
from benchmarks.constraint_cases import REGEXES, Case
from benchmarks.constraint_figures import summaries, verdicts
from benchmarks.constraint_schemas import SCHEMAS
from benchmarks.machine import describe
from ramet.errors import RametError

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """0, or 1 if Ramet rejected a document that matches, accepted one that does not, or failed."""
    given = _parse(argv)
    data: dict[str, Any] = {"machine": describe()}
    print(f"machine: {data['machine']}")
    try:
        if "masks" in given.part:
            data.update(_masks(given))
        if "decoding" in given.part:
            data["decoding"] = _decoding(given)
        wrong = _ramet_is_wrong(data)
        if given.add:
            data = constraint_results.merged(Path(given.json), data)
    except (RametError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if given.json:
        constraint_results.write(data, Path(given.json))
    if given.plot:
        from benchmarks import constraint_picture

        constraint_picture.plot(data, Path(given.plot))
    return 1 if wrong else 0


def _masks(given: argparse.Namespace) -> dict[str, Any]:
    rows, about = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.vocabulary:
            vocabulary = constraint_masks.Vocabulary(name, Path(folder))
            print(f"\n{name}: {vocabulary.size} tokens", flush=True)
            for row in constraint_masks.measure(
                vocabulary, given.only, given.engines, limit=given.limit, judged=given.judge
            ):
                if "about" in row:
                    about[name] = row["about"]
                    _say_engines(row["about"])
                    continue
                rows.append(row)
                if given.detail:
                    print("\n".join(constraint_report.case_lines(row)), flush=True)
    figures, judged = summaries(rows), verdicts(rows)
    print("\n" + "\n".join(constraint_report.mask_lines(figures)))
    print("\n" + "\n".join(constraint_report.verdict_lines(judged)))
    print("\n" + constraint_report.legend(), flush=True)
    return {"engines": about, "masks": figures, "verdicts": judged, "cases": rows}


def _say_engines(about: dict[str, dict[str, Any]]) -> None:
    for engine, facts in about.items():
        missing = facts.get("missing", "").split("\n")[0]
        print(f"  {engine}: {missing or facts['about']}", flush=True)


def _decoding(given: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    print()
    for model in given.model:
        for row in constraint_decoding.measure(
            model,
            given.workloads,
            scale=given.scale,
            rounds=given.rounds,
            options=given.options,
            patience=given.patience,
        ):
            lines = constraint_report.decoding_lines([row])
            print("\n".join(lines if not rows else lines[1:]), flush=True)
            rows.append(row)
    print("\n" + constraint_report.decoding_legend())
    return rows


def _ramet_is_wrong(data: dict[str, Any]) -> bool:
    own = [row for row in data.get("masks", ()) if row["engine"] == "ramet"]
    # A schema that is no regular language may be cut by the limit of tokens; its text says so.
    regular = [row for row in data.get("decoding", ()) if row["workload"] != "schemas"]
    incomplete = any(row["modes"]["jump"]["whole"] < 1 for row in regular)
    return incomplete or any(row["rejected"] + row["accepted"] + row["failed"] for row in own)


# -- options -------------------------------------------------------------------------------------


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    given = parser.parse_args(argv)
    cases = {case.name: case for case in (*REGEXES, *SCHEMAS)}
    for flag, known in (
        ("part", ("masks", "decoding")),
        ("vocabulary", constraint_vocabularies.NAMES),
        ("engines", constraint_masks.ENGINES),
        ("workloads", tuple(constraint_decoding.WORKLOADS)),
    ):
        setattr(given, flag, _names(parser, flag, getattr(given, flag), known))
    given.only = _chosen(parser, given.only, cases)
    given.model = given.model.split(",")
    given.options = dict(_option(parser, text) for text in given.options)
    if given.add and not given.json:
        parser.error("--add: needs --json FILE, which it adds to")
    if given.rounds < 1:
        parser.error("--rounds: at least 1")
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks constraints",
        description="What constraints cost beside other engines, and what they save in decoding.",
    )
    add = parser.add_argument
    add("--part", default="masks,decoding", help="masks, decoding, or both (the default)")
    add("--vocabulary", default="pocket", help=", ".join(constraint_vocabularies.NAMES))
    add("--engines", default=",".join(constraint_masks.ENGINES), help="of the masks")
    add("--only", metavar="NAMES", help="of constraints; or regex, json_schema (default: all)")
    add("--limit", type=float, default=20.0, help="seconds for one constraint in one engine")
    add("--judge", type=int, default=3, help="tokens looked into per kind of dispute; 0: none")
    add("--detail", action="store_true", help="a paragraph for every constraint")
    add("--model", default="pocket", help="of the decoding: pocket, folders, tiny, 135M-8k, ...")
    add("--workloads", default=",".join(constraint_decoding.WORKLOADS), help="of the decoding")
    add("--scale", type=float, default=0.2, help="multiplies the number of objects")
    add("--rounds", type=int, default=2, help="of the decoding")
    add(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="repeat a run of the decoding for so long while others disturb it",
    )
    add("--options", nargs="*", default=[], metavar="NAME=VALUE", help="of Ramet's engine")
    add("--json", metavar="FILE", help="write everything")
    add(
        "--add",
        action="store_true",
        help="keep what the JSON file holds of other vocabularies, models and workloads",
    )
    add("--plot", metavar="FILE.png", help="needs matplotlib: pip install 'ramet[bench]'")
    return parser


def _names(
    parser: argparse.ArgumentParser, flag: str, text: str, known: Sequence[str]
) -> list[str]:
    names = list(known) if text == "all" else [n.strip() for n in text.split(",") if n.strip()]
    for name in names:
        if name not in known:
            parser.error(f"--{flag}: {name!r} is unknown; known are {', '.join(known)}")
    return names


def _chosen(
    parser: argparse.ArgumentParser, text: str | None, cases: dict[str, Case]
) -> list[Case]:
    if text in ("regex", "json_schema"):
        return [case for case in cases.values() if case.kind == text]
    return [cases[name] for name in _names(parser, "only", text or "all", tuple(cases))]


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
