"""What a state tells of its run: calls in their places, times that fit, totals, and no texts unasked."""

# ruff: noqa: ARG005 (responses take what they are given)

from __future__ import annotations

import gc
import json
import time
from dataclasses import asdict
from typing import Any

import pytest

import ramet as sgl
from ramet.backend import Completion, GenerateCall
from ramet.backends.scripted import Fail, Hang, Scripted
from ramet.errors import BackendError, InvalidRequest, ProgramError
from ramet.lang.record import MOST_NESTED, RunRecord
from ramet.lang.trace import Prices, Totals, model_name, parts

SECRET = "the secret prompt"
ANSWER = "the secret answer"


@sgl.function
def tree(s, width=2):
    s += SECRET + " Q:" + sgl.gen("plan")
    plans = s.fork(width)
    for plan in plans:
        plan += " go:" + sgl.gen("step")
        tries = plan.fork(2)
        tries += " try:" + sgl.gen("try")
        tries.join()
    plans.join()
    s += " pick:" + sgl.select("best", ["yes", "no"])


@sgl.function
def flat(s):
    s += SECRET + sgl.gen("a")


def backend(**options: Any) -> Scripted:
    return Scripted(lambda call: ANSWER, scores={"yes": -1, "no": -2}, share=True, **options)


def finished(state: sgl.ProgramState) -> sgl.ProgramState:
    state.error()
    state._script.run.over.wait("over", "")
    return state


class Telling(Scripted):
    """Tells what API backends and engines tell, too."""

    def __init__(self, *args: Any, told: dict[str, Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self.told = told

    async def generate(self, call: GenerateCall, on_chunk: Any = None) -> list[Completion]:
        found = await super().generate(call, on_chunk)
        for completion in found:
            completion.meta_info.update(self.told)
        return found


def test_branches_and_calls_are_where_the_program_made_them() -> None:
    trace = finished(tree.run(backend=backend())).trace
    found = {branch.path: branch for branch in trace.branches}
    assert next(iter(found)) == "0"
    assert {path: branch.parent for path, branch in found.items()} == {
        "0": None,
        "0.0-0": "0",
        "0.0-1": "0",
        "0.0-0.0-0": "0.0-0",
        "0.0-0.0-1": "0.0-0",
        "0.0-1.0-0": "0.0-1",
        "0.0-1.0-1": "0.0-1",
    }
    names = {path: [call.name for call in branch.calls] for path, branch in found.items()}
    assert names.pop("0") == ["plan", "best"]
    assert {tuple(value) for path, value in names.items() if path.count(".") == 1} == {("step",)}
    assert {tuple(value) for path, value in names.items() if path.count(".") == 2} == {("try",)}
    assert [call.kind for call in found["0"].calls] == ["generate", "select"]
    assert all(branch.location.startswith(__file__) for branch in trace.branches[1:])
    assert (trace.program, trace.backend, trace.model) == ("tree", "Scripted", "scripted")
    for index, branch in enumerate(trace.branches):  # parents come first
        earlier = [other.path for other in trace.branches[:index]]
        assert branch.parent is None or branch.parent in earlier


def test_times_fit_into_each_other() -> None:
    trace = finished(tree.run(backend=backend(latency=0.002))).trace
    assert trace.seconds is not None
    for branch in trace.branches:
        assert 0 <= branch.started <= branch.ended <= trace.seconds
        if branch.parent is not None:
            above = trace.branch(branch.parent)
            assert above.started <= branch.started
            assert branch.joined is not None
            assert max(call.ended for call in branch.calls) <= branch.joined <= above.ended
        at = branch.started
        for call in branch.calls:
            assert at <= call.started
            assert call.seconds >= 0.002
            at = call.ended
        assert at <= branch.ended
    starts = [call.started for call in trace]
    assert starts == sorted(starts)
    assert len(trace) == len(starts) == 8


def test_totals_of_a_run_and_of_a_branch() -> None:
    state = finished(tree.run(backend=backend()))
    trace = state.trace
    records = state.all_calls()
    assert trace.totals.calls == 8
    assert trace.totals.prompt_tokens == sum(r.prompt_tokens or 0 for r in records)
    assert trace.totals.cached_tokens == sum(r.cached_tokens or 0 for r in records) > 0
    assert trace.totals.completion_tokens == sum(r.completion_tokens or 0 for r in records)
    assert trace.totals.cached_share == trace.totals.cached_tokens / trace.totals.prompt_tokens
    assert trace.totals_of("0.0-0").calls == 3
    assert trace.branch("0.0-0").totals.calls == 1
    with pytest.raises(KeyError, match=r"0\.9-9"):
        trace.branch("0.9-9")


def test_a_branchs_own_trace_holds_it_and_what_was_forked_from_it() -> None:
    kept = []

    @sgl.function
    def program(s):
        s += "Q" + sgl.gen("a")
        for branch in s.fork(2):
            branch += sgl.gen("b")
            kept.append(branch)
            branch.fork(1)[0].sync()

    finished(program.run(backend=backend()))
    assert [branch.path for branch in kept[1].trace.branches] == ["0.0-1", "0.0-1.0-0"]
    assert kept[1].trace.totals.calls == 1


def test_unknown_counts_stay_unknown() -> None:
    state = finished(flat.run(backend=Scripted([Fail("boom")])))
    totals = state.trace.totals
    assert (totals.calls, totals.failed, totals.num_untold) == (1, 1, 1)
    assert totals.prompt_tokens is None
    assert totals.cached_share is None
    assert Totals.of([]).completion_tokens is None


def test_what_a_backend_tells_is_written_down() -> None:
    told = {
        "retries": 2,
        "cost": 0.25,
        "forced_tokens": 3,
        "drafted_tokens": 5,
        "accepted_tokens": 4,
        "first_token_latency": 0.001,
    }
    many = sgl.function(lambda s: s.__iadd__("Q" + sgl.gen("a", n=3)))
    state = finished(many.run(backend=Telling(["x"], told=told)))
    [call] = state.trace
    assert (call.samples, call.retries, call.first_token_seconds) == (3, 2, 0.001)
    assert call.cost == 0.25  # three samples of one response
    assert (call.forced_tokens, call.drafted_tokens, call.accepted_tokens) == (9, 15, 12)
    assert state.trace.totals.retries == 2
    assert state.trace.totals.cost == 0.25


def test_the_first_text_is_timed_where_it_streams_and_nobody_tells() -> None:
    program = sgl.function(lambda s: s.__iadd__("Q" + sgl.gen("a")))
    state = finished(program.run(backend=backend(latency=0.01, chunk_latency=0.001), stream=True))
    [call] = state.trace
    assert call.first_token_seconds is not None
    assert 0.01 <= call.first_token_seconds <= call.seconds
    [quiet] = finished(program.run(backend=backend())).trace
    assert quiet.first_token_seconds is None


def test_prices_fill_in_where_the_backend_reports_none() -> None:
    program = sgl.function(lambda s: s.__iadd__("one two" + sgl.gen("a", max_tokens=2)))
    state = finished(program.run(backend=backend()))
    prices = Prices(prompt=1_000_000, generated=10_000_000, cached=0)
    [call] = state.get_trace(prices=prices)
    assert call.cost == 2 + 20
    assert state.trace.totals.cost is None
    told = finished(program.run(backend=Telling(["x"], told={"cost": 0.5})))
    assert told.get_trace(prices=prices).totals.cost == 0.5
    failed = finished(program.run(backend=Scripted([Fail()])))
    assert failed.get_trace(prices=prices).totals.cost is None
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="generated"):
            Prices(prompt=1, generated=wrong)


def test_no_text_is_in_a_trace_unless_asked_for() -> None:
    state = finished(tree.run(backend=backend()))
    for secret in (SECRET, ANSWER, "secret"):
        assert secret not in json.dumps(state.trace.to_dict())
        assert secret not in repr(state.trace)
    assert not state.trace.has_texts
    whole = json.dumps(state.get_trace(texts=True).to_dict())
    assert SECRET in whole
    assert ANSWER in whole


def test_messages_of_errors_may_quote_texts_and_stay_out_with_them() -> None:
    quoting = BackendError(f"cannot go on after {SECRET!r}")
    quoting.retries = 3  # type: ignore[attr-defined]
    state = finished(flat.run(backend=Scripted([Fail(quoting)])))
    [call] = state.trace
    assert (call.error, call.retries) == ("BackendError", 3)
    assert state.trace.root.error == "BackendError"
    assert state.trace.root.failed is not None
    assert SECRET not in json.dumps(state.trace.to_dict())
    whole = state.get_trace(texts=True)
    assert SECRET in str(next(iter(whole)).error)
    assert SECRET in str(whole.root.error)


def test_the_exception_of_a_body_is_the_runs_failure() -> None:
    runs: list[RunRecord] = []

    @sgl.function
    def careless(s):
        s += "Q" + sgl.gen("a")
        raise LookupError(SECRET)

    def note(event: sgl.Event) -> None:
        if event.kind == "run_started" and event.run_record is not None:
            runs.append(event.run_record)

    with pytest.raises(LookupError):
        careless.run(backend=backend(), listener=note)
    assert runs[0].failures["0"][1] == f"LookupError: {SECRET}"
    [state] = careless.run_batch([{}], backend=backend())
    assert state.trace.root.error == "LookupError"


def test_a_failed_branch_shows_where_it_failed() -> None:
    @sgl.function
    def program(s):
        s += "Q"
        branches = s.fork(3)
        for index, branch in enumerate(branches):
            branch += f" {index}:" + sgl.gen("a")
        branches.join(return_exceptions=True)

    answers = {"1:": Fail("boom"), ":": "fine"}
    trace = finished(program.run(backend=Scripted(answers))).trace
    assert [branch.error for branch in trace.branches] == [None, None, "BackendError", None]
    assert trace.totals.failed == 1


def test_texts_of_a_branch_by_who_wrote_them() -> None:
    kept = []

    @sgl.function
    def program(s):
        s += "Q:" + sgl.gen("a")
        branches = s.fork(2)
        branches += lambda i: f" {i}:" + sgl.gen("b") + "."
        kept.extend(branches)
        branches.join("concatenate_and_append")
        s += "?" + sgl.select("c", ["yes", "no"])

    state = finished(program.run(backend=Scripted({":": "x"}, scores={"yes": -1, "no": -2})))
    trace = state.get_trace(texts=True)
    branch = trace.branch("0.0-1")
    assert branch.text is not None
    assert [tuple(part) for part in branch.text] == [
        ("text", None, None, " 1:"),
        ("generated", "b", 0, "x"),
        ("text", None, None, "."),
    ]
    assert trace.root.text is not None
    made = [(p.name, p.call, p.text) for p in trace.root.text if p.style in ("generated", "chosen")]
    # What a join took over is no call of this branch.
    assert made == [("a", 0, "x"), ("b", None, "x"), ("b", None, "x"), ("c", 1, "yes")]
    assert "".join(part.text for part in trace.root.text) == state.text()
    assert parts(state._script.chain) == trace.root.text


def test_branches_that_nobody_holds_have_no_text_left() -> None:
    state = finished(tree.run(backend=backend()))
    deadline = time.monotonic() + 10  # the loop that executed them may be the last to let go
    while any(branch.text is not None for branch in state.get_trace(texts=True).branches[1:]):
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.001)
    assert state.get_trace(texts=True).root.text is not None


def test_nested_runs_belong_to_the_run_that_started_them() -> None:
    @sgl.function
    def inner(s, name):
        s += name + sgl.gen("i")
        return s["i"]

    @sgl.function
    def outer(s):
        s += "out" + sgl.gen("o")
        for name in ("a", "b"):
            s += inner.run(name).ret_value

    state = finished(outer.run(backend=backend()))
    trace = state.trace
    assert [run.program for run in trace.walk()] == ["outer", "inner", "inner"]
    assert {run.parent for run in trace.nested} == {trace.run}
    assert (len(trace), trace.totals.calls) == (1, 3)
    assert state.fork(1)[0].trace.nested == ()


def test_a_run_remembers_so_many_nested_ones_and_counts_the_rest() -> None:
    facts = {"program": "p", "model": "m", "backend": "b", "parent": "", "began": 0.0, "wall": 0.0}
    runs = [RunRecord(id=str(i), **facts) for i in range(MOST_NESTED + 3)]
    for run in runs[1:]:
        runs[0].add_nested(run)
    assert (len(runs[0].nested), runs[0].num_nested_left_out) == (MOST_NESTED, 2)


async def test_async_programs_and_batches_have_the_same_traces() -> None:
    @sgl.function
    async def program(s, topic):
        s += topic + sgl.gen("a")
        branches = s.fork(2)
        branches += sgl.gen("b")
        await branches.ajoin()

    states = await program.arun_batch([{"topic": t} for t in "xyz"], backend=backend())
    for state in states:
        shape = [(b.path, [call.name for call in b.calls]) for b in state.trace.branches]
        assert shape == [("0", ["a"]), ("0.0-0", ["b"]), ("0.0-1", ["b"])]
        assert {call.rid.split("/")[0] for call in state.trace} == {state.trace.run}
    assert Totals.of(call for state in states for call in state.trace).calls == 9


def test_a_run_under_way_shows_what_has_ended() -> None:
    program = sgl.function(lambda s: s.__iadd__(sgl.gen("a") + sgl.gen("b")))
    hanging = Scripted(["one", Hang()])
    state = program.run(backend=hanging)
    assert state["a"] == "one"
    while len(hanging.calls) < 2:
        time.sleep(0.001)
    assert state.trace.seconds is None
    assert [call.name for call in state.trace] == ["a"]
    state.cancel()
    with pytest.raises(ProgramError):
        state.sync()
    assert finished(state).trace.totals.failed == 1


def test_incomplete_answers_are_marked() -> None:
    program = sgl.function(lambda s: s.__iadd__("Q" + sgl.gen("a", regex="[a-z ]+!", max_tokens=2)))
    state = finished(program.run(backend=Scripted(["far too long a text!"])))
    assert next(iter(state.trace)).incomplete
    assert state.trace.totals.incomplete == 1


def test_a_record_can_be_plain_data() -> None:
    trace = finished(tree.run(backend=backend())).trace
    plain = json.loads(json.dumps(trace.to_dict()))
    assert plain["branches"][0]["calls"][0]["name"] == "plan"
    assert plain["totals"] == asdict(trace.totals)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/ramet/pocket/model", "pocket"),
        ("/models/tiny-llama/", "tiny-llama"),
        ("/cache/models--org--name/snapshots/0abc", "org/name"),
        ("org/name", "org/name"),
        ("gpt-5", "gpt-5"),
        ("", ""),
    ],
)
def test_a_models_name_for_people(path: str, name: str) -> None:
    assert model_name(path) == name


def test_a_notebook_shows_what_calls_took_and_what_branches_wrote() -> None:
    kept = []

    @sgl.function
    def program(s):
        s += "Q:" + sgl.gen("a")
        branches = s.fork(2)
        branches += " <i>:" + sgl.gen("b")
        kept.extend(branches)
        branches.join()

    answers = Scripted({"Q:": "<u>", ":": "</pre><img src=x onerror=alert(1)>"}, share=True)
    page = finished(program.run(backend=answers))._repr_html_()
    assert page.count("<details") == 2
    assert "&lt;/pre&gt;&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<img" not in page
    assert "<u>" not in page
    assert "3 tok" in page
    assert "3 calls" in page
    kept.clear()


def test_a_terminal_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    finished(tree.run(backend=backend())).show()
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "8 calls" in last
    assert "cached" in last
    finished(flat.run(backend=Scripted([Fail("boom")]))).show()
    assert "1 call · 1 failed" in capsys.readouterr().out


def test_a_trace_prints_a_line_for_each_call() -> None:
    @sgl.function
    def program(s: sgl.ProgramState) -> None:
        s += "a" + sgl.gen("x") + sgl.gen("y")

    state = program.run(backend=Scripted(["secret", "b"]))
    state.sync()
    lines = str(state.trace).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["x", "y"]
    assert "secret" not in str(state.trace)
