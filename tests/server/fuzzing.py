"""Requests made up from the server's own description, right ones and wrong ones, and what must hold for any
answer: a status and a form that the description has, no failure of the server, and no acceptance of what the
description forbids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

__all__ = ["CHECKED", "described", "fuzz", "operations"]

CHECKED = (
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
_LATE = 504  # is what a client gets that gave its answer no time


def operations(schema: Any) -> Iterator[Any]:
    for result in schema.get_all_operations():
        yield result.ok()


def fuzz(
    operation: Any,
    call: Callable[[Any], Any],
    *,
    examples: int,
    seed_: int,
    kinds: Sequence[str] = ("right", "wrong"),
) -> Counter[tuple[str, int]]:
    """Half of the requests should be refused. Returns how often which status came, by the kind of request
    ("right" or "wrong"). Fails with schemathesis' own description of a request."""
    load_all_checks()
    checks = [CHECKS.get_one(name) for name in CHECKED]
    seen: Counter[tuple[str, int]] = Counter()
    modes = {"right": GenerationMode.POSITIVE, "wrong": GenerationMode.NEGATIVE}
    for kind in kinds:

        def check(case: Any) -> None:
            response = call(case)
            seen[kind, response.status_code] += 1  # noqa: B023 - run before the next kind
            assert response.status_code < 500 or response.status_code == _LATE, response.text
            case.validate_response(response, checks=checks)

        bounded = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        cases = operation.as_strategy(generation_mode=modes[kind])
        try:
            seed(seed_)(bounded(given(case=cases)(check)))()
        except Unsatisfiable:
            assert kind == "wrong", "there is no right request"
    return seen


def described(where: Any) -> Any:
    """By the application, or by the address of a server. Keys are given by the tests themselves."""
    if isinstance(where, str):
        schema = schemathesis.openapi.from_url(f"{where}/openapi.json")
    else:
        schema = schemathesis.openapi.from_asgi("/openapi.json", where)
    schema.config.generation.with_security_parameters = False
    return schema
