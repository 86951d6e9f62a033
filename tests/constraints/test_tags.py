"""Structures in free text, and calls of tools in three formats."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from tests.constraints.words import compiled, takes

from ramet.constraints import tags
from ramet.constraints.tools import tool_calls
from ramet.constraints.validate import check
from ramet.errors import InvalidRequest

_F = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/A"}},
    "required": ["a"],
    "$defs": {"A": {"type": "integer"}},
}
TAG: dict[str, Any] = {
    "type": "structural_tag",
    "structures": [
        {"begin": "<function=f>", "schema": _F, "end": "</function>"},
        {"begin": "<function=g>", "schema": {"type": "integer"}, "end": "</function>"},
        {"begin": "[[", "schema": {"const": "x"}, "end": "]]"},
    ],
    "triggers": ["<function=", "[["],
}
TOOLS = [{"name": "f", "schema": _F}, {"name": 'g"é', "schema": {"type": "object"}}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("any text <func [ é 日\n", True),
        ('hi <function=f>{"a": 1}</function> bye', True),
        ('<function=g>12</function><function=f>{"a":1}</function>[["x"]]', True),
        ("<<function=g>1</function>", True),
        ('[[["x"]]', False),
        ("<function=h>", False),
        ("<function=f>12</function>", False),
        ("<function=g>1 </function>", False),
        ('<function=f>{"a": "x"}</function>', False),
        ('<function=f>{"a": 1}', False),
        ("text <function=", False),
        ("text [[", False),
    ],
)
def test_text_is_free_until_a_trigger(text: str, expected: bool) -> None:
    constraint = compiled(tags.read(json.dumps(TAG)))
    assert takes(constraint.start(), text) == expected
    assert takes(constraint.start(), text, single=True) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "other"}, r"at \$\.type: "),
        ({"format": {}}, r"at \$\.format: is not known"),
        ({"triggers": []}, r"at \$\.triggers: "),
        ({"triggers": ["<f", "<fun"]}, "contains another trigger, '<f'"),
        ({"triggers": ["<other"]}, r"at \$\.structures\[0\]\.begin: begins with none"),
        ({"triggers": ["<function=", "x" * 300]}, "longer than 256"),
        ({"structures": []}, r"at \$\.structures: is not a list"),
        ({"structures": [{"begin": 1}]}, "no text"),
        ({"structures": [{"begin": "[[", "schemas": {}}]}, r"at \$\.structures\[0\]: "),
        (
            {"structures": [{"begin": "[[", "schema": {"items": {"not": {}}}, "end": ""}]},
            r"\$\.structures\[0\]\.schema: at \$\.items\.not: ",
        ),
        ({"structures": [{"begin": "[[", "schema": False}]}, "allows nothing"),
    ],
)
def test_bad_tags_are_refused_with_the_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        tags.read(json.dumps({**TAG, **change}))
    assert caught.value.field == "structural_tag"


def _call(style: str, name: str, arguments: Any) -> str:
    key = "parameters" if style == "llama3" else "arguments"
    body = json.dumps({"name": name, key: arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>" if style == "qwen" else body


_BETWEEN = {"llama3": "; ", "qwen": "\n", "mistral": ", "}


def _calls(style: str, *calls: str) -> str:
    joined = _BETWEEN[style].join(calls)
    return f"[TOOL_CALLS] [{joined}]" if style == "mistral" else joined


@pytest.mark.parametrize("style", ["llama3", "qwen", "mistral"])
def test_calls_in_the_formats_of_models(style: Literal["llama3", "qwen", "mistral"]) -> None:
    good = _call(style, "f", {"a": 1})
    two = _calls(style, good, _call(style, 'g"é', {"x": [None]}))
    for choice in ("auto", "required"):
        field, source = tool_calls(TOOLS, style, choice)
        for text in (_calls(style, good), two):
            assert check(field, source, text) is None
        for arguments in ({}, {"a": "x"}):
            assert check(field, source, _calls(style, _call(style, "f", arguments))) is not None
        assert check(field, source, _calls(style, _call(style, "h", {"a": 1}))) is not None
        assert (check(field, source, "no call at all") is None) == (choice == "auto")
        assert (check(field, source, "") is None) == (choice == "auto")
    field, source = tool_calls(TOOLS, style, "f")
    assert check(field, source, _calls(style, good)) is None
    assert check(field, source, two) is not None
    assert check(field, source, _calls(style, _call(style, 'g"é', {}))) is not None
    field, source = tool_calls(TOOLS, style, "required", parallel=False)
    assert check(field, source, _calls(style, good)) is None
    assert check(field, source, two) is not None


def test_bad_tools_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="style"):
        tool_calls(TOOLS, "other")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="tools"):
        tool_calls([], "qwen")
    with pytest.raises(InvalidRequest, match="tools"):
        tool_calls([TOOLS[0], TOOLS[0]], "qwen")
    with pytest.raises(InvalidRequest, match="tool_choice"):
        tool_calls(TOOLS, "qwen", "h")
