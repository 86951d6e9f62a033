"""From a program's role blocks to the turns of a conversation.

Knows messages in OpenAI form, as programs carry them, and prompts; makes new records of them and leaves
them as they are. Which roles a provider has, and how it spells them, is the business of its own module.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ramet.backend import GenerateCall, Message, RoleTemplate, ScoreCall
from ramet.backends.api_records import Image, Part, Turn
from ramet.errors import InvalidRequest, Unsupported
from ramet.prompt import Prompt

__all__ = ["PlainRoles", "check_roles", "merged", "split_system", "turns_of", "with_note"]

_DATA_URL = re.compile(r"data:(?P<type>[\w.+/-]+)(?:;[\w=.-]+)*;base64,(?P<data>[A-Za-z0-9+/=_-]*)")


@dataclass(frozen=True, slots=True)
class PlainRoles:
    """How roles look in a program's own text where the provider sees messages: the text is for readers,
    so it has no stop strings."""

    name: str = "default"
    marks: Mapping[str, tuple[str, str]] = field(
        default_factory=lambda: {
            "system": ("SYSTEM:", "\n"),
            "developer": ("DEVELOPER:", "\n"),
            "user": ("USER:", "\n"),
            "assistant": ("ASSISTANT:", "\n"),
        }
    )
    default_system_prompt: str | None = None
    stop_str: Sequence[str] = ()

    def get_prefix_and_suffix(self, role: str, earlier: Sequence[Message] = ()) -> tuple[str, str]:  # noqa: ARG002
        if role not in self.marks:
            raise InvalidRequest("role", role, "is not known", f"use {', '.join(self.marks)}")
        return self.marks[role]


def turns_of(call: GenerateCall | ScoreCall, forks: Collection[Prompt] = ()) -> tuple[Turn, ...]:
    """The turns of a call; one user's turn with the whole text if the program has no roles. Blocks
    without content are left out, since no provider takes them. Where the prompt passes one of `forks`,
    the part that ends there is marked. Raises `InvalidRequest` if there is nothing to answer."""
    messages = call.messages or ({"role": "user", "content": call.prompt.text()},)
    turns = [Turn(str(m["role"]), _parts(m.get("content"))) for m in messages]
    if forks:
        turns = _marked(call.prompt, turns, forks)
    found = tuple(turn for turn in turns if turn.parts)
    if not found:
        raise InvalidRequest(
            "prompt", "", "has nothing that a chat model could answer", "append some text first"
        )
    return found


def _parts(content: Any) -> tuple[Part, ...]:
    if content is None or content == "":
        return ()
    if isinstance(content, str):
        return (Part(content),)
    if not isinstance(content, Sequence):
        raise InvalidRequest("content", content, "is neither text nor a list of parts")
    parts = [_part(item) for item in content]
    return tuple(part for part in parts if part.content != "")


def _part(item: Any) -> Part:
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind == "text" and isinstance(item["text"], str):
        return Part(item["text"])
    if kind == "image_url":
        given = item["image_url"]
        url = str(given["url"] if isinstance(given, Mapping) else given)
        match = _DATA_URL.fullmatch(url)
        if match:
            return Part(Image(match["type"], match["data"]))
        if url.startswith("data:"):
            raise InvalidRequest("image_url", url, "is a data URL without a type and base64")
        return Part(Image(url=url))
    raise InvalidRequest("content", item, "is neither a text part nor an image part")


# ---- shared prefixes ----------------------------------------------------------------------------


def _marked(prompt: Prompt, turns: list[Turn], forks: Collection[Prompt]) -> list[Turn]:
    """Mark the part before each fork. A turn that began before a fork and went on after it is split."""
    places = set()
    node: Prompt | None = prompt
    while node is not None:
        if node in forks:
            places.add(node.num_chars)
        node = node.parent
    if not places:
        return turns
    text, at = prompt.text(), 0
    done: list[Turn] = []
    for turn in turns:
        start = text.find(turn.text, at)
        if start < 0:  # the program's text shows it in another form
            return [*done, *turns[len(done) :]]
        at = start + len(turn.text)
        inside = {place - start for place in places if start < place < at}
        following = text.find(turns[len(done) + 1].text, at) if len(done) + 1 < len(turns) else -1
        ends_at_fork = any(
            at <= place and (following < 0 or place <= following) for place in places
        )
        done.append(Turn(turn.role, _split(turn.parts, inside, ends_at_fork)))
    return done


def _split(parts: tuple[Part, ...], places: set[int], mark_end: bool) -> tuple[Part, ...]:
    """Cut at `places`, counted in characters of the text; each cut part is marked."""
    found: list[Part] = []
    start = 0
    for part in parts:
        if isinstance(part.content, Image):
            found.append(part)
            continue
        cuts = sorted(
            place - start for place in places if start < place < start + len(part.content)
        )
        pieces = [part.content[a:b] for a, b in zip([0, *cuts], [*cuts, None])]
        found += [Part(piece, mark=i < len(cuts)) for i, piece in enumerate(pieces)]
        start += len(part.content)
    if mark_end and found:
        found[-1] = Part(found[-1].content, mark=True)
    return tuple(found)


# ---- rules of providers -------------------------------------------------------------------------


def merged(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Neighbours of one role as one turn, for providers whose roles must alternate."""
    found: list[Turn] = []
    for turn in turns:
        if found and found[-1].role == turn.role:
            found[-1] = Turn(turn.role, found[-1].parts + turn.parts)
        else:
            found.append(turn)
    return tuple(found)


def split_system(turns: Sequence[Turn], backend: str) -> tuple[tuple[Part, ...], tuple[Turn, ...]]:
    """The parts of the system blocks at the beginning, and the other turns. Raises `Unsupported` for a
    system block further on, which a provider with one system text cannot place."""
    first = next((i for i, t in enumerate(turns) if t.role not in _SYSTEM), len(turns))
    rest = tuple(turns[first:])
    if any(turn.role in _SYSTEM for turn in rest):
        raise Unsupported(
            f"a system block after other blocks is not possible on {backend}: it takes one system text, "
            "before all else; put all system blocks first, or say it in a user block"
        )
    return tuple(part for turn in turns[:first] for part in turn.parts), rest


_SYSTEM = ("system", "developer")


def with_note(turns: Sequence[Turn], note: str) -> tuple[Turn, ...]:
    """`note` for the model behind everything else that the user says."""
    if not note:
        return tuple(turns)
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    if last is None or last < len(turns) - 2 or turns[-1].role not in ("user", "assistant"):
        return (*turns, Turn("user", (Part(note),)))
    # The blank line keeps the note apart where a provider joins the parts of a turn.
    noted = Turn("user", (*turns[last].parts, Part(f"\n\n{note}")))
    return (*turns[:last], noted, *turns[last + 1 :])


def check_roles(
    call: GenerateCall | ScoreCall, template: RoleTemplate | None, backend: str
) -> None:
    """Raises `Unsupported` if the program's text holds something outside its role blocks, since a provider
    that sees messages only would not get it, or if its last block is open and not the assistant's. Not
    checked for texts in another template's form."""
    if not call.messages or template is None:
        return
    text, at, outside, closed = call.prompt.text(), 0, "", True
    for index, message in enumerate(call.messages):
        content = message.get("content")
        if not isinstance(content, str):
            return
        try:
            prefix, suffix = template.get_prefix_and_suffix(
                str(message["role"]), call.messages[:index]
            )
        except InvalidRequest:
            return
        start = text.find(prefix, at)
        body = text.find(content, start + len(prefix)) if start >= 0 else -1
        if body < 0 or text[start + len(prefix) : body].strip():
            return
        outside += text[at:start]
        at = body + len(content)
        closed = text.startswith(suffix, at)
        at += len(suffix) if closed else 0
    rest = text[at:].strip()
    others = [template.get_prefix_and_suffix(role, call.messages)[0].strip() for role in _OTHERS]
    if (rest and rest in others) or (not closed and call.messages[-1]["role"] != "assistant"):
        raise Unsupported(
            f"a gen in a block that is not the assistant's is not possible on {backend}: the API "
            "writes assistant's blocks only; close the block and put the gen into assistant(...)"
        )
    open_prefix = template.get_prefix_and_suffix("assistant", call.messages)[0]
    outside += "" if rest == open_prefix.strip() else rest
    if outside.strip():
        raise Unsupported(
            f"text outside role blocks is not possible on {backend}, which sees role blocks only: "
            f"{outside.strip()[:60]!r}; put it into a block, such as user(...) or assistant(...)"
        )


_OTHERS = ("system", "user")
