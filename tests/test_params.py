"""Sampling parameters: values that no client should be able to send."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ramet.errors import InvalidRequest
from ramet.params import SamplingParams

HUGE = 10**400  # beyond every float


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", HUGE),
        ("temperature", math.nan),
        ("temperature", -1),
        ("top_p", 0),
        ("top_p", -HUGE),
        ("logit_bias", {1: HUGE}),
        ("logit_bias", {1: math.inf}),
        ("logit_bias", {-1: 1.0}),
        ("n", 0),
        ("n", HUGE),
        ("max_new_tokens", -1),
        ("max_new_tokens", True),
        ("sampling_seed", HUGE),
    ],
    ids=lambda value: str(value)[:12],
)
def test_values_beyond_their_bounds_are_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams.from_dict({name: value})
    assert caught.value.field.startswith(name)


def test_a_deep_value_has_an_error_of_its_own() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="stop: a deep list"):
        raise InvalidRequest("stop", deep, "is not a string")
