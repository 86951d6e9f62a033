"""Tools of requests: what is read and refused, and what a model is told and held to."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

import ramet.pocket
from ramet.constraints.tools import STYLES, Style
from ramet.constraints.validate import check
from ramet.engine.tokenizer import Tokenizer
from ramet.errors import InvalidRequest
from ramet.params import SamplingParams
from ramet.server.served import ServedModel
from ramet.server.tools import (
    Tool,
    ToolChoice,
    calls_text,
    history_text,
    plan_tools,
    read_anthropic_tool_choice,
    read_anthropic_tools,
    read_tool_choice,
    read_tools,
    style_of,
    template_messages,
)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where."}},
    "required": ["city"],
    "additionalProperties": False,
}
styles = pytest.mark.parametrize("style", STYLES)


def function(name: Any = "weather", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, **more}}


TOOLS = read_tools([function(description="It says the weather."), function("auto")])


@functools.cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.load(Path(ramet.pocket.__file__).parent / "model")


def model(template: str | None = None) -> ServedModel:
    return ServedModel("pocket", "", _tokenizer(), 2048, 4096, template_source=template)


# Reading


def test_tools_are_read() -> None:
    [one, empty] = read_tools(
        [
            function(description="d", strict=True),
            {"function": {"name": "now", "description": None, "strict": None}},
        ]
    )
    assert (one.name, one.description, one.parameters, one.strict) == ("weather", "d", SCHEMA, True)
    assert (empty.name, empty.description, empty.strict) == ("now", "", False)
    assert empty.parameters["properties"] == {}
    for arguments, expected in (("{}", True), ('{"a": 1}', False)):
        found = check("json_schema", json.dumps(empty.enforced), arguments)
        assert (found is None) == expected
    assert read_tools(None) == read_tools([]) == ()
    assert read_tools([function(parameters={})])[0].parameters == {"type": "object"}


def test_tools_of_anthropic_are_read() -> None:
    [one] = read_anthropic_tools(
        [{"name": "w" * 128, "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}}]
    )
    assert (one.name, one.description, one.parameters) == ("w" * 128, "", SCHEMA)
    [custom] = read_anthropic_tools(
        [{"type": "custom", "name": "a", "description": "d", "input_schema": {"type": "object"}}]
    )
    assert custom.description == "d"


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("value", "place", "problem"),
    [
        ({}, "tools", "is not a list"),
        ([function()] * 129, "tools", "more than 128"),
        (["f"], "tools[0]", "is not an object"),
        ([function(), {"type": "web_search"}], "tools[1].type", 'is not "function"'),
        ([{"type": "function"}], "tools[0].function", "is not an object"),
        ([{**function(), "custom": 1}], "tools[0].custom", "is not known"),
        ([function(response=1)], "tools[0].function.response", "is not known"),
        ([function(None)], "tools[0].function.name", "is not a name"),
        ([function("")], "tools[0].function.name", "is not a name"),
        ([function("a\n")], "tools[0].function.name", "is not a name"),
        ([function("a" * 65)], "tools[0].function.name", "1 to 64"),
        ([function(), function()], "tools[1].function.name", "is the name of tools[0]"),
        ([function(description=1)], "tools[0].function.description", "is not a string"),
        ([function(description="\ud800")], "tools[0].function.description", "surrogate"),
        ([function(description="x" * 70_000)], "tools[0].function.description", "65536"),
        ([function(strict="yes")], "tools[0].function.strict", "neither true nor false"),
        ([function(parameters=[])], "tools[0].function.parameters", "JSON Schema of an object"),
        (
            [function(parameters={"type": "array"})],
            "tools[0].function.parameters.type",
            'is not "object"',
        ),
        (
            [function(parameters={"properties": {"a": {"type": "text"}}})],
            "tools[0].function.parameters",
            "at $.properties.a.type",
        ),
        ([function(parameters=_deep(40))], "tools[0].function.parameters", "deeper than 64"),
        ([function(parameters=_deep(5000))], "tools[0].function.parameters", "deeper than 64"),
        (
            [function(parameters={"title": "\udfff"})],
            "tools[0].function.parameters",
            "is not JSON",
        ),
        (
            [function(parameters={"default": float("inf")})],
            "tools[0].function.parameters",
            "is not JSON",
        ),
        (
            [function(f"f{i}", parameters={"title": "x" * 60_000}) for i in range(5)],
            "tools[4].function.parameters",
            "more than 262144",
        ),
        (
            [function(strict=True, parameters={"properties": {"a": {"not": {}}}})],
            "tools[0].function.parameters",
            "at $.properties.a.not",
        ),
        (
            [function(parameters={"properties": {"a": False}, "required": ["a"]})],
            "tools[0].function.parameters",
            "allows nothing",
        ),
    ],
)
def test_wrong_tools_are_refused_by_name(value: Any, place: str, problem: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tools(value)
    assert caught.value.field == place
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"type": "bash_20250124"}, "mine[0].type"),
        ({"defer_loading": True}, "mine[0].defer_loading"),
        ({"input_schema": None}, "mine[0].input_schema"),
        ({"input_schema": {"type": "string"}}, "mine[0].input_schema.type"),
        ({"input_schema": {"required": 1}}, "mine[0].input_schema"),
        ({"name": "a b"}, "mine[0].name"),
    ],
)
def test_wrong_tools_of_anthropic_are_refused_by_name(change: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_anthropic_tools([{"name": "a", "input_schema": SCHEMA, **change}], "mine")
    assert caught.value.field == place


def test_what_nothing_enforces_is_left_out_without_strict() -> None:
    """The model is told of it all the same; what can be enforced, is."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "b": {"type": "string", "format": "color", "maxLength": 3},
            "not": {"type": "integer"},
        },
        "required": ["a"],
        "propertyNames": {"pattern": "^[a-z]"},
    }
    [tool] = read_tools([function(parameters=schema)])
    assert tool.parameters == schema
    assert tool.enforced is not None
    for arguments, expected in (
        ('{"a": ["x", "x"], "b": "red", "not": 1}', True),
        ('{"a": [1]}', False),
        ('{"a": [], "b": "blue"}', False),
        ('{"a": [], "not": "x"}', False),
        ("{}", False),
    ):
        found = check("json_schema", json.dumps(tool.enforced), arguments)
        assert (found is None) == expected, arguments


def test_choices_are_read() -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    assert read_tool_choice(None, TOOLS) == read_tool_choice("auto", TOOLS) == ToolChoice("auto")
    assert read_tool_choice(None, ()) == read_tool_choice("none", TOOLS) == ToolChoice("none")
    assert read_tool_choice("required", TOOLS) == ToolChoice("required")
    assert read_tool_choice(named, TOOLS) == ToolChoice("named", "weather")
    assert read_anthropic_tool_choice(None, TOOLS) == (ToolChoice("auto"), True)
    assert read_anthropic_tool_choice(None, ()) == (ToolChoice("none"), True)
    once = {"type": "any", "disable_parallel_tool_use": True}
    assert read_anthropic_tool_choice(once, TOOLS) == (ToolChoice("required"), False)
    tool = {"type": "tool", "name": "auto"}
    assert read_anthropic_tool_choice(tool, TOOLS) == (ToolChoice("named", "auto"), True)
    for kind in ("auto", "none"):
        assert read_anthropic_tool_choice({"type": kind}, TOOLS)[0] == ToolChoice(kind)


@pytest.mark.parametrize(
    ("value", "place", "problem"),
    [
        ("any", "tool_choice", "'any' is none of none, auto, required"),
        (1, "tool_choice", "is none of"),
        ({"type": "allowed_tools"}, "tool_choice", "is none of"),
        ({"type": "function"}, "tool_choice.function", "is not an object"),
        ({"type": "function", "name": "f"}, "tool_choice.name", "is not known"),
        (
            {"type": "function", "function": {"name": "rain"}},
            "tool_choice.function.name",
            "'rain' is none of the tools; there are weather, auto",
        ),
    ],
)
def test_wrong_choices_are_refused_by_name(value: Any, place: str, problem: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tool_choice(value, TOOLS)
    assert caught.value.field == place
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("auto", "tool_choice"),
        ({}, "tool_choice.type"),
        ({"type": "tool"}, "tool_choice.name"),
        ({"type": "tool", "name": "rain"}, "tool_choice.name"),
        ({"type": "any", "name": "weather"}, "tool_choice.name"),
        ({"type": "auto", "disable_parallel_tool_use": 1}, "tool_choice.disable_parallel_tool_use"),
    ],
)
def test_wrong_choices_of_anthropic_are_refused_by_name(value: Any, place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_anthropic_tool_choice(value, TOOLS)
    assert caught.value.field == place


def test_a_call_that_must_be_made_needs_tools() -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    for value in ("required", named):
        with pytest.raises(InvalidRequest, match="there are no tools"):
            read_tool_choice(value, ())
    with pytest.raises(InvalidRequest, match="there are no tools"):
        read_anthropic_tool_choice({"type": "any"}, ())


# Templates as models have them, shortened to what matters here

_QWEN = """\
{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools> Answer with <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif -%}
{%- for message in messages %}
{%- if message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
"""
_MISTRAL = """\
{%- for message in messages %}
{%- if message.role == "user" %}
{%- if loop.last and tools is defined %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}
[INST] {{ message.content }}[/INST]
{%- elif message.tool_calls %}[TOOL_CALLS] [
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("ids have length 9") }}{% endif -%}
{"id": "{{ call.id }}", "call": {{ call.function | tojson }}}{{ ", " if not loop.last }}
{%- endfor %}]
{%- elif message.role == "tool" %}
{%- if message.tool_call_id | length != 9 %}{{ raise_exception("ids have length 9") }}{% endif -%}
[TOOL_RESULTS] {"content": {{ message.content }}, "call_id": "{{ message.tool_call_id }}"}[/TOOL_RESULTS]
{%- else %}{{ message.content }}
{%- endif %}
{%- endfor %}
"""
_LLAMA = """\
{%- for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>
{% if tools and loop.first %}Respond in the format {"name": function name, "parameters": dictionary}.
{% for tool in tools %}{{ tool | tojson }}{% endfor %}
{% endif %}
{%- if message.tool_calls %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception("single tool-calls only") }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot_id|>
{%- else %}{{ message.content }}<|eot_id|>{% endif %}
{%- endfor %}
"""
_TURNS = """\
{%- for message in messages %}
{%- if (message.role == "user") != (loop.index0 % 2 == 0) %}{{ raise_exception("take turns") }}{% endif %}
{{- message.role }}: {{ message.content }}
{% endfor %}"""
TEMPLATES: dict[str, str] = {"qwen": _QWEN, "mistral": _MISTRAL, "llama3": _LLAMA}


def test_the_style_is_that_of_the_template() -> None:
    assert style_of(model()) == "qwen"
    assert style_of(model(_TURNS)) == "qwen"
    for style, template in TEMPLATES.items():
        assert style_of(model(template)) == style
    assert style_of(model("{{ messages }}<|start_header_id|>")) == "llama3"
    both = "<|start_header_id|> {{ messages }} <tool_call>"  # a model of the one kind, taught the other
    assert style_of(model(both)) == "qwen"


@styles
def test_a_template_that_knows_tools_gets_them(style: Style) -> None:
    plan = plan_tools(model(TEMPLATES[style]), TOOLS, ToolChoice("auto"), True)
    assert plan.style == style
    assert plan.instructions is None
    assert plan.template_tools == [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": SCHEMA},
        }
        for tool in TOOLS
    ]
    messages = [{"role": "user", "content": "hi"}]
    text = model(TEMPLATES[style]).render_text(messages, True, tools=plan.template_tools)
    assert json.dumps(SCHEMA) in text
    assert "It says the weather." in text


@styles
def test_a_template_that_does_not_is_told_in_words(style: Style) -> None:
    named = ToolChoice("named", "weather")
    for choice in (ToolChoice("auto"), ToolChoice("required"), named):
        plan = plan_tools(model(), TOOLS, choice, True, style)
        assert plan.template_tools is None
        assert plan.instructions is not None
        assert json.dumps(SCHEMA) in plan.instructions
        mark = {"qwen": "<tool_call>\n", "mistral": "[TOOL_CALLS] [", "llama3": '"parameters": {'}
        assert mark[style] in plan.instructions
        several = "several calls" in plan.instructions
        assert several == (choice != named)
        assert ("nothing else" in plan.instructions) == (choice.mode != "auto")
    plan = plan_tools(model(), TOOLS, ToolChoice("auto"), False, style)
    assert "at most one call" in (plan.instructions or "")


def test_a_template_of_an_unknown_format_is_not_trusted_with_tools() -> None:
    other = "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %} Write <function=...>."
    plan = plan_tools(model(other), TOOLS, ToolChoice("auto"), True)
    assert (plan.style, plan.template_tools) == ("qwen", None)
    assert plan.instructions is not None
    trusted = plan_tools(model(other), TOOLS, ToolChoice("auto"), True, "qwen")
    assert trusted.template_tools is not None
    unused = "{# tools #}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert plan_tools(model(unused), TOOLS, ToolChoice("auto"), True, "qwen").instructions


def test_without_calls_nothing_is_asked() -> None:
    for tools, choice in ((TOOLS, ToolChoice("none")), ((), ToolChoice("auto"))):
        plan = plan_tools(model(), tools, choice, True)
        assert plan.choice == ToolChoice("none")
        assert plan.constraint is plan.template_tools is plan.instructions is None


def _calls(style: Style, *calls: tuple[str, str]) -> str:
    return calls_text([{"function": {"name": n, "arguments": a}} for n, a in calls], style)


@styles
@pytest.mark.parametrize("mode", ["auto", "required", "named"])
def test_calls_are_held_to_the_choice(style: Style, mode: Any) -> None:
    good, other = ("weather", '{"city": "Bonn"}'), ("auto", '{"city": "Ulm"}')
    choice = ToolChoice(mode, "auto" if mode == "named" else None)
    plan = plan_tools(model(), TOOLS, choice, True, style)
    assert plan.constraint is not None
    SamplingParams(**{plan.constraint[0]: plan.constraint[1]})
    for text, expected in (
        (_calls(style, other), True),
        (_calls(style, good), mode != "named"),
        (_calls(style, good, other), mode != "named"),
        (_calls(style, ("weather", "{}")), False),
        (_calls(style, ("rain", '{"city": "Bonn"}')), False),
        ("No call.", mode == "auto"),
    ):
        assert (check(*plan.constraint, text) is None) == expected, text
    once = plan_tools(model(), TOOLS, choice, False, style).constraint
    assert once is not None
    assert check(*once, _calls(style, other)) is None
    assert check(*once, _calls(style, other, other)) is not None


def test_too_many_schemas_for_a_constraint_are_refused() -> None:
    enum = {"properties": {"a": {"enum": [f"{i:06}" for i in range(900)]}}}
    tools = read_tools([function(f"f{i}", parameters=enum) for i in range(10)])
    assert plan_tools(model(), tools, ToolChoice("auto"), True).constraint is not None
    with pytest.raises(InvalidRequest, match="give fewer tools") as caught:
        plan_tools(model(), tools, ToolChoice("required"), True)
    assert caught.value.field == "tools"
    named = plan_tools(model(), tools, ToolChoice("named", "f3"), True)
    assert named.constraint is not None


def test_words_in_schemas_cost_a_constraint_nothing() -> None:
    """Agents describe their tools at length."""
    long = {"properties": {"a": {"type": "string", "description": "x" * 20_000}}}
    tools = read_tools([function(f"f{i}", parameters=long) for i in range(10)])
    plan = plan_tools(model(), tools, ToolChoice("required"), True)
    assert plan.constraint is not None
    assert len(plan.constraint[1]) < 10_000


# Earlier calls

_HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "Where does it rain?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}},
            {"id": "call_2", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "dry"},
    {"role": "tool", "tool_call_id": "call_2", "content": "wet"},
    {"role": "user", "content": "And?"},
]


def test_calls_and_results_become_text() -> None:
    found = history_text(_HISTORY, "qwen")
    assert [message["role"] for message in found] == ["user", "assistant", "user"]
    assert found[1]["content"] == (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city":"Ulm"}}\n</tool_call>'
    )
    assert found[2]["content"] == (
        "<tool_response>\ndry\n</tool_response>\n<tool_response>\nwet\n</tool_response>\nAnd?"
    )
    assert all(message.keys() == {"role", "content"} for message in found)
    said = [{**_HISTORY[1], "content": "Let me see."}]
    assert history_text(said, "qwen")[0]["content"].startswith("Let me see.\n<tool_call>\n")
    [_, calls, results] = history_text(_HISTORY, "mistral")
    assert calls["content"].startswith('[TOOL_CALLS] [{"name": "weather", "arguments": {"city"')
    assert results["content"].startswith('[TOOL_RESULTS] {"name": "weather", "content": "dry"}[/')
    [_, calls, results] = history_text(_HISTORY, "llama3")
    assert '}}; {"name": "weather", "parameters": ' in calls["content"]
    assert results["content"].startswith('{"name": "weather", "output": "dry"}\n{"name"')


@styles
@pytest.mark.parametrize(
    ("arguments", "written"),
    [("", "{}"), (" ", "{}"), ("[1", '"[1"'), ("3", "3"), ('{"a": 1 }', None)],
)
def test_arguments_of_clients_are_json_whatever_they_were(
    style: Style, arguments: str, written: str | None
) -> None:
    key = "parameters" if style == "llama3" else "arguments"
    text = _calls(style, ("f", arguments))
    assert f'"{key}": {arguments if written is None else written}}}' in text


def test_the_embedded_model_is_told_of_calls_in_words() -> None:
    pocket = model()
    found = template_messages(pocket, _HISTORY, style_of(pocket))
    assert found == history_text(_HISTORY, "qwen")
    text = pocket.render_text(found)
    assert "<tool_response>\nwet\n</tool_response>\nAnd?<|im_end|>" in text
    assert template_messages(model(_TURNS), _HISTORY, "qwen") == found
    model(_TURNS).render(found)  # takes turns
    plain = _HISTORY[:1]
    assert template_messages(pocket, plain, "qwen") == plain


def test_a_template_that_knows_calls_gets_them() -> None:
    text = model(_QWEN).render_text(template_messages(model(_QWEN), _HISTORY, "qwen"))
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>' in text
    assert "<tool_response>\nwet\n</tool_response><|im_end|>" in text


def test_ids_are_those_that_mistral_takes() -> None:
    mistral = model(_MISTRAL)
    found = template_messages(mistral, _HISTORY, "mistral")
    made = [call["id"] for call in found[1]["tool_calls"]]
    assert made == [found[2]["tool_call_id"], found[3]["tool_call_id"]]
    assert all(len(one) == 9 and one.isalnum() for one in made)
    text = mistral.render_text(found)
    assert '"call": {"name": "weather", "arguments": {"city": "Bonn"}}}' in text
    kept = template_messages(
        mistral, [{"role": "tool", "tool_call_id": "abcDEF123", "content": ""}], "mistral"
    )
    assert kept[0]["tool_call_id"] == "abcDEF123"


def test_a_template_that_takes_one_call_at_a_time_gets_them_so() -> None:
    llama = model(_LLAMA)
    found = template_messages(llama, _HISTORY, "llama3")
    roles = ["user", "assistant", "tool", "assistant", "tool", "user"]
    assert [message["role"] for message in found] == roles
    assert [m["tool_call_id"] for m in found if m["role"] == "tool"] == ["call_1", "call_2"]
    text = llama.render_text(found)
    assert text.index('"Bonn"') < text.index("dry") < text.index('"Ulm"') < text.index("wet")


def test_a_tool_is_a_value() -> None:
    assert Tool("a", "", {}) == Tool("a", "", {})
    assert [tool.name for tool in TOOLS] == ["weather", "auto"]
