"""The native library, compiled and loaded: one per process.

Knows how to get it and what to say when there is none; refuses to know what its functions mean (the
module that wraps a function declares it). A call through ctypes leaves the interpreter free.
"""

from __future__ import annotations

import ctypes
import functools
import warnings

from ramet.build import BuildError, load
from ramet.kernels.cpu.build import KERNELS

__all__ = ["library", "why_not"]


@functools.cache
def library() -> ctypes.CDLL:
    """The library for this machine; compiled on first use. Raises BuildError."""
    return load(KERNELS)


@functools.cache
def why_not() -> str | None:
    """None where the native kernels work, else the reason, which is also said once as a warning."""
    try:
        library()
    except BuildError as error:
        warnings.warn(
            f"no native CPU kernels: {error}. Running the slower PyTorch reference, whose last bits "
            "depend on the batch",
            stacklevel=2,
        )
        return str(error)
    return None
