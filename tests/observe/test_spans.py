"""Runs and calls as OpenTelemetry spans, as the SDK's own exporter gets them."""

# ruff: noqa: ARG001 (bodies and fakes take what they are given)

from __future__ import annotations

import asyncio
import builtins
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.observe.observed import HOSTILE, PROMPT, backend, finished, overlapping, program, ran

import ramet as sgl
from ramet.backends.scripted import Fail, Hang, Scripted
from ramet.errors import Unsupported
from ramet.lang.record import RunRecord
from ramet.observe import instrument, uninstrument
from ramet.observe.spans import CONTENT

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
in_memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")


class Telescope:
    """A provider of its own, and what came out of it."""

    def __init__(self) -> None:
        self.exporter = in_memory.InMemorySpanExporter()
        self.provider = sdk.TracerProvider()
        self.provider.add_span_processor(export.SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self.exporter.get_finished_spans()
        return found

    def named(self, start: str) -> list[Any]:
        return [span for span in self.spans if span.name.startswith(start)]


@pytest.fixture
def scope(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telescope]:
    monkeypatch.delenv(CONTENT, raising=False)
    telescope = Telescope()
    instrument(telescope.provider)
    yield telescope
    uninstrument()


def parent(span: Any) -> int | None:
    return None if span.parent is None else span.parent.span_id


def test_a_run_is_a_span_and_its_calls_are_its_children(scope: Telescope) -> None:
    state = ran()
    [outer] = scope.named("invoke_workflow program")
    [inner] = scope.named("invoke_workflow helper")
    calls = scope.named("text_completion scripted")
    assert len(calls) == 10
    assert len(scope.spans) == 12
    assert parent(outer) is None
    assert parent(inner) == outer.context.span_id
    for call in calls:
        above = inner if call.attributes["ramet.variable"] == "seen" else outer
        assert parent(call) == above.context.span_id
        assert above.start_time <= call.start_time <= call.end_time <= above.end_time
    assert len({span.context.trace_id for span in scope.spans}) == 1
    branches = sorted(call.attributes["ramet.branch"] for call in calls)
    records = [c for run in state.trace.walk() for c in run.calls]
    assert branches == sorted(record.branch for record in records)
    assert outer.attributes["ramet.calls"] == 9


def test_attributes_follow_the_conventions(scope: Telescope) -> None:
    state = finished(
        sgl.function(lambda s: s.__iadd__("Q one two" + sgl.gen("a", n=2))).run(
            backend=Scripted(["three four"], share=True)
        )
    )
    [record] = state.trace
    [call] = scope.named("text_completion")
    found = dict(call.attributes)
    assert found["gen_ai.operation.name"] == "text_completion"
    assert found["gen_ai.provider.name"] == "ramet"
    assert found["gen_ai.request.model"] == "scripted"
    assert found["gen_ai.usage.input_tokens"] == record.prompt_tokens == 3
    assert found["gen_ai.usage.output_tokens"] == record.completion_tokens == 4
    assert found["gen_ai.usage.cache_read.input_tokens"] == 0
    assert found["gen_ai.response.finish_reasons"] == ("stop",)
    assert found["gen_ai.request.choice.count"] == 2
    assert found["ramet.variable"] == "a"
    assert found["code.file.path"] == __file__
    assert found["code.line.number"] == int(record.location.rpartition(":")[2])
    assert call.kind.name == "CLIENT"
    [run] = scope.named("invoke_workflow")
    assert run.attributes["gen_ai.operation.name"] == "invoke_workflow"


def test_roles_make_it_a_chat(scope: Telescope) -> None:
    @sgl.function
    def chat(s):
        s += sgl.user("hello") + sgl.assistant(sgl.gen("a"))

    finished(chat.run(backend=Scripted()))
    assert len(scope.named("chat scripted")) == 1


def test_names_in_the_conventions_are_spelt_as_there(scope: Telescope) -> None:
    names = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    known = {value for name, value in vars(names).items() if name.startswith("GEN_AI")}
    ran()
    used = {name for span in scope.spans for name in span.attributes if name.startswith("gen_ai")}
    assert used
    assert used <= known
    operations = {member.value for member in names.GenAiOperationNameValues}
    assert {span.attributes["gen_ai.operation.name"] for span in scope.spans} <= operations


def test_errors_are_marked_by_their_type(scope: Telescope) -> None:
    ran()
    [failed] = [span for span in scope.spans if span.status.status_code.name == "ERROR"]
    assert failed.attributes["error.type"] == "BackendError"
    assert failed.status.description == "BackendError"
    finished(
        sgl.function(lambda s: s.__iadd__(PROMPT + sgl.gen("a"))).run(backend=Scripted([Fail("x")]))
    )
    run = scope.named("invoke_workflow")[-1]
    assert run.attributes["error.type"] == "BackendError"


def test_the_exception_of_a_body_marks_the_run(scope: Telescope) -> None:
    @sgl.function
    def careless(s):
        raise LookupError(PROMPT)

    with pytest.raises(LookupError):
        careless.run(backend=Scripted())
    [run] = scope.named("invoke_workflow careless")
    assert run.attributes["error.type"] == "LookupError"
    assert PROMPT not in run.to_json()


def test_texts_stay_out_unless_asked_for(scope: Telescope) -> None:
    ran()
    assert scope.spans
    for span in scope.spans:
        assert PROMPT not in span.to_json()
        assert "alert" not in span.to_json()


@pytest.mark.parametrize("way", ["option", "environment"])
def test_texts_are_in_where_asked_for(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = Telescope()
    if way == "environment":
        monkeypatch.setenv(CONTENT, "true")
    instrument(scope.provider, texts=True if way == "option" else None)
    try:
        ran()
    finally:
        uninstrument()
    [plan] = [span for span in scope.spans if span.attributes.get("ramet.variable") == "plan"]
    said = json.loads(plan.attributes["gen_ai.input.messages"])
    assert said == [{"role": "user", "parts": [{"type": "text", "content": f"{PROMPT}: Q:"}]}]
    [answer] = json.loads(plan.attributes["gen_ai.output.messages"])
    assert answer == {"role": "assistant", "parts": [{"type": "text", "content": HOSTILE}]}
    [failed] = [span for span in scope.spans if span.status.status_code.name == "ERROR"]
    assert PROMPT in failed.status.description


def test_the_runs_span_is_current_in_its_body_and_under_the_callers(scope: Telescope) -> None:
    @sgl.function
    def say(s):
        with scope.tracer.start_as_current_span("mine"):
            s += "Q" + sgl.gen("a")
            s.sync()
            ran_inside = sgl.function(lambda s: s.__iadd__(sgl.gen("b"))).run()
            ran_inside.sync()

    with scope.tracer.start_as_current_span("request"):
        finished(say.run(backend=Scripted()))
    [request], [mine] = scope.named("request"), scope.named("mine")
    [outer] = scope.named("invoke_workflow say")
    [inner] = scope.named("invoke_workflow <lambda>")
    assert parent(outer) == request.context.span_id
    assert parent(mine) == outer.context.span_id
    assert parent(inner) == mine.context.span_id
    assert parent(scope.named("text_completion")[0]) == outer.context.span_id


def test_what_the_backend_does_is_under_the_call(scope: Telescope) -> None:
    class Http(Scripted):
        async def generate(self, call: Any, on_chunk: Any = None) -> Any:
            with scope.tracer.start_as_current_span(f"POST {call.rid.split('/')[1]}"):
                return await super().generate(call, on_chunk)

    @sgl.function
    def say(s):
        branches = s.fork(4)
        branches += sgl.gen("a") + sgl.gen("b")

    finished(say.run(backend=Http(latency=0.002)))
    posts = scope.named("POST")
    assert len(posts) == 8
    by_id = {span.context.span_id: span for span in scope.spans}
    above = [by_id[parent(post)] for post in posts]
    assert len({span.context.span_id for span in above}) == 8
    for post, call in zip(posts, above):
        assert call.attributes["ramet.branch"] == post.name.split()[1]


async def test_async_runs_side_by_side_keep_their_own_parents(scope: Telescope) -> None:
    @sgl.function
    async def say(s, topic):
        with scope.tracer.start_as_current_span(f"in {topic}"):
            s += topic + sgl.gen(topic)
            await s.value(topic)
            branches = s.fork(2)
            branches += sgl.gen(topic)
            await branches.ajoin()

    slow = Scripted(latency=0.002)
    await asyncio.gather(*(say.arun(topic, backend=slow) for topic in "abcd"))
    runs = {span.context.span_id: span for span in scope.named("invoke_workflow")}
    assert len(runs) == 4
    for topic in "abcd":
        [inside] = scope.named(f"in {topic}")
        calls = [s for s in scope.spans if s.attributes.get("ramet.variable") == topic]
        assert len(calls) == 3
        assert {parent(span) for span in calls} == {parent(inside)}
        assert parent(inside) in runs


def test_batches_in_threads_are_under_whoever_started_them(scope: Telescope) -> None:
    with scope.tracer.start_as_current_span("batch"):
        program.run_batch([{"width": 1}] * 4, backend=backend())
    [batch] = scope.named("batch")
    runs = scope.named("invoke_workflow program")
    assert [parent(run) for run in runs] == [batch.context.span_id] * 4
    assert {span.context.trace_id for span in scope.spans} == {batch.context.trace_id}


def test_a_cancelled_call_ends_its_span(scope: Telescope) -> None:
    hanging = Scripted([Hang()])
    state = sgl.function(lambda s: s.__iadd__(sgl.gen("a"))).run(backend=hanging)
    while not hanging.active:
        time.sleep(0.001)
    state.cancel()
    finished(state)
    [call] = scope.named("text_completion")
    assert call.attributes["error.type"] == "CancelledError"
    assert len(scope.named("invoke_workflow")) == 1


def test_spans_do_not_make_calls_stream(scope: Telescope) -> None:
    streamed: list[bool] = []

    class Watched(Scripted):
        async def generate(self, call: Any, on_chunk: Any = None) -> Any:
            streamed.append(on_chunk is not None)
            return await super().generate(call, on_chunk)

    finished(sgl.function(lambda s: s.__iadd__(sgl.gen("a"))).run(backend=Watched()))
    assert streamed == [False]
    assert len(scope.spans) == 2


def test_instrumenting_twice_makes_one_span_each_and_none_afterwards(scope: Telescope) -> None:
    second = Telescope()
    instrument(second.provider)
    ran()
    assert (len(scope.spans), len(second.spans)) == (0, 12)
    uninstrument()
    ran()
    assert len(second.spans) == 12


def test_a_broken_tracer_does_not_touch_the_program(
    scope: Telescope, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no span today")

    listener = instrument(scope.provider)
    monkeypatch.setattr(listener, "inside", broken)
    monkeypatch.setattr(listener._tracer, "start_span", broken)
    state = finished(
        sgl.function(lambda s: s.__iadd__(sgl.gen("a"))).run(backend=Scripted(["fine"]))
    )
    assert state["a"] == "fine"
    assert "a listener failed" in caplog.text


def test_without_the_package_it_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(Unsupported, match=r"ramet\[otel\]"):
        instrument()


def test_a_tool_is_a_span_of_its_own_kind(scope: Telescope) -> None:
    trace = overlapping()
    record = RunRecord(
        id="r", program="agent", model="m", backend="b", parent="", began=0.0, wall=0.0
    )
    listener = instrument(scope.provider)
    facts: dict[str, Any] = {"run": "r", "program": "agent", "branch": "0", "time": 0.0}
    listener(sgl.Event(kind="run_started", run_record=record, **facts))
    for call in trace.calls[1:]:
        told = {"name": call.name, "number": call.number, "location": call.location}
        listener(sgl.Event(kind="call_started", call_kind="tool", **told, **facts))
        listener(sgl.Event(kind="call_finished", record=call, **told, **facts))
    listener(sgl.Event(kind="run_finished", run_record=record, **facts))
    tools = scope.named("execute_tool")
    assert [span.name for span in tools] == [
        "execute_tool sum", "execute_tool find", "execute_tool sum",
    ]  # fmt: skip
    assert {span.kind.name for span in tools} == {"INTERNAL"}
    assert tools[1].attributes["gen_ai.tool.name"] == "find"
    assert tools[2].attributes["error.type"] == "ToolError"
    assert all("quagga" not in span.to_json() for span in scope.spans)
