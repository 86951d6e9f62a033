"""Compiling: once per source, refusals remembered, large sources elsewhere, nothing that hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ramet.constraints import compiler as compilers
from ramet.constraints import product
from ramet.constraints.compiler import Compiler
from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.matcher import Constraint
from ramet.constraints.regular import RegularConstraint
from ramet.constraints.vocabulary import Vocabulary
from ramet.errors import BackendError, InvalidRequest

LARGE = "(" + "|".join(f"word{i}" for i in range(300)) + ")"


def vocabulary() -> Vocabulary:
    tokens = [bytes([b]) for b in range(256)]
    return Vocabulary(
        tokens=tokens, size=256, encode=lambda t: list(t.encode()), encode_forced=lambda *_: ()
    )


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    found = Compiler(vocabulary)
    yield found
    found.close()


def takes(constraint: Constraint, text: str) -> bool:
    matcher = constraint.start()
    return all(matcher.accept(byte) for byte in text.encode()) and matcher.may_end


def test_once_per_source(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    make = product.make

    def counted(*given: object) -> product.Product:
        nonlocal count
        count += 1
        time.sleep(0.05)
        return make(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(product, "make", counted)
    found: list[Constraint] = []
    threads = [
        threading.Thread(target=lambda: found.append(compiler.compile("regex", "a+b")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == 1
    assert len({id(c) for c in found}) == 1
    assert compiler.compile("regex", "a+b") is found[0]
    assert asyncio.run(compiler.acompile("regex", "a+b")) is found[0]


def test_refusals_are_remembered(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="regex") as first:
        compiler.compile("regex", r"(a)\1")
    monkeypatch.setattr(product, "make", None)
    with pytest.raises(InvalidRequest, match="regex") as second:
        compiler.compile("regex", r"(a)\1")
    with pytest.raises(InvalidRequest):
        asyncio.run(compiler.acompile("regex", r"(a)\1"))
    assert str(first.value) == str(second.value)
    assert first.value is not second.value


def test_the_same_text_as_another_kind_is_another_constraint(compiler: Compiler) -> None:
    assert takes(compiler.compile("regex", "true"), "true")
    anything = compiler.compile("json_schema", "true")
    assert takes(anything, "true")
    assert takes(anything, "[1]")


def test_large_sources_are_compiled_by_a_process(compiler: Compiler) -> None:
    assert not product.is_small(LARGE)
    large = compiler.compile("regex", LARGE)
    assert takes(large, "word123")
    assert not takes(large, "word300")
    process = compiler._workshop._process
    assert process is not None
    other = compiler.compile("regex", LARGE + "x")
    assert takes(other, "word7x")
    assert compiler._workshop._process is process  # the same one again
    with pytest.raises(InvalidRequest, match=r"regex.*reference to a group"):
        compiler.compile("regex", LARGE + r"\1")
    compiler.close()
    assert process.poll() is not None


def test_large_lazy_automata_and_grammars_come_back_whole(compiler: Compiler) -> None:
    lazy = compiler.compile("regex", LARGE + r"[\w ]{1,40}" + "y" * 1000)
    assert isinstance(lazy, RegularConstraint)
    assert takes(lazy, "word5 äöü" + "y" * 1000)
    tree = (
        '{"$defs": {"t": {"type": "object", "properties": {"k": {"type": "array", "items": '
        '{"$ref": "#/$defs/t"}}}, "additionalProperties": false, "description": "%s"}}, '
        '"$ref": "#/$defs/t"}' % ("x" * 2000)
    )
    assert takes(compiler.compile("json_schema", tree), '{"k": [{}, {"k": []}]}')


def test_what_takes_too_long_is_killed_and_others_go_on() -> None:
    compiler = Compiler(vocabulary, ConstraintLimits(seconds=0.1))
    try:
        begin = time.monotonic()
        with pytest.raises(InvalidRequest, match="to compile"):
            compiler.compile("regex", "(|)" * 20_000)
        assert time.monotonic() - begin < 40  # on a busy machine, too
        assert takes(compiler.compile("regex", "[0-9]+"), "12")
    finally:
        compiler.close()


def test_a_process_that_dies_is_replaced(compiler: Compiler) -> None:
    compiler.compile("regex", LARGE)
    process = compiler._workshop._process
    assert process is not None
    process.kill()
    process.wait()
    assert takes(compiler.compile("regex", LARGE + "z"), "word1z")


def test_too_long_sources_are_not_even_sent(compiler: Compiler) -> None:
    for kind in ("regex", "json_schema", "ebnf", "structural_tag"):
        with pytest.raises(InvalidRequest, match=rf"{kind}.* bytes, more than"):
            compiler.compile(kind, "x" * (1 << 20))
    assert compiler._workshop._process is None


def test_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(pattern: str) -> Constraint:
        compiler = Compiler(vocabulary, folder=tmp_path)
        try:
            return compiler.compile("regex", pattern)
        finally:
            compiler.close()

    one("a+b")
    assert len(list(tmp_path.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(product, "make", None)
        assert takes(one("a+b"), "aab")
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])  # somebody's disk was full
    assert takes(one("a+b"), "aab")
    monkeypatch.setattr(compilers, "KEPT_FILES", 3)
    for i in range(6):
        one(f"x{i}")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_written_to_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    compiler = Compiler(vocabulary, folder=tmp_path / "file" / "below")
    try:
        assert takes(compiler.compile("regex", "ab"), "ab")
    finally:
        compiler.close()


def test_memory_is_bounded(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers, "KEPT", 4)
    for i in range(10):
        compiler.compile("regex", f"a{i}")
    assert len(compiler._done) == 4
    monkeypatch.setattr(compilers, "KEPT_BYTES", 1)
    compiler.compile("regex", "last")
    assert len(compiler._done) == 1


def test_closed(compiler: Compiler) -> None:
    compiler.close()
    with pytest.raises(BackendError, match="shut down"):
        compiler.compile("regex", "a")


def test_unknown_kinds(compiler: Compiler) -> None:
    with pytest.raises(InvalidRequest, match="kind"):
        compiler.compile("grammar", "a")
