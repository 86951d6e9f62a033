"""What a model is asked to continue: an immutable sequence of spans with shared tails.

`prompt + span` is O(1) and leaves `prompt` as it was, so a program's state is a name for a prompt and
a fork is one more reference. Knows nothing of tokenizers: program text is `Text` until a backend turns
it into tokens (adjacent texts are tokenized as one piece); what a model generated is `Tokens` and is
never tokenized again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["EMPTY", "Media", "Prompt", "Span", "Text", "Tokens"]


@dataclass(frozen=True, slots=True)
class Text:
    """Text that a program wrote."""

    text: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of one model's vocabulary, and the text that they decode to at this place."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Media:
    """An image or another non-text part: `digest` (of its content) is its identity in every cache,
    `length` the number of positions it takes (0: only who runs the model knows). `token` stands for it in
    the text. `data` is the content as `media_type` says, for who has to send it."""

    kind: str
    digest: bytes
    length: int
    token: str = ""
    data: bytes = field(default=b"", repr=False, compare=False)
    media_type: str = ""

    @property
    def text(self) -> str:
        return self.token


Span = Text | Tokens | Media


class Prompt:
    """An immutable sequence of spans. Build with `EMPTY + span`; compare by identity.

    `num_chars` is the length of `text()`. `memo` is a scratch dictionary for backends (tokenization of
    the prompt up to here, say), keyed by an object of theirs; it never changes what the prompt means.
    """

    __slots__ = ("__weakref__", "memo", "num_chars", "num_spans", "parent", "span")

    def __init__(self, parent: Prompt | None = None, span: Span | None = None) -> None:
        self.parent = parent
        self.span = span
        self.memo: dict[Any, Any] = {}
        self.num_chars: int = (
            0 if parent is None or span is None else parent.num_chars + len(span.text)
        )
        self.num_spans: int = 0 if parent is None else parent.num_spans + 1

    def __add__(self, span: Span | str) -> Prompt:
        if isinstance(span, str):
            span = Text(span)
        if isinstance(span, Text) and not span.text:
            return self
        return Prompt(self, span)

    def extend(self, spans: Iterable[Span | str]) -> Prompt:
        prompt = self
        for span in spans:
            prompt = prompt + span
        return prompt

    def spans(self, since: Prompt | None = None) -> list[Span]:
        """The spans in order, or those after the ancestor `since`. Raises `ValueError` if `since` is
        not an ancestor."""
        found: list[Span] = []
        node: Prompt | None = self
        while node is not None and node is not since:
            if node.span is not None:
                found.append(node.span)
            node = node.parent
        if since is not None and node is None:
            raise ValueError("`since` is not an ancestor of this prompt")
        found.reverse()
        return found

    def text(self, since: Prompt | None = None) -> str:
        """The whole text, or the text after the ancestor `since`. Costs time in what it returns (and
        the number of spans)."""
        return "".join(span.text for span in self.spans(since))

    def __repr__(self) -> str:
        return f"Prompt({self.num_spans} spans, {self.num_chars} characters)"


EMPTY = Prompt()
