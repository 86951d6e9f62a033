"""How many threads compute, for PyTorch and the native kernels alike. The only place that sets it.

Knows numbers; refuses to know what is computed. The native pool sleeps when idle. PyTorch's threads spin
for a while after each operation, and would take the cores from it: a thread that steps an engine on the
native kernels therefore does its few PyTorch operations alone (`compute_alone`).
"""

from __future__ import annotations

import os
import threading

import torch

__all__ = ["compute_alone", "num_threads", "set_num_threads"]

_asked: int | None = None
_local = threading.local()


def set_num_threads(count: int) -> None:
    """For everything that is computed from now on in this process."""
    global _asked
    _asked = count
    torch.set_num_threads(count)


def num_threads() -> int:
    """What was set, else the cores that this process may use."""
    if _asked is not None:
        return _asked
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def compute_alone() -> None:
    """PyTorch operations of the calling thread use no other threads."""
    if not getattr(_local, "alone", False):
        torch.set_num_threads(1)
        _local.alone = True
