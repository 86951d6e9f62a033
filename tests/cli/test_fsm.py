"""`ramet trace --fsm`: the automaton of a regular expression as text, as a graph and as a picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ramet import pocket
from ramet.cli import app
from ramet.cli.fsm_characters import Machine, machine, written
from ramet.constraints.charset import category, complement, finished, merged
from ramet.constraints.compressed import compress, graph
from ramet.constraints.limits import DEFAULT
from ramet.constraints.product import make

SVG = "{http://www.w3.org/2000/svg}"


def trace(regex: str, *words: object) -> Any:
    return CliRunner().invoke(app, ["trace", "--fsm", regex, *map(str, words)])


def machines(regex: str) -> tuple[Machine, Machine]:
    automaton = make("regex", regex, DEFAULT).automaton
    assert automaton is not None
    whole = graph(automaton, 10_000)
    assert whole is not None
    return machine(whole), machine(compress(whole))


def labels(drawn: Machine) -> set[tuple[int, int, str]]:
    return {(way.source, way.target, way.label) for way in drawn.ways}


# -- characters ----------------------------------------------------------------------------------


def test_runs_become_edges_with_their_text() -> None:
    before, after = machines("abc(x|y)de")
    assert before.num_states == 7
    assert labels(before) == {
        (0, 1, "a"), (1, 2, "b"), (2, 3, "c"), (3, 4, "[xy]"), (4, 5, "d"), (5, 6, "e"),
    }  # fmt: skip
    assert labels(after) == {(0, 1, "abc"), (1, 2, "[xy]"), (2, 3, "de")}
    assert after.accepting == {3}
    assert {way.text for way in after.ways} == {b"abc", b"", b"de"}


def test_states_within_characters_disappear() -> None:
    before, _ = machines("[àé日😀-😅]x")
    assert labels(before) == {(0, 1, "[àé日😀-😅]"), (1, 2, "x")}


def test_a_run_that_ends_within_a_character_shows_its_bytes() -> None:
    _, after = machines("caf(é|è)")
    assert labels(after) == {(0, 1, "caf\\xc3"), (1, 2, "[\\xa8-\\xa9]")}


_POINTS = st.integers(0, 0x10FFFF).filter(lambda code: not 0xD800 <= code <= 0xDFFF)


@given(st.lists(st.tuples(_POINTS, _POINTS).map(sorted), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_any_set_of_characters_is_told(pairs: list[list[int]]) -> None:
    wanted = finished(merged((low, high) for low, high in pairs))
    inside = "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in wanted)
    before, _ = machines(f"[{inside}]")
    if all(low == high for low, high in wanted) and len(wanted) == 1:
        assert "".join(way.label for way in before.ways) == written(wanted) or wanted[0][0] > 0x7F
        return
    assert labels(before) == {(0, 1, written(wanted))}


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        (((0x61, 0x61),), "a"),
        (((0x20, 0x20),), "␣"),
        (((0x61, 0x62),), "[ab]"),
        (((0x30, 0x39), (0x61, 0x66)), "[0-9a-f]"),
        (finished(category("w", False)), r"\w"),
        (finished(complement(((0x22, 0x22),))), '[^"]'),
        (finished(complement(())), "any"),
        (finished(complement(((0x0A, 0x0A),))), "."),
        (finished(merged((*category("w", False), (0x20, 0x20), (0x2D, 0x2D)))), r"[\w␣-]"),
        (tuple((code, code) for code in range(0x61, 0x7B, 2)), "[acegik … 7 more]"),
    ],
)
def test_sets_are_written_short(ranges: Any, expected: str) -> None:
    assert written(ranges) == expected


# -- the command ---------------------------------------------------------------------------------


def test_a_terminal_gets_both_forms() -> None:
    done = trace("ab(c|d)*")
    assert done.exit_code == 0, done.output
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[0] == "as it is: 3 states, 3 edges"
    assert "compressed: 2 states, 2 edges, 1 of them runs" in lines
    assert any(re.fullmatch(r"▶ 0 +○ +ab → 1", line) for line in lines)
    assert any(re.fullmatch(r" *1 +◎ +\[cd\] → 1", line) for line in lines)


def test_the_picture_has_every_state_and_edge(tmp_path: Path) -> None:
    regex, file = '(k(ey)?: "[^"]{1,3}"\n)*end', tmp_path / "a.svg"
    done = trace(regex, "-o", file)
    assert done.exit_code == 0, done.output
    before, after = machines(regex)
    root = ElementTree.parse(file).getroot()
    circles = sum(m.num_states + len(m.accepting) for m in (before, after))
    assert len(root.findall(f".//{SVG}circle")) == circles
    edges = [path for path in root.findall(f".//{SVG}path") if "edge" in path.get("class", "")]
    assert len(edges) == len(before.ways) + len(after.ways) + 2  # and the arrows to the start
    runs = [path for path in edges if "run" in path.get("class", "")]
    assert len(runs) == sum(bool(way.text) for way in after.ways) > 0
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for circle in root.findall(f".//{SVG}circle"):
        assert 15 <= float(circle.get("cx", -1)) <= width - 15
        assert 15 <= float(circle.get("cy", -1)) <= height


def test_no_two_states_lie_on_each_other(tmp_path: Path) -> None:
    trace("(a+b|c*d|[ef]g){1,4}h?", "-o", tmp_path / "a.svg")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    for group in root.findall(f"{SVG}g"):
        places = {
            (float(c.get("cx", 0)), float(c.get("cy", 0))) for c in group.findall(f"{SVG}circle")
        }
        for x, y in places:
            near = [p for p in places if abs(p[0] - x) < 30 and abs(p[1] - y) < 30]
            assert near == [(x, y)]


def test_the_picture_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        trace("(x|yz){2,5}", "-o", tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_graph_for_graphviz_quotes_its_labels(tmp_path: Path) -> None:
    done = trace('"\\\\n"(a|b)', "-o", tmp_path / "a.dot")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "a.dot").read_text("utf-8")
    assert text.startswith("digraph automata {")
    assert r'a0 -> a1 [label="\""];' in text
    # A backslash is written as two in the label, each of which Graphviz wants doubled.
    assert r'b0 -> b1 [label="\"\\\\n\"", color=darkgreen, penwidth=2];' in text
    assert "shape=doublecircle" in text


def test_a_text_file(tmp_path: Path) -> None:
    done = trace("ab?", "-o", tmp_path / "a.txt")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.txt").read_text("utf-8").splitlines()[0] == "as it is: 3 states, 2 edges"


def test_tokens_of_forced_text_as_far_as_they_are_sure() -> None:
    try:
        pocket.model_path()
    except FileNotFoundError as error:
        pytest.skip(f"the embedded model is not there: {error}")
    done = trace(r'\{"name": [0-9]+', "--tokens")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stdout.splitlines() if "token" in line]
    found = re.search(r"\((\d+) tokens: (\S+?)( \| ␣)?\)", line)
    assert found is not None
    pieces = found[2].split("·")
    assert len(pieces) == int(found[1])
    assert "".join(pieces) + (found[3] or "").removeprefix(" | ") == '{"name":␣'


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["(a"], 1, "'(a' is not a regular expression"),
        (["a", "-o", "x.png"], 2, "x.png: the name must end with .svg, .dot, .txt"),
        (["a", "-o", "/no/such/folder/x.svg"], 2, "cannot write /no/such/folder/x.svg"),
        (["[ab]{300}", "-o", "x.svg"], 2, "more than 150 states: too many to draw"),
        (["[ab]{300}"], 2, "more than 200 states: too many to print"),
        (["ab", "--tokens", "-m", "/no/such/model"], 2, "cannot load the tokenizer"),
    ],
)
def test_what_cannot_be_drawn_is_refused(words: list[str], code: int, said: str) -> None:
    done = trace(*words)
    assert done.exit_code == code
    assert said in done.stderr
    assert "Traceback" not in done.output
