"""Answers that must be something: the model is asked, the answer is judged, and asked for again.

Knows how a refused answer and what is wrong with it are put before the model once more, in a chat or in a
text. What the program's own text gets is the accepted answer alone: the state does not remember the others,
the records of the calls do. Every answer is a call with a record; there is no other retry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ramet.backend import Completion, Message
from ramet.errors import InvalidRequest, ResultError
from ramet.lang.calls import Call, Feed, Values, complete, messages_of
from ramet.lang.lower import GenerateOp
from ramet.lang.result_types import Found, cut_after
from ramet.lang.values import Misfit
from ramet.prompt import Prompt

if TYPE_CHECKING:
    from ramet.lang.chain import Chain, Step

__all__ = ["Accept", "Answer", "again", "answer", "generate"]

Accept = Callable[[Completion], Found]
"""Makes of an answer what was asked for, or raises `Misfit`."""

_Place = tuple[Prompt, tuple[Message, ...]]


@dataclass(frozen=True, slots=True)
class Answer:
    """An accepted answer: `meta_info` is that of its call `number`, with `text`, and `attempts` (the answers
    so far)."""

    found: Found
    meta_info: dict[str, Any]
    number: int


async def generate(chain: Chain, step: Step) -> Values:
    """A generation with `type=`."""
    op = step.op
    assert isinstance(op, GenerateOp)
    assert op.result is not None
    answers = await answer(chain, step, op, op.result.accept, op.result.wanted)
    chain.write(answers[0].found.spans, "generated", op.name, answers[0].number)
    if step.variable is None:
        return ()
    values = [one.found.value for one in answers]
    metas = [one.meta_info for one in answers]
    if op.params.n > 1:
        return ((step.variable, values, metas),)
    return ((step.variable, values[0], metas[0]),)


async def answer(
    chain: Chain, step: Step, op: GenerateOp, accept: Accept, wanted: str, *, shown: bool = True
) -> list[Answer]:
    """An accepted answer per sample. Nothing is appended; readers are `shown` the first sample. Raises
    `ResultError` when no retry is left."""
    asking = _Asking(chain, step, op, accept, shown)
    completions, found, number = await asking.ask(op, None, 0)
    one = replace(op, params=op.params.replace(n=1)) if op.params.n > 1 else op
    answers = []
    for index, (completion, result) in enumerate(zip(completions, found)):
        attempts, place, call = 1, None, number
        while isinstance(result, Misfit):
            if attempts > op.retries or _is_hopeless(op, result):
                raise _failed(op, completion, result, attempts) from result
            place = again(chain, place, completion.text, f"{result}. Write only {wanted}.")
            [completion], [result], call = await asking.ask(one, place, index)
            attempts += 1
        meta = {**completion.meta_info, "text": result.text, "attempts": attempts}
        answers.append(Answer(result, meta, call))
    return answers


@dataclass(frozen=True, slots=True)
class _Asking:
    """Calls for one operation, each recorded with what became of its answer."""

    chain: Chain
    step: Step
    op: GenerateOp
    accept: Accept
    shown: bool

    async def ask(
        self, op: GenerateOp, place: _Place | None, sample: int
    ) -> tuple[list[Completion], list[Found | Misfit], int]:
        """Completions, what was found in each, and the number of the call."""
        chain = self.chain
        call = Call(chain, self.step, op.name, op.params.n)
        is_shown = self.shown and not sample and chain.run.has_stream
        feed = Feed(chain, self.step, op, call) if is_shown else None
        try:
            completions = await complete(chain, call, op, feed, place)
        except BaseException as error:  # a cancelled call is recorded, too
            call.failed(error)
            raise
        found = [_judge(self.accept, completion) for completion in completions]
        if feed is not None and not isinstance(found[0], Misfit):
            feed.finish(found[0].text, completions[0].meta_info)
        problems = [f"ResultError: {one}" for one in found if isinstance(one, Misfit)]
        metas = [completion.meta_info for completion in completions]
        call.finished(metas, problems[0] if problems else None)
        return completions, found, call.number


def _judge(accept: Accept, completion: Completion) -> Found | Misfit:
    try:
        return accept(completion)
    except Misfit as misfit:
        return misfit


def _is_hopeless(op: GenerateOp, misfit: Misfit) -> bool:
    """The model kept to the form until the limit came, and would again."""
    is_enforced = op.result is not None and op.result.is_enforced
    return misfit.is_cut and (is_enforced or op.params.constraint is not None)


def _failed(op: GenerateOp, completion: Completion, misfit: Misfit, attempts: int) -> ResultError:
    kind = f"of type {op.result.name}" if op.result is not None else "a call of a tool"
    asked = f" (the last of {attempts} answers)" if attempts > 1 else ""
    message = (
        f"the text {completion.text!r}{asked} generated for {op.name!r} is not {kind}: {misfit}"
    )
    if misfit.is_cut:
        limit = cut_after(completion) or op.params.max_new_tokens
        message += f"; the limit is {limit} tokens: raise max_tokens"
    return ResultError(
        message, text=completion.text, problem=misfit.problem, path=misfit.path, attempts=attempts
    )


# Asking again


def again(chain: Chain, place: _Place | None, wrong: str, problem: str) -> _Place:
    """The prompt and its messages after a wrong answer, with what was wrong with it, up to the place where
    the answer begins once more."""
    prompt = chain.position.prompt
    before, messages = place if place is not None else (prompt, messages_of(chain, prompt))
    if chain.position.role is None:
        line = prompt.text().rpartition("\n")[2]
        text = f"{wrong}\n\n({problem})\n\n{line}"
        return before + text, messages
    return _in_role(chain, before, messages, wrong, problem)


def _in_role(
    chain: Chain, before: Prompt, messages: tuple[Message, ...], wrong: str, problem: str
) -> _Place:
    opened = chain.position.role
    assert opened is not None
    begun = chain.position.prompt.text(since=opened.start)
    chat_only = chain.run.capabilities.chat_only
    closed = messages[:-1] if chat_only and begun else messages
    said = (
        *closed,
        {"role": opened.role, "content": (begun + wrong).lstrip()},
        {"role": "user", "content": problem},
    )
    prefix, suffix = _around(chain, "user", said[:-1])
    again, _ = _around(chain, opened.role, said)
    prompt = before + (wrong + opened.suffix + prefix + problem + suffix + again + begun)
    if chat_only and begun:
        return prompt, (*said, {"role": opened.role, "content": begun})
    return prompt, said


def _around(chain: Chain, role: str, earlier: tuple[Message, ...]) -> tuple[str, str]:
    try:
        return chain.run.template.get_prefix_and_suffix(role, earlier)
    except InvalidRequest:  # a template that knows no such role, or not here
        return "\n", "\n"
