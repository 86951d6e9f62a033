"""What someone who installs Ramet relies on before the first call: a light import, and a package that
carries its version, its types and its model."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ramet

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGE = ROOT / "src" / "ramet"
IMPORT_SECONDS = 0.2

# Times the import inside a fresh interpreter and says what it brought along. Processor time, because on
# a busy machine the wall's clock measures the neighbours.
FRESH_IMPORT = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
start = time.process_time()
import ramet
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before)}))
"""

# Importing anything that is neither Ramet's nor the standard library's fails, as on a machine where
# `pip install --no-deps ramet` was all.
BARE_IMPORT = """
import sys
class OnlyOurs:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top != "ramet" and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, OnlyOurs())
sys.path.insert(0, sys.argv[1])
try:
    import numpy
except ModuleNotFoundError:
    print("blocked")
import ramet
print(ramet.__version__)
"""


def run_fresh(code: str) -> str:
    """Standard output of `code` in a new interpreter that sees this tree and no user settings."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(PACKAGE.parent)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_neither_torch_nor_numpy() -> None:
    modules = json.loads(run_fresh(FRESH_IMPORT))["modules"]
    heavy = {"torch", "numpy", "tokenizers", "transformers", "jinja2", "typer", "rich"}
    assert "ramet" in modules
    assert sorted(heavy & set(modules)) == []


def test_import_is_quick() -> None:
    best = min(json.loads(run_fresh(FRESH_IMPORT))["seconds"] for _ in range(5))
    assert best < IMPORT_SECONDS


def test_the_language_needs_the_standard_library_only() -> None:
    blocked, version = run_fresh(BARE_IMPORT).split()
    assert blocked == "blocked"
    assert version == ramet.__version__


def test_version_is_the_same_everywhere() -> None:
    declared = PYPROJECT["project"]["version"]
    assert ramet.__version__ == declared
    try:
        installed = importlib.metadata.version("ramet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("ramet is not installed here, only on the path; `make test` installs it")
    assert installed == declared


def shipped_data(package: Path) -> set[Path]:
    """The files that are not Python and that a wheel carries: the package-data table, applied as
    setuptools applies it."""
    table = PYPROJECT["tool"]["setuptools"]["package-data"]
    return {
        file
        for name, globs in table.items()
        for glob in globs
        for file in package.joinpath(*name.split(".")[1:]).glob(glob)
    }


def left_behind(package: Path) -> list[str]:
    """The files of the package that no wheel would carry."""
    data = [p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", ".so")]
    return sorted(p.relative_to(package).as_posix() for p in set(data) - shipped_data(package))


def test_types_are_shipped() -> None:
    assert PACKAGE / "py.typed" in shipped_data(PACKAGE)


def test_every_file_of_the_package_is_shipped() -> None:
    assert left_behind(PACKAGE) == []


def test_a_file_outside_the_table_is_noticed(tmp_path: Path) -> None:
    for name in ("pocket/model/model.safetensors", "kernels/cpu/tree.cpp", "lang/weights.bin"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert left_behind(tmp_path) == ["lang/weights.bin"]


def test_constraints_pin_every_dependency_exactly() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in wanted} - {"ramet"}
    pins = [
        line.lower()
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[a-z0-9_.-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    assert sorted(names - {pin.split("==")[0] for pin in pins}) == []
