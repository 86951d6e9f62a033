"""Texts with calls of tools, taken apart in any pieces: against a slow twin, and against the constraints."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.constraints.words import TOKENS, compiled, ids

from ramet.constraints import grammar, tags
from ramet.constraints.tools import STYLES, Style
from ramet.server.tool_json import JsonObject
from ramet.server.tools import (
    CallArguments,
    CallBegin,
    Content,
    Tool,
    ToolChoice,
    ToolEvent,
    ToolPlan,
    ToolReader,
    calls_text,
    read_tools,
)

NAMES = ("f", "get_weather", "get", "a.b-c", "name")
TOOLS = tuple(Tool(name, "", {"type": "object"}) for name in NAMES)
Calls = list[tuple[str, str]]
styles = pytest.mark.parametrize("style", STYLES)


def reader(
    style: Style, mode: Any = "auto", tools: Sequence[Tool] = TOOLS, name: str | None = None
) -> ToolReader:
    numbers = itertools.count()
    plan = ToolPlan(style, ToolChoice(mode, name))
    return ToolReader(plan, tools, lambda: f"call_{next(numbers)}")


def events_of(one: ToolReader, pieces: Sequence[str]) -> list[ToolEvent]:
    found = [event for piece in pieces for event in one.push(piece)]
    return found + one.finish()


def joined(events: Sequence[ToolEvent]) -> tuple[str, Calls]:
    """What was said and called. Checks the order of events: a call's arguments follow its beginning."""
    content, names, arguments = "", list[str](), list[str]()
    for event in events:
        if isinstance(event, Content):
            assert event.text
            content += event.text
        elif isinstance(event, CallBegin):
            assert (event.index, event.id) == (len(names), f"call_{len(names)}")
            names.append(event.name)
            arguments.append("")
        else:
            assert event.text
            assert event.index == len(names) - 1
            arguments[-1] += event.text
    return content, list(zip(names, arguments, strict=True))


def read(text: str, style: Style, mode: Any = "auto") -> tuple[str, Calls]:
    return joined(events_of(reader(style, mode), [text]))


def pieces_of(text: str, places: Sequence[int]) -> list[str]:
    cuts = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in itertools.pairwise(cuts)]


# The twin: one text, looked at as often as it likes


class _Stop(Exception):
    """`at`: where the text stops being the beginning of a JSON value."""

    def __init__(self, at: int) -> None:
        self.at = at


_W = r"[ \t\n\r]{0,256}"
_OBJECT = rf'\{{{_W}"name"{_W}:{_W}"(?P<name>[\w.\\-]+)"{_W},{_W}"(?:arguments|parameters)"{_W}:{_W}(?=\{{)'
_BEGIN = {
    "llama3": _OBJECT,
    "qwen": f"<tool_call>{_W}{_OBJECT}",
    "mistral": rf"\[TOOL_CALLS\]{_W}\[{_W}{_OBJECT}",
}
_END = {"llama3": "", "qwen": f"{_W}</tool_call>", "mistral": f"{_W}\\]"}


def _literal(text: str, at: int, word: str) -> int:
    for char in word:
        if at == len(text) or text[at] != char:
            raise _Stop(at)
        at += 1
    return at


def _space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


def _string(text: str, at: int) -> int:
    at = _literal(text, at, '"')
    while at < len(text):
        if text[at] == '"':
            return at + 1
        if text[at] < " ":
            raise _Stop(at)
        if text[at] == "\\":
            at += 1
            if at < len(text) and text[at] == "u":
                for _ in range(4):
                    at += 1
                    if at < len(text) and text[at] not in "0123456789abcdefABCDEF":
                        raise _Stop(at)
            elif at < len(text) and text[at] not in '"\\/bfnrt':
                raise _Stop(at)
        at += 1
    raise _Stop(len(text))


_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BEGUN_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:(?:\.[0-9]+)?[eE][+-]?|\.)?)?")


def _value(text: str, at: int) -> int:
    at = _space(text, at)
    char = text[at : at + 1]
    if char == "":
        raise _Stop(at)
    if char in "{[":
        return _items(text, at, char)
    if char == '"':
        return _string(text, at)
    if char in "tfn":
        return _literal(text, at, {"t": "true", "f": "false", "n": "null"}[char])
    begun, number = _BEGUN_NUMBER.match(text, at), _NUMBER.match(text, at)
    assert begun is not None
    if number is None or begun.end() > number.end():  # such as "-" or "1.5e"
        raise _Stop(begun.end())
    return number.end()


def _items(text: str, at: int, begin: str) -> int:
    end, at = {"{": "}", "[": "]"}[begin], _space(text, at + 1)
    if text[at : at + 1] == end:
        return at + 1
    while True:
        if begin == "{":
            at = _string(text, _space(text, at))
            at = _literal(text, _space(text, at), ":")
        at = _space(text, _value(text, at))
        if text[at : at + 1] == end:
            return at + 1
        at = _literal(text, at, ",")


def _begun(pattern: str, text: str, at: int) -> tuple[str, int] | None:
    found = re.compile(pattern).match(text, at)
    if found is None:
        return None
    try:
        name = json.loads(f'"{found["name"]}"')
    except ValueError:
        return None
    return (name, found.end()) if name in NAMES else None


def read_calls(text: str, style: Style) -> tuple[str, Calls]:
    """What a text says and calls, with the choice "auto"."""
    said, calls, at = [""], Calls(), 0
    while at < len(text):
        begun = _begun(_BEGIN[style], text, at)
        if begun is None:
            said[-1] += text[at]
            at += 1
        while begun is not None:
            name, at = begun
            try:
                end, stopped = _value(text, at), False
            except _Stop as stop:
                end, stopped = stop.at, True
            calls.append((name, text[at:end]))
            said.append("")
            begun, at = None, end
            if not stopped:
                at = _closed(text, at, rf"{_W}\}}")
                if style == "mistral":
                    begun = _begun(f"{_W},{_W}{_OBJECT}", text, at)
                if begun is None:
                    at = _closed(text, at, _END[style])
    if not calls:
        return said[0], calls
    blank = r"[ \t\n\r]*;?[ \t\n\r]*" if style == "llama3" else r"[ \t\n\r]*"
    last = "" if re.fullmatch(blank, said[-1]) else said[-1]
    between = ["" if re.fullmatch(blank, s) else s.rstrip(" \t\n\r") for s in said[1:-1]]
    return "".join((said[0].rstrip(" \t\n\r"), *between, last)), calls


def _closed(text: str, at: int, mark: str) -> int:
    """Behind a closing mark; at the end of the text a part of one will do."""
    found = re.compile(mark).match(text, at)
    if found is not None:
        return found.end()
    rest = text[at:].lstrip(" \t\n\r")
    closes = {"}": "}", "]": "]", ">": "</tool_call>"}.get(mark[-1:], "")
    is_short = len(text) - at - len(rest) <= 256
    return len(text) if closes and is_short and closes.startswith(rest) else at


# Texts

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(
        ['{"', '}"]', "\\", "</tool_call>", '{"name": "f"', "[TOOL_CALLS] [{", "é😀"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
_arguments = st.builds(
    lambda value, ascii, indent: json.dumps(value, ensure_ascii=ascii, indent=indent),
    st.dictionaries(st.text(max_size=5), _values, max_size=4),
    st.booleans(),
    st.sampled_from([None, 0, 2]),
)
_calls = st.lists(st.tuples(st.sampled_from(NAMES), _arguments), min_size=1, max_size=4)
_places = st.lists(st.integers(0, 10**6), max_size=12)
_SCRAPS = (
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[", "]", "{", "}", '"name"', '"', ":", ","),
    *('"arguments"', '"parameters"', '{"name": "f", "arguments": ', '{"name": "g", "parameters": '),
    *('{"name": "get_weather", "parameters": {"a": [1, {"b": "}"}]}}', ";", " ", "\n", "  \n", "x"),
    *(
        '{"name": "f", "arguments": {}}',
        "<tool_call>\n",
        "[TOOL_CALLS] [",
        "\\",
        "\\u0041",
        "-0.5e",
    ),
    *(
        "true",
        "nul",
        "\x00",
        "é",
        "<",
        "get",
        "f",
        "<tool",
        "[TOOL",
        '"na',
        '{"a": 1',
        '{"a": tru}',
    ),
    *(
        "\n" * 255,
        "\n" * 257,
        "name",
        '"\\u0066"',
        "01",
        "1.",
        "2e+7",
        "}}",
        "\n</tool_call>",
        "; ",
    ),
)
_scrappy = st.lists(st.sampled_from(_SCRAPS) | st.text(max_size=3), max_size=14).map("".join)


def _written(calls: Calls, style: Style) -> str:
    form = [{"function": {"name": name, "arguments": text}} for name, text in calls]
    return calls_text(form, style)


@styles
@settings(max_examples=150)
@given(calls=_calls, before=st.sampled_from(["", "Let me see.\n", "{ < [", "\n"]), places=_places)
def test_written_calls_are_read_back(
    style: Style, calls: Calls, before: str, places: list[int]
) -> None:
    text = before + _written(calls, style) + "\n"
    for mode in ("auto", "required"):
        content, found = joined(events_of(reader(style, mode), pieces_of(text, places)))
        assert (content, found) == (before.rstrip(), calls)


@styles
@settings(max_examples=600)
@given(text=_scrappy, places=_places)
@example(text="<tool_call>" * 3 + '{"name": "f", "arguments": {} ', places=[])
@example(text='{"name": "f", "parameters": {}};; {"name": "f", "parameters": {}} ; x', places=[3])
def test_any_cutting_says_the_same_as_the_twin(style: Style, text: str, places: list[int]) -> None:
    expected = read_calls(text, style)
    assert read(text, style) == expected
    for pieces in (pieces_of(text, places), list(text)):
        assert joined(events_of(reader(style), pieces)) == expected


@styles
@settings(max_examples=200)
@given(
    calls=_calls,
    size=st.integers(0, 10**6),
    places=_places,
    mode=st.sampled_from(["auto", "required"]),
)
def test_cut_calls(style: Style, calls: Calls, size: int, places: list[int], mode: str) -> None:
    whole = _written(calls, style)
    text = whole[: size % len(whole)]
    content, found = joined(events_of(reader(style, mode), pieces_of(text, places)))
    if mode == "auto":
        assert (content, found) == read_calls(text, style)
    else:
        assert not content
    for (name, arguments), (wanted, full) in zip(found, calls, strict=False):
        assert name == wanted
        assert full.startswith(arguments)
    assert [a for _, a in found[:-1]] == [a for _, a in calls[: max(len(found) - 1, 0)]]


@settings(max_examples=400)
@given(
    text=st.dictionaries(st.text(max_size=3), _values, max_size=3).map(json.dumps), data=st.data()
)
def test_json_is_followed_as_far_as_it_is_some(text: str, data: st.DataObject) -> None:
    scanner = JsonObject()
    assert scanner.feed(text + "}", 0) == len(text)
    assert scanner.done
    assert not scanner.failed
    at = data.draw(st.integers(0, len(text)))
    broken = text[:at] + data.draw(st.sampled_from('{}[]",:\\0-.eEtn ')) + text[at + 1 :]
    scanner = JsonObject()
    end = scanner.feed(broken, 0) if broken.startswith("{") else 0
    try:
        expected = _value(broken, 0) if broken.startswith("{") else 0
    except _Stop as stop:
        expected = stop.at
    assert end == expected
    if scanner.done:
        json.loads(broken[:end])


# Single cases


@pytest.mark.parametrize(
    ("style", "text", "content", "calls"),
    [
        ("qwen", "", "", []),
        ("qwen", " \n", " \n", []),
        ("qwen", "<tool_call>\nno", "<tool_call>\nno", []),
        ("qwen", '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>', None, []),
        ("qwen", '<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>', None, []),
        ("qwen", '<tool_call>\n{"name": "f", "argu', None, []),
        ("qwen", '<tool_call>{"name": "f", "arguments": {"a": 1', "", [("f", '{"a": 1')]),
        ("qwen", '<tool_call>{"name":"f","arguments":{}}', "", [("f", "{}")]),
        ("qwen", '<tool_call>{"name":"f","arguments":{}</tool_call>', "", [("f", "{}")]),
        ("qwen", '<tool_call>{"name":"f","arguments":{}}</tool_c', "", [("f", "{}")]),
        ("qwen", '<tool_call>{"name":"f","arguments":{}}</tool_call> So.', " So.", [("f", "{}")]),
        ("qwen", 'a <tool_call>{"name":"f","arguments":{}}</tool_call> b', "a b", [("f", "{}")]),
        ("qwen", '<tool_call>{"name":"f","arguments":{"a": x}}', "x}}", None),
        ("qwen", '<tool_call><tool_call>{"name":"f","arguments":{}}', "<tool_call>", [("f", "{}")]),
        ("llama3", '{"name": "Bob", "parameters": {}}', None, []),
        ("llama3", '{"name": "get", "parameters": {}}; no', "; no", None),
        ("llama3", '{{"name": "get", "parameters": {}}};', "{};", None),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {}}, 1]', ", 1]", [("f", "{}")]),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"na', ', {"na', None),
        ("mistral", '[TOOL_CALLS][ {"name":"f","arguments":{}}\n] x', " x", [("f", "{}")]),
        ("mistral", '[{"name": "f", "arguments": {}}]', None, []),
    ],
)
def test_single_texts(style: Style, text: str, content: str | None, calls: Calls | None) -> None:
    found = read(text, style)
    assert found == read_calls(text, style)
    assert found[0] == (text if content is None else content)
    assert calls is None or found[1] == calls


@styles
def test_a_forced_call_that_was_cut_keeps_its_name(style: Style) -> None:
    whole = _written([("get_weather", '{"a": 1}')], style)
    named = whole.index("weather") + len('weather"')
    begun = whole.index(": {") + 2
    for size in range(len(whole) + 1):
        expected = [] if size < named else [("get_weather", whole[begun : max(size, begun)])]
        if size > begun + len('{"a": 1}'):
            expected = [("get_weather", '{"a": 1}')]
        assert read(whole[:size], style, "required") == ("", expected)


@styles
def test_no_more_than_a_mark_is_held_back(style: Style) -> None:
    one = reader(style)
    assert one.push("Now, 1 < 2 {a} [b] c") == [Content("Now, 1 < 2 {a} [b] c")]
    mark = {"llama3": '{"name": "get', "qwen": "<tool_call>", "mistral": "[TOOL_CALLS] ["}[style]
    for char in mark:
        assert one.push(char) == []
    assert joined(one.push("?")) == (f"{mark}?", [])
    assert one.push(" \n") == []
    assert one.push("x") == [Content(" \nx")]
    assert one.finish() == []


@styles
def test_arguments_are_passed_on_as_they_come(style: Style) -> None:
    one, told = reader(style), ""
    text = _written([("f", '{"a": "x\\n\\u00e9", "b": [1.5, {}]}')], style)
    begun, end = text.index(": {") + 2, text.index("{}]}") + 4
    for i, char in enumerate(text):
        events = one.push(char)
        if begun <= i < end:
            assert isinstance(events[-1], CallArguments)
            assert events[-1].text == char
            assert events[:-1] == ([CallBegin(0, "call_0", "f")] if i == begun else [])
            told += char
        else:
            assert events == []
    assert json.loads(told) == {"a": "x\né", "b": [1.5, {}]}
    assert one.num_calls == 1


def test_without_tools_all_is_content() -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call> '
    for mode, tools in (("none", TOOLS), ("auto", ())):
        one = reader("qwen", mode, tools)
        assert [one.push("<tool"), one.push(""), one.finish()] == [[Content("<tool")], [], []]
        assert joined(events_of(reader("qwen", mode, tools), [text])) == (text, [])


_LONG = (
    *(
        "<",
        "{",
        "[",
        "{ ",
        '{"',
        '{"n',
        '{"name": "',
        "<tool_call>",
        "<tool_call> ",
        "[TOOL_CALLS] [",
    ),
    *("\n", "x\n", "{" + " " * 256, "<tool_call>" + "\n" * 250, '{"name": "get", '),
    *(
        '{"name": "f", "parameters": {}}; ',
        '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n',
    ),
)


_LONG_ARGUMENTS = ("[", "1,", '"\\u0041",', "{}, ", '"' + "\\\\" * 50 + '",', " ", "9", '{"a":')


@styles
def test_long_texts_take_linear_time(style: Style) -> None:
    """Alone, and in pieces: a tenth of it, which would take longer than all if it were not linear."""
    empty = _written([("f", "{}")], style)
    begun = empty[: empty.index("{}")] + '{"a": ['
    texts = [("", unit) for unit in _LONG] + [(begun, unit) for unit in _LONG_ARGUMENTS]
    for start, unit in texts:
        whole = start + unit * (300_000 // len(unit))
        for text, size in ((whole, len(whole)), (whole[:30_000], 4)):
            one = reader(style)
            pieces = [text[i : i + size] for i in range(0, len(text), size)]
            begin = time.thread_time()
            for piece in pieces:
                one.push(piece)
            one.finish()
            seconds = time.thread_time() - begin
            assert seconds < 2, (unit, size, seconds)


# What the constraints admit

_SCHEMAS: dict[str, Any] = {
    "f": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "s": {"type": "string", "maxLength": 9}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "get": {
        "type": "object",
        "properties": {"list": {"type": "array", "items": {"type": ["object", "null", "number"]}}},
    },
    "get_weather": {"type": "object", "properties": {"name": {"enum": ["{", '"', "é\\"]}}},
}


def _walk(source: tuple[str, str], style: Style, rng: random.Random) -> Iterator[tuple[str, bool]]:
    """Texts that grow along a random way through the masks, and whether they may end there."""
    written = (tags if source[0] == "structural_tag" else grammar).read(source[1])
    matcher = compiled(written, *source).start()
    opening = {"llama3": b'{"name": ', "qwen": b"<tool_call>\n", "mistral": b"[TOOL_CALLS] "}[style]
    data, steps = b"", 160
    wanted = list(opening) if rng.random() < 0.7 else []
    while steps:
        steps -= 1
        matcher.prepare(steps)
        mask = matcher.mask(steps)
        allowed = [] if mask is None else ids(mask)
        if not allowed:
            break
        plain = [i for i in allowed if TOKENS[i].isascii() and TOKENS[i] >= b" "] or allowed
        token = rng.choice(allowed if rng.random() < 0.05 else plain)
        if wanted and wanted[0] in allowed:
            token = wanted.pop(0)
        elif matcher.may_end and rng.random() < 0.1:
            wanted = [*b"; \n, "[: rng.randrange(4)], *opening]
        assert matcher.accept(token)
        data += TOKENS[token]
        if matcher.may_end or steps % 16 == 0:
            yield data.decode(errors="replace"), matcher.may_end
        if matcher.done:
            break


@styles
@pytest.mark.parametrize("mode", ["auto", "required", "named", "single"])
def test_what_a_constraint_admits_is_read(style: Style, mode: str) -> None:
    from ramet.constraints.tools import tool_calls

    form = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in _SCHEMAS.items()
    ]
    tools = read_tools(form)
    schemas = [{"name": tool.name, "schema": tool.enforced} for tool in tools]
    choice = {"auto": "auto", "named": "get_weather"}.get(mode, "required")
    source = tool_calls(schemas, style, choice, parallel=mode != "single")
    read_as = "required" if mode == "single" else mode
    num_calls = num_whole = 0
    for seed in range(25):
        rng = random.Random(seed)
        for text, may_end in _walk(source, style, rng):
            one = reader(style, read_as, tools, choice)
            size = rng.randrange(1, 9)
            pieces = [text[i : i + size] for i in range(0, len(text), size)]
            content, calls = joined(events_of(one, pieces))
            assert joined(events_of(reader(style, read_as, tools), [text])) == (content, calls)
            if mode != "auto":
                assert not content
                assert len(calls) <= 1 or mode == "required"
            if may_end:
                assert mode == "auto" or calls
                assert {name for name, _ in calls} <= _SCHEMAS.keys()
                for name, arguments in calls:
                    _check(name, json.loads(arguments))
                num_calls += len(calls)
                num_whole += 1
    assert num_whole > 10
    assert num_calls > 10


def _check(name: str, value: Any) -> None:
    assert isinstance(value, dict)
    if name == "f":
        assert value.keys() <= {"a", "s"}
        assert isinstance(value["a"], int)
    elif name == "get":
        assert isinstance(value.get("list", []), list)
    else:
        assert value.get("name", "{") in ("{", '"', "é\\")
