"""Compiling on first use: the cache, the messages, and what runs where there is no compiler.

Most tests drive a shell script in the compiler's place, which writes down how it was called.
"""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.models.checkpoints import make_checkpoint
from tests.models.oracle import Run
from typer.testing import CliRunner

import ramet.build as building
from ramet.build import LEVELS, BuildError, Library, best_level, cache_folder
from ramet.cli import app
from ramet.errors import InvalidRequest
from ramet.kernels.cpu import library as loading
from ramet.kernels.cpu.build import KERNELS, build
from ramet.models import load_model

ROOT = Path(__file__).parents[2]
PORTABLE = LEVELS["portable"]

COMPILER = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  --version) echo "compiler {version}"; exit 0 ;;
  *" -c "*) {compile} ;;
esac
while [ "$#" -gt 1 ]; do [ "$1" = "-o" ] && echo compiled > "$2"; shift; done
"""


class Compiler:
    """A script that `$CXX` names. `calls`: command lines, but for those that ask its version."""

    def __init__(self, folder: Path) -> None:
        self.path, self._log = folder / "the-compiler", folder / "calls"
        self.write()

    def write(self, version: str = "1", compile: str = ":") -> None:
        script = COMPILER.format(log=self._log, version=version, compile=compile)
        self.path.write_text(script)
        self.path.chmod(0o755)
        self._log.write_text("")

    @property
    def calls(self) -> list[str]:
        return [line for line in self._log.read_text().splitlines() if line != "--version"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAMET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler(tmp_path)
    monkeypatch.setenv("CXX", str(found.path))
    return found


@pytest.fixture
def fresh() -> Iterator[None]:
    """As in a process that has not asked for the library yet."""
    cached = (loading.library, loading.why_not, best_level)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:  # noqa: ARG001
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(cache))


# -- the cache -----------------------------------------------------------------------------------


def test_it_compiles_once(
    compiler: Compiler, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build(PORTABLE)
    sources = sorted(p.name for p in KERNELS.sources.glob("*.cpp"))
    assert (
        sorted(name for call in compiler.calls for name in sources if f"/{name} " in call)
        == sources
    ), "each source on its own"
    assert len(compiler.calls) == len(sources) + 1
    assert capsys.readouterr().err.count("compiling the CPU kernels") == 1
    assert [p.name for p in cache.iterdir()] == [path.name], "something was left behind"
    calls = compiler.calls
    assert build(PORTABLE) == path
    assert compiler.calls == calls
    assert capsys.readouterr().err == ""


def test_it_can_be_silent(
    compiler: Compiler, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(PORTABLE, say=False).parent == cache
    assert compiler.calls
    assert capsys.readouterr() == ("", "")


def test_whatever_shows_in_the_library_makes_another_one(
    compiler: Compiler, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [build(PORTABLE), build(LEVELS["avx2"])]
    compiler.write(version="2")
    found.append(build(PORTABLE))
    monkeypatch.setattr(building, "COMMON", (*building.COMMON, "-g"))
    found.append(build(PORTABLE))
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "a.cpp").write_text("int a;")
    other = Library("other", "another library", sources)
    found.append(building.build(other, PORTABLE))
    (sources / "a.h").write_text("// a header counts as well")
    found.append(building.build(other, PORTABLE))
    assert len(set(found)) == 6
    assert [path.name.split("-")[0] for path in found] == ["kernels"] * 4 + ["other"] * 2
    assert sorted(cache.iterdir()) == sorted(found)


def test_builds_at_the_same_time(compiler: Compiler, cache: Path) -> None:
    compiler.write(compile="sleep 0.05")
    found: list[Path] = []
    builders = [threading.Thread(target=lambda: found.append(build(PORTABLE))) for _ in range(4)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert list(cache.iterdir()) == [found[0]]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAMET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ramet"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ramet"
    monkeypatch.setenv("RAMET_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_cache_that_cannot_be_written(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAMET_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BuildError, match=r"cannot write to .*file/cache: .*; set RAMET_CACHE$"):
        build(PORTABLE)
    assert compiler.calls == [], "time was spent on what cannot be kept"


def test_a_read_only_cache(compiler: Compiler, cache: Path) -> None:
    """What is there is used; what is not gives the message."""
    path = build(PORTABLE)
    calls = compiler.calls
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert build(PORTABLE) == path
        assert compiler.calls == calls
        if os.access(cache, os.W_OK):
            pytest.skip("this user may write to read-only folders: only the first half was tested")
        with pytest.raises(BuildError, match="cannot write to"):
            build(LEVELS["avx2"])
    finally:
        cache.chmod(0o755)


@pytest.mark.usefixtures("fresh")
def test_a_broken_file_in_the_cache(compiler: Compiler, cache: Path) -> None:
    """The script's "library" is one."""
    del compiler
    with pytest.raises(BuildError, match=rf"cannot load {cache}/kernels-.*; delete it, or set RAM"):
        loading.library()


# -- compilers that are missing or broken --------------------------------------------------------


@pytest.mark.usefixtures("no_compiler")
def test_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match=r"no C\+\+ compiler \(g\+\+, clang\+\+ or c\+\+\) on the"):
        build(PORTABLE)
    monkeypatch.setenv("CXX", "my-own-c++")
    with pytest.raises(BuildError, match=r"no C\+\+ compiler \(my-own-c\+\+\) on the PATH"):
        build(PORTABLE)


def test_a_compiler_that_does_not_run(compiler: Compiler, cache: Path) -> None:
    compiler.path.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(BuildError, match=r"the-compiler does not run: "):
        build(PORTABLE)
    assert not cache.exists()


def test_a_compiler_that_refuses_the_source(compiler: Compiler, cache: Path) -> None:
    compiler.write(compile="echo 'linear.cpp:7: error: unknown flag' >&2; exit 1")
    with pytest.raises(
        BuildError, match=r"the-compiler failed:\nlinear\.cpp:7: error: unknown flag"
    ):
        build(PORTABLE)
    assert list(cache.iterdir()) == [], "half a library was left behind"
    compiler.write()
    assert build(PORTABLE).is_file(), "it does not try again"


# -- levels --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh")
def test_the_level_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LEVELS:
        monkeypatch.setenv("RAMET_CPU_LEVEL", name)
        best_level.cache_clear()
        assert best_level().name == name
    monkeypatch.setenv("RAMET_CPU_LEVEL", "sse9")
    best_level.cache_clear()
    message = f"RAMET_CPU_LEVEL: 'sse9' is none of {', '.join(LEVELS)}"
    with pytest.raises(BuildError, match=message):
        best_level()
    with pytest.warns(UserWarning, match=f"no native CPU kernels: {message}"):
        assert loading.why_not() == message


@pytest.mark.usefixtures("fresh")
def test_the_best_level_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAMET_CPU_LEVEL", raising=False)
    avx2 = {"avx2", "fma", "f16c", "bmi2", "sse4_2"}
    avx512 = avx2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}
    for flags, name in (
        (avx512 | {"avx512_bf16"}, "avx512bf16"),
        (avx512, "avx512"),
        (avx512 - {"avx512_vnni"} | {"avx512_bf16"}, "avx2"),
        (avx2, "avx2"),
        (avx2 - {"fma"}, "portable"),
        (set(), "portable"),
    ):
        monkeypatch.setattr(building, "_processor_flags", lambda flags=flags: flags)
        best_level.cache_clear()
        assert best_level().name == name


@pytest.mark.timeout(180)  # compiles where nothing has yet
def test_the_real_library_has_no_other_needs() -> None:
    """It loads without torch or Python's own symbols: a plain C interface."""
    if loading.why_not() is not None:
        pytest.skip(f"no native kernels: {loading.why_not()}")
    native = ctypes.CDLL(str(build()))
    assert native.ramet_num_threads() >= 1
    needed = subprocess.run(["ldd", str(build())], capture_output=True, text=True, check=False)
    if needed.returncode == 0:
        assert "torch" not in needed.stdout
        assert "python" not in needed.stdout


# -- without the library -------------------------------------------------------------------------


@pytest.mark.usefixtures("no_compiler")
def test_the_reference_runs_and_it_is_said_once(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = make_checkpoint("llama", tmp_path / "model")
    ids, path = list(range(4, 64)), list(range(60))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        models = [load_model(folder, dtype="float32") for _ in range(3)]
    assert [str(w.message).split(":")[0] for w in said] == ["no native CPU kernels"]
    assert "slower PyTorch reference" in str(said[0].message)
    assert all(model.native is None for model in models)
    got = Run(models[0])((ids, 0, path))
    want = Run(load_model(folder, dtype="float32", native=False))((ids, 0, path))
    assert torch.equal(got, want)


@pytest.mark.usefixtures("no_compiler")
def test_what_needs_the_library_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            InvalidRequest, match=r"^exact: True needs .*there is no C\+\+ compiler"
        ):
            load_model(folder, native=True)
        with pytest.raises(InvalidRequest, match=r"^quantization: 'int8' does not run without the"):
            load_model(folder, quantization="int8")


@pytest.mark.timeout(120)
def test_a_program_runs_without_a_compiler(tmp_path: Path) -> None:
    """From the command line, on the embedded model, with one warning."""
    (tmp_path / "hello.py").write_text(
        "import ramet\nfrom ramet import gen\n\n@ramet.function\ndef main(s):\n"
        "    s += 'Tip 1:' + gen('tip', max_tokens=4)\n    return s['tip']\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "from ramet.cli import main; main()", "run", "--plain", "hello.py"],
        cwd=tmp_path,
        env={
            "PATH": str(tmp_path),
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no native CPU kernels: there is no C++ compiler") == 1
    assert "Traceback" not in done.stderr


# -- ramet build ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh")
def test_ramet_build(compiler: Compiler, cache: Path) -> None:
    for arguments, name in (([], best_level().name), (["--level", "portable"], "portable")):
        done = CliRunner().invoke(app, ["build", *arguments])
        assert done.exit_code == 0, done.output
        said = [line.split(": ") for line in done.stdout.strip().splitlines()]
        assert [title for title, _ in said] == [
            f"CPU kernels ({name})",
            "automata of constraints (portable)",
        ]
        for file, begin in zip((Path(path) for _, path in said), (name, "portable"), strict=True):
            assert file.parent == cache
            assert f"-{begin}-" in file.name
            assert file.is_file()
    assert compiler.calls


@pytest.mark.usefixtures("compiler", "cache")
def test_ramet_build_for_a_level_that_does_not_exist() -> None:
    done = CliRunner().invoke(app, ["build", "--level", "sse9"])
    assert done.exit_code == 2
    assert f"--level: 'sse9' is none of {', '.join(LEVELS)}" in done.stderr


@pytest.mark.usefixtures("no_compiler")
def test_ramet_build_without_a_compiler() -> None:
    done = CliRunner().invoke(app, ["build"])
    assert done.exit_code == 1
    assert done.stderr.startswith("ramet: cannot build the CPU kernels: there is no C++ compiler")
