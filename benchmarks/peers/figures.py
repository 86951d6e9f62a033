"""What the runs of a comparison say: best and median times, ratios to Ramet, distance from the floor.

A workload is one figure, the seconds of all its waves. A single stream is two: the time to the first token
and the time of the tokens after it, which are bound by different things. A ratio above 1 says how many
times as fast Ramet is. Knows plain data and what a floor needs; standard library and numpy only.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import roofline
from benchmarks.optimum import Needs, needs
from benchmarks.peers.models import kv_bytes
from benchmarks.peers.workloads import Wave, build, prompt_of

__all__ = ["KV_BYTES", "figures_of", "summary", "table"]

KV_BYTES = {"int8": 2, "fp32": 4}  # of one number of a key or value, as Ramet keeps them
_BASE = "ramet"


# -- the floor -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Traced:
    program: int
    prompt: npt.NDArray[np.int64]
    output: npt.NDArray[np.int64]
    generated: int
    scored_from: None = None


def _sizes(config: Mapping[str, Any]) -> roofline.Sizes:
    """A checkpoint's config.json as the floor wants it."""
    heads = config["num_attention_heads"]
    return SimpleNamespace(
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab_size=config["vocab_size"],
    )


def _needs(waves: Sequence[Wave], vocab: int, outs: int | None = None) -> Needs:
    """Of any engine; answers are taken to be unlike each other. `outs`: tokens per call instead."""
    prompts: list[list[int]] = []
    answers: list[list[int]] = []
    calls = [call for wave in waves for call in wave]
    fresh = vocab
    for call in calls:
        out = call.out if outs is None else outs
        prompts.append(prompt_of(call, prompts, answers))
        answers.append(list(range(fresh, fresh + out)))
        fresh += out
    trace = [
        _Traced(i, np.array(prompts[i]), np.array(answers[i]), len(answers[i]))
        for i in range(len(calls))
    ]
    return needs(trace, len(calls))


def _floors(
    workload: str,
    parameters: Mapping[str, int],
    config: dict[str, Any],
    rates: roofline.Machine,
    precision: str,
) -> dict[str, roofline.Floor]:
    """Per figure of the workload."""
    sizes = _sizes(config)
    waves = build(workload, parameters, sizes.vocab_size, 0)
    whole = _needs(waves, sizes.vocab_size)
    if workload == "stream":
        first = _needs(waves, sizes.vocab_size, 1)
        rest = {key: value - asdict(first)[key] for key, value in asdict(whole).items()}
        asked = {"stream first": first, "stream next": Needs(**rest)}
    else:
        asked = {workload: whole}
    each = kv_bytes(config, KV_BYTES[precision])
    return {
        name: roofline.floor(need, sizes, rates, precision, each) for name, need in asked.items()
    }


# -- what was measured ---------------------------------------------------------------------------


def figures_of(run: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by the name of the figure."""
    if run["workload"] != "stream":
        return {run["workload"]: run["seconds"]}
    first = run["first"][0]
    if first is None:
        return {}
    return {"stream first": first, "stream next": run["seconds"] - first}


def _measured(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """(precision, engine) -> figure -> seconds of all rounds that did not fail."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in runs:
        if "error" in run:
            continue
        of_engine = found.setdefault((run["precision"], run["engine"]), {})
        for name, seconds in figures_of(run).items():
            of_engine.setdefault(name, []).append(seconds)
    return found


def summary(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per precision and figure: the floor, and per engine `best` and `median` seconds, how often
    (`rounds`), `ratio` (its best over Ramet's) and `times_floor`; or `missing`, the reason."""
    rates = _rates(data.get("rates"))
    measured = _measured(data["runs"])
    rows = []
    for precision, engines in data["engines"].items():
        for workload, parameters in data["workloads"].items():
            floors = (
                {}
                if rates is None
                else _floors(workload, parameters, data["config"], rates, precision)
            )
            for name in ("stream first", "stream next") if workload == "stream" else (workload,):
                least = floors[name].seconds if name in floors else None
                base = measured.get((precision, _BASE), {}).get(name)
                row: dict[str, Any] = {"precision": precision, "figure": name, "floor": least}
                row["engines"] = {
                    engine: _one(
                        measured.get((precision, engine), {}).get(name),
                        base,
                        least,
                        about.get("missing") or _error(data["runs"], precision, engine, workload),
                    )
                    for engine, about in engines.items()
                }
                rows.append(row)
    return rows


def _rates(data: Mapping[str, Any] | None) -> roofline.Machine | None:
    if data is None:
        return None
    products = {
        name: {int(rows): rate for rows, rate in rates.items()}
        for name, rates in data["products"].items()
    }
    return roofline.Machine(
        data["threads"], data["bandwidth"], data["peaks"], products, data["kernels"]
    )


def _one(
    seconds: list[float] | None, base: list[float] | None, least: float | None, reason: str
) -> dict[str, Any]:
    if not seconds:
        return {"missing": reason}
    best = min(seconds)
    return {
        "best": best,
        "median": statistics.median(seconds),
        "rounds": len(seconds),
        "ratio": best / min(base) if base else None,
        "times_floor": best / least if least else None,
    }


def _error(runs: Sequence[Mapping[str, Any]], precision: str, engine: str, workload: str) -> str:
    for run in runs:
        same = (run["precision"], run["engine"], run["workload"]) == (precision, engine, workload)
        if same and "error" in run:
            return f"failed: {run['error']}"
    return "not measured"


# -- as text -------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"{'':4} {'workload':12} {'engine':12} {'best s':>8} {'median s':>8} {'rounds':>6} "
        f"{'Ramet is':>9} {'x floor':>7}"
    ]
    for row in rows:
        least = "?" if row["floor"] is None else f"{row['floor']:.3f}"
        lines.append(f"{row['precision']:4} {row['figure']:12} {'floor':12} {least:>8}")
        lines += [f"{'':17} {line}" for line in _lines(row["engines"])]
        lines += _best_peer(row["engines"])
    lines.append(
        "\nRamet is: the engine's best time over Ramet's best; x floor: its best time over the floor "
        "(benchmarks/roofline.py)."
    )
    return "\n".join(lines)


def _lines(engines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, one in engines.items():
        if "missing" in one:
            yield f"{name:12} {one['missing'].splitlines()[0]}"
            continue
        ratio = "" if name == _BASE or one["ratio"] is None else f"{one['ratio']:.2f}x"
        floor = "" if one["times_floor"] is None else f"{one['times_floor']:.2f}"
        yield (
            f"{name:12} {one['best']:8.3f} {one['median']:8.3f} {one['rounds']:6} "
            f"{ratio:>9} {floor:>7}"
        )


def _best_peer(engines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    peers = {n: e["ratio"] for n, e in engines.items() if n != _BASE and e.get("ratio")}
    if not peers:
        return []
    best = min(peers, key=peers.__getitem__)
    return [f"{'':17} -> Ramet is {peers[best]:.2f} times as fast as the best peer, {best}"]
