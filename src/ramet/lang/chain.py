"""A chain: the operations on one prompt, executed in order.

Knows when an operation runs and what becomes of those behind a failed one; `interpreter` knows what each
one does. An idle chain executes an operation that needs no waiting in the thread that submits it; anything
else is queued, and one task per active chain works it off on the chain loop. An idle chain costs no task
and no thread. A branch is *held* until its parent reaches the position at which it was forked.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ramet.errors import Aborted, ProgramError
from ramet.lang import interpreter
from ramet.lang.ahead import Ahead
from ramet.lang.blocks import HeldBack
from ramet.lang.calls import Values
from ramet.lang.ir import SglExpr, SglFork
from ramet.lang.location import Where, program_error
from ramet.lang.position import Position
from ramet.lang.promise import Promise, Variable
from ramet.lang.record import CallRecord, Event, Style, stroke
from ramet.lang.run import Run
from ramet.lang.runtime import chain_loop, post
from ramet.lang.streaming import Log, Piece
from ramet.prompt import EMPTY, Prompt, Span

__all__ = ["Chain", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """An operation in a chain: what, where in the program, and who waits for it.

    `variable` gets the operation's value. `reached` is set to the position after the operation.
    `branches` are those of a fork or a join; `gathered` says for a join which new variables of the
    parent are made of which variables of which branches. `parts` are the steps that this one consists of.
    """

    op: SglExpr
    where: Where
    variable: Variable | None = None
    reached: Promise[Position] | None = None
    branches: tuple[Chain, ...] = ()
    gathered: tuple[tuple[Variable, list[Variable]], ...] = ()
    parts: tuple[Step, ...] = ()

    def announce(self, outcome: interpreter.Outcome) -> None:
        """The operation is done: whoever waits for it gets what it gave."""
        for variable, value, meta_info in outcome.values:
            variable.set(value, meta_info)
        if self.reached is not None:
            self.reached.set(outcome.position)

    def refuse(self, error: ProgramError) -> None:
        """The operation will never be done: whoever waits for it gets `error`."""
        if self.variable is not None:
            self.variable.fail(error)
        for variable, _ in self.gathered:
            variable.fail(error)
        for part in self.parts:
            part.refuse(error)
        if self.reached is not None:
            self.reached.fail(error)
        if isinstance(self.op, SglFork):
            for branch in self.branches:
                branch.abandon(error)


class Chain:
    """`path` names the branch within its run: "0" is the program, "0.2-5" branch 5 of its fork 2."""

    def __init__(self, run: Run, path: str = "0", *, held: bool = False) -> None:
        self.run, self.path = run, path
        self.position = Position()
        self.start = EMPTY  # where a branch begins
        self.ended: Promise[Position] = Promise()  # set when a join has all of the branch
        self.error: ProgramError | None = None
        self.scopes: dict[str, Prompt] = {}
        self.calls: list[CallRecord] = []
        self.num_calls = 0
        self.ahead: Ahead | None = None  # what the model said beyond the last field
        self.bill: list[dict[str, Any]] = []  # the calls for that, until a field has paid
        self.in_block = False
        speaks = run.num_api_spec_tokens is not None and run.capabilities.chat_only
        self.held_back = HeldBack() if speaks and not run.eager else None
        self.log: Log | None = None
        self.base: Promise[Prompt] = Promise()  # what the log's first piece follows
        if run.stream:
            self.log = Log()
            run.logs.append(self.log)
        if not held:
            self.base.set(EMPTY)
        self._lock = threading.Lock()
        self._pending: deque[Step] = deque()
        self._task: asyncio.Task[None] | None = None
        self._busy = held
        run.record.add_chain(self)

    # Order

    def submit(self, step: Step) -> None:
        """Execute now if that needs no waiting, or as soon as all that was submitted before is done."""
        for ready in (step,) if self.held_back is None else self.held_back.offer(step):
            self._submit(ready)

    def release(self) -> None:
        """Somebody waits, or nothing more will come: nothing is held back any longer."""
        for ready in () if self.held_back is None else self.held_back.release():
            self._submit(ready)

    def _submit(self, step: Step) -> None:
        inline = start = False
        with self._lock:
            failed = self.error
            if failed is None:
                inline = not self._busy and type(step.op) in interpreter.IMMEDIATE
                start = not self._busy and not inline
                if not inline:
                    self._pending.append(step)
                self._busy = True
        if failed is not None:
            step.refuse(failed)
        elif inline:
            self._execute_here(step)
        elif start:
            self._start()

    def open(self, position: Position) -> None:
        """The parent has come to this branch's beginning."""
        self.position, self.start = position, position.prompt
        self.base.set(position.prompt)
        self._go_on()

    def abandon(self, error: ProgramError) -> None:
        """The parent will never come to this branch's beginning."""
        self.base.set(EMPTY)
        for step in self._stop(error):
            step.refuse(error)
        self._go_on()

    def _execute_here(self, step: Step) -> None:
        outcome = None
        try:
            outcome = interpreter.execute_now(self, step)
        except Exception as error:
            self._fail(step, error)
        self._go_on()
        if outcome is not None:
            step.announce(outcome)

    def _go_on(self) -> None:
        with self._lock:
            self._busy = bool(self._pending)
            if not self._busy:
                return
        self._start()

    def _start(self) -> None:
        self.run.enter()
        post(self._spawn)

    def _spawn(self) -> None:
        task = chain_loop().create_task(self._drain(), context=self.run.context.copy())
        self._task = task  # a loop keeps no task alive by itself

    async def _drain(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.run.tasks.add(task)  # only now: a task cancelled before it begins does nothing at all
        step = self._next()
        while step is not None:
            outcome = None
            try:
                self.run.check()
                outcome = await interpreter.execute(self, step)
            except asyncio.CancelledError:
                self._fail(step, Aborted(self.run.cancelled or "the call was cancelled"))
            except Exception as error:
                self._fail(step, error)
            done, step = step, self._next()
            if outcome is not None:
                done.announce(outcome)
        self.run.tasks.discard(task)
        self.run.leave()

    async def perform(self, part: Step) -> Values:
        """Carry out a part of an operation. A failure names the part's own line."""
        try:
            return (await interpreter.execute(self, part)).values
        except ProgramError:
            raise
        except Exception as error:
            raise program_error(part.where, interpreter.describe(part.op), error) from error

    def _next(self) -> Step | None:
        with self._lock:
            if self._pending:
                return self._pending.popleft()
            self._busy = False
            return None

    # Failure

    def _fail(self, step: Step, cause: Exception) -> None:
        known = isinstance(cause, ProgramError)
        error = cause if known else program_error(step.where, interpreter.describe(step.op), cause)
        assert isinstance(error, ProgramError)
        refused = self._stop(error)
        self.run.announce_failure(self.path, error)
        for other in (step, *refused):
            other.refuse(error)

    def _stop(self, error: ProgramError) -> list[Step]:
        with self._lock:
            self.error = error
            refused = list(self._pending)
            self._pending.clear()
        if self.log is not None:
            self.log.close(error)
        return refused

    # What operations do to the position

    def write(
        self,
        spans: Iterable[Span | str],
        style: Style = "text",
        name: str | None = None,
        call: int | None = None,
    ) -> str:
        """Append to the prompt; returns the text."""
        p = self.position
        prompt = p.prompt.extend(spans)
        if prompt is p.prompt:
            return ""
        ink = p.ink if style == "text" else stroke(p.ink, p.prompt, prompt, style, name, call)
        self.position = Position(prompt, ink, p.messages, p.role)
        return prompt.text(since=p.prompt)

    def say(self, piece: Piece, style: Style = "text", name: str | None = None) -> None:
        """Tell readers and listeners of appended text."""
        if self.log is not None:
            self.log.append(piece)
        if self.run.listeners and piece.text:
            self.run.tell(
                Event(
                    kind="text",
                    text=piece.text,
                    style=style,
                    name=name,
                    **self.run.facts(self.path),
                )
            )

    def put(self, text: str, style: Style = "text", name: str | None = None) -> None:
        """`write` and `say` for text that is there at once."""
        if text:
            self.write((text,), style, name)
            if self.run.has_stream:
                self.say(Piece(text), style, name)

    def add_record(self, record: CallRecord) -> None:
        self.calls.append(record)
        self.run.calls.append(record)

    def rid(self, number: int) -> str:
        return f"{self.run.id}/{self.path}/{number}"
