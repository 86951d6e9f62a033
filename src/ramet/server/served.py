"""The served model as the HTTP side knows it: its names, bounds, tokenizer and chat template.

Knows texts and token ids; refuses to know weights and engines. Torch-free. Texts of a conversation are not
trusted: only the template's own special tokens become such tokens (`ramet.engine.quoting`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ramet.engine.quoting import Quoting
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
    quoting: Quoting = field(default=None)  # type: ignore[assignment] # None: made here

    def __post_init__(self) -> None:
        if self.quoting is None:
            object.__setattr__(self, "quoting", Quoting(self.tokenizer))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text; with `add_special_tokens` what the tokenizer begins texts with comes first.
        Names of special tokens become these tokens, except in what `render_text` and `quoted` gave."""
        if not add_special_tokens and self.quoting.mark in text:
            return self.quoting.encode(text)
        return self.tokenizer.encode(text, add_special_tokens)

    def quoted(self, text: str) -> str:
        """A client's text, to be put beside what `render_text` gave, and encoded with it."""
        found: str = self.quoting.quoted(text)
        return found

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
        """The conversation as the template writes it, for `encode`. Where a text of a message or a variable
        spells a special token, there are marks in it."""
        if self.template is None:
            raise InvalidRequest(
                "messages",
                f"{len(messages)} messages",
                "cannot be written as a prompt: the model has no chat template",
                "start the server with --chat-template, or use /v1/completions",
            )
        quoting = self.quoting
        try:
            return self.template.render(
                quoting.quoted(messages), add_generation_prompt, **quoting.quoted(variables)
            )
        except InvalidRequest as error:
            value, problem = quoting.unmarked(error.value), quoting.unmarked(error.problem)
            raise InvalidRequest(error.field, value, problem, error.remedy) from None
