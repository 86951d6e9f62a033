"""One line about the machine that figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["describe"]


def describe() -> str:
    import torch

    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    features = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {os.cpu_count()} cores, {features}, torch {torch.__version__}"
