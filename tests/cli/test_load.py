"""From a command line to a program and its arguments, and what is said when something is not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ramet.cli.failure import UsageError
from ramet.cli.load import call_arguments, load_module, parse_arguments, pick_program, split_target

ONE = """
import ramet

@ramet.function
def ask(s, question: str, n=3, *, options={}):
    s += question
"""
SEVERAL = """
from ramet import function

@function
def first(s): ...

@function
def second(s): ...

def plain(): ...
"""


@pytest.fixture(autouse=True)
def _same_path_afterwards() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("ramet_program_"):
            del sys.modules[name]


def module(folder: Path, text: str, name: str = "program.py") -> Path:
    file = folder / name
    file.write_text(text, "utf-8")
    return file


@pytest.mark.parametrize(
    ("target", "file", "name"),
    [
        ("a/b.py", "a/b.py", None),
        ("a/b.py:ask", "a/b.py", "ask"),
        ("b.py:not-a-name", "b.py:not-a-name", None),
        ("b.py:", "b.py:", None),
        (":ask", ":ask", None),
    ],
)
def test_a_target_is_a_file_and_a_name(target: str, file: str, name: str | None) -> None:
    assert split_target(target) == (Path(file), name)


def test_a_file_whose_name_has_a_colon_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module(tmp_path, ONE, "b.py:ask")
    assert split_target("b.py:ask") == (Path("b.py:ask"), None)


def test_the_only_program_needs_no_name(tmp_path: Path) -> None:
    loaded = load_module(module(tmp_path, ONE))
    assert pick_program(loaded, None) is loaded.ask
    assert pick_program(loaded, "ask") is loaded.ask


def test_one_of_several_has_to_be_named(tmp_path: Path) -> None:
    loaded = load_module(module(tmp_path, SEVERAL))
    assert pick_program(loaded, "second") is loaded.second
    with pytest.raises(UsageError, match=r"2 programs: first, second; .* program.py:first"):
        pick_program(loaded, None)


def test_main_is_meant_when_nothing_is_named(tmp_path: Path) -> None:
    loaded = load_module(module(tmp_path, SEVERAL.replace("second", "main")))
    assert pick_program(loaded, None) is loaded.main


def test_imported_programs_do_not_count_beside_own_ones(tmp_path: Path) -> None:
    module(tmp_path, SEVERAL, "library_of_programs.py")
    user = module(tmp_path, "from library_of_programs import first, second\n" + ONE)
    loaded = load_module(user)  # its folder is on the path
    assert pick_program(loaded, None) is loaded.ask
    assert pick_program(loaded, "first") is loaded.first
    del sys.modules["library_of_programs"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", "plain in program.py is not a program: it lacks @ramet.function"),
        ("third", "program.py has no program third; it has first, second"),
    ],
)
def test_a_wrong_name_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        pick_program(load_module(module(tmp_path, SEVERAL)), name)
    assert str(caught.value) == said


def test_a_file_without_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no program: .*python program.py"):
        pick_program(load_module(module(tmp_path, "x = 1")), None)


def test_files_that_are_not_there_or_not_python(tmp_path: Path) -> None:
    module(tmp_path, ONE)
    with pytest.raises(UsageError, match=r"no file .*missing.py; .* has program.py"):
        load_module(tmp_path / "missing.py")
    with pytest.raises(UsageError, match="is a folder"):
        load_module(tmp_path)
    with pytest.raises(UsageError, match="not a Python file"):
        load_module(module(tmp_path, "", "notes.txt"))


def test_a_program_file_does_not_hide_a_module_of_its_name(tmp_path: Path) -> None:
    import json

    load_module(module(tmp_path, ONE, "json.py"))
    assert sys.modules["json"] is json


def test_arguments_are_json_where_they_parse(tmp_path: Path) -> None:
    program = load_module(module(tmp_path, ONE)).ask
    found = parse_arguments(program, ["question=Why?", "n=5", 'options={"a": [1, null]}'])
    assert found == {"question": "Why?", "n": 5, "options": {"a": [1, None]}}


def test_an_annotated_text_stays_text(tmp_path: Path) -> None:
    program = load_module(module(tmp_path, ONE)).ask
    assert parse_arguments(program, ["question=42"]) == {"question": "42"}
    assert parse_arguments(program, ["question=a=b", "n=many"]) == {"question": "a=b", "n": "many"}


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["question"], "--arg 'question' is not of the form name=value"),
        (["topic=x"], "ask has no parameter topic; it takes question, n=3, options={}"),
        (["n=1"], "ask needs question: add --arg question=..."),
        (["question=a", "question=b"], "--arg question is given twice"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, pairs: list[str], said: str) -> None:
    program = load_module(module(tmp_path, ONE)).ask
    with pytest.raises(UsageError) as caught:
        parse_arguments(program, pairs)
    assert str(caught.value) == said


def test_arguments_go_in_by_position_where_they_can(tmp_path: Path) -> None:
    program = load_module(module(tmp_path, ONE)).ask
    assert call_arguments(program, {"question": "a", "options": {}}) == (("a", 3), {"options": {}})
    assert call_arguments(program.bind(n=5), {"question": "a"}) == ((), {"question": "a"})


def test_bound_arguments_are_not_asked_for(tmp_path: Path) -> None:
    program = load_module(module(tmp_path, ONE)).ask.bind(question="Why?")
    assert parse_arguments(program, []) == {}


def test_a_program_that_takes_anything_gets_it(tmp_path: Path) -> None:
    text = "import ramet\n@ramet.function\ndef free(s, **facts): ..."
    program = load_module(module(tmp_path, text)).free
    assert parse_arguments(program, ["a=1", "b=x"]) == {"a": 1, "b": "x"}
