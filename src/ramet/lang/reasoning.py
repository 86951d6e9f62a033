"""Where a model's reasoning ends and its answer begins.

Knows the marks of model families, and texts. A generation that is separated gives the program its answer
alone, in the variable, in the text and in the messages; the reasoning goes to a variable of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from ramet.backend import Completion
from ramet.errors import InvalidRequest
from ramet.prompt import Span, Text

__all__ = ["Reasoning", "reasoning_of", "reasoning_rule"]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """`begins`: the prompt ends inside the reasoning, so a text needs no opening mark."""

    model_type: str
    start: str = "<think>"
    end: str = "</think>"
    begins: bool = False

    @property
    def prefix(self) -> str:
        return ""

    def split(self, text: str) -> tuple[str, str]:
        """(reasoning, answer), without white space around them. Without an end all is reasoning."""
        before, mark, inside = text.partition(self.start)
        if mark and not before.strip():
            text = inside
        elif not self.begins:
            return "", text
        reasoning, _, answer = text.partition(self.end)
        return reasoning.strip(), answer.strip()

    def value(self, completion: Completion, name: str | None) -> tuple[str, tuple[Span, ...]]:  # noqa: ARG002
        """The answer, and what the prompt gets; the reasoning goes into the meta information."""
        reasoning, answer = self.split(completion.text)
        completion.meta_info["reasoning_content"] = reasoning
        if answer == completion.text:
            return answer, completion.spans
        return answer, (Text(answer),) if answer else ()


def reasoning_of(meta_info: object) -> str | list[str]:
    """What `Reasoning.value` found, for one sample or for several; "" where nothing was generated."""
    if isinstance(meta_info, list):
        return [str(reasoning_of(one)) for one in meta_info]
    return str(meta_info.get("reasoning_content", "")) if isinstance(meta_info, dict) else ""


_RULES = {
    rule.model_type: rule
    for rule in (
        Reasoning("deepseek-r1", begins=True),
        Reasoning("deepseek-v3"),
        Reasoning("glm45"),
        Reasoning("kimi", "◁think▷", "◁/think▷"),
        Reasoning("minimax", begins=True),
        Reasoning("qwen3"),
        Reasoning("qwen3-thinking", begins=True),
        Reasoning("step3", begins=True),
    )
}


def reasoning_rule(model_type: str) -> Reasoning:
    found = _RULES.get(model_type.lower()) if isinstance(model_type, str) else None
    if found is None:
        known = ", ".join(_RULES)
        raise InvalidRequest("model_type", model_type, "is not known", f"known are {known}")
    return found
