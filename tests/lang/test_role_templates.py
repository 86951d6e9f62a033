"""The table of chat templates, as text."""

from __future__ import annotations

import pytest

import ramet as sgl
from ramet.backends.scripted import Scripted
from ramet.errors import InvalidRequest, ProgramError
from ramet.lang import chat_template
from ramet.lang.chat_template import (
    ChatTemplate,
    get_chat_template,
    get_chat_template_by_model_path,
    register_chat_template,
    register_chat_template_matching_function,
)

TALK = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
]

CHATML = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
    "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n"
)
GOLDEN = {
    "default": "SYSTEM:S\nUSER:U\nASSISTANT:A\nUSER:V\n",
    "claude": "S\n\nHuman: U\n\nAssistant:A\n\nHuman: V",
    "chatml": CHATML,
    "chatml-llava": CHATML,
    "qwen": CHATML,
    "qwen2-vl": CHATML,
    "vicuna_v1.1": "S USER:U ASSISTANT:A</s>USER:V ",
    "llama-2-chat": "[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST]A </s><s>[INST] V [/INST]",
    "mistral": "[SYSTEM_PROMPT] S [/SYSTEM_PROMPT][INST] U [/INST]A </s><s>[INST] V [/INST]",
    "llama-3-instruct": (
        "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>"
    ),
    "llama-4": (
        "<|header_start|>system<|header_end|>\n\nS<|eot|><|header_start|>user<|header_end|>\n\nU<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\nA<|eot|>"
        "<|header_start|>user<|header_end|>\n\nV<|eot|>"
    ),
    "gemma-it": (
        "S<start_of_turn>user\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"
        "<start_of_turn>user\nV<end_of_turn>\n"
    ),
    "deepseek-v3": "S<｜User｜>U<｜Assistant｜>A<｜end▁of▁sentence｜><｜User｜>V",
}
STOPS = {
    "default": (),
    "claude": (),
    "chatml": ("<|im_end|>",),
    "qwen": ("<|im_end|>",),
    "mistral": ("</s>",),
    "llama-3-instruct": ("<|eot_id|>",),
    "llama-4": ("<|eot|>",),
    "deepseek-v3": ("<｜end▁of▁sentence｜>",),
    "llama-2-chat": (),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_text_of_a_conversation(name: str) -> None:
    assert get_chat_template(name).get_prompt(TALK) == GOLDEN[name]

    @sgl.function
    def talk(s):
        for message in TALK:
            getattr(s, message["role"])(message["content"])

    state = talk.run(backend=Scripted(), chat_template=name)
    assert (state.text(), state.messages()) == (GOLDEN[name], TALK)


@pytest.mark.parametrize("name", STOPS)
def test_stop_strings(name: str) -> None:
    assert tuple(get_chat_template(name).stop_str) == STOPS[name]


def test_default_system_prompts() -> None:
    with_default = {n for n, t in chat_template._templates.items() if t.default_system_prompt}
    assert with_default == {"chatml-llava", "qwen", "qwen2-vl", "vicuna_v1.1"}
    text = get_chat_template("qwen").get_prompt([{"role": "system", "content": None}])
    assert text == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert get_chat_template("chatml").get_prompt([{"role": "system", "content": None}]) == ""


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-R1-Distill", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-V3-Base", "default"),
        ("OrionStarAI/Orion-14B-Chat", "claude"),
        ("deepseek-ai/Janus-Pro-7B", "janus-pro"),
        ("databricks/dbrx-instruct", "dbrx-instruct"),
        ("lmsys/vicuna-7b-v1.5", "vicuna_v1.1"),
        ("liuhaotian/llava-v1.5-7b", "vicuna_v1.1"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-chat"),
        ("codellama/CodeLlama-7b-Instruct-hf", "llama-2-chat"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistral"),
        ("mistralai/Pixtral-12B", "mistral"),
        ("mistralai/Mistral-7B-v0.1", "default"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-instruct"),
        ("TinyLlama/TinyLlama-1.1B", "chatml"),
        ("Qwen/Qwen2-VL-7B-Instruct", "qwen2-vl"),
        ("THUDM/glm-4v-9b", "glm-4v"),
        ("Qwen/Qwen2.5-0.5B-INSTRUCT", "qwen"),
        ("Qwen/Qwen2.5-0.5B", "default"),
        ("liuhaotian/llava-v1.6-34b", "chatml-llava"),
        ("google/gemma-2-2b-it", "gemma-it"),
        ("gpt2", "default"),
    ],
)
def test_the_template_that_a_path_suggests(path: str, name: str) -> None:
    assert get_chat_template_by_model_path(path).name == name


def test_the_template_of_a_run_is_the_callers_the_programs_or_the_backends() -> None:
    own = ChatTemplate("own", None, {"user": ("U<", ">")})

    @sgl.function
    def ask(s):
        s.user("x")

    @sgl.function(chat_template="claude")
    def asked(s):
        s.user("x")

    backend = Scripted(chat_template=own)
    assert ask.run(backend=backend).text() == "U<x>"
    assert asked.run(backend=backend).text() == "\n\nHuman: x"
    assert asked.run(backend=backend, chat_template=own).text() == "U<x>"
    path = Scripted(model_path="meta-llama/Meta-Llama-3-8B-Instruct")
    assert ask.run(backend=path).text().startswith("<|start_header_id|>user")
    with pytest.raises(InvalidRequest, match="not a known template"):
        ask.run(backend=backend, chat_template="nope")


def test_a_role_that_the_template_lacks_is_an_error_of_the_line() -> None:
    @sgl.function
    def ask(s):
        s.system("x")

    only_user = ChatTemplate("own", None, {"user": ("U<", ">")})
    error = ask.run(backend=Scripted(), chat_template=only_user).error()
    assert isinstance(error, ProgramError)
    assert "role 'system' failed at" in str(error)


def test_own_templates_and_rules(monkeypatch) -> None:
    monkeypatch.setattr(chat_template, "_templates", dict(chat_template._templates))
    monkeypatch.setattr(chat_template, "_own_matchers", [])
    register_chat_template(ChatTemplate("mine", None, {"user": ("(", ")")}))

    @register_chat_template_matching_function
    def match(path: str) -> str | None:
        return "mine" if "special" in path else None

    assert get_chat_template_by_model_path("qwen-special-instruct").name == "mine"
    assert get_chat_template_by_model_path("qwen-instruct").name == "qwen"
