"""Collecting the traces of all runs in a block of code, and writing traces to files.

Knows listeners and file names. The forms of the files are `chrome` and `html`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ramet.errors import InvalidRequest
from ramet.lang.record import Event, RunRecord, listening
from ramet.lang.trace import Prices, Trace, trace_of
from ramet.observe.chrome import chrome_trace
from ramet.observe.html import html_page

__all__ = ["Collector", "check_trace_path", "tracing", "write_trace"]

FORMS = (".json", ".html")


class Collector:
    """A listener that remembers every run that it hears of. With `texts` it keeps what was written and
    generated in memory until it goes."""

    wants_text = False  # it reads texts when it is asked, so nothing has to stream for it

    def __init__(self, *, texts: bool = False, prices: Prices | None = None) -> None:
        self.keeps_texts = texts
        self._prices = prices
        self._lock = threading.Lock()
        self._runs: list[RunRecord] = []
        self._known: set[str] = set()

    def __call__(self, event: Event) -> None:
        if event.kind != "run_started" or event.run_record is None:
            return
        with self._lock:
            self._known.add(event.run)
            if event.parent not in self._known:  # nested ones are in their parent's record
                self._runs.append(event.run_record)

    @property
    def traces(self) -> tuple[Trace, ...]:
        """One per run that no other run started, in the order of their beginnings."""
        with self._lock:
            runs = sorted(self._runs, key=lambda run: run.began)
        found = (trace_of(run, texts=self.keeps_texts) for run in runs)
        return tuple(t if self._prices is None else t.priced(self._prices) for t in found)

    def write(self, path: str | Path) -> None:
        """See `write_trace`."""
        write_trace(path, self.traces)


@contextmanager
def tracing(*, texts: bool = False, prices: Prices | None = None) -> Iterator[Collector]:
    """Collect the runs that are started inside the block, batches and nested runs too. Prompts, answers
    and messages of errors are left out unless `texts`."""
    collector = Collector(texts=texts, prices=prices)
    with listening(collector):
        yield collector


def check_trace_path(path: str | Path) -> Path:
    """Raises `InvalidRequest` for a name that says no known form. Costs nothing, so do it before a run."""
    path = Path(path)
    if path.suffix.lower() not in FORMS:
        raise InvalidRequest(
            "trace",
            str(path),
            "ends in no known form",
            "use .html (a page) or .json (Chrome trace)",
        )
    if not path.absolute().parent.is_dir():
        raise InvalidRequest("trace", str(path), "lies in a folder that does not exist")
    return path


def write_trace(path: str | Path, traces: Trace | Iterable[Trace]) -> None:
    """Write traces that were made in this process: `.html` is a page for people, `.json` Chrome's trace
    format for Perfetto and chrome://tracing. Both hold texts only if the traces do."""
    path = check_trace_path(path)
    found = [traces] if isinstance(traces, Trace) else list(traces)
    if path.suffix.lower() == ".html":
        path.write_text(html_page(found), "utf-8")
    else:
        with path.open("w", encoding="ascii") as file:
            json.dump(chrome_trace(found), file, allow_nan=False, separators=(",", ":"))
            file.write("\n")
