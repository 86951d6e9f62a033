"""Every instruction set that this machine has, not only the best one: the same tests, in a process
of its own.

Levels may differ from one another in a float's last bits; each must be exact in itself, and int8
products have the same bits on all. The level is fixed when the library is loaded, hence the
processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ramet.build import LEVELS, _processor_flags, best_level
from ramet.kernels.cpu.library import why_not

if why_not() is not None:
    pytest.skip(f"no native kernels: {why_not()}", allow_module_level=True)

ROOT = Path(__file__).parents[2]
FILES = [
    "tests/kernels/test_cpu_attention.py",
    "tests/kernels/test_cpu_linear.py",
    "tests/kernels/test_cpu_sampling.py",
    "tests/models/test_native.py",
]


@pytest.mark.timeout(240)  # the first run compiles
@pytest.mark.parametrize("level", [name for name in LEVELS if name != best_level().name])
def test_level(level: str) -> None:
    missing = LEVELS[level].needs - _processor_flags()
    if missing:
        pytest.skip(f"this processor has no {', '.join(sorted(missing))}")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *FILES,
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"RAMET_CPU_LEVEL": level},
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )
    assert done.returncode == 0, f"{level}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    assert "skipped" not in done.stdout
