"""What can be seen of a run: records, events, colours, tables."""

# ruff: noqa: ARG001, ARG005 (bodies, responses and listeners take what they are given)

from __future__ import annotations

import html
import logging

import pytest

import ramet as sgl
from ramet.backends.scripted import Fail, Scripted
from ramet.lang import show


@sgl.function
def program(s):
    s.user("Q <1>")
    with s.assistant():
        s += "A: " + sgl.gen("x") + " or " + sgl.select("y", ["yes", "no"])
    forks = s.fork(2)
    forks += lambda i: f" [{i}" + sgl.gen("z") + "]"
    forks.join("concatenate_and_append")


@sgl.function
def failing(s):
    s.user("Q <1>")
    s += "A: " + sgl.gen("x")


def run(**options):
    backend = Scripted(
        lambda call: "g <b>" if call.prompt.text().endswith("A: ") else "h",
        scores={"yes": -1, "no": -2},
        share=True,
    )
    state = program.run(backend=backend, chat_template="chatml", **options)
    state.sync()
    state._script.run.over.wait("over", "")
    return state


def test_records_of_calls() -> None:
    state = run()
    assert [(c.kind, c.name, c.branch, c.number) for c in state.calls] == [
        ("generate", "x", "0", 0),
        ("select", "y", "0", 1),
    ]
    calls = state.all_calls()
    assert sorted((c.name, c.branch) for c in calls) == [
        ("x", "0"),
        ("y", "0"),
        ("z", "0.0-0"),
        ("z", "0.0-1"),
    ]
    for call in calls:
        assert call.prompt_tokens > 0
        assert call.seconds >= 0
        assert call.location.startswith(__file__)
        assert call.error is None
        assert call.rid == f"{state._script.run.id}/{call.branch}/{call.number}"
    last = calls[-1]
    assert last.cached_share == last.cached_tokens / last.prompt_tokens > 0.5
    assert last.finish_reason == "stop"


def test_a_failed_call_is_recorded() -> None:
    state = failing.run(backend=Scripted([Fail("boom")]))
    assert state.error() is not None
    [call] = state.calls
    assert call.error == "BackendError: boom"
    assert call.prompt_tokens is None
    assert call.cached_share is None
    assert "boom" in show.ansi(state._script.chain, state.calls)
    assert "boom" in state._repr_html_()


def test_the_text_in_parts_by_who_wrote_it() -> None:
    state = run()
    parts = show.segments(state._script.chain)
    assert "".join(text for _, _, text in parts) == state.text()
    assert [(style, name, text) for style, name, text in parts if style != "text"] == [
        ("role", None, "<|im_start|>user\n"),
        ("role", None, "<|im_end|>\n"),
        ("role", None, "<|im_start|>assistant\n"),
        ("generated", "x", "g <b>"),
        ("chosen", "y", "yes"),
        ("role", None, "<|im_end|>\n"),
        ("generated", "z", "h"),
        ("generated", "z", "h"),
    ]


def test_a_terminal_shows_colours_and_a_table(capsys) -> None:
    state = run()
    state.show()
    out = capsys.readouterr().out
    assert "\x1b[32mg <b>\x1b[0m" in out
    assert "\x1b[36myes\x1b[0m" in out
    assert "\x1b[2m<|im_start|>user\n\x1b[0m" in out
    plain = out
    for code in ("\x1b[32m", "\x1b[36m", "\x1b[2m", "\x1b[0m"):
        plain = plain.replace(code, "")
    assert plain.startswith(state.text())
    table = plain[len(state.text()) :].split("\n")
    assert table[2].split() == ["variable", "branch", "prompt", "cached", "generated", "time"]
    assert len([line for line in table if line]) == 6


def test_rich_shows_the_same() -> None:
    rich = pytest.importorskip("rich.console")
    state = run()
    console = rich.Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(state)
    text = console.export_text()
    assert "A: g <b> or yes" in text
    assert "variable" in text


def test_a_notebook_shows_escaped_html() -> None:
    state = run()
    page = state._repr_html_()
    assert "<b>" not in page
    assert (
        '<span style="color:#1f8a37;background:rgba(47,158,68,.13)" title="x">g &lt;b&gt;</span>'
        in page
    )
    assert html.escape("Q <1>") in page
    assert page.count("<tr>") == 5


def test_repr_is_the_text_and_never_raises() -> None:
    assert repr(run()) == str(run()) == f"ProgramState({run().text()})"
    failed = failing.run(backend=Scripted([Fail("boom")]), chat_template="claude")
    assert repr(failed).startswith("ProgramState(\n\nHuman: Q <1>A: ) <ProgramError")


def test_events_tell_the_whole_story() -> None:
    events: list[sgl.Event] = []
    state = run(listener=events.append)
    kinds = [event.kind for event in events]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    assert {event.run for event in events} == {state._script.run.id}
    assert {event.program for event in events} == {"program"}
    assert [e.name for e in events if e.kind == "call_started"][:2] == ["x", "y"]
    assert [e.record for e in events if e.kind == "call_finished"] == state.all_calls()
    [fork] = [e for e in events if e.kind == "fork"]
    assert (fork.branch, fork.count, fork.branches) == ("0", 2, ("0.0-0", "0.0-1"))
    [join] = [e for e in events if e.kind == "join"]
    assert join.branches == fork.branches
    texts = "".join(e.text for e in events if e.kind == "text" and e.branch == "0")
    assert texts == state.text()
    assert "".join(e.text for e in events if e.name == "x" and e.kind == "text") == "g <b>"
    assert [e.style for e in events if e.name == "y" and e.kind == "text"] == ["chosen"]
    assert len([e for e in events if e.name == "x" and e.kind == "text"]) > 1  # it streams
    times = [event.time for event in events if event.branch == "0"]
    assert times == sorted(times)


def test_nested_runs_report_to_the_same_listener_with_their_parent() -> None:
    @sgl.function
    def inner(s):
        s += "in" + sgl.gen("i")

    @sgl.function
    def outer(s):
        s += inner.run()["i"]

    for way in ("listener", "block"):
        events: list[sgl.Event] = []
        if way == "listener":
            outer.run(backend=Scripted(), listener=events.append).sync()
        else:
            with sgl.listening(events.append):
                outer.run(backend=Scripted()).sync()
        first, second = [event for event in events if event.kind == "run_started"]
        assert (first.program, first.parent) == ("outer", "")
        assert (second.program, second.parent) == ("inner", first.run)
    sgl.function(lambda s: None).run(backend=Scripted())
    assert len([event for event in events if event.kind == "run_started"]) == 2


def test_failures_are_events() -> None:
    events: list[sgl.Event] = []
    failing.run(backend=Scripted([Fail("boom")]), listener=events.append).error()
    [failed] = [event for event in events if event.kind == "failed"]
    assert (failed.branch, "boom" in str(failed.error)) == ("0", True)


def test_a_listener_that_raises_does_not_touch_the_program(caplog) -> None:
    def broken(event) -> None:
        raise RuntimeError("view")

    with caplog.at_level(logging.ERROR, "ramet"):
        assert run(listener=broken)["x"] == "g <b>"
    assert "a listener failed" in caplog.text


def test_listening_changes_nothing() -> None:
    quiet, watched = run(), run(listener=lambda event: None)
    assert quiet.text() == watched.text()
    assert quiet.messages() == watched.messages()
