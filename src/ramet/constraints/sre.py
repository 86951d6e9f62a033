"""Where the standard library keeps the parts of `re` that we read: its parser, its table of letters.

Knows the private modules of Python 3.11 to 3.14, here and nowhere else. Refuses to know what is done with
them. What the constants mean stands in the library's own `re/_parser.py` and `re/_compiler.py`.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

__all__ = ["CONSTANTS", "EXTRA_CASES", "UNLOWERED_LITERALS", "Error", "parse"]

Error = re.error
CONSTANTS: Any = importlib.import_module("re._constants")
_PARSER: Any = importlib.import_module("re._parser")

# Small letter -> the other small letters with the same capital.
EXTRA_CASES: dict[int, tuple[int, ...]] = importlib.import_module("re._casefix")._EXTRA_CASES

# (?i)[x\U00010400] does not match the small form of that letter: in a set with more than one element a
# capital outside the Basic Multilingual Plane is compared with lowered text as it stands.
UNLOWERED_LITERALS = re.compile("(?i)[x\U00010400]").fullmatch("\U00010428") is None


def parse(pattern: str) -> Any:
    """The library's tree, a `SubPattern`; its `state.flags` are the global flags. Raises `Error`,
    OverflowError and ValueError for bad numbers, RecursionError when nested too deeply."""
    return _PARSER.parse(pattern)
