"""The served model as the HTTP side knows it: its names, bounds, tokenizer and chat template.

Knows texts and token ids; refuses to know weights and engines. Torch-free.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ramet.engine.template import ChatTemplate
from ramet.engine.tokenizer import Tokenizer
from ramet.errors import InvalidRequest

__all__ = ["ServedModel"]


@dataclass(frozen=True)
class ServedModel:
    """`name` is what clients call it (any other name is taken, too); `max_context` tokens may a prompt and
    its output have; `created` is the time of the start, in seconds since 1970."""

    name: str
    model_path: str
    tokenizer: Tokenizer
    vocab_size: int
    max_context: int
    created: int = 0
    template_source: str | None = None  # instead of the checkpoint's own

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text; with `add_special_tokens` what the tokenizer begins texts with comes first."""
        return self.tokenizer.encode(text, add_special_tokens)

    @functools.cached_property
    def template(self) -> ChatTemplate | None:
        source = self.template_source or self.tokenizer.chat_template
        return None if source is None else ChatTemplate(source, self.tokenizer.special_texts)

    def render(
        self, messages: Sequence[Any], add_generation_prompt: bool = True, **variables: Any
    ) -> list[int]:
        """A conversation as token ids, by the model's chat template. Raises `InvalidRequest`."""
        return self.encode(
            self.render_text(messages, add_generation_prompt, **variables),
            add_special_tokens=False,
        )

    def render_text(
        self, messages: Sequence[Any], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        if self.template is None:
            raise InvalidRequest(
                "messages",
                f"{len(messages)} messages",
                "cannot be written as a prompt: the model has no chat template",
                "start the server with --chat-template, or use /v1/completions",
            )
        return self.template.render(messages, add_generation_prompt, **variables)
