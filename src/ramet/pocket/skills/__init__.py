"""The skills of `pocket` and how their tasks become documents: the whole data generator.

Torch-free and seeded: `documents(seed)` yields the same documents for ever. A document is a list of
pieces (text, weight): one raw task, or one chat of several tasks with a system prompt or without.
`task(source)` gives one instance alone, for evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from . import add, choose, extract, judge, react, recall, talk, tip
from .base import ANSWER, END, PROMPT, SILENT, START, STOP, Piece, Source, Task, Turn, held_out

__all__ = [
    "ANSWER", "END", "MAKERS", "PROMPT", "SHARES", "SILENT", "START", "STOP", "SYSTEMS", "Piece",
    "Source", "Task", "Turn", "chat_pieces", "document", "documents", "drill_document", "held_out", "long_document",
    "rendered", "task",
]  # fmt: skip

Maker = Callable[[Source], Task]
MAKERS: dict[str, list[tuple[float, Maker]]] = {
    "choose": choose.MAKERS, "recall": recall.MAKERS, "extract": extract.MAKERS,
    "add": add.MAKERS, "judge": judge.MAKERS, "tip": tip.MAKERS, "react": react.MAKERS,
    "talk": talk.MAKERS,
}  # fmt: skip
SHARES: dict[str, float] = {  # of tasks, not of tokens
    "choose": 0.30, "recall": 0.22, "extract": 0.13, "add": 0.07, "judge": 0.13, "tip": 0.05,
    "react": 0.03, "talk": 0.07,
}  # fmt: skip
STRESS: dict[str, float] = {"choose": 4.0, "recall": 2.5}  # their answers are few tokens
DRILLS: list[Maker] = [choose.fact_drill, recall.copy_drill, recall.table_drill]
SYSTEMS = [
    "You are a helpful assistant.", "You are pocket, a small model.", "Answer briefly.",
    "You are a helpful, honest assistant. Keep answers short.", "You are a careful assistant.",
    "Follow the instructions of the user.", "You answer questions.", "Be brief and exact.",
    "You are the assistant of a small company.", "You are a friendly teacher.",
]  # fmt: skip


def _weighted(source: Source, makers: list[tuple[float, Maker]]) -> Maker:
    mark = source.rng.random() * sum(weight for weight, _ in makers)
    for weight, maker in makers:
        mark -= weight
        if mark < 0:
            return maker
    return makers[-1][1]


def task(source: Source, skill: str | None = None) -> Task:
    """One instance, of the given skill or of one drawn by its share."""
    if skill is None:
        skill = source.rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
    maker = _weighted(source, MAKERS[skill])
    if source.held and maker in DRILLS:  # a drill teaches, it is no task to be measured by
        return task(source, skill)
    return _american(source, source.until(lambda: maker(source), lambda item: item.key))


def _stressed(item: Task) -> Task:
    """The weights of answers times the skill's factor."""
    factor = STRESS.get(item.skill, 1.0)
    turns = tuple(
        replace(t, weight=t.weight * factor) if t.weight == ANSWER else t for t in item.turns
    )
    pieces = tuple(
        replace(p, weight=p.weight * factor) if p.weight == ANSWER else p for p in item.pieces
    )
    return replace(item, turns=turns, pieces=pieces)


def _american(source: Source, item: Task) -> Task:
    """One task in eight spells `color` and `favorite`."""
    if not source.chance(0.125) or item.accept is not None:
        return item

    def spell(text: str) -> str:
        return text.replace("colour", "color").replace("avourite", "avorite")

    return replace(
        item,
        turns=tuple(Turn(spell(t.user), spell(t.answer), t.weight) for t in item.turns),
        pieces=tuple(Piece(spell(p.text), p.weight) for p in item.pieces),
        options=tuple(spell(o) for o in item.options),
    )


def chat_pieces(turns: list[Turn], system: str | None = None) -> list[Piece]:
    """The ChatML form of turns, exactly what the chat template renders."""
    pieces = []
    if system is not None:
        pieces.append(Piece(f"{START}system\n{system}{END}\n", PROMPT))
    for turn in turns:
        pieces.append(Piece(f"{START}user\n{turn.user}{END}\n{START}assistant\n", PROMPT))
        pieces.append(Piece(turn.answer + END, turn.weight))
        pieces.append(Piece("\n", PROMPT))
    return pieces


def rendered(item: Task) -> list[Piece]:
    """One task alone as pieces."""
    return list(item.pieces) if item.pieces else chat_pieces(list(item.turns), item.system)


def _mixed(source: Source, first: Task) -> list[Turn]:
    """Turns of several tasks in one chat; a recall task may be interrupted by others."""
    turns = list(first.turns)
    if not first.mixable:
        return turns
    extra = source.pick([0, 0, 0, 1, 1, 2, 3])
    for _ in range(extra):
        others = [s for s in SHARES if s not in ("recall", "react")]
        other = _stressed(task(source, source.pick(others)))
        if not other.turns:
            continue
        open_to = first.skill == "recall" and first.kind == "chat"
        places = list(range(len(turns) + 1)) if open_to else [0, len(turns)]
        at = source.pick(places)
        turns[at:at] = list(other.turns)
        first = Task(first.skill, "closed" if not open_to else first.kind, "")
    return turns


def document(source: Source, skill: str | None = None) -> list[Piece]:
    """One document of the training text, its end mark included."""
    item = _stressed(task(source, skill))
    if item.pieces:
        pieces = list(item.pieces)
    else:
        system = source.pick(SYSTEMS) if item.system is None and source.chance(0.3) else item.system
        pieces = chat_pieces(_mixed(source, item), system)
    if pieces[-1].text.endswith(STOP):
        return pieces
    return [*pieces, Piece(STOP, PROMPT)]


def long_document(source: Source) -> list[Piece]:
    """A document for long contexts: facts far away from their question."""
    item = _stressed(source.until(lambda: recall.long_document(source), lambda found: found.key))
    if item.pieces:
        return [*item.pieces, Piece(STOP, PROMPT)]
    return [*chat_pieces(_mixed(source, item)), Piece(STOP, PROMPT)]


def drill_document(source: Source) -> list[Piece]:
    """Copying and little else, for the part of training in which copying is to be found."""
    maker = source.pick([recall.copy_drill, recall.copy_drill, recall.table_drill])
    item = source.until(lambda: maker(source), lambda found: found.key)
    return [*item.pieces, Piece(STOP, PROMPT)]


def documents(seed: int | str, long_share: float = 0.0) -> Iterator[list[Piece]]:
    """An endless stream of training documents. Deterministic in its arguments."""
    source = Source(seed)
    while True:
        yield long_document(source) if source.chance(long_share) else document(source)
