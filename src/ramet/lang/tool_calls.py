"""Turns in which a model calls tools: `s += use_tools("turn", [f, g])`.

The model writes, and where it begins a call (`<tool_call>`) the rest of the call is generated as JSON that
the backend keeps to the tools' schema if it can; else it is checked and asked for again. A backend that sees
messages only writes its whole answer, which is then taken apart. The functions run elsewhere, `def` in a
thread and `async def` on the loop for bodies, those of one answer at the same time. In a chat their results
are blocks of their own, in a text they follow the call.

Knows the order of a turn; `tools` knows texts and checks, `results` asks again, `calls` keeps the records.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ramet.backend import Completion
from ramet.errors import InvalidRequest, ResultError
from ramet.lang import calls, ir, results
from ramet.lang.calls import Call, Values
from ramet.lang.lower import GenerateOp, lower_gen
from ramet.lang.promise import Variable
from ramet.lang.result_types import Found, cut_after, enforced, json_at_start
from ramet.lang.run import Run
from ramet.lang.streaming import Piece
from ramet.lang.tool_runs import outcome
from ramet.lang.tools import (
    CALL_BEGIN,
    CALL_END,
    SglTools,
    Tool,
    ToolCall,
    ToolError,
    ToolTurn,
    calls_in,
    read_call,
    response_of,
    schema_of_calls,
)
from ramet.lang.values import Misfit
from ramet.prompt import Span, Text

if TYPE_CHECKING:
    from ramet.lang.chain import Chain, Step

__all__ = ["ToolsOp", "lower_tools", "use"]


@dataclass(frozen=True, slots=True)
class ToolsOp(ir.SglExpr):
    """The generations of a turn: `talk` up to a call, `call` one of any tool, `more` nothing or the beginning
    of another call, `forced` the one call that must be made, or its arguments."""

    said: SglTools
    talk: GenerateOp
    call: GenerateOp
    more: GenerateOp | None
    forced: GenerateOp | None

    def __repr__(self) -> str:
        return repr(self.said)


def lower_tools(run: Run, op: SglTools) -> ToolsOp:
    can, options = enforced(run.capabilities), op.options
    stops = options.get("stop", ())
    stops = (stops,) if isinstance(stops, str) else tuple(stops)
    heard = stops if can.chat_only else (*stops, CALL_BEGIN)

    def lowered(**changes: Any) -> GenerateOp:
        return lower_gen(run, ir.SglGen(op.name, {**options, **changes}))

    def constrained(schema: str) -> GenerateOp:
        if can.json_schema:
            return lowered(stop=(), json_schema=schema)
        return lowered(stop=() if can.chat_only else (CALL_END,))  # a message ends by itself

    talk = lowered(stop=heard if op.choice != "none" else stops)
    named = next((one for one in op.tools if one.name == op.choice), None)
    forced = None
    if named is not None:
        forced = constrained(schema_of_calls([named]) if can.chat_only else named.schema)
    several = can.regex and not can.chat_only and op.parallel
    more = lowered(stop=(), regex=f"(\n{CALL_BEGIN})?") if several else None
    return ToolsOp(op, talk, constrained(schema_of_calls(op.tools)), more, forced)


@dataclass(slots=True)
class _Turn:
    chain: Chain
    step: Step
    op: ToolsOp
    texts: list[str] = field(default_factory=list)
    made: list[ToolCall] = field(default_factory=list)
    metas: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tools(self) -> tuple[Tool, ...]:
        return self.op.said.tools

    @property
    def chat_only(self) -> bool:
        return self.chain.run.capabilities.chat_only

    # Asking

    async def ask(self, choice: str) -> list[ToolCall]:
        """The calls of one answer of the model, which is appended; none was made yet."""
        named = next((one for one in self.tools if one.name == choice), None)
        if named is not None:
            return [await self._forced(named)]
        if choice == "required":
            first = await self._one(self.op.call, f"{CALL_BEGIN}\n", f"\n{CALL_END}", self.tools)
            return [first, *await self._more()]
        if self.chat_only and choice == "auto":
            return await self._whole()
        return await self._listen(choice == "none")

    async def _more(self) -> list[ToolCall]:
        """Calls behind the first: the model may begin another or end, and nothing else."""
        found: list[ToolCall] = []
        while self.op.more is not None and len(found) + 1 < self.op.said.max_calls:
            text, _ = await self._generated(self.op.more)
            if CALL_BEGIN not in text:
                break
            found.append(await self._one(self.op.call, "\n", f"\n{CALL_END}", self.tools))
        return found

    async def _generated(self, op: GenerateOp) -> tuple[str, dict[str, Any]]:
        variable = Variable("", False)
        values = await calls.generate(self.chain, replace(self.step, op=op, variable=variable))
        [(_, text, meta)] = values
        self.metas.append(meta)
        return text, meta

    async def _listen(self, only_talk: bool = False) -> list[ToolCall]:
        """What the model writes by itself: text, calls, text, ..."""
        found: list[ToolCall] = []
        while True:
            text, meta = await self._generated(self.op.talk)
            self.texts.append(text)
            reason = meta.get("finish_reason")
            calls_now = isinstance(reason, Mapping) and reason.get("matched") == CALL_BEGIN
            if only_talk or not calls_now:
                return found
            begin, end = f"{CALL_BEGIN}\n", f"\n{CALL_END}"
            found.append(await self._one(self.op.call, begin, end, self.tools))
            if not self.op.said.parallel or len(found) >= self.op.said.max_calls:
                return found

    async def _forced(self, named: Tool) -> ToolCall:
        assert self.op.forced is not None
        if self.chat_only:
            return await self._one(self.op.forced, f"{CALL_BEGIN}\n", f"\n{CALL_END}", [named])
        before = f'{{"name": {json.dumps(named.name)}, "arguments": '
        begin, end = f"{CALL_BEGIN}\n{before}", f"}}\n{CALL_END}"
        return await self._one(self.op.forced, begin, end, [named], (before, "}"))

    async def _one(
        self,
        op: GenerateOp,
        begin: str,
        end: str,
        tools: Sequence[Tool],
        around: tuple[str, str] = ("", ""),
    ) -> ToolCall:
        """One call as JSON between `begin` and `end`; `around` is what of these is part of the JSON."""
        chain = self.chain
        if not self.chat_only:  # else the backend may not go on in a message that was begun
            chain.put(begin)

        def read(text: str, cut: bool) -> tuple[ToolCall, slice]:
            is_bare = CALL_BEGIN not in text or text.lstrip().startswith("{")
            start = 0 if is_bare else text.find(CALL_BEGIN) + len(CALL_BEGIN)
            try:
                end = start + json_at_start(text[start:], cut)[2]
            except Misfit as misfit:
                return ToolCall("", error=ToolError("malformed", str(misfit))), slice(0, len(text))
            json_text = f"{around[0]}{text[start:end]}{around[1]}"
            return read_call(json_text, tools), slice(start, end)

        call: ToolCall
        call, spans = await self._accepted(op, read)
        if self.chat_only:
            chain.put(begin)
        self._write(spans)
        chain.put(end)
        return call

    async def _whole(self) -> list[ToolCall]:
        """An answer with any number of calls, taken apart when it is complete."""

        def read(text: str, cut: bool) -> tuple[tuple[str, list[ToolCall]], slice]:
            return calls_in(text, self.tools, cut=cut), slice(0, len(text))

        beside: str
        found: list[ToolCall]
        (beside, found), spans = await self._accepted(self.op.talk, read)
        self.texts.append(beside)
        self._write(spans)
        return found

    async def _accepted(self, op: GenerateOp, read: Any) -> tuple[Any, tuple[Span, ...]]:
        """What `read` makes of the answer: of the last one, with its errors, if no retry is left."""

        def accept(completion: Completion) -> Found:
            cut = cut_after(completion) is not None
            found, kept = read(completion.text, cut)
            for call in [found] if isinstance(found, ToolCall) else found[1]:
                if call.error is not None:
                    raise Misfit(call.error.message, is_cut=cut and call.error.kind == "malformed")
            text = completion.text[kept]
            whole = text == completion.text
            return Found(found, text, completion.spans if whole else (Text(text),))

        wanted = "a call of a tool, as JSON with its name and its arguments"
        try:
            [given] = await results.answer(
                self.chain, replace(self.step, variable=None), op, accept, wanted, shown=False
            )
        except ResultError as error:
            cut = isinstance(error.__cause__, Misfit) and error.__cause__.is_cut
            return read(error.text, cut)[0], (Text(error.text),)
        self.metas.append(given.meta_info)
        return given.found.value, given.found.spans

    def _write(self, spans: tuple[Span, ...]) -> None:
        text = self.chain.write(spans, "generated", self.op.said.name, self.chain.num_calls - 1)
        if self.chain.run.has_stream and text:
            self.chain.say(Piece(text), "generated", self.op.said.name)

    # Making the calls

    async def make(self, asked: Sequence[ToolCall]) -> list[ToolCall]:
        """The calls with what came of them. A failure of one does not touch the others."""
        said = self.op.said
        left = said.max_calls - len(self.made)
        allowed = min(left, len(asked)) if said.parallel else min(left, 1)
        now = [self._make(call) for call in asked[:allowed]]
        refused = ToolError("refused", "no more calls are allowed here")
        done = list(await asyncio.gather(*now))
        done += [replace(call, error=call.error or refused) for call in asked[allowed:]]
        self.made += done
        return done

    async def _make(self, asked: ToolCall) -> ToolCall:
        if asked.error is not None:
            return asked
        tool = next(one for one in self.tools if one.name == asked.name)
        record = Call(self.chain, self.step, tool.name, 1, "tool")
        started = time.perf_counter()
        timeout = self.op.said.timeout if tool.timeout is None else tool.timeout
        try:
            value, error = await outcome(self.chain.run, tool, asked.arguments or {}, timeout)
        except BaseException as failure:  # cancelled: recorded, too
            record.failed(failure)
            raise
        record.finished([], None if error is None else f"ToolError: {error.message}")
        seconds = time.perf_counter() - started
        return replace(asked, value=value, error=error, seconds=seconds)

    async def show(self, done: Sequence[ToolCall], in_chat: bool) -> None:
        """Append the results, as blocks of a chat or as text."""
        if not in_chat:
            for call in done:
                self.chain.put(f"\n{_RESPONSE[0]}\n{response_of(call)}\n{_RESPONSE[1]}\n")
            return
        role = _role_of_results(self.chain)
        for call in done:
            await self.chain.perform(replace(self.step, op=ir.SglRoleBegin(role), variable=None))
            text = response_of(call)
            self.chain.put(text if role == "tool" else f"{_RESPONSE[0]}\n{text}\n{_RESPONSE[1]}")
            await self.chain.perform(replace(self.step, op=ir.SglRoleEnd(role), variable=None))


_RESPONSE = ("<tool_response>", "</tool_response>")


def _role_of_results(chain: Chain) -> str:
    """ "tool" where the template has it; services that see messages want more of such a message than a text."""
    if chain.run.capabilities.chat_only:
        return "user"
    try:
        chain.run.template.get_prefix_and_suffix("tool", chain.position.messages)
    except InvalidRequest:
        return "user"
    return "tool"


async def use(chain: Chain, step: Step) -> Values:
    """A turn: the model's answer, its calls, their results; up to `max_rounds` such, until it calls none."""
    op = step.op
    assert isinstance(op, ToolsOp)
    turn = _Turn(chain, step, op)
    in_chat = chain.position.role is None and bool(
        chain.position.messages or chain.run.capabilities.chat_only
    )
    rounds, choice = 0, op.said.choice
    while rounds < op.said.max_rounds:
        rounds += 1
        if in_chat:
            await chain.perform(replace(step, op=ir.SglRoleBegin("assistant"), variable=None))
        asked = await turn.ask(choice)
        if in_chat:
            await chain.perform(replace(step, op=ir.SglRoleEnd("assistant"), variable=None))
        if not asked:
            break
        await turn.show(await turn.make(asked), in_chat)
        choice = "auto" if len(turn.made) < op.said.max_calls else "none"
    if step.variable is None:
        return ()
    text = (
        "".join(turn.texts)
        if not turn.made
        else "\n".join(t.strip() for t in turn.texts if t.strip())
    )
    return ((step.variable, ToolTurn(text, tuple(turn.made)), _meta(turn, rounds, text)),)


def _meta(turn: _Turn, rounds: int, text: str) -> dict[str, Any]:
    """Tokens of all answers of the turn, as far as the backend told."""
    sums: dict[str, Any] = {}
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
        told = [meta[name] for meta in turn.metas if isinstance(meta.get(name), int)]
        if told:
            sums[name] = sum(told)
    last = turn.metas[-1].get("finish_reason") if turn.metas else None
    return {**sums, "finish_reason": last, "rounds": rounds, "calls": len(turn.made), "text": text}
