"""A chat template block by block.

`DerivedRoleTemplate` finds out, by rendering, what a checkpoint's template puts before and after each
block, so that a program can write a conversation block by block and ends up with the text that the
template gives for the whole. Knows texts only, no token ids.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Protocol

from ramet.backend import Message
from ramet.engine.template import MAX_SOURCE, ChatTemplate
from ramet.errors import InvalidRequest

__all__ = ["MAX_SOURCE", "ChatTemplate", "DerivedRoleTemplate", "derive_role_template"]


class _Inconsistent(ValueError):
    """The template does not render block after block."""


class DerivedRoleTemplate:
    """A `ramet.backend.RoleTemplate` that asks the template itself.

    Each block's content is replaced by a mark and the conversation is rendered; what stands around the
    marks is what the template puts around contents. An assistant's prefix is the template's generation
    prompt. A system text that the template adds of its own accord is part of the first prefix.
    """

    def __init__(self, template: ChatTemplate, stop_str: Sequence[str] = ()) -> None:
        self._template = template
        self.stop_str: tuple[str, ...] = tuple(stop_str)
        self._find = functools.lru_cache(maxsize=256)(self._find_around)

    @property
    def name(self) -> str:
        return self._template.name

    @property
    def default_system_prompt(self) -> str | None:
        return None

    def get_prefix_and_suffix(self, role: str, earlier: Sequence[Message]) -> tuple[str, str]:
        """Raises `InvalidRequest` for a role that the template refuses at this place."""
        roles = (*(str(message["role"]) for message in earlier), role)
        try:
            return self._find(roles)
        except _Inconsistent as error:
            raise InvalidRequest(
                "role", role, f"cannot be written here with the model's chat template: {error}"
            ) from error

    def _find_around(self, roles: tuple[str, ...]) -> tuple[str, str]:
        before, last = roles[:-1], roles[-1]
        written = self._find(before)[1] if before else ""
        if last == "assistant":
            gaps = self._gaps(roles)
            prefix = self._generation_prompt(before, written)
            own = gaps[len(before)]
            if not prefix and own.strip() != written.strip():  # it has no generation prompt
                prefix = _after(own, written)
            return prefix, gaps[-1]
        gaps = self._visible_gaps(roles)
        return _after(gaps[len(before)], written), gaps[len(roles)]

    def _generation_prompt(self, before: tuple[str, ...], written: str) -> str:
        if not before:
            try:
                return self._template.render([], add_generation_prompt=True)
            except InvalidRequest:  # a template that looks at its first message
                return self._gaps(("assistant",))[0]
        return _after(self._gaps(before, add_generation_prompt=True)[-1], written)

    def _visible_gaps(self, roles: tuple[str, ...]) -> list[str]:
        """Gaps around the last block. Where the template shows a block only with the one after it (a
        system text inside the first user block), all of the text between them is the former's suffix."""
        try:
            return self._gaps(roles)
        except (_Inconsistent, InvalidRequest) as error:
            if roles[-1] != "system":
                raise
            try:
                return self._gaps((*roles, "user"))
            except (_Inconsistent, InvalidRequest):
                raise error from None

    def _gaps(self, roles: tuple[str, ...], add_generation_prompt: bool = False) -> list[str]:
        """The texts before, between and after the contents of blocks with these roles."""
        marks = [f"RametBlock{i}x{len(roles)}Content" for i in range(len(roles))]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks)]
        rest = self._template.render(messages, add_generation_prompt)
        gaps: list[str] = []
        for role, mark in zip(roles, marks):
            gap, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise _Inconsistent(f"its {role!r} block is not written once and in order")
            gaps.append(gap)
        return [*gaps, rest]


def _after(gap: str, written: str) -> str:
    if not gap.startswith(written):
        raise _Inconsistent(f"{gap!r} follows where {written!r} was written already")
    return gap[len(written) :]


class _Checkpoint(Protocol):
    """What is needed of `ramet.engine.tokenizer.Tokenizer`."""

    @property
    def chat_template(self) -> str | None: ...

    @property
    def special_texts(self) -> Mapping[str, str]: ...

    @property
    def eos_token_ids(self) -> frozenset[int]: ...

    @property
    def special_texts_by_id(self) -> Mapping[int, str]: ...


def derive_role_template(tokenizer: _Checkpoint) -> DerivedRoleTemplate | None:
    """The checkpoint's default template for programs. None if there is none, or if it does not give two
    turns block by block: a table of known templates is then the better guess."""
    if tokenizer.chat_template is None:
        return None
    template = ChatTemplate(tokenizer.chat_template, tokenizer.special_texts)
    derived = DerivedRoleTemplate(template)
    try:
        for roles in _samples(template):
            _check(template, derived, roles)
        ending = derived.get_prefix_and_suffix("assistant", [{"role": "user", "content": "x"}])[1]
    except (InvalidRequest, _Inconsistent):
        return None
    return DerivedRoleTemplate(template, _stops(ending, tokenizer))


def _samples(template: ChatTemplate) -> list[list[str]]:
    turns = ["user", "assistant", "user", "assistant"]
    try:
        template.render([{"role": role, "content": "x"} for role in ["system", *turns[:3]]])
    except InvalidRequest:  # knows no system role: says so when a program uses one
        return [turns]
    return [turns, ["system", *turns]]


def _check(template: ChatTemplate, derived: DerivedRoleTemplate, roles: list[str]) -> None:
    """The blocks put together must be what the template gives, at every user block and where the model's
    turn begins. White space in front of an answer is left to the model (with SentencePiece vocabularies it
    is part of the answer's first token), and what a template shows of the last answer only (its thoughts)
    is not asked for."""
    messages: list[dict[str, str]] = []
    text = ""
    for i, role in enumerate(roles):
        prefix, suffix = derived.get_prefix_and_suffix(role, messages)
        if role == "assistant" and template.render(messages, True) not in (text, text + prefix):
            raise _Inconsistent("the model's turn begins with another text")
        messages.append({"role": role, "content": f"Text{i}"})
        space = ""
        if role == "assistant":
            shown = template.render(messages).removeprefix(text + prefix)
            space = shown[: len(shown) - len(shown.lstrip())]
        text += f"{prefix}{space}Text{i}{suffix}"
        if role == "user" and template.render(messages) != text:
            raise _Inconsistent("blocks put together give another text")


def _stops(ending: str, tokenizer: _Checkpoint) -> tuple[str, ...]:
    """The special token that the template ends an answer with, unless it ends generations anyway."""
    found = ending.lstrip()
    longest_first = sorted(tokenizer.special_texts_by_id.items(), key=lambda item: -len(item[1]))
    for token_id, text in longest_first:
        if found.startswith(text) and token_id not in tokenizer.eos_token_ids:
            return (text,)
    return ()
