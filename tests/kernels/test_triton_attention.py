"""Triton's attention without a GPU: its results under the interpreter, and that it compiles for GPUs.

Each in a process of its own, because the interpreter is switched on for a whole process, before Triton is
imported. What is tested is in `triton_interpreted.py`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: pip install 'triton==3.7.1' (Linux), the version for torch 2.13",
)

REFUSED = """
from ramet.errors import InvalidRequest
from ramet.kernels.triton import attention
try:
    attention.prepare(None, "cpu")
except InvalidRequest as error:
    print(error)
"""

# Compiles both kernels as they would be launched for two models, down to machine code, with the assembler
# that comes with Triton.
COMPILED = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ramet.kernels.triton import attention, programs, tiles

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16"}
INDICES = ("items", "slots", "positions", "entry_starts", "entries")
PARTIALS = ("partial_m", "partial_total", "partial_weighted")

def compiled(kernel, capability, element, constants, **options):
    types = dict.fromkeys(kernel.arg_names, "i32") | {"scale": "fp32"}
    types |= dict.fromkeys(("q", "keys", "values", "out"), "*" + element)
    types |= dict.fromkeys(INDICES, "*i32") | dict.fromkeys(PARTIALS, "*fp32")
    types = {name: types[name] for name in kernel.arg_names}
    types |= {name: "constexpr" for name in types if name in constants}
    places = list(enumerate(types.items()))
    source = ASTSource(
        kernel,
        types,
        {(i,): constants[name] for i, (name, kind) in places if kind == "constexpr"},
        {(i,): [["tt.divisibility", 16]] for i, (_, kind) in places if kind[0] in "*i"},
    )
    options["enable_fp_fusion"] = False
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

for dtype, group, d in ((torch.bfloat16, 4, 128), (torch.float32, 3, 64)):
    block_m, block_d, num_warps, num_stages = attention._shape(group, d, dtype)
    constants = dict(
        KV_HEADS=8, GROUP=group, D=d, BLOCK_M=block_m, BLOCK_D=block_d, BLOCK=tiles.BLOCK,
        SPAN=tiles.BLOCK * tiles.SPAN_BLOCKS, BLOCK_G=triton.next_power_of_2(group),
        WEIGHTS=attention._DTYPES[dtype], OPERAND=attention._DTYPES[dtype],
    )
    for capability, shared in ((80, 163 * 1024), (90, 227 * 1024)):
        given = capability, SHORT[dtype], constants
        walk = compiled(programs.walk, *given, num_warps=num_warps, num_stages=num_stages)
        merge = compiled(programs.merge, *given, num_warps=4)
        assert walk.asm["cubin"] and merge.asm["cubin"]
        assert walk.metadata.shared <= shared, walk.metadata.shared
        product = {80: "mma.sync", 90: "wgmma.mma_async"}[capability]
        assert (product in walk.asm["ptx"]) == (dtype != torch.float32)
        # The bits of a fold must not depend on where the compiler finds a product to fuse.
        assert "fma.rn" not in merge.asm["ptx"]
        assert ("fma.rn" in walk.asm["ptx"]) == (dtype == torch.float32)
print("compiled")
"""


def run(arguments: list[str], **environment: str) -> str:
    """Standard output of a fresh interpreter; its whole report if it fails."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": "src"} | environment,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_under_the_interpreter() -> None:
    file = Path(__file__).with_name("triton_interpreted.py")
    # xdist's and pytest's own variables of the outer run would confuse the inner one.
    arguments = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)]
    output = run(arguments, TRITON_INTERPRET="1", PYTEST_ADDOPTS="")
    assert " passed" in output
    assert "skipped" not in output


def test_a_cpu_without_the_interpreter_is_refused() -> None:
    assert "attention.device: 'cpu' is not a GPU" in run(["-c", REFUSED])


def test_it_compiles_for_gpus(tmp_path: Path) -> None:
    assert run(["-c", COMPILED], TRITON_CACHE_DIR=str(tmp_path)) == "compiled\n"
