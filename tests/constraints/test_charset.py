"""Sets of characters against `re`, over all code points."""

from __future__ import annotations

import re

import pytest

from ramet.constraints.nodes import Chars, Text
from ramet.constraints.syntax import parse

EVERY = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))

CLASSES = [
    r"\d",
    r"\D",
    r"\w",
    r"\W",
    r"\s",
    r"\S",
    ".",
    "(?s).",
    r"(?a)\w",
    r"(?a)\W",
    r"(?a)[^\d\s]",
    r"(?a:\s)",
    r"[^\n]",
    r"[^a-z\u0400-\U0001f600]",
    r"[\w\-.~!]",
    r"[^\W\d_]",
    r"[\s\S]",
    r"[a-zA-Z\d_]|\s",
    "(?i)k",
    "(?i)\u212a",
    "(?i)s",
    "(?i)[s]",
    "(?i)\u017f",
    "(?i)i",
    "(?i)\u0130",
    "(?i)\u0131",
    "(?i)\u00b5",
    "(?i)\u00df",
    "(?i)\u1e9e",
    "(?i)\u03c3",
    "(?i)[\u03c2x]",
    "(?i)\ufb05",
    "(?i)\u0345",
    "(?i)[^k]",
    "(?i)[^\u0430-\u0450s]",
    "(?i)[a-z]",
    "(?i)[A-Z]",
    "(?i)[h-j]",
    "(?i)[\u0100-\u0200]",
    "(?i)[\u1e00-\u1fff]",
    r"(?i)[\d\u03b1-\u03c9]",
    r"(?i)[^\W\u00e0-\u00ff]",
    "(?i)\U00010400",
    "(?i)\U00010428",
    "(?i)[\U00010400x]",
    "(?i)[\U00010428x]",
    "(?i)[^\U00010400]",
    "(?i)[\U00010400-\U00010410]",
    "(?i)[\U00010428-\U00010430]",
    "(?i)[\U0001f600x]",
    "(?i)[\u02bc-\U00010000]",
    "(?i)[\u0149-\U00010410]",
    "(?i)[\u02bc-\u0370\u0371-\U00010000]",
    "(?i)[T-\U0001f600]",
    "(?i)a|\U00010400|b",
    "(?ai)k",
    "(?ai)[k\u212a]",
    "(?ai)\u00e4",
    "(?ai)[\u00e0-\u00ff]",
    "(?ai)[^k-m]",
    "(?ai)[\U00010400-\U00010427]",
    "(?ai)[\u02bc-\U00010000]",
    "(?ai)[\U00010400x]",
    "(?i:k)",
    "(?i)(?-i:k)",
    "(?i)(?a:k)",
    "(?ai)(?u:k)",
]


@pytest.mark.parametrize("pattern", CLASSES)
def test_a_class_is_what_re_says(pattern: str) -> None:
    node = parse(pattern)
    ranges = ((ord(node.text),) * 2,) if isinstance(node, Text) else node.ranges  # type: ignore[union-attr]
    found = "".join(EVERY[_place(low) : _place(high) + 1] for low, high in ranges)
    assert found == "".join(re.findall(pattern, EVERY))


def _place(code: int) -> int:
    return code if code < 0xD800 else code - 0x800


@pytest.mark.parametrize("pattern", [r"\w", r"(?i)[^k\d]", r"[\ud000-\uf000]", r"\W"])
def test_ranges_rise_apart_and_hold_no_surrogates(pattern: str) -> None:
    node = parse(pattern)
    assert isinstance(node, Chars)
    assert all(low <= high for low, high in node.ranges)
    assert all(a[1] + 1 < b[0] for a, b in zip(node.ranges, node.ranges[1:], strict=False))
    assert not any(low <= 0xDFFF and high >= 0xD800 for low, high in node.ranges)


def test_one_class_is_one_object() -> None:
    node = parse(r"\w,\w,[^a]\w[^a]")
    classes = [part for part in node.parts if isinstance(part, Chars)]  # type: ignore[union-attr]
    assert len(classes) == 5
    assert len({id(part) for part in classes}) == 2
