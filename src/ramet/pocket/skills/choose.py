"""Skill `choose`: pick the right one among given options, in chat and as raw few-shot text.

A question of this skill is a `Quiz`: a text, options, the right one. The formats below know nothing
of what is asked. The word lists decide what is true, so the model can only know what they hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .base import ANSWER, PROMPT, STOP, Piece, Source, Task, Turn, article, capital, listed
from .scenes import ENDINGS, TOPICS, review
from .words import CAPITALS, CATEGORIES, COLOURS, FIRST, OPPOSITES, SIZES, name

KINDS = list(CATEGORIES)
TAUGHT = 0.9  # full, but not stressed like the few tokens of an answer
DRILL = 3.0  # its share among the makers below


@dataclass(frozen=True)
class Quiz:
    kind: str
    question: str
    options: tuple[str, ...]
    right: str

    @property
    def key(self) -> str:
        return f"{self.question}|{'|'.join(sorted(self.options))}"


def _others(source: Source, kind: str, count: int) -> list[str]:
    """Words of `count` other categories; birds, fish and insects are animals too."""
    living = {"animal", "bird", "fish", "insect"}
    kinds = [k for k in KINDS if k != kind and not (kind in living and k in living)]
    return [source.pick(CATEGORIES[k]) for k in source.some(kinds, count)]


def _category(source: Source) -> Quiz:
    kind = source.pick(KINDS)
    right = source.pick(CATEGORIES[kind])
    options = source.shuffled([right, *_others(source, kind, source.between(1, 3))])
    ask = source.pick(
        ["Which one is {a}?", "Which of these is {a}?", "Which word names {a}?", "Pick {a}.",
         "Choose the one that is {a}.", "Find {a}."]
    )  # fmt: skip
    return Quiz("category", ask.format(a=article(kind)), tuple(options), right)


def _kind_of(source: Source) -> Quiz:
    kind = source.pick(KINDS)
    word = source.pick(CATEGORIES[kind])
    living = {"animal", "bird", "fish", "insect"}
    wrong = [k for k in KINDS if k != kind and not (kind in living and k in living)]
    options = source.shuffled([kind, *source.some(wrong, source.between(1, 3))])
    ask = source.pick(["What is {w}?", "What kind of thing is {w}?", "Which category fits {w}?"])
    plain = kind in ("country", "colour", "sport", "drink") or word[0].isupper()
    return Quiz("kind", ask.format(w=word if plain else article(word)), tuple(options), kind)


def _odd(source: Source) -> Quiz:
    kind = source.pick(KINDS)
    (right,) = _others(source, kind, 1)
    same = source.some(CATEGORIES[kind], source.between(2, 3))
    ask = source.pick(
        ["Which one does not belong?", "Which is the odd one out?", "Find the odd one out.",
         "Which word does not fit with the others?"]
    )  # fmt: skip
    return Quiz("odd one out", ask, tuple(source.shuffled([right, *same])), right)


def _opposite(source: Source) -> Quiz:
    pair = source.pick(OPPOSITES)
    word, right = pair if source.chance(0.5) else (pair[1], pair[0])
    pool = [w for p in OPPOSITES if p != pair for w in p]
    options = source.shuffled([right, *source.some(pool, source.between(1, 3))])
    ask = source.pick(
        ["What is the opposite of {w}?", "Which word is the opposite of {w}?",
         "Pick the opposite of {w}.", "Which word means the opposite of {w}?"]
    )  # fmt: skip
    return Quiz("opposite", ask.format(w=word), tuple(options), right)


def _size(source: Source) -> Quiz:
    low, high = sorted(source.some(range(len(SIZES)), 2))
    small, large = source.pick(SIZES[low]), source.pick(SIZES[high])
    big = source.chance(0.5)
    word = source.pick(["larger", "bigger"]) if big else "smaller"
    ask = source.pick(["Which is {w}?", "Which one is {w}?", "Which of the two is {w}?"])
    options = tuple(source.shuffled([small, large]))
    return Quiz("size", ask.format(w=word), options, large if big else small)


def _number(source: Source) -> Quiz:
    a, b = source.some(range(1, 100), 2)
    big = source.chance(0.5)
    word = source.pick(["larger", "greater"]) if big else "smaller"
    ask = source.pick(["Which number is {w}?", "Which is {w}?"]).format(w=word)
    return Quiz("number", ask, (str(a), str(b)), str(max(a, b) if big else min(a, b)))


def _capital(source: Source) -> Quiz:
    country, right = source.pick(list(CAPITALS.items()))
    wrong = [c for c in CAPITALS.values() if c != right]
    options = source.shuffled([right, *source.some(wrong, source.between(1, 3))])
    ask = source.pick(["What is the capital of {c}?", "Which city is the capital of {c}?"])
    return Quiz("capital", ask.format(c=country), tuple(options), right)


def _yes_no(source: Source) -> Quiz:
    truth = source.chance(0.5)
    form = source.between(0, 3)
    if form == 0:
        kind = source.pick(KINDS)
        word = source.pick(CATEGORIES[kind]) if truth else _others(source, kind, 1)[0]
        plain = word[0].isupper() or word in COLOURS + CATEGORIES["sport"] + CATEGORIES["drink"]
        ask = f"Is {word if plain else article(word)} {article(kind)}?"
    elif form == 1:
        low, high = sorted(source.some(range(len(SIZES)), 2))
        a, b = source.pick(SIZES[low]), source.pick(SIZES[high])
        word = source.pick(["larger", "bigger", "smaller"])
        first, second = (a, b) if truth == (word == "smaller") else (b, a)
        ask = f"Is {article(first)} {word} than {article(second)}?"
    elif form == 2:
        smaller, larger = sorted(source.some(range(1, 100), 2))
        word = source.pick(["larger", "smaller"])
        up = truth == (word == "larger")
        x, y = (larger, smaller) if up else (smaller, larger)
        ask = f"Is {x} {word} than {y}?"
    else:
        a, b = source.pick(OPPOSITES)
        other = b if truth else source.pick([w for p in OPPOSITES if a not in p for w in p])
        ask = f"Is {other} the opposite of {a}?"
    return Quiz("yes or no", ask, ("yes", "no"), "yes" if truth else "no")


QUIZZES: list[Callable[[Source], Quiz]] = [
    _category, _category, _kind_of, _odd, _opposite, _opposite, _size, _number, _capital, _yes_no,
    _yes_no,
]  # fmt: skip


def _options_text(source: Source, quiz: Quiz) -> str:
    """The question with its options in one line."""
    options = listed(quiz.options, "or")
    text = quiz.question
    if quiz.kind == "yes or no":
        return text + source.pick(["", " Answer yes or no.", " Yes or no?"])
    form = source.pick(
        ["{q} {o}?", "{q} {o}", "{q}\nOptions: {c}", "{q} Choose from: {c}.", "{q} ({c})",
         "{q}\nChoices: {c}\nAnswer with one of the choices."]
    )  # fmt: skip
    return form.format(q=text, o=options, c=", ".join(quiz.options))


def _lettered(quiz: Quiz, mark: str) -> tuple[str, str, tuple[str, ...]]:
    letters = "ABCD"[: len(quiz.options)]
    lines = [mark.format(a=a, o=o) for a, o in zip(letters, quiz.options, strict=True)]
    right = letters[quiz.options.index(quiz.right)]
    return "\n".join([quiz.question, *lines]), right, tuple(letters)


def quiz_chat(source: Source) -> Task:
    """A question with its options, asked in a chat, answered by the option or its letter."""
    make = source.pick(QUIZZES)
    quiz = source.until(lambda: make(source), lambda q: q.key)
    if quiz.kind != "yes or no" and source.chance(0.35):
        text, right, letters = _lettered(quiz, source.pick(["{a}. {o}", "{a}) {o}", "({a}) {o}"]))
        close = source.pick(
            ["Answer with a letter.", "Answer with the letter only.", "Which letter?"]
        )
        turn = Turn(f"{text}\n{close}", right)
        return Task("choose", quiz.kind + ", letter", quiz.key, (turn,), options=letters)
    turn = Turn(_options_text(source, quiz), quiz.right)
    return Task("choose", quiz.kind, quiz.key, (turn,), options=quiz.options)


def quiz_raw(source: Source) -> Task:
    """Few-shot questions as raw text: lettered, or with the options in the line."""
    make = source.pick(QUIZZES)
    lettered = source.chance(0.5)
    mark = source.pick(["{a}. {o}", "{a}) {o}", "({a}) {o}"])
    ask, reply = source.pick([("Question: ", "Answer:"), ("Q: ", "A:"), ("", "Answer:")])
    shots = source.between(0, 5)
    pieces: list[Piece] = []
    if source.chance(0.3):
        head = ["Answer the questions.", "The following are questions with answers.", "Quiz time."]
        pieces.append(Piece(source.pick(head) + "\n\n", PROMPT))
    options: tuple[str, ...] = ()
    quiz = make(source)
    for shot in range(shots + 1):
        quiz = make(source)
        if shot == shots:
            quiz = source.until(lambda: make(source), lambda q: q.key)
        if lettered and quiz.kind != "yes or no":
            text, right, options = _lettered(quiz, mark)
        else:
            text, right, options = quiz.question, quiz.right, quiz.options
            if quiz.kind != "yes or no":
                text += f"\nOptions: {', '.join(options)}"
        pieces += _labelled(source, f"{ask}{text}\n{reply}", right, last=shot == shots)
    options = tuple(o if pieces[-1].text[0] != " " else " " + o for o in options)
    return Task("choose", quiz.kind + ", raw", quiz.key, pieces=tuple(pieces), options=options)


def _labelled(source: Source, prompt: str, answer: str, last: bool) -> list[Piece]:
    """`prompt: answer` and the blank line after it; the space is the answer's, mostly."""
    close = source.pick(["\n\n", "\n\n", STOP]) if last else "\n\n"
    if source.chance(0.2):
        return [Piece(prompt + " ", PROMPT), Piece(answer + close, ANSWER)]
    return [Piece(prompt, PROMPT), Piece(" " + answer + close, ANSWER)]


@dataclass(frozen=True)
class Labels:
    """A classification: what to ask, the labels, and a draw of (text, label)."""

    kind: str
    asks: tuple[str, ...]
    labels: tuple[str, ...]
    draw: Callable[[Source, tuple[str, ...]], tuple[str, str]]


def _draw_review(source: Source, labels: tuple[str, ...]) -> tuple[str, str]:
    label = source.pick(labels)
    good = label in ("positive", "good", "happy")
    return review(source, good), label


def _draw_topic(source: Source, labels: tuple[str, ...]) -> tuple[str, str]:
    label = source.pick(labels)
    return source.pick(TOPICS[label]).format(n=source.pick(FIRST), p=name(source)), label


def _labels(source: Source) -> Labels:
    if source.chance(0.55):
        asks = (
            "Is this review {o}?", "Is the sentiment of this text {o}?", "Classify the review as {o}.",
            "Decide whether the text is {o}.", "What is the sentiment of this review, {o}?",
        )  # fmt: skip
        pair = source.pick([("positive", "negative")] * 3 + [("good", "bad")])
        return Labels("sentiment", asks, pair, _draw_review)
    asks = (
        "What is this text about: {o}?", "Pick the topic of the text: {o}.", "Is this about {o}?",
        "Classify the topic as {o}.", "Which topic fits the sentence, {o}?",
    )  # fmt: skip
    return Labels(
        "topic", asks, tuple(source.some(list(TOPICS), source.between(2, 5))), _draw_topic
    )


def label_chat(source: Source) -> Task:
    """Sentiment or topic of a text, asked in a chat."""
    spec = _labels(source)
    text, label = source.until(lambda: spec.draw(source, spec.labels), lambda d: d[0])
    ask = source.pick(spec.asks).format(o=listed(source.shuffled(spec.labels), "or"))
    frame = source.pick(
        ["{a}\n\n{t}", "{a}\n{t}", "{t}\n\n{a}", "Text: {t}\n{a}", "{a} Answer with one word.\n\n{t}",
         "Review: {t}\n\n{a}" if spec.kind == "sentiment" else "Sentence: {t}\n\n{a}"]
    )  # fmt: skip
    turn = Turn(frame.format(a=ask, t=text), label)
    return Task("choose", spec.kind, text, (turn,), options=spec.labels)


def label_raw(source: Source) -> Task:
    """Sentiment or topic as raw few-shot text: `Text: ...` / `Label: ...`."""
    spec = _labels(source)
    shots = source.between(1, 6)
    ask, reply = source.pick(
        [("Text: ", "Label:"), ("Text: ", "Label:"), ("Review: ", "Sentiment:"),
         ("Input: ", "Output:"), ("Sentence: ", "Class:")]
        if spec.kind == "sentiment"
        else [("Text: ", "Topic:"), ("Text: ", "Label:"), ("Sentence: ", "Topic:")]
    )  # fmt: skip
    pieces: list[Piece] = []
    if shots == 1 or source.chance(0.4):
        head = source.pick(spec.asks).format(o=listed(spec.labels, "or"))
        pieces.append(Piece(head + "\n\n", PROMPT))
    text = ""
    for shot in range(shots + 1):
        text, label = spec.draw(source, spec.labels)
        if shot == shots:
            text, label = source.until(lambda: spec.draw(source, spec.labels), lambda d: d[0])
        pieces += _labelled(source, f"{ask}{text}\n{reply}", label, last=shot == shots)
    options = tuple(o if pieces[-1].text[0] != " " else " " + o for o in spec.labels)
    return Task("choose", spec.kind + ", raw", text, pieces=tuple(pieces), options=options)


def ending(source: Source) -> Task:
    """A sentence begun and the ending that fits: no options shown, only the text continues."""
    starts, rights = source.pick(ENDINGS)
    start, right = source.until(
        lambda: (source.pick(starts).format(n=name(source)), source.pick(rights)), lambda d: d[0]
    )
    wrong = [source.pick(e) for _, e in source.some([x for x in ENDINGS if x[1] is not rights], 3)]
    pieces = (Piece(start, PROMPT), Piece(f" {right}", ANSWER), Piece(STOP, ANSWER))
    if source.chance(0.4):
        options = tuple(source.shuffled([right, *wrong]))
        lines = "\n".join(f"- {o}" for o in options)
        turn = Turn(f"Choose the best ending for: {start} ...\n{lines}", right)
        return Task("choose", "ending, chat", start, (turn,), options=options)
    options = (f" {right}", *(f" {w}" for w in wrong))
    return Task("choose", "ending, raw", start, pieces=pieces[:2], options=options)


def _fact(source: Source) -> str:
    """One sentence of what the word lists hold."""
    form = source.between(0, 5)
    if form <= 2:
        kind = source.pick(KINDS)
        word = source.pick(CATEGORIES[kind])
        plain = word[0].isupper() or kind in ("colour", "sport", "drink")
        return f"{capital(word if plain else article(word))} is {article(kind)}."
    if form == 3:
        a, b = source.pick(OPPOSITES)
        a, b = (a, b) if source.chance(0.5) else (b, a)
        return f"The opposite of {a} is {b}."
    if form == 4:
        country, city = source.pick(list(CAPITALS.items()))
        return f"The capital of {country} is {city}."
    if source.chance(0.5):
        low, high = sorted(source.some(range(1, 100), 2))
        return (
            f"{high} is larger than {low}."
            if source.chance(0.5)
            else f"{low} is smaller than {high}."
        )
    low, high = sorted(source.some(range(len(SIZES)), 2))
    small, large = article(source.pick(SIZES[low])), article(source.pick(SIZES[high]))
    if source.chance(0.5):
        return f"{capital(large)} is larger than {small}."
    return f"{capital(small)} is smaller than {large}."


def fact_drill(source: Source) -> Task:
    """The word lists themselves, as sentences and as lists: many facts in few tokens."""
    if source.chance(0.6):
        text = " ".join(_fact(source) for _ in range(source.between(4, 12)))
    else:
        kinds = source.some(KINDS, source.between(1, 4))
        rows = [(k, source.shuffled(CATEGORIES[k])[: source.between(4, 12)]) for k in kinds]
        text = "\n".join(f"{capital(k)}: {', '.join(words)}" for k, words in rows)
    pieces = (Piece(text, TAUGHT), Piece(STOP, TAUGHT))
    return Task("choose", "fact drill", text, pieces=pieces)


MAKERS: list[tuple[float, Callable[[Source], Task]]] = [
    (5.0, quiz_chat), (2.5, quiz_raw), (1.5, label_chat), (1.0, label_raw), (0.8, ending),
    (DRILL, fact_drill),
]  # fmt: skip
