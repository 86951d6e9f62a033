"""Skill `react`: thought, action, observation, answer, with two tools, `calculate` and `lookup`.

The model writes thoughts, actions and the answer; the program writes observations. An episode is a
list of (thought and action, observation) and an answer; it is rendered as raw text or as a chat.
"""

# ruff: noqa: SIM905 (a word list reads best as words)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .base import ANSWER, PROMPT, STOP, Piece, Source, Task, Turn, capital
from .words import CAPITALS, CATEGORIES, invented, name


@dataclass(frozen=True)
class Episode:
    question: str
    steps: tuple[tuple[str, str, str], ...]  # thought, action, observation
    thought: str
    answer: str


def _calculate(source: Source) -> Episode:
    a, b = source.between(2, 999), source.between(2, 999)
    sign, word = source.pick([("+", "plus"), ("-", "minus"), ("*", "times")])
    ask = source.pick(
        ["What is {a} {w} {b}?", "What is {a} {s} {b}?", "How much is {a} {s} {b}?",
         "Calculate {a} {w} {b}.", "What do you get for {a} {s} {b}?"]
    ).format(a=a, b=b, w=word, s=sign)  # fmt: skip
    result = str(eval_sign(a, sign, b))
    step = (f"I need to calculate {a} {sign} {b}.", f"calculate[{a}{sign}{b}]", result)
    return Episode(ask, (step,), f"The result is {result}.", result)


def eval_sign(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def _shop(source: Source) -> Episode:
    count, price = source.between(2, 90), source.between(2, 90)
    who = name(source)
    thing = source.pick("lamps chairs books tickets bricks maps cakes coats".split())
    ask = source.pick(
        ["{n} buys {c} {t} at {p} euros each. What does {n} pay?",
         "{c} {t} cost {p} euros each. What do they cost in all?",
         "{n} packs {c} boxes with {p} {t} each. How many {t} is that?"]
    ).format(n=who, c=count, p=price, t=thing)  # fmt: skip
    result = str(count * price)
    step = (f"I need to calculate {count} * {price}.", f"calculate[{count}*{price}]", result)
    return Episode(ask, (step,), f"The result is {result}.", result)


def _town(source: Source) -> str:
    return capital(invented(source)) + source.pick(["", "", "ton", "burg"])


def _country(source: Source) -> str:
    return source.pick(list(CAPITALS)) if source.chance(0.4) else capital(invented(source)) + "ia"


def _fact_sheet(source: Source, what: str) -> tuple[str, dict[str, str]]:
    """An observation about an entity, and its values by field."""
    if what == "country":
        values = {"capital": _town(source), "population": str(source.between(1, 990) * 100000),
                  "language": capital(invented(source)) + "ish"}  # fmt: skip
    elif what == "person":
        values = {"born": str(source.between(1700, 1990)), "job": source.pick(CATEGORIES["job"]),
                  "home": _town(source)}  # fmt: skip
    else:
        values = {"built": str(source.between(1100, 2010)), "height": str(source.between(20, 800)),
                  "town": _town(source)}  # fmt: skip
    fields = source.shuffled(list(values))
    return ", ".join(f"{f}: {values[f]}" for f in fields), values


ASKS: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "country": {
        "capital": (("What is the capital of {e}?", "Which town is the capital of {e}?"),
                    "The capital of {e} is {v}."),
        "population": (("How many people live in {e}?", "What is the population of {e}?"),
                       "The population of {e} is {v}."),
        "language": (("Which language do people speak in {e}?", "What is the language of {e}?"),
                     "The language of {e} is {v}.")},
    "person": {
        "born": (("When was {e} born?", "In which year was {e} born?"), "{e} was born in {v}."),
        "job": (("What was the job of {e}?", "What did {e} work as?"), "The job of {e} was {v}."),
        "home": (("Where did {e} live?", "In which town did {e} live?"), "The home of {e} was {v}.")},
    "tower": {
        "built": (("When was {e} built?", "In which year was {e} built?"), "{e} was built in {v}."),
        "height": (("How high is {e}?", "What is the height of {e} in metres?"),
                   "The height of {e} is {v}."),
        "town": (("In which town is {e}?", "Where does {e} stand?"), "{e} stands in {v}.")},
}  # fmt: skip
_NUMBER = {"country": "population", "person": "born", "tower": "built"}


def _entity(source: Source, what: str) -> str:
    if what == "country":
        return _country(source)
    if what == "person":
        return f"{name(source)} {capital(invented(source))}"
    return f"{capital(invented(source))} {source.pick(['Tower', 'Bridge', 'Castle', 'Hall'])}"


def _lookup(source: Source) -> Episode:
    what = source.pick(list(ASKS))
    entity = _entity(source, what)
    field = source.pick(list(ASKS[what]))
    asks, tell = ASKS[what][field]
    sheet, values = _fact_sheet(source, what)
    step = (f"I need to look up {entity}.", f"lookup[{entity}]", sheet)
    told = tell.format(e=entity, v=values[field])
    return Episode(source.pick(asks).format(e=entity), (step,), told, values[field])


def _two(source: Source) -> Episode:
    """Two look-ups and a calculation."""
    what = source.pick(list(ASKS))
    a, b = _entity(source, what), _entity(source, what)
    field = _NUMBER[what] if source.chance(0.7) or what != "tower" else "height"
    ask, sign = source.pick({
        "population": [("How many people live in {a} and {b} together?", "+"),
                       ("How many more people live in {a} than in {b}?", "-")],
        "born": [("How many years before {b} was {a} born?", "~"),
                 ("How many years after {b} was {a} born?", "-")],
        "built": [("How many years after {b} was {a} built?", "-"),
                  ("How many years before {b} was {a} built?", "~")],
        "height": [("How high are {a} and {b} together?", "+"),
                   ("How much higher is {a} than {b}?", "-")],
    }[field])  # fmt: skip
    sheets = [_fact_sheet(source, what) for _ in range(2)]
    x, y = (int(v[field]) for _, v in sheets)
    if sign != "+" and (x < y) != (sign == "~"):
        sheets.reverse()
        x, y = y, x
    left, right = (y, x) if sign == "~" else (x, y)
    sign = "-" if sign == "~" else sign
    result = str(eval_sign(left, sign, right))
    word = {"born": "birth year", "built": "building year"}.get(field, field)
    steps = (
        (f"I need to look up {a}.", f"lookup[{a}]", sheets[0][0]),
        (f"The {word} of {a} is {x}. Now I need to look up {b}.", f"lookup[{b}]", sheets[1][0]),
        (f"The {word} of {b} is {y}. I need to calculate {left} {sign} {right}.",
         f"calculate[{left}{sign}{right}]", result),
    )  # fmt: skip
    return Episode(ask.format(a=a, b=b), steps, f"The result is {result}.", result)


def episode(source: Source) -> Episode:
    make = source.pick([_calculate, _shop, _lookup, _lookup, _two])
    return source.until(lambda: make(source), lambda e: e.question)


HEADS = [
    "Answer the question with the tools calculate[...] and lookup[...].",
    "You can use two tools: calculate[expression] and lookup[name].",
    "Solve the question by thoughts, actions and observations. Tools: calculate, lookup.",
    "Use Thought, Action, Observation and Answer lines.",
]  # fmt: skip


def _lines(source: Source, item: Episode, pieces: list[Piece], close: str) -> None:
    """One episode; the labels are sometimes the program's and sometimes the model's."""
    split = source.chance(0.5)

    def say(label: str, text: str) -> None:
        if split:
            space = source.chance(0.2)
            pieces.append(Piece(f"{label}:{' ' * space}", PROMPT))
            pieces.append(Piece(f"{' ' * (not space)}{text}\n", ANSWER))
        else:
            pieces.append(Piece(f"{label}: {text}\n", ANSWER))

    for thought, action, observation in item.steps:
        say("Thought", thought)
        say("Action", action)
        pieces.append(Piece(f"Observation: {observation}\n", PROMPT))
    say("Thought", item.thought)
    say("Answer", item.answer)
    if close:
        pieces.append(Piece(close, ANSWER))


def raw(source: Source) -> Task:
    pieces: list[Piece] = []
    if source.chance(0.7):
        pieces.append(Piece(source.pick(HEADS) + "\n\n", PROMPT))
    shots = source.pick([0, 0, 1, 2])
    item = episode(source)
    for shot in range(shots + 1):
        item = episode(source)
        pieces.append(Piece(f"Question: {item.question}\n", PROMPT))
        _lines(source, item, pieces, "\n" if shot < shots else "")
    return Task("react", "raw", item.question, pieces=tuple(pieces))


def raw_end(source: Source) -> Task:
    """As `raw`, but the text ends after the answer."""
    task = raw(source)
    return Task("react", "raw", task.key, pieces=(*task.pieces, Piece(STOP, ANSWER)))


def chat(source: Source) -> Task:
    """Each user turn is the question or an observation."""
    item = episode(source)
    turns: list[Turn] = []
    head = source.pick(HEADS)
    in_system = source.chance(0.5)
    user = f"Question: {item.question}" if source.chance(0.5) else item.question
    if not in_system:
        user = f"{head}\n{user}"
    for thought, action, observation in item.steps:
        turns.append(Turn(user, f"Thought: {thought}\nAction: {action}"))
        user = f"Observation: {observation}"
    turns.append(Turn(user, f"Thought: {item.thought}\nAnswer: {item.answer}"))
    return Task("react", "chat", item.question, tuple(turns), system=head if in_system else None,
                mixable=False)  # fmt: skip


MAKERS: list[tuple[float, Callable[[Source], Task]]] = [(2.0, raw), (0.6, raw_end), (1.6, chat)]
