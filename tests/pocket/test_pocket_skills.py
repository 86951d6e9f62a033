"""The generator: deterministic, true in itself, and never showing training what is held out."""

from __future__ import annotations

import json
import re
from itertools import islice

import pytest

from ramet.pocket.skills import (
    END,
    SHARES,
    START,
    STOP,
    Source,
    documents,
    held_out,
    rendered,
    task,
)
from ramet.pocket.skills.add import check, steps, wrong
from ramet.pocket.skills.judge import DIMENSIONS, essay, grade, summary
from ramet.pocket.skills.words import invented

SKILLS = list(SHARES)


def test_same_seed_same_documents() -> None:
    first = list(islice(documents(7, 0.1), 200))
    assert first == list(islice(documents(7, 0.1), 200))
    assert first != list(islice(documents(8, 0.1), 200))


@pytest.mark.parametrize("skill", SKILLS)
def test_held_out_and_training_never_meet(skill: str) -> None:
    train, held = Source(1), Source(1, held=True)
    assert not any(held_out(task(train, skill).key) for _ in range(150))
    assert all(held_out(task(held, skill).key) for _ in range(15))


def test_made_up_names_are_split() -> None:
    assert not any(held_out(invented(Source(i))) for i in range(200))
    assert all(held_out(invented(Source(i, held=True))) for i in range(50))


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("held", [False, True])
def test_every_task_is_well_formed(skill: str, held: bool) -> None:
    source = Source(3, held)
    for _ in range(25 if held else 150):
        item = task(source, skill)
        assert bool(item.turns) != bool(item.pieces)
        pieces = rendered(item)
        text = "".join(p.text for p in pieces)
        assert all(p.text for p in pieces)
        assert not re.search(r"\{[a-z]\}", text), text  # an unfilled template
        answer = [p.text for p in pieces if p.weight >= 0.3][-1]
        bare = answer.replace(END, "").replace(STOP, "").rstrip("\n")
        if item.options:
            assert bare in item.options
            assert len(set(item.options)) == len(item.options)
        if item.accept is not None and bare:
            assert item.accept(bare), (item.kind, bare)
        assert text.count(START) == text.count(END)


@pytest.mark.parametrize("skill", SKILLS)
def test_every_learned_addition_is_right(skill: str) -> None:
    source = Source(5)
    for _ in range(200):
        for piece in rendered(task(source, skill)):
            if piece.weight < 0.3:
                continue
            for a, b, c, total in re.findall(r"(\d+) \+ (\d+)(?: \+ (\d+))? = (\d+)", piece.text):
                assert int(a) + int(b) + int(c or 0) == int(total), piece.text


@pytest.mark.parametrize("numbers", [[47, 38], [9, 5], [99, 99], [10, 7], [47, 38, 96], [1, 2, 3]])
def test_steps_and_check_agree(numbers: list[int]) -> None:
    total = sum(numbers)
    assert steps(numbers).endswith(f"Answer: {total}")
    assert check(numbers, total).endswith(f"The answer {total} is correct.\n")
    assert check(numbers, total + 1).endswith(f"The answer {total + 1} is wrong.\n")
    assert all(wrong(Source(i), total) not in (total, 0) for i in range(50))


def test_extracted_values_stand_in_the_text() -> None:
    source = Source(11)
    for _ in range(300):
        item = task(source, "extract")
        if not item.kind.endswith("json"):
            continue
        found = json.loads(item.turns[-1].answer)
        assert all(str(value) in item.turns[-1].user for value in found.values())


def test_recall_answers_stand_in_the_context() -> None:
    source = Source(12)
    for _ in range(400):
        item = task(source, "recall")
        if item.kind not in ("document", "raw", "chat", "who"):
            continue
        texts = [p.text for p in rendered(item) if p.text != "\n"]
        value = item.key.split("|")[-1]
        assert value in texts[0] or any(value in t for t in texts[:-2])


def test_essay_scores_follow_their_marks() -> None:
    for seed in range(60):
        item = essay(Source(seed))
        for dimension in DIMENSIONS:
            assert item.judgement(dimension).endswith(f"Score: {item.score(dimension)}")
            if dimension != "Evidence":
                assert all(m in item.text.lower() for m in item.marks[dimension])


def test_grades() -> None:
    assert [grade([5, 5, 2]), grade([5, 3, 3]), grade([3, 2, 1]), grade([2, 2, 1])] == list("ABCD")
    scores = {"Clarity": 5, "Evidence": 1, "Originality": 4}
    assert summary(scores) == "The essay is strong in clarity and originality and weak in evidence."
