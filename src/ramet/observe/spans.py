"""Runs and calls as OpenTelemetry spans, named by its conventions for generative AI.

Knows events of the language and the API of `opentelemetry`, which it imports when it is asked to
instrument and not before. A run is a span (`invoke_workflow`), each of its calls a child of it (`chat` or
`text_completion`); a run that another one started is a child of what was current in that one's body. A
run's span is current in its body and a call's span around the backend's work, so that spans of HTTP
clients and of user code find their places. Prompts, answers and messages of errors stay out unless asked
for. Conventions: https://opentelemetry.io/docs/specs/semconv/gen-ai/ (in development, as of 2026).
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from ramet.errors import Unsupported
from ramet.lang.record import CallRecord, Event, RunRecord, always_listening, stop_listening
from ramet.lang.trace import model_name, parts

__all__ = ["SpanListener", "instrument", "is_instrumented", "uninstrument"]

CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
PROVIDERS = {
    "OpenAI": "openai",
    "Anthropic": "anthropic",
    "Gemini": "gcp.gemini",
    "VertexAI": "gcp.vertex_ai",
}  # of the backends; all others are ours

_installed: SpanListener | None = None


def instrument(tracer_provider: Any = None, *, texts: bool | None = None) -> SpanListener:
    """From now on every run of this process makes spans, with the process's tracer provider or the one
    given. Prompts and answers are left out unless `texts`, or, where that is None, the variable
    OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT asks for them. Calling it again replaces the first.
    Raises `Unsupported` if `opentelemetry-api` is not installed."""
    global _installed
    listener = SpanListener(tracer_provider, texts=texts)
    uninstrument()
    always_listening(listener)
    _installed = listener
    return listener


def uninstrument() -> None:
    """Runs that start from now on make no spans."""
    global _installed
    if _installed is not None:
        stop_listening(_installed)
        _installed = None


def is_instrumented() -> bool:
    return _installed is not None


def _content_wanted() -> bool:
    return os.environ.get(CONTENT, "").strip().lower() in (
        "true",
        "1",
        "span_only",
        "span_and_event",
    )


class SpanListener:
    """Makes the spans. `instrument` gives it all runs; `listening(SpanListener())` those of a block."""

    wants_text = False

    def __init__(self, tracer_provider: Any = None, *, texts: bool | None = None) -> None:
        try:
            from opentelemetry import context, trace
        except ImportError as error:
            raise Unsupported(
                "spans need opentelemetry-api: pip install 'ramet[otel]', and an SDK to export them"
            ) from error
        self._context, self._trace = context, trace
        self._tracer = trace.get_tracer("ramet", tracer_provider=tracer_provider)
        self._texts = _content_wanted() if texts is None else texts
        self._lock = threading.Lock()
        self._runs: dict[str, tuple[Any, RunRecord]] = {}
        self._calls: dict[tuple[str, str, int | None], tuple[Any, Any]] = {}

    def __call__(self, event: Event) -> None:
        match event.kind:
            case "run_started":
                self._run_started(event)
            case "call_started":
                self._call_started(event)
            case "call_finished":
                self._call_finished(event)
            case "failed" if event.branch == "0" and event.error is not None:
                self.run_failed(event.run, event.error.__cause__ or event.error)
            case "run_finished":
                self._run_finished(event)

    # Runs

    def _run_started(self, event: Event) -> None:
        assert event.run_record is not None
        attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": event.program,
            "gen_ai.provider.name": PROVIDERS.get(event.run_record.backend, "ramet"),
            "gen_ai.request.model": model_name(event.run_record.model),
            "ramet.run": event.run,
        }
        span = self._tracer.start_span(f"invoke_workflow {event.program}", attributes=attributes)
        if (
            span.get_span_context().is_valid
        ):  # else nobody has set up an SDK, and there is nothing to do
            with self._lock:
                self._runs[event.run] = span, event.run_record

    def inside(self, run: str) -> _Inside:
        """The run's span is the current one inside."""
        return _Inside(self, run)

    def run_failed(self, run: str, error: BaseException) -> None:
        span, _ = self._runs.get(run, (None, None))
        if span is not None:
            self._blame(span, type(error).__name__, str(error))

    def _run_finished(self, event: Event) -> None:
        with self._lock:
            span, record = self._runs.pop(event.run, (None, None))
        if span is not None and record is not None:
            span.set_attribute("ramet.calls", len(record.calls))
            span.end()

    # Calls

    def _call_started(self, event: Event) -> None:
        span, record = self._runs.get(event.run, (None, None))
        if span is None or record is None:
            return
        name, attributes = _named(event, record) if span.is_recording() else ("call", {})
        kinds, above = self._trace.SpanKind, self._trace.set_span_in_context(span)
        kind = kinds.INTERNAL if event.call_kind == "tool" else kinds.CLIENT
        call = self._tracer.start_span(name, above, kind, attributes)
        # A call begins and ends in one task of its own, so this touches nobody else's context.
        token = self._context.attach(self._trace.set_span_in_context(call))
        with self._lock:
            self._calls[event.run, event.branch, event.number] = call, token

    def _call_finished(self, event: Event) -> None:
        with self._lock:
            span, token = self._calls.pop((event.run, event.branch, event.number), (None, None))
        if span is None or event.record is None:
            return
        self._context.detach(token)
        if span.is_recording():
            span.set_attributes(_usage(event.record))
            if self._texts and event.record.kind != "tool":
                span.set_attributes(self._content(event, event.record))
            if event.record.error is not None:
                kind = event.record.error_type or "Error"
                self._blame(span, kind, event.record.error[len(kind) + 2 :])
        span.end()

    def _content(self, event: Event, record: CallRecord) -> dict[str, str]:
        """The prompt as one message and the answer as another: what the program's text was."""
        _, run = self._runs.get(event.run, (None, None))
        chain = None if run is None else run.chain(event.branch)
        if chain is None:
            return {}
        found = parts(chain)
        last = found[-1].call if found else None
        answer = found[-1].text if record.error is None and last == record.number else ""
        before = "".join(part.text for part in found).removesuffix(answer)
        return {
            "gen_ai.input.messages": _messages("user", before),
            "gen_ai.output.messages": _messages("assistant", answer),
        }

    def _blame(self, span: Any, kind: str, message: str) -> None:
        span.set_attribute("error.type", kind)
        status = self._trace.Status(self._trace.StatusCode.ERROR, message if self._texts else kind)
        span.set_status(status)


class _Inside:
    """Not a generator: one that is entered for good and thrown away must do nothing when it goes."""

    def __init__(self, listener: SpanListener, run: str) -> None:
        self._listener, self._run = listener, run
        self._token: Any = None

    def __enter__(self) -> None:
        span, _ = self._listener._runs.get(self._run, (None, None))
        if span is not None:
            current = self._listener._trace.set_span_in_context(span)
            self._token = self._listener._context.attach(current)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self._listener.run_failed(self._run, error)
        if self._token is not None:
            self._listener._context.detach(self._token)


def _named(event: Event, record: RunRecord) -> tuple[str, dict[str, Any]]:
    """A call's span as it begins: its name and attributes."""
    file, _, line = event.location.rpartition(":")
    place = {
        "ramet.run": event.run,
        "ramet.branch": event.branch,
        "code.file.path": file,
        "code.line.number": int(line) if line.isdigit() else 0,
    }
    if event.call_kind == "tool":
        tool = event.name or "unnamed"
        said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool}
        return f"execute_tool {tool}", {**said, **place}
    model, operation = model_name(record.model), _operation(record, event.branch)
    said = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDERS.get(record.backend, "ramet"),
        "gen_ai.request.model": model,
        "ramet.variable": event.name or "",
    }
    return f"{operation} {model}", {**said, **place}


def _operation(record: RunRecord, branch: str) -> str:
    chain = record.chain(branch)
    is_chat = chain is not None and (chain.position.role or chain.position.messages)
    return "chat" if is_chat else "text_completion"


def _usage(record: CallRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "gen_ai.response.time_to_first_chunk": record.first_token_seconds,
        "gen_ai.response.id": record.rid,
        "ramet.kind": record.kind,
        "ramet.forced_tokens": record.forced_tokens,
        "ramet.drafted_tokens": record.drafted_tokens,
        "ramet.retries": record.retries or None,
        "ramet.incomplete": record.incomplete or None,
        "ramet.cost": record.cost,
    }
    if record.finish_reason is not None:
        facts["gen_ai.response.finish_reasons"] = (record.finish_reason,)
    if record.samples > 1 and record.kind == "generate":
        facts["gen_ai.request.choice.count"] = record.samples
    return {name: value for name, value in facts.items() if value is not None}


def _messages(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])
