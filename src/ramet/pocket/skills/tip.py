"""Skill `tip`: write a tip on a topic, list titles of tips, expand a title into a paragraph.

The sentences are in tips.py; this file asks for them. Any tip of the topic is a right answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .base import ANSWER, PROMPT, STOP, Piece, Source, Task, Turn
from .tips import PATTERNS, THINGS, TIPS, Tip
from .words import invented


@dataclass(frozen=True)
class Topic:
    name: str
    tips: tuple[Tip, ...]


def topic(source: Source) -> Topic:
    """A topic of the list, or a pattern with a known or made-up thing in it."""
    if source.chance(0.65):
        name = source.pick(list(TIPS))
        return Topic(name, tuple(TIPS[name]))
    pattern = source.pick(list(PATTERNS))
    thing = source.pick(THINGS[pattern]) if source.chance(0.6) else invented(source)
    tips = tuple((a, b.format(x=thing), c.format(x=thing), d.format(x=thing))
                 for a, b, c, d in PATTERNS[pattern])  # fmt: skip
    return Topic(pattern.format(x=thing), tips)


def short(tip: Tip) -> str:
    return f"{tip[1]} {tip[2]}"


def paragraph(tip: Tip) -> str:
    return f"{tip[1]} {tip[2]} {tip[3]}"


def _titles(text: str, known: Topic, count: int) -> bool:
    """Are these `count` different numbered titles of the topic?"""
    rows = [line.partition(". ") for line in text.strip().split("\n")]
    found = {title for _, _, title in rows}
    numbers = [n for n, _, _ in rows] == [str(i + 1) for i in range(count)]
    return numbers and len(found) == count and found <= {t[0] for t in known.tips}


def tip_chat(source: Source) -> Task:
    about = topic(source)
    tip = source.pick(about.tips)
    many = source.chance(0.4)
    right = {short(t) for t in about.tips}
    if many:
        return _list_chat(source, about)
    ask = source.pick(
        ["Give a tip for {t}.", "Give me a tip for {t}.", "Do you have a tip for {t}?",
         "Any advice on {t}?", "Write a short tip about {t}.", "I need a tip on {t}.",
         "What is a good tip for {t}?", "One tip for {t}, please.", "How do I get better at {t}?"]
    ).format(t=about.name)  # fmt: skip
    turns = [Turn(ask, short(tip))]
    if source.chance(0.25):
        other = source.pick([t for t in about.tips if t != tip])
        more = source.pick(["Another one?", "Give me another tip.", "One more, please."])
        turns.append(Turn(more, short(other)))
    key = f"{turns[0].user}{turns[0].answer}"
    return Task("tip", "one tip", key, tuple(turns), accept=lambda text: text.strip() in right)


def _list_chat(source: Source, about: Topic) -> Task:
    count = source.between(2, 4)
    words = {2: "two", 3: "three", 4: "four"}
    ask = source.pick(
        ["List {c} tips for {t}.", "Give me {c} short tips for {t}.", "Name {c} tips for {t}.",
         "Write {c} tip titles about {t}.", "What are {c} tips for {t}?"]
    ).format(c=source.pick([words[count], str(count)]), t=about.name)  # fmt: skip
    chosen = source.some(about.tips, count)
    answer = "\n".join(f"{i + 1}. {t[0]}" for i, t in enumerate(chosen))
    turns = [Turn(ask, answer)]
    if source.chance(0.4):
        index = source.between(0, count - 1)
        more = source.pick(
            ["Tell me more about tip {i}.", "Explain number {i}.", "Expand tip {i}."]
        )
        turns.append(Turn(more.format(i=index + 1), paragraph(chosen[index])))
        return Task("tip", "list, then expand", ask + answer, tuple(turns))
    return Task("tip", "list", ask + answer, tuple(turns),
                accept=lambda text: _titles(text, about, count))  # fmt: skip


def expand_chat(source: Source) -> Task:
    about = topic(source)
    tip = source.pick(about.tips)
    ask = source.pick(
        ["Expand this tip for {t} into a paragraph: {i}", "Topic: {t}\nTip: {i}\nWrite a paragraph.",
         "Write a short paragraph about the tip \"{i}\" for {t}.",
         "Expand the tip \"{i}\" ({t}) into two or three sentences.",
         "Turn this tip into a paragraph.\nTopic: {t}\nTip: {i}"]
    ).format(t=about.name, i=source.pick([tip[0], tip[0], tip[1]]))  # fmt: skip
    return Task("tip", "expand", ask, (Turn(ask, paragraph(tip)),))


def raw(source: Source) -> Task:
    """`Topic:` and numbered titles, or `Topic:`/`Tip:`/`Paragraph:`, few-shot."""
    shots = source.between(0, 2)
    pieces: list[Piece] = []
    if source.chance(0.5):
        known = topic(source)
        for shot in range(shots + 1):
            known = topic(source)
            count = source.between(2, 4)
            pieces.append(Piece(source.pick([f"Tips for {known.name}:\n", f"Topic: {known.name}\n"]),
                                PROMPT))  # fmt: skip
            for i, tip in enumerate(source.some(known.tips, count)):
                pieces.append(Piece(f"{i + 1}.", PROMPT))
                pieces.append(Piece(f" {tip[0]}\n", ANSWER))
            if shot < shots:
                pieces.append(Piece("\n", PROMPT))
        titles = {t[0] for t in known.tips}
        return Task("tip", "title, raw", known.name + pieces[-1].text, pieces=tuple(pieces),
                    accept=lambda text: text.strip() in titles)  # fmt: skip
    key = ""
    for shot in range(shots + 1):
        known = topic(source)
        tip = source.pick(known.tips)
        key = f"Topic: {known.name}\nTip: {source.pick([tip[0], tip[0], tip[1]])}\nParagraph:"
        pieces.append(Piece(key, PROMPT))
        close = "\n\n" if shot < shots or source.chance(0.7) else STOP
        pieces.append(Piece(f" {paragraph(tip)}{close}", ANSWER))
    return Task("tip", "expand, raw", key + pieces[-1].text, pieces=tuple(pieces))


MAKERS: list[tuple[float, Callable[[Source], Task]]] = [
    (3.0, tip_chat),
    (1.5, expand_chat),
    (1.5, raw),
]
