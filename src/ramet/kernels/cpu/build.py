"""The CPU kernels as a library to build: the C++ sources of this folder.

Knows which folder; how it is compiled and cached is `ramet.build`'s business.
"""

from __future__ import annotations

from pathlib import Path

from ramet.build import COMMON, LEVELS, BuildError, Level, Library, best_level, cache_folder
from ramet.build import build as _build

__all__ = [
    "COMMON",
    "KERNELS",
    "LEVELS",
    "BuildError",
    "Level",
    "best_level",
    "build",
    "cache_folder",
]

KERNELS = Library("kernels", "the CPU kernels", Path(__file__).parent)


def build(level: Level | None = None, *, say: bool = True) -> Path:
    """The kernels for `level` (default: the best), compiled if the cache does not have them. Raises
    BuildError."""
    return _build(KERNELS, level, say=say)
