"""Turns: role blocks, images, shared prefixes, and what is outside."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ramet.backend import GenerateCall
from ramet.backends.api_messages import (
    PlainRoles,
    check_roles,
    merged,
    split_system,
    turns_of,
    with_note,
)
from ramet.backends.api_records import Image, Part, Turn
from ramet.errors import InvalidRequest, Unsupported
from ramet.params import SamplingParams
from ramet.prompt import EMPTY, Prompt

PIXEL = base64.b64encode(b"pixel").decode()


def call_of(*messages: tuple[str, Any], prompt: Prompt | None = None) -> GenerateCall:
    roles = PlainRoles()
    if prompt is None:
        prompt = EMPTY
        for role, content in messages:
            prefix, suffix = roles.get_prefix_and_suffix(role)
            prompt = prompt + prefix + str(content) + suffix
    listed = tuple({"role": role, "content": content} for role, content in messages)
    return GenerateCall(prompt=prompt, params=SamplingParams(), messages=listed)


def turn(role: str, *texts: str) -> Turn:
    return Turn(role, tuple(map(Part, texts)))


def test_blocks_become_turns_and_empty_ones_nothing() -> None:
    call = call_of(("system", ""), ("user", "a"), ("assistant", "b"))
    assert turns_of(call) == (turn("user", "a"), turn("assistant", "b"))


def test_no_roles_are_one_users_text() -> None:
    assert turns_of(call_of(prompt=EMPTY + "a" + "b")) == (turn("user", "ab"),)
    with pytest.raises(InvalidRequest, match="append some text"):
        turns_of(call_of(prompt=EMPTY))


def test_images() -> None:
    content = [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "image_url", "image_url": "https://example.com/x.jpg"},
    ]
    [found] = turns_of(call_of(("user", content)))
    assert [part.content for part in found.parts] == [
        "What?",
        Image("image/png", PIXEL),
        Image(url="https://example.com/x.jpg"),
    ]
    assert found.text == "What?"


@pytest.mark.parametrize(
    "item", [{"type": "audio"}, "x", {"type": "image_url", "image_url": {"url": "data:x"}}]
)
def test_what_is_no_part(item: Any) -> None:
    with pytest.raises(InvalidRequest):
        turns_of(call_of(("user", [item])))


def test_neighbours_of_one_role_are_merged() -> None:
    turns = [turn("user", "a"), turn("user", "b"), turn("assistant", "c"), turn("user", "d")]
    assert merged(turns) == (turn("user", "a", "b"), turn("assistant", "c"), turn("user", "d"))
    assert turns[0] == turn("user", "a")


def test_the_system_text_comes_first_or_not_at_all() -> None:
    system, rest = split_system((turn("system", "a"), turn("system", "b"), turn("user", "c")), "B")
    assert [part.content for part in system] == ["a", "b"]
    assert rest == (turn("user", "c"),)
    with pytest.raises(Unsupported, match="put all system blocks first"):
        split_system((turn("user", "c"), turn("system", "a")), "B")


def test_a_note_is_the_users_last_word() -> None:
    user, answer = turn("user", "q"), turn("assistant", "I")
    assert with_note((user,), "N") == (turn("user", "q", "\n\nN"),)
    assert with_note((user, answer), "N") == (turn("user", "q", "\n\nN"), answer)
    assert with_note((answer,), "N") == (answer, turn("user", "N"))
    assert with_note((user,), "") == (user,)


def test_shared_prefixes_are_marked() -> None:
    roles = PlainRoles()

    def block(prompt: Prompt, role: str, text: str) -> Prompt:
        prefix, suffix = roles.get_prefix_and_suffix(role)
        return prompt + (prefix + text + suffix)

    fork = block(block(EMPTY, "system", "rules"), "user", "story")
    prompt = block(fork, "user", "question")
    messages = (("system", "rules"), ("user", "story"), ("user", "question"))
    call = call_of(*messages, prompt=prompt)
    found = turns_of(call, {fork})
    assert [[part.mark for part in t.parts] for t in found] == [[False], [True], [False]]
    assert [t.text for t in turns_of(call)] == [t.text for t in found]
    assert not any(part.mark for t in turns_of(call, {EMPTY + "other"}) for part in t.parts)


def test_a_block_that_goes_on_after_a_fork_is_split() -> None:
    fork = EMPTY + "USER:" + "the long story"
    prompt = fork + " and a question" + "\n"
    call = call_of(("user", "the long story and a question"), prompt=prompt)
    [found] = turns_of(call, {fork})
    assert found.parts == (Part("the long story", mark=True), Part(" and a question"))
    plain = call_of(prompt=EMPTY + "shared" + " own")
    shared = plain.prompt.parent
    assert shared is not None
    [found] = turns_of(plain, {shared})
    assert found.parts == (Part("shared", mark=True), Part(" own"))


@pytest.mark.parametrize(
    ("before", "after"), [("Hear me. ", ""), ("", "And this."), ("", "\nASSISTANT: x")]
)
def test_text_outside_blocks_is_found(before: str, after: str) -> None:
    messages = (("system", "rules"), ("user", "question"))
    inside = call_of(*messages)
    check_roles(inside, PlainRoles(), "B")
    check_roles(
        call_of(*messages, prompt=inside.prompt + "ASSISTANT:"), PlainRoles(), "B"
    )  # the block that is to be said
    prompt = EMPTY + before + inside.prompt.text() + after
    with pytest.raises(Unsupported, match="outside role blocks"):
        check_roles(call_of(*messages, prompt=prompt), PlainRoles(), "B")


@pytest.mark.parametrize("last", ["USER:", "USER:question"])
def test_a_gen_in_a_users_block_is_found(last: str) -> None:
    before = call_of(("system", "rules"))
    messages = [("system", "rules")] + ([("user", "question")] if last != "USER:" else [])
    prompt = before.prompt + last
    with pytest.raises(Unsupported, match="not the assistant's"):
        check_roles(call_of(*messages, prompt=prompt), PlainRoles(), "B")


def test_another_templates_text_is_not_judged() -> None:
    prompt = EMPTY + "<|user|>question<|end|>"
    check_roles(call_of(("user", "question"), prompt=prompt), PlainRoles(), "B")


def test_an_unknown_role() -> None:
    with pytest.raises(InvalidRequest, match="use system"):
        PlainRoles().get_prefix_and_suffix("oracle")
