"""How roles look in text: a table of known templates and the rules that find one by a model's path.

Knows texts and names. A backend that knows its checkpoint's own template gives that instead; the table is
for backends that do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from ramet.backend import Message
from ramet.errors import InvalidRequest

__all__ = [
    "ChatTemplate",
    "ChatTemplateStyle",
    "get_chat_template",
    "get_chat_template_by_model_path",
    "register_chat_template",
    "register_chat_template_matching_function",
]


class ChatTemplateStyle(Enum):
    PLAIN = auto()
    LLAMA2 = auto()


@dataclass(frozen=True)
class ChatTemplate:
    """`role_prefix_and_suffix` maps a role to the texts before and after its content. `stop_str` ends
    every generation of a program that uses the template. In style LLAMA2 a system block at the very
    beginning lies inside the first user block."""

    name: str
    default_system_prompt: str | None
    role_prefix_and_suffix: Mapping[str, tuple[str, str]]
    stop_str: Sequence[str] = ()
    image_token: str = "<image>"
    audio_token: str = "<audio>"
    style: ChatTemplateStyle = ChatTemplateStyle.PLAIN

    def get_prefix_and_suffix(self, role: str, earlier: Sequence[Message] = ()) -> tuple[str, str]:
        """Texts before and after a block of `role` that follows the blocks `earlier`."""
        if role not in self.role_prefix_and_suffix:
            known = ", ".join(self.role_prefix_and_suffix)
            raise InvalidRequest(
                "role", role, f"is not in the chat template {self.name}", f"use {known}"
            )
        prefix, suffix = self.role_prefix_and_suffix[role]
        if self.style is ChatTemplateStyle.LLAMA2:
            if role == "system" and not earlier:
                return self.role_prefix_and_suffix["user"][0] + prefix, suffix
            if role == "user" and len(earlier) == 1 and earlier[0]["role"] == "system":
                return "", suffix
        return prefix, suffix

    def get_prompt(self, messages: Sequence[Message]) -> str:
        """The text of a whole conversation. A system message whose content is None gets the default."""
        text = ""
        for index, message in enumerate(messages):
            role, content = message["role"], message["content"]
            if role == "system" and content is None:
                content = self.default_system_prompt
                if content is None:
                    continue
            prefix, suffix = self.get_prefix_and_suffix(role, messages[:index])
            text += f"{prefix}{content}{suffix}"
        return text


Matcher = Callable[[str], str | None]

_templates: dict[str, ChatTemplate] = {}
_own_matchers: list[Matcher] = []


def register_chat_template(template: ChatTemplate) -> None:
    """Add a template under its name, or replace the one of that name."""
    _templates[template.name] = template


def register_chat_template_matching_function(matcher: Matcher) -> Matcher:
    """Add a rule: a function from a model's path to a template's name or None. Own rules come first."""
    _own_matchers.append(matcher)
    return matcher


def get_chat_template(name: str) -> ChatTemplate:
    if name not in _templates:
        known = ", ".join(sorted(_templates))
        raise InvalidRequest("chat_template", name, "is not a known template", f"known are {known}")
    return _templates[name]


def get_chat_template_by_model_path(model_path: str) -> ChatTemplate:
    """The first rule that fits the path, whatever its case; `default` if none does. The name of a
    template stands for that template."""
    if model_path in _templates:
        return get_chat_template(model_path)
    for matcher in _own_matchers:
        name = matcher(model_path)
        if name is not None:
            return get_chat_template(name)
    for pattern, name in _RULES:
        if re.search(pattern, model_path, re.IGNORECASE):
            return get_chat_template(name)
    return get_chat_template("default")


_RULES = (
    (r"deepseek-(v3|r1)(?!.*base)", "deepseek-v3"),
    (r"orion", "claude"),
    (r"janus", "janus-pro"),
    (r"dbrx.*instruct", "dbrx-instruct"),
    (r"vicuna|llava-v1\.5|llava-next-video-7b", "vicuna_v1.1"),
    (r"llama-2.*chat|codellama.*instruct", "llama-2-chat"),
    (r"pixtral|(mistral|mixtral).*instruct", "mistral"),
    (r"llama-3.*instruct", "llama-3-instruct"),
    (r"llama-4.*instruct|llama-4", "llama-4"),
    (r"tinyllama", "chatml"),
    (r"qwen.*vl", "qwen2-vl"),
    (r"glm[-_]?4.*v", "glm-4v"),
    (r"qwen(?!.*llava).*(chat|instruct)(?!.*llava)", "qwen"),
    (
        r"llava-v1\.6-34b|llava-v1\.6-yi-34b|llava-next-video-34b|llava-onevision-qwen2",
        "chatml-llava",
    ),
    (r"yi-vl", "yi-vl"),
    (r"yi-1\.5.*chat", "yi-1.5"),
    (r"gemma.*it", "gemma-it"),
    (r"c4ai-command-r", "c4ai-command-r"),
    (r"granite.*instruct", "granite-3-instruct"),
    (r"minicpm-v", "minicpmv"),
    (r"minicpm-o", "minicpmo"),
    (r"internvl2_5", "internvl-2-5"),
    (r"interns1|intern-s1", "interns1"),
)

_HELPFUL = "You are a helpful assistant."
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def _same(prefix: str, suffix: str, **names: str) -> dict[str, tuple[str, str]]:
    """One pattern for all roles: `{}` in `prefix` is the role's name in the template."""
    roles = {"system": "system", "user": "user", "assistant": "assistant", **names}
    return {role: (prefix.format(name), suffix) for role, name in roles.items()}


_CHATML = _same("<|im_start|>{}\n", "<|im_end|>\n")

for _template in (
    ChatTemplate(
        "default",
        None,
        {"system": ("SYSTEM:", "\n"), "user": ("USER:", "\n"), "assistant": ("ASSISTANT:", "\n")},
    ),
    ChatTemplate(
        "claude",
        None,
        {"system": ("", ""), "user": ("\n\nHuman: ", ""), "assistant": ("\n\nAssistant:", "")},
    ),
    ChatTemplate("chatml", None, _CHATML, ("<|im_end|>",)),
    ChatTemplate("chatml-llava", _HELPFUL, _CHATML, ("<|im_end|>",), "<image>\n"),
    ChatTemplate("qwen", _HELPFUL, _CHATML, ("<|im_end|>",)),
    ChatTemplate(
        "qwen2-vl",
        _HELPFUL,
        _CHATML,
        ("<|im_end|>",),
        "<|vision_start|><|image_pad|><|vision_end|>",
    ),
    ChatTemplate(
        "vicuna_v1.1",
        _VICUNA,
        {"system": ("", " "), "user": ("USER:", " "), "assistant": ("ASSISTANT:", "</s>")},
        image_token=" <image>\n",
    ),
    ChatTemplate(
        "llama-2-chat",
        None,
        {
            "system": ("<<SYS>>\n", "\n<</SYS>>\n\n"),
            "user": ("[INST] ", " [/INST]"),
            "assistant": ("", " </s><s>"),
        },
        style=ChatTemplateStyle.LLAMA2,
    ),
    ChatTemplate(
        "mistral",
        None,
        {
            "system": ("[SYSTEM_PROMPT] ", " [/SYSTEM_PROMPT]"),
            "user": ("[INST] ", " [/INST]"),
            "assistant": ("", " </s><s>"),
        },
        ("</s>",),
        "[IMG]",
    ),
    ChatTemplate(
        "llama-3-instruct",
        None,
        _same("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|eot_id|>",),
        "<|image|>",
    ),
    ChatTemplate(
        "llama-4",
        None,
        _same("<|header_start|>{}<|header_end|>\n\n", "<|eot|>"),
        ("<|eot|>",),
        "<|image|>",
    ),
    ChatTemplate(
        "gemma-it",
        None,
        _same("<start_of_turn>{}\n", "<end_of_turn>\n", assistant="model") | {"system": ("", "")},
        image_token="<start_of_image>",
    ),
    ChatTemplate(
        "deepseek-v3",
        None,
        {
            "system": ("", ""),
            "user": ("<｜User｜>", ""),
            "assistant": ("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        },
        ("<｜end▁of▁sentence｜>",),
    ),
    ChatTemplate("yi-1.5", None, _CHATML | {"system": ("", "")}, ("<|im_end|>",)),
    ChatTemplate("dbrx-instruct", None, _CHATML, ("<|im_end|>",)),
    ChatTemplate("minicpmv", None, _CHATML, ("<|im_end|>", "<|endoftext|>"), "(<image>./</image>)"),
    ChatTemplate("minicpmo", None, _CHATML, ("<|im_end|>", "<|endoftext|>"), "(<image>./</image>)"),
    ChatTemplate("internvl-2-5", None, _CHATML, ("<|im_end|>",), "<image>"),
    ChatTemplate("interns1", None, _CHATML, ("<|im_end|>",), "<image>"),
    ChatTemplate(
        "janus-pro",
        None,
        {
            "system": ("", ""),
            "user": ("<|User|>", ""),
            "assistant": ("<|Assistant|>", "<｜end▁of▁sentence｜>"),
        },
        ("<｜end▁of▁sentence｜>",),
        "<image_placeholder>\n",
    ),
    ChatTemplate(
        "granite-3-instruct",
        None,
        _same("<|start_of_role|>{}<|end_of_role|>", "<|end_of_text|>\n"),
        ("<|end_of_text|>",),
    ),
    ChatTemplate(
        "c4ai-command-r",
        None,
        _same(
            "<|START_OF_TURN_TOKEN|><|{}_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            system="SYSTEM",
            user="USER",
            assistant="CHATBOT",
        ),
        ("<|END_OF_TURN_TOKEN|>",),
    ),
    ChatTemplate(
        "yi-vl",
        None,
        {
            "system": ("", "\n\n"),
            "user": ("### Human:", "\n"),
            "assistant": ("### Assistant:", "\n"),
        },
        ("\n###",),
        "<image>\n",
    ),
    ChatTemplate(
        "glm-4v",
        None,
        _same("<|{}|>\n", "\n"),
        ("<|user|>", "<|endoftext|>", "<|observation|>"),
        "<|image|>",
    ),
):
    register_chat_template(_template)
