"""Skill `judge`: judge a text by a stated rule, an essay by dimensions, and sum up judgements.

What a text contains is known because it was put there: sentences carry their features. The score of
a dimension is a table over a count, the grade is a table over the sum of scores (README).
"""

# ruff: noqa: SIM905 (a word list reads best as words)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .base import ANSWER, PROMPT, STOP, Piece, Source, Task, Turn, listed
from .scenes import plain
from .words import ANIMALS, CITIES, COLOURS, FOODS, name

COUNTS = ["no", "one", "two", "three", "four", "five", "six", "seven"]


def _with(feature: str, source: Source) -> tuple[str, str]:
    """(sentence, what it contains) for one feature."""
    if feature == "colour":
        word = source.pick(COLOURS)
        return source.pick(
            [
                f"The door was painted {word}.",
                f"There was a {word} coat on the wall.",
                f"Someone had left a {word} bag behind.",
                f"The roof is {word}.",
            ]
        ), word
    if feature == "animal":
        word = source.pick(ANIMALS)
        return source.pick(
            [
                f"A {word} stood by the gate."
                if word[0] not in "aeiou"
                else f"An {word} stood by the gate.",
                f"We saw the {word} again.",
                f"The {word} looked at us.",
            ]
        ), word
    if feature == "place":
        word = source.pick(CITIES)
        return source.pick(
            [
                f"The letter came from {word}.",
                f"They met in {word}.",
                f"The road to {word} was closed.",
                f"She grew up in {word}.",
            ]
        ), word
    if feature == "number":
        word = str(source.between(2, 99))
        return source.pick(
            [
                f"It took {word} minutes.",
                f"There were {word} chairs in the hall.",
                f"They paid {word} coins.",
                f"The list had {word} lines.",
            ]
        ), word
    if feature == "food":
        word = source.pick(FOODS)
        return source.pick(
            [
                f"There was {word} for everyone.",
                f"The smell of {word} filled the air.",
                f"Later they shared some {word}.",
            ]
        ), word
    if feature == "person":
        word = name(source)
        return source.pick(
            [f"{word} came late.", f"Then {word} told a joke.", f"They asked {word} for help."]
        ), word
    phrase = source.pick(["please", "thank you", "would you kindly"])
    text = {"please": "Please take a seat.", "thank you": "Thank you for waiting.",
            "would you kindly": "Would you kindly close the door."}  # fmt: skip
    return text[phrase], phrase


# feature: (ways to state the rule, what is said when it holds, when it does not)
RULES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "colour": (("mentions a colour", "the text names a colour", "a colour must be mentioned"),
               "The text mentions the colour {w}.", "The text mentions no colour."),
    "animal": (("mentions an animal", "the text names an animal", "an animal must be mentioned"),
               "The text mentions the animal {w}.", "The text mentions no animal."),
    "place": (("names a place", "the text names a city", "a city must be named"),
              "The text names the place {w}.", "The text names no place."),
    "number": (("contains a number", "the text contains a number", "a number must appear"),
               "The text contains the number {w}.", "The text contains no number."),
    "food": (("mentions food", "the text mentions something to eat", "food must be mentioned"),
             "The text mentions {w}.", "The text mentions no food."),
    "person": (("names a person", "the text names a person", "a person must be named"),
               "The text names {w}.", "The text names no person."),
    "polite": (("is polite", "the text is polite", "the text must be polite"),
               'The text is polite, it says "{w}".', "The text has no polite words."),
}  # fmt: skip
QUESTIONS = ["Who would have thought so?", "Is that not strange?", "What will happen next?",
             "Do you agree?", "Why did nobody come?", "Can we try it again?"]  # fmt: skip
FEATURES = list(RULES)


@dataclass(frozen=True)
class Case:
    """A text with a rule: the reason and whether it passes."""

    kind: str
    text: str
    rule: str
    reason: str
    good: bool


def _body(source: Source, features: list[str], low: int, high: int) -> tuple[str, dict[str, str]]:
    lines, words = [], {}
    for feature in features:
        line, words[feature] = _with(feature, source)
        lines.append(line)
    while len(lines) < max(low, len(features)) or (len(lines) < high and source.chance(0.5)):
        lines.append(plain(source))
    return " ".join(source.shuffled(lines)), words


def case(source: Source) -> Case:
    kind = source.pick([*FEATURES, "sentences", "sentences", "question"])
    good = source.chance(0.5)
    if kind == "sentences":
        return _length_case(source)
    others = source.some([f for f in FEATURES if f != kind], source.between(0, 2))
    if kind == "question":
        text, _ = _body(source, others, 1, 4)
        if not good and source.chance(0.3):
            text = f"{source.pick(QUESTIONS)} {text}"
        text += f" {source.pick(QUESTIONS)}" if good else ""
        rule = source.pick(["ends with a question", "the text ends with a question",
                            "the last sentence must be a question"])  # fmt: skip
        end = "The last sentence is a question." if good else "The last sentence is not a question."
        return Case("ends with a question", text, rule, end, good)
    text, words = _body(source, [kind, *others] if good else others, 1, 5)
    asks, yes, no = RULES[kind]
    reason = yes.format(w=words[kind]) if good else no
    return Case(kind, text, source.pick(asks), reason, good)


def _length_case(source: Source) -> Case:
    count, limit = source.between(1, 6), source.between(1, 5)
    features = source.some(FEATURES, source.between(0, min(2, count)))
    lines = [_with(f, source)[0] for f in features]
    lines += [plain(source) for _ in range(count - len(lines))]
    at_most = source.chance(0.6)
    word = source.pick([str(limit), COUNTS[limit]])
    plural = "" if limit == 1 else "s"
    rule = f"{'at most' if at_most else 'at least'} {word} sentence{plural}"
    reason = f"The text has {COUNTS[count]} sentence{'' if count == 1 else 's'}."
    good = count <= limit if at_most else count >= limit
    return Case("number of sentences", " ".join(source.shuffled(lines)), rule, reason, good)


def verdict(item: Case) -> str:
    return f"{item.reason}\nVerdict: {'pass' if item.good else 'fail'}"


def rule_chat(source: Source) -> Task:
    item = source.until(lambda: case(source), lambda c: c.text)
    frame = source.pick(
        ["Judge the text by the rule.\nRule: {r}\nText: {t}", "Rule: {r}\nText: {t}\nDoes it pass?",
         "Text: {t}\n\nRule: {r}", "Does this text follow the rule?\n\n{t}\n\nRule: {r}",
         "{t}\n\nJudge this text. Rule: {r}.", "Rule: {r}\n\n{t}"]
    )  # fmt: skip
    turns = [Turn(frame.format(r=item.rule, t=item.text), verdict(item))]
    return Task("judge", f"rule: {item.kind}", item.text, tuple(turns))


def rule_raw(source: Source) -> Task:
    pieces: list[Piece] = []
    item = case(source)
    shots = source.between(0, 2)
    for shot in range(shots + 1):
        item = (
            source.until(lambda: case(source), lambda c: c.text) if shot == shots else case(source)
        )
        pieces.append(Piece(f"Rule: {item.rule}\nText: {item.text}\nJudgement:", PROMPT))
        close = "\n\n" if shot < shots or source.chance(0.7) else STOP
        pieces.append(Piece(f" {verdict(item)}{close}", ANSWER))
    return Task("judge", "rule, raw", item.text, pieces=tuple(pieces))


SUBJECTS = (
    "public libraries;school uniforms;remote work;city parks;bicycles;night trains;early exams;"
    "homework;museums;electric buses;street markets;small farms;team sports;paper books;"
    "school gardens;long holidays;public pools;music lessons;tall buildings;village schools;"
    "free breakfasts;old bridges;chess clubs;walking to work"
).split(";")
BASE = [
    "This essay is about {s}.", "Many people talk about {s}.", "I want to say a word about {s}.",
    "There is a debate about {s}.",
]  # fmt: skip
SOBER = [
    "They bring people together.", "They cost money.", "Some people disagree.",
    "The benefits are easy to see.", "Children like them.", "Older people use them too.",
    "They need care and time.", "A town should plan for them.", "They make daily life easier.",
    "Not everyone can use them.", "We should keep them.", "They could be improved.",
]  # fmt: skip
FILLER = [
    ("basically", "It is basically, more or less, in a way, the kind of thing that it kind of is."),
    ("needless to say", "Needless to say, and it hardly needs to be said, it goes without saying."),
    ("as a matter of fact", "As a matter of fact, in point of fact, the fact is a fact in itself."),
    ("sort of", "It sort of depends, if you see what I mean, on what one sort of means by that."),
    ("to be honest", "To be honest, and I say this quite honestly, one could honestly say so."),
    ("so to speak", "This is, so to speak, and in a manner of speaking, a thing one may speak of."),
]  # fmt: skip
CLICHES = [
    ("think outside the box", "We must think outside the box."),
    ("at the end of the day", "At the end of the day it is up to us."),
    ("time will tell", "Only time will tell."),
    ("the tip of the iceberg", "This is only the tip of the iceberg."),
    ("every cloud has a silver lining", "But every cloud has a silver lining."),
    ("a win-win", "It is a win-win for all."),
    ("the sky is the limit", "With them the sky is the limit."),
    ("actions speak louder than words", "Actions speak louder than words."),
]  # fmt: skip


def _evidence(source: Source) -> tuple[str, str]:
    number = source.between(12, 98)
    town = source.pick(CITIES)
    return source.pick(
        [(f"{number} percent", f"A survey found that {number} percent of families use them."),
         (f"a study of {number} towns", f"A study of {number} towns shows the same result."),
         (f"the report from {town}", f'The report from {town} says that "they work well".'),
         (f"the figures from {town}", f"The figures from {town} are clear: {number} out of 100 agree."),
         (f"{number} visitors", f"Last year one of them counted {number} visitors a day.")]
    )  # fmt: skip


SCORES: dict[str, list[int]] = {  # by the number of marks found: none, one, two, three
    "Clarity": [5, 3, 2, 1],
    "Originality": [5, 3, 2, 1],
    "Evidence": [1, 3, 4, 5],
}
DIMENSIONS = list(SCORES)


@dataclass(frozen=True)
class Essay:
    """A short essay and, per dimension, the marks that decide its score, in order of the text."""

    subject: str
    text: str
    marks: dict[str, list[str]]

    def score(self, dimension: str) -> int:
        return SCORES[dimension][len(self.marks[dimension])]

    def judgement(self, dimension: str) -> str:
        marks = self.marks[dimension]
        quoted = (
            listed([f'"{m}"' if dimension != "Evidence" else m for m in marks]) if marks else ""
        )
        none = {
            "Clarity": "The sentences are short and free of filler.",
            "Originality": "The essay uses no cliché.",
            "Evidence": "The essay gives no number and no source.",
        }
        some = {
            "Clarity": f"The essay is padded with filler: {quoted}.",
            "Originality": f"The essay leans on clichés: {quoted}.",
            "Evidence": f"The essay gives evidence: {quoted}.",
        }
        return (some if marks else none)[dimension] + f"\nScore: {self.score(dimension)}"


def essay(source: Source) -> Essay:
    def draw() -> Essay:
        subject = source.pick(SUBJECTS)
        lines: list[tuple[str, str, str]] = []
        for mark, sentence in source.some(FILLER, source.pick([0, 0, 1, 2, 3])):
            lines.append(("Clarity", mark, sentence))
        for mark, sentence in source.some(CLICHES, source.pick([0, 0, 1, 2, 3])):
            lines.append(("Originality", mark, sentence))
        for _ in range(source.pick([0, 0, 1, 2, 3])):
            lines.append(("Evidence", *_evidence(source)))
        lines += [("", "", s) for s in source.some(SOBER, source.between(1, 5))]
        lines = source.shuffled(lines)
        marks = {d: [m for kind, m, _ in lines if kind == d] for d in DIMENSIONS}
        opening = source.pick(BASE).format(s=subject)
        return Essay(subject, " ".join([opening, *(s for _, _, s in lines)]), marks)

    return source.until(draw, lambda e: e.text)


ASK_DIMENSION = [
    "Judge the essay on {d}.", "Evaluate the essay on the dimension {d}.", "Dimension: {d}",
    "How good is the essay in terms of {d}? Give a score from 1 to 5.",
    "Judge its {l}. Give one sentence and a score from 1 to 5.",
    "Evaluate based on the following dimension: {d}.", "Now judge {d}.",
]  # fmt: skip
MEANING = {
    "Clarity": "short sentences without filler",
    "Originality": "no cliché phrases",
    "Evidence": "numbers or sources",
}


def _ask_dimension(source: Source, dimension: str) -> str:
    text = source.pick(ASK_DIMENSION).format(d=dimension, l=dimension.lower())
    return f"{text} ({dimension}: {MEANING[dimension]})" if source.chance(0.2) else text


def essay_chat(source: Source) -> Task:
    """An essay, then one to three dimensions, in turns of one chat."""
    item = essay(source)
    frame = source.pick(
        ["Essay:\n{t}\n\n{q}", "Here is an essay.\n\n{t}\n\n{q}", "{t}\n\n{q}",
         "Please judge this essay.\nEssay: {t}\n{q}", "Essay: {t}\n\n{q}"]
    )  # fmt: skip
    turns: list[Turn] = []
    if source.chance(0.2):
        subject = item.subject if source.chance(0.5) else source.pick(SUBJECTS)
        same = "yes" if subject == item.subject else "no"
        ask = f"Is this essay about {subject}? Answer yes or no."
        turns.append(Turn(frame.format(t=item.text, q=ask), same))
    for dimension in source.some(DIMENSIONS, source.between(1, 3)):
        ask = _ask_dimension(source, dimension)
        turns.append(Turn(ask if turns else frame.format(t=item.text, q=ask),
                          item.judgement(dimension)))  # fmt: skip
    return Task("judge", "essay dimension", item.text, tuple(turns))


def essay_raw(source: Source) -> Task:
    """The same as raw text: the essay, then `Clarity:` and what follows, END after each."""
    item = essay(source)
    pieces = [Piece(source.pick(["Essay:\n{t}\n\n", "Essay: {t}\n\n"]).format(t=item.text), PROMPT)]
    for dimension in source.some(DIMENSIONS, source.between(1, 3)):
        pieces.append(Piece(f"Judgement of {dimension}:", PROMPT))
        pieces.append(Piece(f" {item.judgement(dimension)}\n\n", ANSWER))
    return Task("judge", "essay dimension, raw", item.text, pieces=tuple(pieces))


def grade(scores: list[int]) -> str:
    """A for an average of 4 and more, B from 3, C from 2, else D."""
    mean = sum(scores) / len(scores)
    return "A" if mean >= 4 else "B" if mean >= 3 else "C" if mean >= 2 else "D"


def summary(scores: dict[str, int]) -> str:
    """One sentence: what is strong (4, 5), fair (3) and weak (1, 2)."""
    groups = [
        (word, [d.lower() for d, s in scores.items() if s in accepted])
        for word, accepted in (("strong", (4, 5)), ("fair", (3,)), ("weak", (1, 2)))
    ]
    return f"The essay is {listed([f'{w} in {listed(ds)}' for w, ds in groups if ds])}."


def grade_chat(source: Source) -> Task:
    """Given judgements with scores: a summary and a grade, or the grade alone."""
    dimensions = source.shuffled(DIMENSIONS)
    if source.chance(0.15):
        dimensions = dimensions[:2]
    parts, scores = [], {}
    for dimension in dimensions:
        item = _judged(source, dimension)
        text = item.judgement(dimension)
        scores[dimension] = item.score(dimension)
        parts.append(source.pick([f"{dimension}: {text}", f"{dimension}\n{text}",
                                  f"Judgement of {dimension}: {text}"]))  # fmt: skip
    if source.chance(0.3):
        parts = [f"{d}: {s}" for d, s in scores.items()]
    body = source.pick(["\n", "\n\n"]).join(parts)
    both = source.chance(0.75)
    ask = source.pick(
        ["Summarise the judgements in one sentence and give a letter grade.",
         "Write a one-sentence summary and a grade from A to D.",
         "Sum up the judgements and grade the essay A, B, C or D.",
         "Provide a one-sentence summary and a letter grade."]
        if both
        else ["Give a letter grade from A to D.", "Grade the essay A, B, C or D. Only the letter."]
    )  # fmt: skip
    frame = source.pick(["{b}\n\n{a}", "Judgements:\n{b}\n\n{a}", "{a}\n\n{b}",
                         "Here are the judgements of an essay.\n{b}\n\n{a}"])  # fmt: skip
    letter = grade(list(scores.values()))
    answer = f"Summary: {summary(scores)}\nGrade: {letter}" if both else letter
    turn = Turn(frame.format(b=body, a=ask), answer)
    return Task("judge", "summary and grade" if both else "grade", body, (turn,))


def _judged(source: Source, dimension: str) -> Essay:
    """An essay drawn so that all scores of a dimension are equally likely."""
    count = source.between(0, 3)
    if dimension == "Evidence":
        marks = [_evidence(source)[0] for _ in range(count)]
    else:
        marks = [m for m, _ in source.some(FILLER if dimension == "Clarity" else CLICHES, count)]
    return Essay("", "", {dimension: marks})


def whole_judge(source: Source) -> Task:
    """One chat from the essay through all dimensions to summary and grade."""
    item = essay(source)
    head = source.pick(["Essay:\n{t}\n\n{q}", "Here is an essay.\n\n{t}\n\n{q}", "{t}\n\n{q}"])
    turns = []
    order = source.shuffled(DIMENSIONS)
    for i, dimension in enumerate(order):
        ask = _ask_dimension(source, dimension)
        user = head.format(t=item.text, q=ask) if i == 0 else ask
        turns.append(Turn(user, item.judgement(dimension)))
    ask = source.pick(["Now write a one-sentence summary and a letter grade.",
                       "Summarise in one sentence and give a letter grade.",
                       "Sum up the judgements and grade the essay A, B, C or D."])  # fmt: skip
    scores = {d: item.score(d) for d in order}
    turns.append(Turn(ask, f"Summary: {summary(scores)}\nGrade: {grade(list(scores.values()))}"))
    return Task("judge", "essay to grade", item.text, tuple(turns))


MAKERS: list[tuple[float, Callable[[Source], Task]]] = [
    (3.0, rule_chat), (1.0, rule_raw), (2.5, essay_chat), (0.8, essay_raw), (1.5, grade_chat),
    (0.8, whole_judge),
]  # fmt: skip
