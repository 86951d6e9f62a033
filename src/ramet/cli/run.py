"""`ramet run`: one run of one program, watched.

Knows the order of things (file, arguments, model, run, report) and the exit codes; the pieces know how.
The body of the program runs on the main thread, as it would under `python FILE`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramet.cli.failure import CANCELLED, FAILED, OK, UsageError, describe_failure
from ramet.cli.load import call_arguments, load_module, parse_arguments, pick_program, split_target
from ramet.cli.picture import Picture
from ramet.cli.report import Totals, call_as_json, totals, totals_as_json
from ramet.config import global_config
from ramet.errors import InvalidRequest
from ramet.lang.program import SglFunction
from ramet.lang.record import listening
from ramet.observe.spans import SpanListener, is_instrumented
from ramet.observe.trace import Collector, check_trace_path

__all__ = ["RunOptions", "run_command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the command line said; None where it said nothing."""

    target: str
    arguments: tuple[str, ...] = ()
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    as_json: bool = False
    plain: bool = False
    traceback: bool = False
    traces: tuple[str, ...] = ()
    texts: bool = False

    @property
    def run_defaults(self) -> dict[str, Any]:
        """Keyword arguments of `run`."""
        found = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "sampling_seed": self.seed,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(slots=True)
class Outcome:
    """What is known when the command ends, however it ends."""

    picture: Picture
    collector: Collector
    seconds: float = 0.0
    computed_tokens: int | None = None
    state: Any = None
    error: BaseException | None = None

    @property
    def totals(self) -> Totals:
        return totals(self.picture.calls, self.computed_tokens)

    @property
    def exit_code(self) -> int:
        if isinstance(self.error, KeyboardInterrupt):
            return CANCELLED
        return OK if self.error is None else FAILED


def run_command(options: RunOptions) -> int:
    """Do it all and return the exit code. Raises `UsageError` for what the command line got wrong."""
    file, name = split_target(options.target)
    traces = _trace_files(options)
    # With --json standard output is for the record alone; what the program prints goes to stderr.
    quiet = contextlib.redirect_stdout(sys.stderr) if options.as_json else contextlib.nullcontext()
    outcome = Outcome(Picture(), Collector(texts=options.texts))
    with quiet:
        try:
            module = load_module(file)
        except UsageError:
            raise
        except (Exception, KeyboardInterrupt) as error:
            outcome.error = error
        else:
            program = pick_program(module, name)
            arguments = parse_arguments(program, options.arguments)
            with _backend(options) as backend:
                _run(program, arguments, backend, options, outcome)
    _report(file.resolve(), outcome, options)
    for path in traces:
        outcome.collector.write(path)
        print(f"trace: {path}", file=sys.stderr)
    return outcome.exit_code


def _trace_files(options: RunOptions) -> list[Path]:
    """Wrong names are found before anything runs."""
    if options.texts and not options.traces:
        raise UsageError("--texts says what goes into a trace: give --trace FILE, too")
    try:
        return [check_trace_path(path) for path in options.traces]
    except InvalidRequest as error:
        raise UsageError(str(error)) from None


def _backend(options: RunOptions) -> AbstractContextManager[Any]:
    """The model that the command names; else the one that the file set; else the embedded one."""
    given = {
        "device": options.device,
        "dtype": options.dtype,
        "quantization": options.quantization,
    }
    named = options.model is not None or any(value is not None for value in given.values())
    if global_config.default_backend is not None and not named:
        return contextlib.nullcontext(global_config.default_backend)
    from ramet.cli.model import open_engine

    return open_engine(options.model or "pocket", **given)


def _run(
    program: SglFunction,
    arguments: dict[str, Any],
    backend: Any,
    options: RunOptions,
    outcome: Outcome,
) -> None:
    before, started = _computed_tokens(backend), time.perf_counter()
    try:
        with _watching(outcome, options), _view(outcome.picture, options):
            args, kwargs = call_arguments(program, arguments)
            outcome.state = program.run(*args, **kwargs, **options.run_defaults, backend=backend)
            outcome.error = outcome.state.error()
            outcome.picture.wait_until_over()
    except (Exception, KeyboardInterrupt) as error:
        outcome.error = error
        if outcome.state is not None:
            outcome.state.cancel()
    outcome.seconds = time.perf_counter() - started
    if before is not None:
        outcome.computed_tokens = (_computed_tokens(backend) or 0) - before


@contextlib.contextmanager
def _watching(outcome: Outcome, options: RunOptions) -> Iterator[None]:
    """Whoever listens besides the view: spans are made where somebody has set up OpenTelemetry
    (`opentelemetry-instrument ramet run ...`, say) and the program does not make them itself."""
    with contextlib.ExitStack() as watching:
        watching.enter_context(listening(outcome.picture.see))
        if options.traces:
            watching.enter_context(listening(outcome.collector))
        if "opentelemetry.sdk.trace" in sys.modules and not is_instrumented():
            watching.enter_context(listening(SpanListener()))
        yield


def _computed_tokens(backend: Any) -> int | None:
    """What an engine of ours has computed since it started; other backends do not count."""
    return getattr(getattr(backend, "stats", None), "num_computed_tokens", None)


@contextlib.contextmanager
def _view(picture: Picture, options: RunOptions) -> Iterator[None]:
    """What is shown while the program runs."""
    if options.as_json:
        yield
    elif options.plain or not sys.stdout.isatty():
        from ramet.cli.log import PlainLog

        with listening(PlainLog(sys.stdout).see):
            yield
    else:
        from rich.console import Console
        from rich.live import Live

        from ramet.cli.draw import running_tree

        console = Console()
        with Live(
            get_renderable=lambda: running_tree(picture, console),
            console=console,
            refresh_per_second=12,
            transient=True,
        ):
            yield


def _report(file: Path, outcome: Outcome, options: RunOptions) -> None:
    if options.as_json:
        record = _record(file, outcome, options)
        print(json.dumps(record, ensure_ascii=False, default=repr, indent=2))
    else:
        _show(outcome, options)
    if isinstance(outcome.error, KeyboardInterrupt):
        print("cancelled", file=sys.stderr)
    elif outcome.error is not None:
        said = describe_failure(outcome.error, file, options.traceback)
        print(f"ramet: {said}", file=sys.stderr)


def _show(outcome: Outcome, options: RunOptions) -> None:
    from rich.console import Console

    from ramet.cli.draw import calls_table, finished_tree, totals_line

    plain = options.plain or not sys.stdout.isatty()
    console = Console(
        color_system=None if plain else "auto", width=200 if plain else None, highlight=False
    )
    if not plain and outcome.picture.runs:
        console.print(finished_tree(outcome.picture))
    if outcome.picture.calls:
        console.print()
        console.print(calls_table(outcome.picture.calls))
        console.print(totals_line(outcome.totals, outcome.seconds))
    result = getattr(outcome.state, "ret_value", None)
    if outcome.error is None and result is not None:
        console.print(f"result: {result!r}", markup=False, soft_wrap=True)


def _record(file: Path, outcome: Outcome, options: RunOptions) -> dict[str, Any]:
    picture, state = outcome.picture, outcome.state
    first = next(iter(picture.runs.values()), None)
    finished = state is not None and outcome.error is None
    return {
        "file": str(file),
        "program": first.program if first else None,
        "text": state.text() if finished else None,
        "result": state.ret_value if finished else None,
        "error": describe_failure(outcome.error, file, options.traceback)
        if outcome.error
        else None,
        "seconds": outcome.seconds,
        "calls": [call_as_json(call) for call in picture.calls],
        "totals": totals_as_json(outcome.totals),
    }
