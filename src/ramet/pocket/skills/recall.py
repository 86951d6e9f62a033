"""Skill `recall`: answer from facts given in the context, near or far, in a chat or a document.

A fact is (owner, relation, value). Owners and many values are made-up words, so the answer must be
copied. A later statement of the same fact wins. Whoever asks gets a short answer in raw text and
where one is asked for, else a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .base import ANSWER, PROMPT, STOP, Piece, Source, Task, Turn, capital
from .scenes import plain
from .words import (
    CATEGORIES,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    MONTHS,
    PETS,
    clock,
    digits,
    invented,
    names,
    place,
)  # fmt: skip


@dataclass(frozen=True)
class Relation:
    """How a fact is said, asked and answered. {n}: owner, {v}: value.

    self_says/self_ask/self_tell are the same of the speaker: "my", "my", "your".
    """

    says: tuple[str, ...]
    asks: tuple[str, ...]
    tells: str
    value: Callable[[Source], str]
    again: tuple[str, ...] = ()
    self_says: tuple[str, ...] = ()
    self_ask: tuple[str, ...] = ()
    self_tell: str = ""
    tags: frozenset[str] = field(default_factory=frozenset)


def _made_up(source: Source) -> str:
    return capital(invented(source))


def _of(kind: str) -> Callable[[Source], str]:
    return lambda source: source.pick(CATEGORIES[kind])


def _numeric(low: int, high: int) -> Callable[[Source], str]:
    return lambda source: str(source.between(low, high))


RELATIONS: dict[str, Relation] = {
    "colour": Relation(
        ("{n}'s favourite colour is {v}.", "{n} likes the colour {v} best.", "{n} loves {v}."),
        ("What is {n}'s favourite colour?", "Which colour does {n} like best?"),
        "{n}'s favourite colour is {v}.", lambda s: s.pick(COLOURS),
        ("{n}'s favourite colour is {v} now.", "{n} now likes {v} best."),
        ("My favourite colour is {v}.", "I like the colour {v} best."),
        ("What is my favourite colour?", "Which colour do I like best?"),
        "Your favourite colour is {v}."),
    "home": Relation(
        ("{n} lives in {v}.", "{n}'s home is in {v}.", "{n} has a house in {v}."),
        ("Where does {n} live?", "In which town does {n} live?"), "{n} lives in {v}.", place,
        ("{n} moved to {v}.", "{n} lives in {v} now."),
        ("I live in {v}.", "My home is in {v}."), ("Where do I live?", "In which town do I live?"),
        "You live in {v}."),
    "job": Relation(
        ("{n} works as a {v}.", "{n} is a {v} by trade.", "{n}'s job is {v}."),
        ("What is {n}'s job?", "What does {n} work as?"), "{n} works as a {v}.",
        lambda s: s.pick(JOBS), ("{n} now works as a {v}.", "{n} changed jobs and became a {v}."),
        ("I work as a {v}.", "My job is {v}."), ("What is my job?", "What do I work as?"),
        "You work as a {v}."),
    "age": Relation(
        ("{n} is {v} years old.", "{n}'s age is {v}.", "{n} is {v}."),
        ("How old is {n}?", "What is {n}'s age?"), "{n} is {v} years old.", _numeric(4, 98),
        ("{n} had a birthday and is {v} now.", "{n} is {v} years old now."),
        ("I am {v} years old.", "My age is {v}."), ("How old am I?", "What is my age?"),
        "You are {v} years old."),
    "pet": Relation(
        ("{n} has a {v}.", "{n} keeps a {v}.", "{n}'s pet is a {v}."),
        ("What pet does {n} have?", "Which pet does {n} keep?"), "{n} has a {v}.",
        lambda s: s.pick(PETS), ("{n} now has a {v} instead.",),
        ("I have a {v}.", "My pet is a {v}."), ("What pet do I have?",), "You have a {v}."),
    "pet name": Relation(
        ("{n}'s pet is called {v}.", "{n} has a pet named {v}.", "The name of {n}'s pet is {v}."),
        ("What is {n}'s pet called?", "What is the name of {n}'s pet?"), "{n}'s pet is called {v}.",
        _made_up, ("{n} renamed the pet, it is called {v} now.",),
        ("My pet is called {v}.", "I have a pet named {v}."),
        ("What is my pet called?", "What is the name of my pet?"), "Your pet is called {v}."),
    "food": Relation(
        ("{n} likes {v} most of all.", "{n}'s favourite food is {v}."),
        ("What is {n}'s favourite food?", "Which food does {n} like most?"),
        "{n}'s favourite food is {v}.", lambda s: s.pick(FOODS),
        ("{n}'s favourite food is {v} now.",),
        ("My favourite food is {v}.",), ("What is my favourite food?",),
        "Your favourite food is {v}."),
    "code": Relation(
        ("{n}'s code is {v}.", "The code of {n} is {v}.", "{n} uses the code {v}."),
        ("What is {n}'s code?", "Which code does {n} use?"), "{n}'s code is {v}.",
        lambda s: digits(s, s.between(3, 6)), ("{n}'s new code is {v}.", "{n}'s code is now {v}."),
        ("My code is {v}.", "Remember my code: {v}."), ("What is my code?",), "Your code is {v}."),
    "room": Relation(
        ("{n} sits in room {v}.", "{n}'s room is number {v}."),
        ("In which room is {n}?", "What is {n}'s room number?"), "{n} is in room {v}.",
        _numeric(2, 480), ("{n} moved to room {v}.",), ("I am in room {v}.",),
        ("Which room am I in?",), "You are in room {v}."),
    "meeting": Relation(
        ("{n}'s meeting is at {v}.", "{n} has a meeting at {v}.", "The meeting with {n} is at {v}."),
        ("When is {n}'s meeting?", "At what time is {n}'s meeting?"), "{n}'s meeting is at {v}.",
        clock, ("{n}'s meeting was moved to {v}.", "{n}'s meeting is at {v} now."),
        ("My meeting is at {v}.", "I have a meeting at {v}."),
        ("When is my meeting?", "At what time is my meeting?"), "Your meeting is at {v}."),
    "day": Relation(
        ("{n}'s day off is {v}.", "{n} is free on {v}."),
        ("When is {n} free?", "Which day does {n} have off?"), "{n} is free on {v}.",
        lambda s: s.pick(DAYS), ("{n} is now free on {v}.",), ("I am free on {v}.",),
        ("When am I free?",), "You are free on {v}."),
    "birthday": Relation(
        ("{n}'s birthday is in {v}.", "{n} was born in {v}."),
        ("In which month is {n}'s birthday?", "When is {n}'s birthday?"),
        "{n}'s birthday is in {v}.", lambda s: s.pick(MONTHS), (), ("My birthday is in {v}.",),
        ("When is my birthday?", "In which month is my birthday?"), "Your birthday is in {v}."),
    "instrument": Relation(
        ("{n} plays the {v}.", "{n} practises the {v} every day."),
        ("Which instrument does {n} play?", "What does {n} play?"), "{n} plays the {v}.",
        _of("instrument"), ("{n} now plays the {v}.",), ("I play the {v}.",),
        ("Which instrument do I play?",), "You play the {v}."),
    "car": Relation(
        ("{n} drives a {v} car.", "{n}'s car is {v}."),
        ("What colour is {n}'s car?", "Which colour is {n}'s car?"), "{n}'s car is {v}.",
        lambda s: s.pick(COLOURS), ("{n} bought a new car, it is {v}.",), ("My car is {v}.",),
        ("What colour is my car?",), "Your car is {v}."),
    "project": Relation(
        ("{n} works on the project {v}.", "{n}'s project is called {v}."),
        ("What is {n}'s project called?", "Which project does {n} work on?"),
        "{n}'s project is called {v}.", _made_up, ("{n} now works on the project {v}.",),
        ("My project is called {v}.",), ("What is my project called?",),
        "Your project is called {v}."),
    "friend": Relation(
        ("{n}'s best friend is {v}.", "The best friend of {n} is {v}."),
        ("Who is {n}'s best friend?",), "{n}'s best friend is {v}.", _made_up, (),
        ("My best friend is {v}.",), ("Who is my best friend?",), "Your best friend is {v}."),
}  # fmt: skip
KEYS = list(RELATIONS)
DRILLED = 0.99  # as good as full, but not stressed: a drill has many answer tokens
NOTED = 0.3  # which of the acknowledgements comes is chance


@dataclass(frozen=True)
class Fact:
    owner: str
    key: str
    value: str

    def says(self, source: Source) -> str:
        return source.pick(RELATIONS[self.key].says).format(n=self.owner, v=self.value)

    def again(self, source: Source) -> str:
        relation = RELATIONS[self.key]
        return source.pick(relation.again or relation.says).format(n=self.owner, v=self.value)

    def ask(self, source: Source) -> str:
        return source.pick(RELATIONS[self.key].asks).format(n=self.owner)

    def tell(self) -> str:
        return RELATIONS[self.key].tells.format(n=self.owner, v=self.value)

    @property
    def text(self) -> str:
        return f"{self.owner}|{self.key}|{self.value}"


def facts(source: Source, count: int) -> tuple[Fact, list[Fact]]:
    """`count` facts with different (owner, relation), and the one that is asked for."""

    def draw() -> list[Fact]:
        owners = names(source, source.between(1, min(5, count)))
        pairs = [(o, k) for o in owners for k in KEYS]
        if source.chance(0.4):  # the same relation for several owners, so that the owner decides
            owners = names(source, min(6, max(2, count)))
            keys = source.some(KEYS, 1 + (count - 1) // len(owners))
            pairs = [(o, k) for o in owners for k in keys]
        chosen = source.some(pairs, min(count, len(pairs)))
        return [Fact(o, k, RELATIONS[k].value(source)) for o, k in chosen]

    asked, *rest = source.until(draw, lambda found: found[0].text)
    return asked, rest


def _text(source: Source, asked: Fact, rest: list[Fact], filler: int) -> str:
    """A document with all facts, filler sentences between them, and sometimes an update."""
    lines = [f.says(source) for f in [asked, *rest]] + [plain(source) for _ in range(filler)]
    lines = source.shuffled(lines)
    if source.chance(0.2):  # the old value stands anywhere before the new one
        old = Fact(asked.owner, asked.key, RELATIONS[asked.key].value(source)).says(source)
        others = [f.says(source) for f in rest] + [plain(source) for _ in range(filler // 2)]
        lines = source.shuffled([old, *others])
        lines.insert(source.between(1 + lines.index(old), len(lines)), asked.again(source))
    return _joined(source, lines)


def _joined(source: Source, lines: list[str]) -> str:
    style = source.rng.random()
    if style < 0.6:
        return " ".join(lines)
    if style < 0.8:
        return "\n".join(lines)
    if style < 0.9:
        return "\n".join(f"- {line}" for line in lines)
    cut = source.between(1, max(1, len(lines) - 1))
    return " ".join(lines[:cut]) + "\n\n" + " ".join(lines[cut:])


def _size(source: Source) -> tuple[int, int]:
    """(facts, filler sentences): mostly short, sometimes long."""
    kind = source.rng.random()
    if kind < 0.5:
        return source.between(1, 5), source.between(0, 2)
    if kind < 0.9:
        return source.between(3, 9), source.between(0, 12)
    return source.between(4, 14), source.between(10, 30)


SHORT = [
    "Answer in one word or number.", "Answer briefly.", "Give a short answer.", "Only the answer.",
    "Answer with the value only.",
]  # fmt: skip


def document(source: Source, size: tuple[int, int] | None = None) -> Task:
    """A document and one or more questions about it, in a chat."""
    count, filler = size or _size(source)
    asked, rest = facts(source, count)
    text = _text(source, asked, rest, filler)
    short = source.chance(0.5)
    hint = " " + source.pick(SHORT) if short else ""
    frame = source.pick(
        ["{t}\n\n{q}", "Read the text and answer the question.\n\n{t}\n\n{q}", "Text: {t}\n\n{q}",
         "Document:\n{t}\n\nQuestion: {q}", "Context: {t}\nQuestion: {q}", "{t} {q}"]
    )  # fmt: skip
    turns = []
    order = [*source.some(rest, min(len(rest), source.pick([0, 0, 1, 2]))), asked]
    for i, fact in enumerate(order):
        question = fact.ask(source) + hint
        user = frame.format(t=text, q=question) if i == 0 else question
        turns.append(Turn(user, fact.value if short else fact.tell()))
    return Task("recall", "document", asked.text, tuple(turns))


def raw(source: Source) -> Task:
    """Facts and `Q: ... A:` as raw text; short answers, several questions."""
    count, filler = _size(source)
    asked, rest = facts(source, count)
    text = _text(source, asked, rest, filler)
    head = source.pick(["{t}\n\n", "Context: {t}\n\n", "Text: {t}\n", "Facts:\n{t}\n\n"])
    ask, reply = source.pick([("Question: ", "Answer:"), ("Q: ", "A:"), ("Question: ", "Answer:")])
    pieces = [Piece(head.format(t=text), PROMPT)]
    order = [*source.some(rest, min(len(rest), source.pick([0, 1, 2, 3]))), asked]
    for i, fact in enumerate(order):
        last = i == len(order) - 1
        close = source.pick(["\n", "\n\n", STOP]) if last else "\n"
        space = source.chance(0.2)
        pieces.append(Piece(f"{ask}{fact.ask(source)}\n{reply}{' ' * space}", PROMPT))
        pieces.append(Piece(f"{' ' * (not space)}{fact.value}{close}", ANSWER))
    return Task("recall", "raw", asked.text, pieces=tuple(pieces))


def chat(source: Source) -> Task:
    """Facts told over several turns by the speaker, about the speaker and others, asked later."""
    asked, rest = facts(source, source.between(1, 4))
    statements = source.shuffled([asked, *rest])
    own = source.some(KEYS, source.between(0, 2))
    turns: list[Turn] = []
    told: list[tuple[str, str, str]] = []  # (question, short, sentence), the last wins
    if source.chance(0.5):
        me = names(source, 1)[0]
        say = source.pick(["My name is {v}.", "I am {v}.", "Hi, I am {v}.", "Call me {v}."])
        turns.append(Turn(say.format(v=me), f"Nice to meet you, {me}!", 0.9))
        told.append((source.pick(["What is my name?", "Who am I?", "Do you remember my name?"]), me,
                     f"Your name is {me}."))  # fmt: skip
    for key in own:
        relation, value = RELATIONS[key], RELATIONS[key].value(source)
        turns.append(Turn(source.pick(relation.self_says).format(v=value), _noted(source), NOTED))
        told.append((source.pick(relation.self_ask), value, relation.self_tell.format(v=value)))
    i = 0
    while i < len(statements):
        group = statements[i : i + source.between(1, 3)]
        i += len(group)
        turns.append(Turn(" ".join(f.says(source) for f in group), _noted(source), NOTED))
    if source.chance(0.2) and RELATIONS[asked.key].again:
        value = RELATIONS[asked.key].value(source)
        asked = Fact(asked.owner, asked.key, value)
        turns.append(Turn(asked.again(source), _noted(source), NOTED))
    told += [(f.ask(source), f.value, f.tell()) for f in statements if f.key != asked.key
             or f.owner != asked.owner]  # fmt: skip
    questions = source.some(told, min(len(told), source.between(0, 2)))
    questions.append((asked.ask(source), asked.value, asked.tell()))
    if told and source.chance(0.4):
        questions = source.shuffled(questions)
    for question, short, sentence in questions:
        brief = source.chance(0.25)
        hint = " " + source.pick(SHORT) if brief else ""
        turns.append(Turn(question + hint, short if brief else sentence))
    return Task("recall", "chat", asked.text, tuple(turns))


def _noted(source: Source) -> str:
    return source.pick(["Got it.", "Noted.", "I will remember that.", "Thanks, noted.", "Okay."])


def who(source: Source) -> Task:
    """The inverse question: who has this value?"""
    key = source.pick(["home", "job", "colour", "pet", "code", "instrument", "project", "room"])
    relation = RELATIONS[key]
    owners = names(source, source.between(2, 6))
    values: list[str] = []
    while len(values) < len(owners):
        value = relation.value(source)
        if value not in values:
            values.append(value)
    asks = {
        "home": "Who lives in {v}?", "job": "Who works as a {v}?", "code": "Whose code is {v}?",
        "colour": "Whose favourite colour is {v}?", "pet": "Who has a {v}?",
        "instrument": "Who plays the {v}?", "project": "Who works on the project {v}?",
        "room": "Who is in room {v}?",
    }  # fmt: skip
    right = source.between(0, len(owners) - 1)
    rows = [Fact(o, key, v) for o, v in zip(owners, values, strict=True)]
    text = " ".join(f.says(source) for f in source.shuffled(rows))
    ask = asks[key].format(v=values[right])
    form = source.pick(["{t}\n\n{q}", "{t} {q}", "Facts: {t}\nQuestion: {q}"])
    turn = Turn(form.format(t=text, q=ask), owners[right])
    return Task("recall", "who", rows[right].text, (turn,))


def unknown(source: Source) -> Task:
    """A question that the text does not answer."""
    asked, rest = facts(source, source.between(2, 6))
    text = " ".join(f.says(source) for f in rest)
    form = source.pick(["{t}\n\n{q}", "Text: {t}\n\n{q}", "Context: {t}\nQuestion: {q}"])
    hint = source.pick([" If the text does not say, say so.", " If you do not know, say unknown."])
    answer = "The text does not say." if "text" in hint else "unknown"
    turn = Turn(form.format(t=text, q=asked.ask(source) + hint), answer)
    if source.chance(0.5):
        fact = source.pick(rest)
        known = fact.tell() if "text" in hint else fact.value
        turn = Turn(form.format(t=text, q=fact.ask(source) + hint), known)
    return Task("recall", "unknown", asked.text, (turn,))


def lines(source: Source, count: int | None = None) -> Task:
    """Line retrieval: many lines `Line word-word: ... is <digits>.`, one is asked for."""
    count = count or source.between(3, 20)
    width = source.between(3, 6)
    rows = {f"{invented(source)}-{invented(source)}": digits(source, width) for _ in range(count)}
    thing = source.pick(["REGISTER_CONTENT", "value", "content", "number"])
    text = "\n".join(f"Line {k}: The {thing} is {v}." for k, v in rows.items())
    picked = source.some(list(rows), min(len(rows), source.between(1, 3)))
    key = picked[-1]
    pieces = [Piece(f"{text}\n\n", PROMPT)]
    for row in picked:
        pieces.append(Piece(f"Question: What is the {thing} in line {row}?\nAnswer:", PROMPT))
        pieces.append(Piece(f" {rows[row]}\n", ANSWER))
    if source.chance(0.4):
        turn = Turn(f"{text}\n\nWhat is the {thing} in line {key}? Only the number.", rows[key])
        return Task("recall", "lines", key + rows[key], (turn,))
    return Task("recall", "lines", key + rows[key], pieces=tuple(pieces))


def _word(source: Source) -> str:
    if source.chance(0.2):
        return digits(source, source.between(2, 6))
    word = invented(source, 1, 3)
    return capital(word) if source.chance(0.5) else word


def copy_drill(source: Source) -> Task:
    """A list of made-up words and the same list again: the plainest copying, and much of it."""
    words = [_word(source) for _ in range(source.between(2, 16))]
    mark = source.pick([" ", ", ", "\n", " - "])
    text = mark.join(words)
    times = source.between(1, 4)
    pieces = [Piece(text + "\n\n", PROMPT)]
    pieces += [Piece(text + "\n\n", DRILLED) for _ in range(times)]
    return Task("recall", "copy drill", text, pieces=tuple(pieces))


def table_drill(source: Source) -> Task:
    """Made-up keys with made-up values, then many keys asked one after the other."""
    rows = {_word(source): _word(source) for _ in range(source.between(2, 12))}
    mark = source.pick([": ", " is ", " = ", " -> "])
    close = source.pick(["\n", "\n", ".\n"])
    text = "".join(f"{k}{mark}{v}{close}" for k, v in rows.items())
    pieces = [Piece(text + "\n", PROMPT)]
    for key in source.some(list(rows), source.between(1, len(rows))):
        pieces.append(Piece(f"{key}{mark.rstrip()}", PROMPT))
        pieces.append(Piece(f" {rows[key]}{close}", DRILLED))
    return Task("recall", "table drill", text, pieces=tuple(pieces))


def long_document(source: Source) -> Task:
    """A text of one to two thousand tokens with a few facts in it (only in long contexts)."""
    if source.chance(0.25):
        return lines(source, source.between(25, 60))
    return document(source, (source.between(3, 14), source.between(40, 120)))


MAKERS: list[tuple[float, Callable[[Source], Task]]] = [
    (3.0, document), (2.0, raw), (3.0, chat), (0.8, who), (0.6, unknown), (0.8, lines),
    (0.6, copy_drill), (0.9, table_drill),
]  # fmt: skip
