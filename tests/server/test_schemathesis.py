"""Requests that schemathesis makes of the server's description: in one process with a scripted engine, and a
few against a server with a model. The seed is fixed; the soak tests run longer with others."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from tests.server.fuzzing import described, fuzz, operations
from tests.server.launched import Launched, launched
from tests.server.scripted_engine import app

KEY = "a-key-for-tests"
HEADERS = {"Authorization": f"Bearer {KEY}"}
SEED = 20_260
GENERATING = {
    "/generate": "post",
    "/score_choices": "post",
    "/v1/completions": "post",
    "/v1/chat/completions": "post",
    "/v1/responses": "post",
    "/v1/messages": "post",
}


@functools.cache
def in_process():  # type: ignore[no-untyped-def]
    schema = described(app(api_keys={KEY: "tests"}).asgi)
    return {(one.method.lower(), one.path): one for one in operations(schema)}


NAMES = sorted(in_process())


@pytest.mark.parametrize(("method", "path"), NAMES, ids=[f"{m} {p}" for m, p in NAMES])
def test_any_request_is_answered_as_described(method: str, path: str) -> None:
    operation = in_process()[method, path]
    examples = 10 if path in GENERATING else 4
    seen = fuzz(operation, lambda case: case.call(headers=HEADERS), examples=examples, seed_=SEED)
    statuses = {status for kind, status in seen if kind == "right"}
    if path in GENERATING and method == "post":
        assert statuses & {200, 400}, seen
    assert 401 not in statuses


def test_right_requests_are_answered() -> None:
    """Often enough: otherwise the checks above would see refusals only."""
    for path in ("/v1/responses", "/v1/chat/completions", "/score_choices"):
        operation = in_process()["post", path]
        seen = fuzz(
            operation,
            lambda case: case.call(headers=HEADERS),
            examples=24,
            seed_=1,
            kinds=["right"],
        )
        assert seen["right", 200] >= 3, (path, seen)


def test_without_a_key_there_is_no_answer() -> None:
    for (method, path), operation in in_process().items():
        if operation.definition.raw.get("security"):
            seen = fuzz(
                operation, lambda case: case.call(), examples=1, seed_=SEED, kinds=["right"]
            )
            assert {status for _, status in seen} == {401}, (method, path, seen)


# -- a real one -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed() -> Iterator[Launched]:
    options = ("--max-cache-tokens", "20000", "--request-timeout", "2", "--api-key", KEY)
    with launched(*options) as found:
        yield found


@pytest.mark.parametrize("path", sorted(GENERATING))
def test_a_server_with_a_model_answers_as_described(path: str, keyed: Launched) -> None:
    operation = described(keyed.url)[path][GENERATING[path]]
    fuzz(operation, lambda case: case.call(headers=HEADERS), examples=5, seed_=SEED)
