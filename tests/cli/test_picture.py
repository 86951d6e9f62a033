"""What is kept of a run's events, and the three ways in which it is shown."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ramet.cli.draw import calls_table, finished_tree, running_tree, totals_line
from ramet.cli.log import PlainLog
from ramet.cli.picture import Call, Fork, Picture, Run, Written
from ramet.cli.report import call_as_json, rows, totals
from ramet.lang.record import CallRecord, Event


def record(name: str | None = "tip", branch: str = "0", **changes: Any) -> CallRecord:
    facts: dict[str, Any] = {
        "kind": "generate",
        "name": name,
        "branch": branch,
        "number": 0,
        "location": "program.py:7",
        "rid": f"r/{branch}/0",
        "samples": 1,
        "seconds": 0.5,
        "prompt_tokens": 100,
        "cached_tokens": 80,
        "completion_tokens": 10,
    }
    return CallRecord(**{**facts, **changes})


def event(kind: Any, branch: str = "0", run: str = "run-1", **facts: Any) -> Event:
    program = "tips" if run == "run-1" else "helper"
    return Event(kind=kind, run=run, program=program, branch=branch, time=0.0, **facts)


def forked_run() -> list[Event]:
    """Two branches, in which a call each fills `tip`, then a choice."""
    events = [
        event("run_started"),
        event("text", text="<user>", style="role"),
        event("text", text="Two tips.\nShort ones."),
        event("fork", branches=("0.0-0", "0.0-1")),
    ]
    for branch, words in (("0.0-0", ["drink ", "water"]), ("0.0-1", ["sleep", " well"])):
        events += [
            event("text", branch, text="Tip: "),
            event("call_started", branch, name="tip"),
            *(event("text", branch, text=w, style="generated", name="tip") for w in words),
            event("call_finished", branch, name="tip", record=record(branch=branch)),
        ]
    chosen = record("best", kind="select", samples=2, completion_tokens=None)
    return [
        *events,
        event("join", branches=("0.0-0", "0.0-1")),
        event("text", text="Best: "),
        event("call_started", name="best"),
        event("call_finished", name="best", record=chosen),
        event("text", text="water", style="chosen", name="best"),
        event("run_finished"),
    ]


def seen(events: list[Event]) -> Picture:
    picture = Picture()
    for one in events:
        picture.see(one)
    return picture


def printed(renderable: Any, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=60, color_system=None, **options)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ---- the picture ----------------------------------------------------------------------------------


def test_a_picture_holds_branches_where_they_forked() -> None:
    picture = seen(forked_run())
    (run,) = picture.runs.values()
    assert run.finished
    kinds = [type(item) for item in run.root.items]
    assert kinds == [Written, Written, Fork, Written, Written]
    fork = run.root.items[2]
    assert isinstance(fork, Fork)
    assert [branch.path for branch in fork.branches] == ["0.0-0", "0.0-1"]
    assert all(branch.joined for branch in fork.branches)
    assert fork.branches[0].items[1] == Written("drink water", "generated", "tip")
    assert [call.record.name for call in picture.calls] == ["tip", "tip", "best"]


def test_a_call_is_open_until_it_has_finished() -> None:
    picture = seen(forked_run()[:6])
    (run,) = picture.runs.values()
    assert run.branch("0.0-0").calls_open == 1
    picture.see(event("call_finished", "0.0-0", record=record(branch="0.0-0")))
    assert run.branch("0.0-0").calls_open == 0


def test_each_run_has_its_own_tree() -> None:
    nested = [event("run_started", run="run-2"), event("text", run="run-2", text="inner")]
    picture = seen([*forked_run(), *nested])
    assert [run.program for run in picture.runs.values()] == ["tips", "helper"]
    assert not picture.runs["run-2"].finished


# ---- the drawings -----------------------------------------------------------------------------------


def test_the_finished_tree_shows_everything() -> None:
    assert printed(finished_tree(seen(forked_run()))).splitlines() == [
        "✓ tips",
        "├── <user>Two tips.",
        "│   Short ones.",
        "├── ✓ 0 Tip: drink water",
        "├── ✓ 1 Tip: sleep well",
        "└── Best: water",
    ]


def test_a_failed_branch_is_marked() -> None:
    picture = seen([*forked_run()[:6], event("failed", "0.0-0", error=ValueError("no"))])
    assert "├── ✗ 0 Tip:\n" in printed(finished_tree(picture))


def test_the_running_tree_fits_the_screen() -> None:
    events = forked_run()[:4]
    for branch in ("0.0-0", "0.0-1"):
        text = "\n".join(f"line {i}" for i in range(500))
        events.append(event("text", branch, text=text, style="generated", name="tip"))
    console = Console(file=io.StringIO(), width=60, height=20, color_system=None)
    picture = seen(events)
    console.print(running_tree(picture, console))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= 20
    assert sum("line 499" in line for line in lines) == 2  # both branches show where they are now
    assert not any("line 100" in line for line in lines)


# ---- the numbers ------------------------------------------------------------------------------------


def test_few_calls_have_a_row_each_and_many_are_added_up() -> None:
    run = Run("r", "tips")
    calls = [Call(run, record(branch=f"0.0-{i}", seconds=i)) for i in range(5)]
    assert [row.branch for row in rows(calls, most=5)] == [f"0.0-{i}" for i in range(5)]
    (row,) = rows(calls, most=4)
    assert (row.calls, row.prompt, row.cached, row.generated) == (5, 500, 400, 50)
    assert (row.seconds, row.cached_share, row.branch) == (4, 0.8, "")


def test_totals_tell_what_sharing_saved() -> None:
    found = totals(seen(forked_run()).calls)
    assert (found.calls, found.failed, found.generated) == (3, 0, 20)
    # Two answers of 10 tokens (the last one of each is not fed back) and the choice, 80 cached each.
    assert (found.asked, found.computed, found.saved) == (109 + 109 + 100, 78, 240)


def test_samples_ask_for_their_prompt_once_each() -> None:
    call = Call(Run("r", "tips"), record(samples=3, completion_tokens=30))
    found = totals([call])
    assert (found.asked, found.computed) == (3 * 100 + 27, 20 + 27)


def test_the_engines_own_count_wins() -> None:
    found = totals(seen(forked_run()).calls, measured=118)
    assert (found.asked, found.computed, found.saved) == (318, 118, 200)


def test_an_unknown_count_is_not_taken_for_zero() -> None:
    run = Run("r", "tips")
    unknown = record(prompt_tokens=None, cached_tokens=None, completion_tokens=None)
    found = totals([Call(run, unknown)])
    assert (found.asked, found.computed, found.saved) == (None, None, None)
    table = printed(calls_table([Call(run, unknown)]))
    assert table.splitlines()[1].split() == ["tip", "0", "?", "?", "?", "500", "ms"]


def test_the_table_and_the_line_below_it() -> None:
    calls = seen(forked_run()).calls
    table = printed(calls_table(calls)).splitlines()
    assert table[0].split() == ["call", "branch", "prompt", "cached", "generated", "time"]
    assert table[1].split() == ["tip", "0.0-0", "100", "80", "80%", "10", "500", "ms"]
    assert len(table) == 4
    line = totals_line(totals(calls), 1.5).plain
    assert line == "3 calls · 318 tokens asked, 78 computed: sharing saved 75% · 1.50 s"


def test_failed_calls_are_counted() -> None:
    run = Run("r", "tips")
    found = totals([Call(run, record(error="BackendError: gone", prompt_tokens=None))])
    assert totals_line(found, 0.25).plain == "1 call · 1 failed · 250 ms"


def test_a_call_as_json_has_every_fact() -> None:
    (call, *_) = seen(forked_run()).calls
    found = call_as_json(call)
    assert found["program"] == "tips"
    assert found["name"] == "tip"
    assert found["cached_share"] == pytest.approx(0.8)


# ---- the log ------------------------------------------------------------------------------------------


def logged(events: list[Event]) -> list[str]:
    out = io.StringIO()
    log = PlainLog(out)
    for one in events:
        log.see(one)
    return out.getvalue().splitlines()


def test_the_log_writes_whole_texts_in_order() -> None:
    assert logged(forked_run()) == [
        "0: <user>Two tips.",
        "0: Short ones.",
        "0: fork into 0.0-0, 0.0-1",
        "0.0-0: Tip:",
        "0.0-0: [tip] drink water",
        "0.0-1: Tip:",
        "0.0-1: [tip] sleep well",
        "0: Best:",
        "0: [best] water",
    ]


def test_the_log_names_other_programs_and_failures() -> None:
    nested = [
        event("text", run="run-2", text="inner"),
        event("failed", run="run-2", error=ValueError("broken")),
    ]
    assert logged([event("text", text="outer"), *nested, event("run_finished")]) == [
        "helper 0: inner",
        "helper 0: failed: broken",
        "0: outer",
    ]


def test_two_answers_of_one_name_stay_two() -> None:
    events = [
        event("text", text="a", style="generated", name="x"),
        event("call_finished", name="x", record=record("x")),
        event("text", text="b", style="generated", name="x"),
        event("run_finished"),
    ]
    assert logged(events) == ["0: [x] a", "0: [x] b"]
