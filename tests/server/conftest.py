"""One server for all tests of a file that only ask it things."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.server.launched import Launched, launched


@pytest.fixture(scope="module")
def server() -> Iterator[Launched]:
    with launched("--max-cache-tokens", "20000") as found:
        yield found
