"""Skill `add`: sums of two or three numbers by written steps, word problems, judging an addition.

The written method is one function, `steps`; the check of a given result repeats it in one line. The
split is by the pair of the first two numbers, whatever their order and whatever the question.
"""

from __future__ import annotations

from collections.abc import Callable

from .base import ANSWER, PROMPT, SILENT, STOP, Piece, Source, Task, Turn, capital, listed
from .words import PLURALS, name


def pair_key(a: int, b: int) -> str:
    return f"{min(a, b)}+{max(a, b)}"


def operands(source: Source) -> list[int]:
    """Two or three numbers, mostly of two digits."""

    def draw() -> list[int]:
        first = source.between(10, 99) if source.chance(0.85) else source.between(1, 9)
        second = source.between(10, 99) if source.chance(0.75) else source.between(1, 9)
        return [first, second]

    pair = source.until(draw, lambda p: pair_key(*p))
    if source.chance(0.25):
        pair.append(source.between(10, 99) if source.chance(0.5) else source.between(1, 9))
    return pair


def one_sum(a: int, b: int) -> tuple[str, int]:
    """The lines of one written addition of two numbers, and its result."""
    ones = a % 10 + b % 10
    carry = ones // 10
    text = f"Ones: {a % 10} + {b % 10} = {ones}, write {ones % 10}, carry {carry}.\n"
    tens = a // 10 + b // 10 + carry
    return text + f"Tens: {a // 10} + {b // 10} + {carry} = {tens}.\n", a + b


def steps(numbers: list[int]) -> str:
    """All lines up to and with `Answer: N`."""
    text, total = "", numbers[0]
    for i, n in enumerate(numbers[1:]):
        if len(numbers) > 2:
            text += f"{'First' if i == 0 else 'Then'} {total} + {n}.\n"
        lines, total = one_sum(total, n)
        text += lines
        if len(numbers) > 2:
            text += f"Sum: {total}.\n"
    return text + f"Answer: {total}"


def check(numbers: list[int], claimed: int) -> str:
    """The judgement of a claimed result: the written method again, then the comparison."""
    text, total = "", numbers[0]
    for n in numbers[1:]:
        lines, total = one_sum(total, n)
        text += lines
    if total == claimed:
        return f"{text}The sum is {total}. The answer {claimed} is correct.\n"
    return f"{text}The sum is {total}. The answer {claimed} is wrong.\n"


def wrong(source: Source, total: int) -> int:
    """A result with one typical slip."""
    slips = [1, -1, 2, -2, 10, -10, 9, -9, 20, 11, 100]
    return total + source.pick([slip for slip in slips if total + slip > 0])


def _plain_question(source: Source, numbers: list[int]) -> str:
    text = " + ".join(map(str, numbers))
    words = listed([str(n) for n in numbers])
    return source.pick(
        ["What is {t}?", "Add {w}.", "Calculate {t}.", "{t} = ?", "How much is {t}?", "Compute {t}.",
         "What is the sum of {w}?", "What is {t}? Show the steps.", "Add {w} step by step.",
         "Solve {t} step by step.", "{t}", "Work out {t} and end with Answer: N."]
    ).format(t=text, w=words)  # fmt: skip


def problem(source: Source, numbers: list[int]) -> str:
    """A word problem whose answer is the sum."""
    who, other, more = name(source), name(source), name(source)
    things = source.pick(PLURALS)
    a, b, *rest = numbers
    form = source.pick(
        ["{n} has {a} {t}. {o} gives {n} {b} more. How many {t} does {n} have now?",
         "{n} has {a} {t} and buys {b} more. How many {t} does {n} have?",
         "There are {a} {t} in one box and {b} in another. How many {t} are there in all?",
         "{n} found {a} {t} and {o} found {b}. How many {t} did they find together?",
         "On Monday {n} sold {a} {t}, on Tuesday {b}. How many {t} did {n} sell?",
         "A shop has {a} {t}. Then {b} {t} arrive. How many {t} are there now?",
         "{n} collects {a} {t} in spring and {b} in summer. How many {t} is that in total?"]
        if not rest
        else ["{n} has {a} {t}, {o} has {b} and {m} has {c}. How many {t} do they have together?",
              "{n} has {a} {t}, buys {b} more and finds {c}. How many {t} does {n} have now?",
              "There are {a} {t} in the first box, {b} in the second and {c} in the third. "
              "How many {t} are there in all?"]
    )  # fmt: skip
    return form.format(n=who, o=other, m=more, t=things, a=a, b=b, c=rest[0] if rest else 0)


def plan(source: Source, numbers: list[int]) -> str:
    words = listed([str(n) for n in numbers])
    return source.pick([f"Plan: add {words}.", f"Plan: find the sum of {words}."])


def _key(numbers: list[int]) -> str:
    return pair_key(*numbers[:2])


def sum_chat(source: Source) -> Task:
    numbers = operands(source)
    if source.chance(0.45):
        question = problem(source, numbers)
        question += source.pick(["", "", " Think step by step.", "\nShow the steps."])
        turn = Turn(question, f"{capital(plan(source, numbers))}\n{steps(numbers)}")
        return Task("add", "word problem", _key(numbers), (turn,), accept=_ends(sum(numbers)))
    kind = "two numbers" if len(numbers) == 2 else "three numbers"
    return Task(
        "add", kind, _key(numbers), (Turn(_plain_question(source, numbers), steps(numbers)),)
    )


def _ends(total: int) -> Callable[[str], bool]:
    return lambda text: text.rstrip().endswith(f"Answer: {total}")


def sum_raw(source: Source) -> Task:
    """Raw few-shot text: `Question:` then the steps, a blank line between problems."""
    ask, reply = source.pick(
        [("Question: ", "Answer: "), ("Problem: ", "Solution:\n"), ("Q: ", "A: ")]
    )
    words = source.chance(0.5)
    with_plan = source.chance(0.3)
    reply = "" if with_plan or reply == "Answer: " else reply
    pieces: list[Piece] = []
    numbers: list[int] = []
    shots = source.between(0, 2)
    for shot in range(shots + 1):
        numbers = operands(source)
        text = problem(source, numbers) if words else _plain_question(source, numbers)
        answer = f"{plan(source, numbers)}\n{steps(numbers)}" if with_plan else steps(numbers)
        pieces.append(Piece(f"{ask}{text}\n{reply}", PROMPT))
        close = "\n\n" if shot < shots or source.chance(0.7) else STOP
        pieces.append(Piece(answer + close, ANSWER))
    return Task("add", "raw", _key(numbers), pieces=tuple(pieces), accept=_ends(sum(numbers)))


def _score(right: bool, scored: bool) -> str:
    if scored:
        return f"Score: {10 if right else 1}"
    return f"Verdict: {'correct' if right else 'wrong'}"


def judge_chat(source: Source) -> Task:
    """Judge a written addition, right or wrong, given in one message."""
    numbers = operands(source)
    total = sum(numbers)
    claimed = total if source.chance(0.5) else wrong(source, total)
    scored = source.chance(0.6)
    ask = source.pick(
        ["Check this addition and give a score from 1 to 10.", "Score this answer from 1 to 10.",
         "Rate the solution from 1 to 10."]
        if scored
        else ["Is this addition correct or wrong?", "Check this addition: correct or wrong?",
              "Judge this solution as correct or wrong."]
    )  # fmt: skip
    sums = " + ".join(map(str, numbers))
    body = source.pick([f"{sums} = {claimed}", f"Question: {sums}\nAnswer: {claimed}",
                        f"{problem(source, numbers)}\nAnswer: {claimed}"])  # fmt: skip
    answer = check(numbers, claimed) + _score(claimed == total, scored)
    return Task("add", "judge", _key(numbers), (Turn(f"{ask}\n{body}", answer),))


def thought_tree(source: Source) -> Task:
    """Plan, solve and score as three turns; the solution is sometimes wrong, and then not learned."""
    numbers = operands(source)
    total = sum(numbers)
    question = problem(source, numbers) if source.chance(0.8) else _plain_question(source, numbers)
    ask_plan = source.pick(
        ["Make a plan to solve this problem. Do not solve it yet.\n{q}",
         "Question: {q}\nWrite a plan first.", "{q}\nFirst give a short plan.",
         "Give a plan for this problem.\nProblem: {q}",
         "Please make a plan for solving the following question. Do not solve it.\nQuestion: {q}"]
    ).format(q=question)  # fmt: skip
    ask_solve = source.pick(
        ["Now follow the plan and solve it.", "Solve the problem step by step with this plan.",
         "Execute the plan.", "Carry out the plan and give the answer.",
         "The plan looks good. Use it to find the answer step by step."]
    )  # fmt: skip
    ask_score = source.pick(
        ["Check the answer and give a score from 1 to 10.", "Score the answer from 1 to 10.",
         "Is the answer right? Give a score from 1 to 10.",
         "Now check your solution and score it from 1 to 10."]
    )  # fmt: skip
    good = steps(numbers)
    claimed, solution = total, good
    bad = source.chance(0.4)
    if bad:
        claimed = wrong(source, total)
        solution = good.rsplit(" ", 1)[0] + f" {claimed}"
        if source.chance(0.3):
            solution = f"Answer: {claimed}"
    turns = (
        Turn(ask_plan, plan(source, numbers)),
        Turn(ask_solve, solution, SILENT if bad else ANSWER),
        Turn(ask_score, check(numbers, claimed) + f"Score: {1 if bad else 10}"),
    )
    stop = 3 if bad else source.pick([1, 2, 3, 3])
    kind = ["plan", "solve the plan", "score"][stop - 1]
    accept = None
    if stop == 1:
        accept = _plan_names(numbers)
    return Task("add", kind, _key(numbers), turns[:stop], accept=accept)


def _plan_names(numbers: list[int]) -> Callable[[str], bool]:
    words = listed([str(n) for n in numbers])
    return lambda text: text in (f"Plan: add {words}.", f"Plan: find the sum of {words}.")


MAKERS: list[tuple[float, Callable[[Source], Task]]] = [
    (3.0, sum_chat), (1.5, sum_raw), (1.5, judge_chat), (2.5, thought_tree),
]  # fmt: skip
