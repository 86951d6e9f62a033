"""Assistant blocks said in one call: speculation for backends that see messages only.

Such a backend answers with a whole message, so the texts and generations of an assistant block are held back
until the block ends, or until somebody wants to know something of it. Then one call, with no stop strings,
says the whole block, and `speculation` matches it from left to right. Knows the order in which a program
speaks; refuses to know how a text is matched, or what becomes of a field that is not.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ramet.lang import ir, results, speculation
from ramet.lang.ahead import problem_with, unfit
from ramet.lang.calls import Values
from ramet.lang.lower import GenerateOp

if TYPE_CHECKING:
    from ramet.lang.chain import Chain, Step

__all__ = ["Block", "HeldBack", "execute"]


@dataclass(frozen=True, slots=True)
class Block(ir.SglExpr):
    """Texts and generations of one assistant block, or of its part so far: the `parts` of its step."""


class HeldBack:
    """The operations of a chain's open assistant block, in the program's order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: list[Step] = []
        self.inside = False

    def offer(self, step: Step) -> list[Step]:
        """The steps to be executed now: none if this one is held back, else those before it and it."""
        op = step.op
        with self._lock:
            if self.inside and isinstance(op, (ir.SglConstantText, GenerateOp)):
                self._steps.append(step)
                return []
        ready = self.release()
        if isinstance(op, ir.SglRoleBegin):
            self.inside = op.role == "assistant"
        elif isinstance(op, ir.SglRoleEnd):
            self.inside = False
        elif isinstance(op, ir.SglFork):
            for branch in step.branches:
                if branch.held_back is not None:
                    branch.held_back.inside = self.inside
        return [*ready, step]

    def release(self) -> list[Step]:
        """What was held back: as one step if one call for several fields may be worth it."""
        with self._lock:
            steps, self._steps = self._steps, []
        fields = [step for step in steps if isinstance(step.op, GenerateOp)]
        if len(fields) < 2:
            return steps
        first = fields[0]
        return [replace(first, op=Block(), variable=None, parts=tuple(steps))]


async def execute(chain: Chain, step: Step) -> Values:
    """Say the block, then carry out its parts: what was not said as the program wants it has a call of its
    own. An error names the line of the part that failed; what came before it stays readable."""
    fields = [part.op for part in step.parts if isinstance(part.op, GenerateOp)]
    found: list[Any] = []
    chain.in_block = True
    try:
        first = next((op for op in fields if unfit(op) is None), None)
        if first is not None:
            await _say(chain, step, first)
        for part in step.parts:
            found.extend(await chain.perform(part))
    except BaseException:
        for variable, value, meta_info in found:
            variable.set(value, meta_info)
        raise
    finally:
        chain.in_block, chain.ahead, chain.bill = False, None, []
    return tuple(found)


MOST_ASKS = 3


async def _say(chain: Chain, step: Step, op: GenerateOp) -> None:
    """One call for the block. A backend that cannot go on in a block that was begun could not say single
    fields either: it is shown the form and asked again, up to `MOST_ASKS` times in all."""
    num_tokens = chain.run.num_api_spec_tokens
    assert num_tokens is not None
    asks = 1 if chain.run.capabilities.prefill else MOST_ASKS
    place = None
    for left in reversed(range(asks)):
        meta, _ = await speculation.speak(chain, step, op, num_tokens, place=place)
        chain.bill.append(meta)
        ahead = chain.ahead
        assert ahead is not None
        first = step.parts[0].op
        if isinstance(first, ir.SglConstantText):
            # A message begins with its first word, whatever blank the program has before it.
            blank = first.value[: len(first.value) - len(first.value.lstrip())]
            ahead = chain.ahead = ahead.after_blank(blank)
        problem = problem_with(ahead, (part.op for part in step.parts))
        if problem is None or not left:
            return
        place = results.again(chain, place, ahead.text, f"{problem}. {_form(step)}")


def _form(step: Step) -> str:
    """The block in words, for a model that did not keep to it."""
    form = ""
    for op in (part.op for part in step.parts):
        if isinstance(op, ir.SglConstantText):
            form += op.value
        elif isinstance(op, GenerateOp):
            form += f"[{op.name or 'text'}]"
    return f"Write exactly this form, with texts in the places of the brackets:\n{form}"
