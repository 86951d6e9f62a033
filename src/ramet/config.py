"""Settings of this process, under the names that programs use (`global_config`).

Knows values only. Nothing reads the environment here, and nothing else in Ramet is global state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["GlobalConfig", "global_config"]


@dataclass(slots=True)
class GlobalConfig:
    """`verbosity` 2 prints the final text after each run. `default_backend` is what programs run on
    when none is given (None: the embedded model, loaded on first use). `enable_precache_with_tracing`
    lets `run_batch` announce the constant prefix of a program before it starts."""

    verbosity: int = 0
    default_backend: Any = None
    skip_special_tokens_in_output: bool = True
    spaces_between_special_tokens_in_out: bool = True
    enable_precache_with_tracing: bool = True
    enable_parallel_encoding: bool = True


global_config = GlobalConfig()
