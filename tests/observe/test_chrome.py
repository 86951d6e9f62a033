"""The exported timeline keeps the rules of the format, and shows each branch, call, fork and join once."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.observe.observed import HOSTILE, PROMPT, backend, finished, overlapping, program, ran

import ramet as sgl
from ramet.backends.scripted import Scripted
from ramet.errors import InvalidRequest
from ramet.observe import Trace, chrome_trace, tracing, write_trace
from ramet.observe.chrome import branch_order

Events = list[dict[str, Any]]


def events_of(*traces: Trace) -> Events:
    return chrome_trace(traces)["traceEvents"]


def check_format(trace: dict[str, Any]) -> None:
    """The rules of the trace event format that viewers rely on."""
    json.loads(json.dumps(trace, allow_nan=False))
    assert trace["displayTimeUnit"] in ("ms", "ns")
    named: set[tuple[str, int, int]] = set()
    flows: dict[str, dict[int, Events]] = defaultdict(lambda: defaultdict(list))
    slices: dict[tuple[int, int], Events] = defaultdict(list)
    for event in trace["traceEvents"]:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ts"] >= 0
        if event["ph"] == "M":
            named.add((event["name"], event["pid"], event["tid"]))
        elif event["ph"] == "X":
            assert event["dur"] >= 0
            assert event["name"]
            slices[event["pid"], event["tid"]].append(event)
        elif event["ph"] in "sf":
            flows[event["ph"]][event["id"]].append(event)
            assert event["ph"] == "s" or event["bp"] == "e"
        else:
            assert event["ph"] == "C"
            assert event["args"]
            assert all(isinstance(v, int) and v >= 0 for v in event["args"].values())
    for pid, tid in slices:
        assert ("thread_name", pid, tid) in named
        assert ("process_name", pid, 0) in named
    for found in slices.values():
        _check_nesting(found)
    assert flows["s"].keys() == flows["f"].keys()
    for number, [begin] in flows["s"].items():
        [end] = flows["f"][number]
        assert begin["ts"] <= end["ts"]
        assert (begin["name"], begin["cat"]) == (end["name"], end["cat"])
        for point in (begin, end):  # an arrow is drawn between slices
            assert any(
                s["ts"] <= point["ts"] <= s["ts"] + s["dur"]
                for s in slices[point["pid"], point["tid"]]
            )


def _check_nesting(found: Events) -> None:
    """Slices of one thread lie inside each other or apart, in whole nanoseconds."""
    spans = [(round(e["ts"] * 1000), round((e["ts"] + e["dur"]) * 1000)) for e in found]
    opened: list[int] = []
    for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        while opened and opened[-1] <= begin:
            opened.pop()
        assert not opened or end <= opened[-1]
        opened.append(end)


def test_a_run_with_everything_is_valid() -> None:
    check_format(chrome_trace([ran().get_trace(texts=True)]))
    check_format(chrome_trace([ran(stream=True).trace]))
    check_format(chrome_trace([finished(program.run(backend=backend(latency=0.003))).trace]))


def test_a_checker_that_finds_nothing_would_be_no_checker() -> None:
    good = chrome_trace([ran().trace])
    for spoil in ("overlap", "flow", "counter", "nan"):
        bad = json.loads(json.dumps(good))
        events = bad["traceEvents"]
        if spoil == "overlap":
            root = next(e for e in events if e["ph"] == "X" and e["cat"] == "branch")
            events.append({**root, "ts": root["ts"] + 1})
        elif spoil == "flow":
            events.remove(next(e for e in events if e["ph"] == "f"))
        elif spoil == "counter":
            next(e for e in events if e["ph"] == "C")["args"] = {"calls": -1}
        else:
            next(e for e in events if e["ph"] == "X")["dur"] = float("nan")
        with pytest.raises((AssertionError, ValueError, KeyError)):
            check_format(bad)


def test_tracks_slices_and_arrows_are_those_of_the_program() -> None:
    trace = ran().trace
    events = events_of(trace)
    calls = [e for e in events if e["ph"] == "X" and e["cat"] in ("generate", "select")]
    assert Counter(e["name"] for e in calls) == {
        "plan": 1, "idea": 3, "try": 4, "good": 1, "seen": 1,
    }  # fmt: skip
    tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert [name for (pid, _), name in sorted(tracks.items()) if pid == 1] == [
        "branch 0", "branch 0.0-0", "branch 0.0-0.0-0", "branch 0.0-0.0-1",
        "branch 0.0-1", "branch 0.0-2", "branch 0.0-2.0-0", "branch 0.0-2.0-1",
    ]  # fmt: skip
    for call in calls:
        rid = call["args"]["rid"]
        assert tracks[call["pid"], call["tid"]] == f"branch {rid.split('/')[1]}"
    assert Counter(e["name"] for e in events if e["ph"] == "s") == {"fork": 7, "join": 7}
    failed = [e for e in calls if "error" in e["args"]]
    assert [(e["name"], e["args"]["error"]) for e in failed] == [("idea", "BackendError")]
    assert {e["args"]["name"].split()[0] for e in events if e["name"] == "process_name"} == {
        "all", "program", "helper",
    }  # fmt: skip


def test_a_call_is_split_at_its_first_token() -> None:
    say = sgl.function(lambda s: s.__iadd__("Q:" + sgl.gen("a")))
    state = finished(
        say.run(backend=Scripted(["a b c d"], latency=0.004, chunk_latency=0.001), stream=True)
    )
    [call] = [e for e in events_of(state.trace) if e.get("cat") == "generate"]
    first, rest = [e for e in events_of(state.trace) if e.get("cat") == "phase"]
    assert (first["name"], rest["name"]) == ("to first token", "decode")
    assert first["ts"] == call["ts"]
    assert first["ts"] + first["dur"] == pytest.approx(rest["ts"])
    assert rest["ts"] + rest["dur"] == pytest.approx(call["ts"] + call["dur"])
    assert first["dur"] >= 4000


def test_counters_go_up_with_the_calls_and_end_at_nothing() -> None:
    counters = [e for e in events_of(ran().trace) if e["ph"] == "C"]
    tokens = [e["args"] for e in counters if e["name"] == "tokens in flight"]
    assert max(t["prompt"] for t in tokens) > 0
    assert max(t["generated"] for t in tokens) > 0
    assert tokens[-1] == {"prompt": 0, "generated": 0}
    running = [e["args"]["calls"] for e in counters if e["name"] == "calls in flight"]
    assert max(running) >= 2
    assert running[-1] == 0
    times = [e["ts"] for e in counters]
    assert times == sorted(times)


def test_calls_of_one_branch_at_the_same_time_get_tracks_of_their_own() -> None:
    trace = overlapping()
    assert trace.root.lanes == (0, 0, 1, 2)
    assert (trace.totals.calls, trace.totals.tools, trace.totals.num_untold) == (4, 3, 0)
    check_format(chrome_trace([trace]))
    events = events_of(trace)
    names = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert names == ["branch 0", "branch 0 (2)", "branch 0 (3)"]
    assert [e["tid"] for e in events if e.get("cat") == "tool"] == [1, 2, 3]


def test_a_batch_is_one_timeline_with_a_process_per_run() -> None:
    states = program.run_batch([{"width": 1}, {"width": 2}], backend=backend())
    trace = chrome_trace([state.trace for state in states])
    check_format(trace)
    assert {e["pid"] for e in trace["traceEvents"]} == {0, 1, 2, 3, 4}  # two of them nested


def test_texts_are_in_it_only_if_asked_for() -> None:
    state = ran()
    quiet = json.dumps(chrome_trace([state.trace]))
    assert PROMPT not in quiet
    assert HOSTILE[:9] not in quiet
    with tracing(texts=True) as seen:
        ran()
    texts = [e["args"].get("text") for e in events_of(*seen.traces) if e.get("cat") == "generate"]
    assert texts.count(HOSTILE) == 8
    assert PROMPT in json.dumps(chrome_trace(seen.traces))


def test_files_of_both_forms(tmp_path: Path) -> None:
    trace = ran().trace
    write_trace(tmp_path / "a.json", trace)
    check_format(json.loads((tmp_path / "a.json").read_text()))
    write_trace(str(tmp_path / "a.HTML"), [trace, trace])
    assert (tmp_path / "a.HTML").read_text("utf-8").startswith("<!DOCTYPE html>")
    for wrong in (tmp_path / "a.txt", tmp_path / "none" / "a.html"):
        with pytest.raises(InvalidRequest, match="trace"):
            write_trace(wrong, trace)
    write_trace(tmp_path / "empty.json", [])
    check_format(json.loads((tmp_path / "empty.json").read_text()))


def test_branches_stand_behind_what_they_were_forked_from() -> None:
    paths = ["0.10-0", "0", "0.2-11", "0.2-5.0-1", "0.2-5", "0.2-10"]
    assert sorted(paths, key=branch_order) == [
        "0", "0.2-5", "0.2-5.0-1", "0.2-10", "0.2-11", "0.10-0",
    ]  # fmt: skip
