"""A run as plain lines, for pipes and files: what is known is written once, in the order in which it
became known.

    0: Name a fruit.            a program wrote this
    0: [fruit] apple            a call filled the variable `fruit`
    0: fork into 0.0-0, 0.0-1   branch 0 goes on as two

Knows events; refuses to know terminals: no colours, no cursor, and a text is written when it is whole.
"""

from __future__ import annotations

import threading
from typing import TextIO

from ramet.cli.picture import Written
from ramet.lang.record import Event, Style

__all__ = ["PlainLog"]


class PlainLog:
    """`log.see` is a listener that writes to `out`. Programs other than the first are named."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._first_run: str | None = None
        self._open: dict[tuple[str, str], Written] = {}  # the text that a branch is writing

    def see(self, event: Event) -> None:
        with self._lock:
            self._first_run = self._first_run or event.run
            if event.kind == "text":
                self._text(event)
            elif event.kind == "run_finished":
                self._flush_run(event)
            elif (
                event.kind != "call_started"
            ):  # a variable's text follows what was written before it
                self._flush(event, event.branch)
            if event.kind == "fork":
                self._line(event, event.branch, f"fork into {', '.join(event.branches)}")
            elif event.kind == "failed":
                self._line(event, event.branch, f"failed: {event.error}")

    def _text(self, event: Event) -> None:
        answered = event.style in ("generated", "chosen")
        name = event.name if answered else None
        style: Style = "generated" if answered else "text"
        writing = self._open.get((event.run, event.branch))
        if writing is None or (writing.style, writing.name) != (style, name):
            self._flush(event, event.branch)
            writing = self._open[event.run, event.branch] = Written("", style, name)
        writing.text += event.text

    def _flush_run(self, event: Event) -> None:
        for run, branch in list(self._open):
            if run == event.run:
                self._flush(event, branch)

    def _flush(self, event: Event, branch: str) -> None:
        writing = self._open.pop((event.run, branch), None)
        if writing is None or not writing.text.strip():
            return
        mark = f"[{writing.name or 'gen'}] " if writing.style == "generated" else ""
        for line in writing.text.strip("\n").split("\n"):
            self._line(event, branch, mark + line)
            mark = " " * len(mark)

    def _line(self, event: Event, branch: str, text: str) -> None:
        program = "" if event.run == self._first_run else f"{event.program} "
        self._out.write(f"{program}{branch}: {text}".rstrip() + "\n")
        self._out.flush()
