"""Waits: what headers say, and how long to stay away."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramet.backends.api_limits import Backoff, asked_wait, exhausted_for, retried_status
from ramet.errors import InvalidRequest

NOW = 1_800_000_000.0


def test_retry_after_in_its_forms() -> None:
    assert asked_wait({"retry-after": "2"}, NOW) == 2
    assert asked_wait({"retry-after": "0.25"}, NOW) == 0.25
    assert asked_wait({"retry-after-ms": "30", "retry-after": "2"}, NOW) == 0.03
    date = email.utils.formatdate(NOW + 7, usegmt=True)
    assert asked_wait({"retry-after": date}, NOW) == pytest.approx(7, abs=1)
    assert asked_wait({"retry-after": email.utils.formatdate(NOW - 7)}, NOW) == 0
    assert asked_wait({"retry-after": "soon"}, NOW) is None
    assert asked_wait({"retry-after": "nan"}, NOW) is None
    assert asked_wait({}, NOW) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("20ms", 0.02), ("6m0s", 360), ("1h2m3.5s", 3723.5), ("1.5", 1.5), ("junk", 0)],
)
def test_openais_resets(text: str, seconds: float) -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": text}
    assert exhausted_for(headers, NOW) == pytest.approx(seconds)
    assert exhausted_for({**headers, "x-ratelimit-remaining-requests": "3"}, NOW) == 0


def test_anthropics_resets() -> None:
    headers = {
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2027-01-15T08:00:09Z",
        "anthropic-ratelimit-requests-remaining": "9",
        "anthropic-ratelimit-requests-reset": "2027-01-15T09:00:00Z",
    }
    assert exhausted_for(headers, NOW) == pytest.approx(9)


def test_the_longest_of_several_limits_counts() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "3s",
    }
    assert exhausted_for(headers, NOW) == 3
    assert exhausted_for({}, NOW) == 0


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_header_is_an_error(remaining: str, reset: str) -> None:
    for name in ("requests", "tokens"):
        headers = {
            f"x-ratelimit-remaining-{name}": remaining,
            f"x-ratelimit-reset-{name}": reset,
            "retry-after": reset,
        }
        assert exhausted_for(headers, NOW) >= 0
        assert (asked_wait(headers, NOW) or 0) >= 0


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_backoff_grows_to_its_bound(failures: int, chance: float) -> None:
    backoff = Backoff(first=0.5, factor=2, longest=30, jitter=0.25)
    whole = min(0.5 * 2 ** min(failures - 1, 60), 30)
    assert whole * 0.75 <= backoff.delay(failures, chance) <= whole


@pytest.mark.parametrize(
    "options", [{"first": -1}, {"jitter": 1.5}, {"longest": float("inf")}, {"factor": "2"}]
)
def test_wrong_backoffs(options: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest):
        Backoff(**options)


def test_which_status_passes() -> None:
    assert [s for s in (200, 400, 401, 403, 404, 408, 409, 422, 429) if retried_status(s)] == [
        408,
        409,
        429,
    ]
    assert all(retried_status(status) for status in (500, 502, 503, 504, 529))
