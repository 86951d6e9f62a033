from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest

from ramet.backend import RoleTemplate
from ramet.engine.chat import MAX_SOURCE, ChatTemplate, derive_role_template
from ramet.errors import CheckpointError, InvalidRequest

CHATML = """
{%- for message in messages %}
    {{- "<|im_start|>" ~ message.role + "\n" }}{{ message.content }}{{ "<|im_end|>\n" -}}
{% endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{% endif %}"""

LLAMA3 = """
{%- for message in messages -%}
    {%- if loop.first %}{{ bos_token }}{% endif -%}
    {{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\n\n" + message["content"] | trim + "<|eot_id|>" -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ "<|start_header_id|>assistant<|end_header_id|>\n\n" }}{% endif -%}"""

LLAMA2 = """
{%- set first = messages[0] -%}
{%- set turns = messages[1:] if first.role == "system" else messages -%}
{%- for turn in turns -%}
    {%- if (turn.role == "user") == (loop.index0 % 2 == 1) %}{{ raise_exception("turns must alternate") }}{% endif -%}
    {%- if turn.role == "user" -%}
        {{- bos_token + "[INST] " -}}
        {%- if loop.first and first.role == "system" %}{{ "<<SYS>>\n" + first.content + "\n<</SYS>>\n\n" }}{% endif -%}
        {{- turn.content.strip() + " [/INST]" -}}
    {%- else -%}
        {{- " " + turn.content.strip() + " " + eos_token -}}
    {%- endif -%}
{%- endfor -%}"""

MISTRAL = """
{{- bos_token -}}
{%- for turn in messages -%}
    {%- if turn.role not in ("user", "assistant") or (turn.role == "user") != loop.index is odd -%}
        {{- raise_exception("only user and assistant, in turn") -}}
    {%- endif -%}
    {%- if turn.role == "user" %}{{ "[INST] " ~ turn.content ~ " [/INST]" }}{% else %}{{ turn.content ~ eos_token }}{% endif -%}
{%- endfor -%}"""

QWEN25 = """
{%- if messages[0].role == "system" %}
    {{- "<|im_start|>system\n" + messages[0].content + "<|im_end|>\n" }}
{%- else %}
    {{- "<|im_start|>system\nYou are a test.<|im_end|>\n" }}
{%- endif %}
{%- for m in messages %}
    {%- if not (loop.first and m.role == "system") %}
        {{- "<|im_start|>" + m.role + "\n" + m.content + "<|im_end|>\n" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\n" }}
{%- endif %}"""

QWEN3 = """
{%- set ns = namespace(last=-1) %}
{%- for m in messages[::-1] %}
    {%- if m.role == "user" and ns.last < 0 %}{% set ns.last = messages | length - loop.index %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {{- "<|im_start|>" + m.role + "\n" }}
    {%- if m.role == "assistant" %}
        {%- set answer = m.content.split("</think>")[-1].lstrip("\n") %}
        {%- if loop.index0 > ns.last %}{{ "<think>\n\n</think>\n\n" }}{% endif %}
        {{- answer }}
    {%- else %}
        {{- m.content }}
    {%- endif %}
    {{- "<|im_end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\n" }}
    {%- if enable_thinking is defined and not enable_thinking %}{{ "<think>\n\n</think>\n\n" }}{% endif %}
{%- endif %}"""

NO_GENERATION_PROMPT = """
{%- for m in messages %}{{ "<|im_start|>" + m.role + "\n" + m.content + "<|im_end|>\n" }}{% endfor %}"""

SYSTEM_IN_THE_LAST_TURN = """
{%- set system = messages[0].content if messages[0].role == "system" else "" -%}
{%- for m in messages if m.role != "system" -%}
    {%- if m.role == "user" %}{{ "[U]" + (system if loop.last else "") + m.content + "[/U]" }}{% else %}{{ m.content }}{% endif -%}
{%- endfor -%}"""

SPECIALS = {1: "<s>", 2: "</s>", 3: "<|im_start|>", 4: "<|im_end|>", 5: "<|eot_id|>"}


@dataclass
class Checkpoint:
    chat_template: str | None
    special_texts: dict[str, str] = field(
        default_factory=lambda: {"bos_token": "<s>", "eos_token": "</s>"}
    )
    eos_token_ids: frozenset[int] = frozenset({2})
    special_texts_by_id: dict[int, str] = field(default_factory=lambda: dict(SPECIALS))


def chat(*turns: str) -> list[dict[str, str]]:
    """`chat("user: hi", ...)`"""
    return [dict(zip(("role", "content"), turn.split(": ", 1))) for turn in turns]


def derived(source: str, **facts: Any) -> RoleTemplate:
    found = derive_role_template(Checkpoint(source, **facts))
    assert found is not None
    return found


def blocks(template: RoleTemplate, roles: Sequence[str]) -> list[tuple[str, str]]:
    earlier: list[dict[str, str]] = []
    found = []
    for role in roles:
        found.append(template.get_prefix_and_suffix(role, earlier))
        earlier.append({"role": role, "content": "anything at all"})
    return found


TURNS = ["system", "user", "assistant", "user", "assistant"]
IM = {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in TURNS}


def header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


GOLDEN = {
    "chatml": (CHATML, [IM[role] for role in TURNS]),
    "llama3": (
        LLAMA3,
        [("<s>" + header("system"), "<|eot_id|>")] + [(header(r), "<|eot_id|>") for r in TURNS[1:]],
    ),
    "llama2": (
        LLAMA2,
        [
            ("<s>[INST] <<SYS>>\n", "\n<</SYS>>\n\n"), ("", " [/INST]"), ("", " </s>"),
            ("<s>[INST] ", " [/INST]"), ("", " </s>"),
        ],
    ),
    "qwen2.5": (QWEN25, [IM[role] for role in TURNS]),
    "qwen3": (QWEN3, [IM[role] for role in TURNS]),
    "no generation prompt": (NO_GENERATION_PROMPT, [IM[role] for role in TURNS]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_blocks_of_known_templates(name: str) -> None:
    source, expected = GOLDEN[name]
    assert blocks(derived(source), TURNS) == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_blocks_put_together_are_the_templates_own_text(name: str) -> None:
    """Whatever the contents are; an answer's leading space is the model's own."""
    template = ChatTemplate(GOLDEN[name][0], {"bos_token": "<s>", "eos_token": "</s>"})
    roles = derived(GOLDEN[name][0])
    contents = ["be brief", "what?", "this.", "why?", "because."]
    text, messages = "", []
    for i, role in enumerate(TURNS):
        prefix, suffix = roles.get_prefix_and_suffix(role, messages)
        if role == "assistant" and name != "no generation prompt":
            assert template.render(messages, add_generation_prompt=True) == text + prefix
        space = " " if name == "llama2" and role == "assistant" else ""
        text += prefix + space + contents[i] + suffix
        messages.append({"role": role, "content": contents[i]})
        if role == "user":
            assert template.render(messages) == text


def test_a_default_system_text_is_part_of_the_first_prefix() -> None:
    template = derived(QWEN25)
    system = "<|im_start|>system\nYou are a test.<|im_end|>\n"
    assert blocks(template, ["user", "assistant"]) == [
        (system + "<|im_start|>user\n", "<|im_end|>\n"),
        IM["assistant"],
    ]
    assert template.default_system_prompt is None
    assert template.name == "default"


def test_bos_comes_once() -> None:
    found = blocks(derived(LLAMA3), ["user", "assistant", "user"])
    assert [prefix.count("<s>") for prefix, _ in found] == [1, 0, 0]


def test_an_assistant_that_begins() -> None:
    assert derived(CHATML).get_prefix_and_suffix("assistant", []) == IM["assistant"]


def test_mistral_refuses_what_it_refuses() -> None:
    template = derived(MISTRAL)
    assert blocks(template, ["user", "assistant", "user"]) == [
        ("<s>[INST] ", " [/INST]"), ("", "</s>"), ("[INST] ", " [/INST]"),
    ]  # fmt: skip
    with pytest.raises(InvalidRequest, match="only user and assistant, in turn"):
        template.get_prefix_and_suffix("system", [])
    with pytest.raises(InvalidRequest, match="in turn"):
        template.get_prefix_and_suffix("user", chat("user: x"))


def test_the_same_roles_are_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    template = derived(CHATML)
    template.get_prefix_and_suffix("user", chat("system: a"))
    monkeypatch.setattr(ChatTemplate, "render", lambda *_a, **_k: pytest.fail("rendered again"))
    assert template.get_prefix_and_suffix("user", chat("system: b")) == IM["user"]


@pytest.mark.parametrize(
    ("source", "eos", "stops"),
    [
        (CHATML, {2}, ("<|im_end|>",)),
        (CHATML, {2, 4}, ()),
        (LLAMA3, {2}, ("<|eot_id|>",)),
        (LLAMA2, {2}, ()),
        (LLAMA2, set(), ("</s>",)),
    ],
)
def test_stops(source: str, eos: set[int], stops: tuple[str, ...]) -> None:
    assert derived(source, eos_token_ids=frozenset(eos)).stop_str == stops


@pytest.mark.parametrize(
    "source",
    [
        None,
        SYSTEM_IN_THE_LAST_TURN,
        "{{ messages | tojson }}{{ messages | tojson }}",
        "{{ raise_exception('no') }}",
        "nothing",
        "{% for m in messages %}{{ m.content if loop.last else '...' }}{% endfor %}",
        "{% for m in messages %}{{ loop.length }}{{ m.content }}\n{% endfor %}",
    ],
)
def test_templates_that_do_not_render_block_after_block(source: str | None) -> None:
    assert derive_role_template(Checkpoint(source)) is None


def test_a_broken_template_is_a_broken_checkpoint() -> None:
    with pytest.raises(CheckpointError, match=r"line 2.*"):
        derive_role_template(Checkpoint("{% for m in messages %}\n{% if %}"))


# -- rendering --------------------------------------------------------------------------------------------


def render(source: str, *turns: str, **variables: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(chat(*turns), **variables)


def test_render_passes_variables() -> None:
    assert render(QWEN3, "user: x", add_generation_prompt=True, enable_thinking=False).endswith(
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert render("{{ tools[0].name }}{{ bos_token }}", tools=[{"name": "f"}]) == "f<s>"
    with pytest.raises(InvalidRequest, match=r"chat_template_kwargs.*raise_exception"):
        ChatTemplate("x", {}).render([], raise_exception=1)


def test_what_templates_expect_of_their_environment() -> None:
    assert render("{{ {'a': 'é<'} | tojson }}") == '{"a": "é<"}'
    assert render("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"
    assert (
        render("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "012"
    )
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"
    assert render("{% generation %}{{ 1 + 1 }}{% endgeneration %}!") == "2!"
    assert (
        render("{% for m in messages %}{{ loop.length }}{{ loop.last }}{% endfor %}", "user: x")
        == "1True"
    )
    assert render("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a' ~ 1) }}") == "<a1>"
    now = ChatTemplate(
        "{{ strftime_now('%d %b %Y') }}", {}, now=lambda: datetime.datetime(2024, 7, 26)
    )
    assert now.render([]) == "26 Jul 2024"


def test_messages_may_be_any_mapping() -> None:
    message = MappingProxyType({"role": "user", "content": ({"type": "text", "text": "x"},)})
    assert ChatTemplate("{{ messages | tojson }}", {}).render([message]) == (
        '[{"role": "user", "content": [{"type": "text", "text": "x"}]}]'
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ messages[0].role.missing.more }}",
        "{{ 1 / 0 }}",
        "{% include 'x' %}",
    ],
)
def test_code_and_faults_in_templates_are_refusals(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template"):
        render(source, "user: x")


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% for a in m %}{% for b in m %}{% for c in m %}{% for d in m %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ [0] * 99999999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%.999999999f' % 1 }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 16000000) }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000).join(['b'] * 100000) }}",
        "{{ (['b'] * 100000)|join('a' * 100000) }}",
        "{{ ('\\n' * 100000)|indent(100000) }}",
        "{{ ('\\t' * 100000).expandtabs(100000) }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ 'x'.ljust(10 ** 11) }}",
        "{% set n = namespace(t='x') %}{% for i in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
        "{% set n = namespace(t='x') %}{% for i in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
        "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    ],
)  # fmt: skip
def test_hostile_templates_end_soon(source: str) -> None:
    started = time.perf_counter()
    with pytest.raises(InvalidRequest, match="chat template"):
        ChatTemplate(source, {}).render([], m=list(range(50)))
    assert time.perf_counter() - started < 10


def test_the_budget_is_per_rendering() -> None:
    template = ChatTemplate("{% for i in range(200000) %}{% endfor %}x", {})
    assert [template.render([]) for _ in range(2)] == ["x", "x"]


def test_a_long_conversation_is_fine() -> None:
    text = render(QWEN3, *["user: x", "assistant: y"] * 2000)
    assert text.count("<|im_start|>") == 4000


def test_long_sources_are_refused() -> None:
    with pytest.raises(CheckpointError, match="characters"):
        ChatTemplate("x" * (MAX_SOURCE + 1), {})
