"""The choice methods on the published worked example, and selection through a backend."""

from __future__ import annotations

import pytest

import ramet as sgl
from ramet.backend import Capabilities
from ramet.backends.scripted import Scripted
from ramet.errors import InvalidRequest, ProgramError, Unsupported
from ramet.lang.choices import (
    ChoicesDecision,
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)

# The published example states the averages by itself; that of the third choice is not the mean of its
# list (which is -0.1, a tie with the first).
AVERAGES = [-0.1, -0.2, -0.05]
CHOICES = ["organ", "organism", "antidisestablishmentarianism"]
GIVEN = [[-0.1], [-0.1, -0.3], [-0.4, -0.25, -0.1, -0.01, -0.01, -0.01, -0.01, -0.01]]
ALONE = [[None], [None, -1.4], [None, -0.25, -0.1, -0.01, -0.01, -0.01, -0.01, -0.01]]


def triples(rows):
    return [[[value, i, None] for i, value in enumerate(row)] for row in rows]


def decide(method, **extra):
    return method(
        choices=CHOICES,
        normalized_prompt_logprobs=AVERAGES,
        input_token_logprobs=triples(GIVEN),
        output_token_logprobs=[[], [], []],
        **extra,
    )


@pytest.mark.parametrize(
    ("method", "winner"),
    [
        (token_length_normalized, 2),
        (greedy_token_selection, 0),
        (unconditional_likelihood_normalized, 1),
    ],
)
def test_the_worked_example(method, winner: int) -> None:
    decision = decide(method, unconditional_token_logprobs=triples(ALONE))
    assert decision.decision == CHOICES[winner]
    meta = decision.meta_info
    assert meta["input_token_logprobs"] == triples(GIVEN)
    assert meta["normalized_prompt_logprobs"] == AVERAGES
    assert meta["output_token_logprobs"] == [[], [], []]


def test_what_each_method_adds_to_the_meta_info() -> None:
    greedy = decide(greedy_token_selection).meta_info["greedy_logprob_matrix"]
    assert [len(row) for row in greedy] == [8, 8, 8]
    assert greedy[1] == pytest.approx([-0.1, -0.3] + [-0.2] * 6)
    meta = decide(
        unconditional_likelihood_normalized, unconditional_token_logprobs=triples(ALONE)
    ).meta_info
    assert meta["normalized_unconditional_prompt_logprobs"] == pytest.approx([-0.1, 0.5, -0.05])
    assert meta["unconditional_token_logprobs"] == triples(ALONE)
    assert unconditional_likelihood_normalized.requires_unconditional_logprobs
    assert not token_length_normalized.requires_unconditional_logprobs


def test_ties_go_to_the_first() -> None:
    scores = {"a": -1.0, "b": -1.0, "c": -2.0}
    for method in (token_length_normalized, greedy_token_selection):
        assert pick(["c", "b", "a"], scores, method)["v"] == "b"


def pick(choices, scores, method=token_length_normalized, **options):
    @sgl.function
    def program(s):
        s += "Q" + sgl.select("v", choices, choices_method=method) + "!"

    return program.run(backend=Scripted(scores=scores, **options))


def scores_of_the_example(prompt: str, choice: str):
    rows = GIVEN if prompt else [[0.0, *row[1:]] for row in ALONE]
    return rows[CHOICES.index(choice)]


@pytest.mark.parametrize(
    ("method", "winner"),
    [
        (token_length_normalized, 0),  # a tie of the true means goes to the first
        (greedy_token_selection, 0),
        (unconditional_likelihood_normalized, 1),
    ],
)
def test_the_worked_example_through_a_backend(method, winner: int) -> None:
    state = pick(CHOICES, scores_of_the_example, method)
    assert state["v"] == CHOICES[winner]
    assert state.text() == f"Q{CHOICES[winner]}!"
    meta = state.get_meta_info("v")
    assert [[t[0] for t in row] for row in meta["input_token_logprobs"]] == GIVEN
    assert meta["normalized_prompt_logprobs"] == pytest.approx([-0.1, -0.2, -0.1])
    if method is unconditional_likelihood_normalized:
        assert meta["normalized_unconditional_prompt_logprobs"] == pytest.approx([-0.1, 0.5, -0.05])


def test_an_own_method_gets_the_keyword_arguments_and_decides() -> None:
    seen = {}

    def last(**given):
        seen.update(given)
        return ChoicesDecision(given["choices"][-1], {"why": "last"})

    state = pick(["x", "y"], {"x": -0.1, "y": -3.0}, last)
    assert (state["v"], state.get_meta_info("v")) == ("y", {"why": "last"})
    assert sorted(seen) == [
        "choices",
        "input_token_logprobs",
        "normalized_prompt_logprobs",
        "output_token_logprobs",
        "unconditional_token_logprobs",
    ]
    assert seen["normalized_prompt_logprobs"] == [-0.1, -3.0]


def test_a_method_that_decides_for_something_else_fails_the_operation() -> None:
    with pytest.raises(ProgramError, match="not a ChoicesDecision"):
        pick(["x", "y"], {"x": 0, "y": 0}, lambda **_: ChoicesDecision("z", {}))["v"]


@pytest.mark.parametrize("choices", [None, [], "text", [""], ["a", ""], ["a", "a"], [1]])
def test_wrong_choices_are_refused_at_once(choices) -> None:
    with pytest.raises(InvalidRequest, match="choices"):
        sgl.select("x", choices)


def test_only_greedy_selections() -> None:
    sgl.select("x", ["a"], temperature=1e-5)
    for temperature in (0.1, float("nan"), -1):
        with pytest.raises(InvalidRequest, match="temperature"):
            sgl.select("x", ["a"], temperature=temperature)


def test_gen_with_choices_is_a_selection_and_ignores_the_rest() -> None:
    @sgl.function
    def program(s):
        s += sgl.gen("v", 1, choices=["yes", "no"], regex=None, return_logprob=True)

    backend = Scripted(scores={"yes": -2, "no": -1})
    assert program.run(backend=backend)["v"] == "no"
    assert type(backend.calls[0]).__name__ == "ScoreCall"


def test_a_backend_that_cannot_score_is_named() -> None:
    with pytest.raises(Unsupported, match=r"select\('v'\).*Scripted \(scripted\)"):
        pick(["a"], {"a": 0}, capabilities=Capabilities(score=False))
