"""What a run looks like at this moment: programs, their branches, what each wrote and what came back.

Knows events of the language and turns them into plain objects; refuses to know how these are drawn.
Events arrive on the language's threads while another thread draws, so both hold `lock`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from ramet.lang.record import CallRecord, Event, Style

__all__ = ["Branch", "Call", "Fork", "Picture", "Run", "Written"]


@dataclass(slots=True)
class Written:
    """Text of one style; `name` is the variable of a call that made it."""

    text: str
    style: Style
    name: str | None = None


@dataclass(slots=True)
class Fork:
    """Here the branch was forked into `branches`."""

    branches: list[Branch]


@dataclass(slots=True)
class Branch:
    path: str
    items: list[Written | Fork] = field(default_factory=list)
    calls_open: int = 0
    joined: bool = False
    error: BaseException | None = None

    def write(self, text: str, style: Style, name: str | None) -> None:
        last = self.items[-1] if self.items else None
        if isinstance(last, Written) and (last.style, last.name) == (style, name):
            last.text += text
        else:
            self.items.append(Written(text, style, name))


@dataclass(slots=True)
class Run:
    """One run of one program. A program that runs another one makes two runs."""

    id: str
    program: str
    branches: dict[str, Branch] = field(default_factory=dict)
    finished: bool = False

    @property
    def root(self) -> Branch:
        return self.branch("0")

    def branch(self, path: str) -> Branch:
        found = self.branches.get(path)
        if found is None:
            found = self.branches[path] = Branch(path)
        return found


@dataclass(frozen=True, slots=True)
class Call:
    """A finished call and the run that it belongs to."""

    run: Run
    record: CallRecord


class Picture:
    """Listens to runs (`picture.see` is a listener) and keeps all that was seen."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        self.runs: dict[str, Run] = {}
        self.calls: list[Call] = []

    def see(self, event: Event) -> None:
        with self.lock:
            run = self.runs.get(event.run)
            if run is None:
                run = self.runs[event.run] = Run(event.run, event.program)
            self._see(run, run.branch(event.branch), event)
            self.lock.notify_all()

    def _see(self, run: Run, branch: Branch, event: Event) -> None:
        if event.kind == "text":
            branch.write(event.text, event.style, event.name)
        elif event.kind == "call_started":
            branch.calls_open += 1
        elif event.kind == "call_finished":
            branch.calls_open -= 1
            if event.record is not None:
                self.calls.append(Call(run, event.record))
        elif event.kind == "fork":
            branch.items.append(Fork([run.branch(path) for path in event.branches]))
        elif event.kind == "join":
            for path in event.branches:
                run.branch(path).joined = True
        elif event.kind == "failed":
            branch.error = event.error
        elif event.kind == "run_finished":
            run.finished = True

    def wait_until_over(self) -> None:
        """Wait for everything that was started, branches that nobody joined included."""
        with self.lock:
            self.lock.wait_for(lambda: all(run.finished for run in self.runs.values()))

    def branches(self) -> Iterator[Branch]:
        for run in self.runs.values():
            yield from run.branches.values()
