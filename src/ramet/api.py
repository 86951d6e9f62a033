"""The public names under the old path `ramet.api`; see `ramet`."""

from __future__ import annotations

from typing import Any

import ramet
from ramet.lang.api import *  # noqa: F403
from ramet.lang.api import __all__ as _written
from ramet.lang.defaults import set_default_backend
from ramet.lang.program import SglFunction, function

__all__ = ["SglFunction", "function", "set_default_backend", *_written]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """`Runtime`, `Engine` and the rest of what is loaded when it is named."""
    return getattr(ramet, name)
