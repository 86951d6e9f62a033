"""Thousands of made-up requests from a new seed: see `tests/server/test_schemathesis.py`."""

from __future__ import annotations

import pytest

from tests.server.fuzzing import described, fuzz
from tests.server.launched import launched
from tests.server.test_schemathesis import GENERATING, HEADERS, KEY, NAMES, in_process

EXAMPLES = 400


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("method", "path"), NAMES, ids=[f"{m} {p}" for m, p in NAMES])
def test_any_request_is_answered_as_described(method: str, path: str, soak_seed: int) -> None:
    examples = EXAMPLES if path in GENERATING else EXAMPLES // 10
    operation = in_process()[method, path]
    fuzz(operation, lambda case: case.call(headers=HEADERS), examples=examples, seed_=soak_seed)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", sorted(GENERATING))
def test_a_server_with_a_model_stays_well(path: str, soak_seed: int) -> None:
    options = ("--max-cache-tokens", "20000", "--request-timeout", "2", "--api-key", KEY)
    with launched(*options) as server:
        operation = described(server.url)[path][GENERATING[path]]
        fuzz(
            operation,
            lambda case: case.call(headers=HEADERS),
            examples=EXAMPLES // 4,
            seed_=soak_seed,
        )
        server.wait_healthy(5)
