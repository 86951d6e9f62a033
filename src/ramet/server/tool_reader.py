"""A model's text, taken apart into what it says and what it calls, while it is written.

    llama3    {"name": "f", "parameters": {...}}            more calls behind ";"
    qwen      <tool_call>{"name": "f", "arguments": {...}}</tool_call>   more calls behind it
    mistral   [TOOL_CALLS] [{"name": "f", "arguments": {...}}, ...]

A call has begun where its arguments begin: a tool of this name is known and "{" is read. Up to there the text
is held back, and is content if it turns out to be something else. From there on each character is passed on as
long as it continues a JSON object; where it does not, the call ends and content begins. White space before
and between calls is no content, nor is it at the end behind a call. Closing marks that are missing are not
missed. White space may stand wherever JSON has it, `_MOST_SPACE` characters at a time.

Knows these formats; refuses to know tokens and protocols. Any text is read, in time proportional to its
length, and any cutting of it into pieces says the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ramet.server.tool_json import JsonObject

if TYPE_CHECKING:
    from ramet.server.tools import Style, Tool, ToolPlan

__all__ = ["CallArguments", "CallBegin", "Content", "ToolEvent", "ToolReader"]


@dataclass(frozen=True, slots=True)
class Content:
    """More of what the model says."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call of the tool `name`; `index` counts the calls from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of call `index`: together the model's own text of a JSON object, or the
    beginning of one where the generation was cut."""

    index: int
    text: str


ToolEvent = Content | CallBegin | CallArguments

_MOST_SPACE = 256
_MOST_NAME = 800  # characters of a name as it is written, escapes included
_BLANK = " \t\n\r"
_SPACE_RUN = re.compile(rf"[ \t\n\r]{{0,{_MOST_SPACE}}}+")
_NAME_RUN = re.compile(rf'"[A-Za-z0-9_.\\-]{{0,{_MOST_NAME}}}+')

_SPACE, _NAME, _BRACE = 0, 1, 2  # white space, the name of a tool, a "{" that is left to be read
_Step = int | tuple[str, ...]  # a tuple: one of these texts
_OBJECT: tuple[_Step, ...] = (
    *(("{",), _SPACE, ('"name"',), _SPACE, (":",), _SPACE, _NAME, _SPACE, (",",), _SPACE),
    *(('"arguments"', '"parameters"'), _SPACE, (":",), _SPACE, _BRACE),
)
_BEGIN: dict[str, tuple[_Step, ...]] = {
    "llama3": _OBJECT,
    "qwen": (("<tool_call>",), _SPACE, *_OBJECT),
    "mistral": (("[TOOL_CALLS]",), _SPACE, ("[",), _SPACE, *_OBJECT),
}
_NEXT: tuple[_Step, ...] = (_SPACE, (",",), _SPACE, *_OBJECT)  # call of one list
_BEHIND: dict[str, tuple[tuple[_Step, ...], ...]] = {
    "llama3": ((_SPACE, ("}",)),),
    "qwen": ((_SPACE, ("}",)), (_SPACE, ("</tool_call>",))),
    "mistral": ((_SPACE, ("}",)), _NEXT, (_SPACE, ("]",))),
}


def _candidate(mark: str) -> re.Pattern[str]:
    """Where a mark stands, or begins at the end of the text."""
    cut = (re.escape(mark[:size]) + r"\Z" for size in range(len(mark) - 1, 0, -1))
    return re.compile("|".join((re.escape(mark), *cut)))


_CANDIDATES = {
    "llama3": re.compile(rf'\{{[ \t\n\r]{{0,{_MOST_SPACE}}}+(?:"n|"?\Z)'),
    "qwen": _candidate("<tool_call>"),
    "mistral": _candidate("[TOOL_CALLS]"),
}


@dataclass(frozen=True, slots=True)
class _Match:
    """`found`: the steps fit up to `end`; `cut`: the text ended on the way; else it is something else.
    `name` as soon as it is known."""

    kind: Literal["found", "cut", "other"]
    end: int = 0
    name: str | None = None


class ToolReader:
    """Give `push` each new piece of a sample's text and call `finish` once at its end. Never raises.

    With the choices "required" and named, a call that was cut before its arguments is one without any, if its
    name is complete, and nothing if it is not; with "auto" it is content. With "none" all is content.
    """

    def __init__(self, plan: ToolPlan, tools: Sequence[Tool], new_id: Callable[[], str]) -> None:
        self._style: Style = plan.style
        self._forced = plan.choice.mode in ("required", "named")
        self._names = frozenset(tool.name for tool in tools)
        self._reads = plan.choice.mode != "none" and bool(self._names)
        self._new_id = new_id
        self._mode = self._text
        self._rest = ""  # not read: it may be the beginning of something
        self._blank: list[str] = []  # read: content, unless a call or the end of calls follows
        self._is_behind_call = self._has_semicolon = False
        self._waits = self._is_last = False
        self._json, self._stage = JsonObject(), 0
        self._events: list[ToolEvent] = []
        self.num_calls = 0

    def push(self, new_text: str) -> list[ToolEvent]:
        """What the text so far says beyond what was told before."""
        if not self._reads:
            return [Content(new_text)] if new_text else []
        text, at = self._rest + new_text, 0
        self._waits = False
        while at < len(text) and not self._waits:
            at = self._mode(text, at)
        self._rest = text[at:]
        events, self._events = self._events, []
        return events

    def finish(self) -> list[ToolEvent]:
        """What was held back."""
        self._is_last = True
        events = self.push("")
        if self._blank and not self._is_behind_call:
            events.append(Content("".join(self._blank)))
        self._blank = []
        return events

    # The modes: each reads some of the text from `at` on, or says that it waits for more

    def _text(self, text: str, at: int) -> int:
        """Content, up to a call."""
        look = at
        while (candidate := _CANDIDATES[self._style].search(text, look)) is not None:
            start = candidate.start()
            match = self._match(text, start, _BEGIN[self._style])
            if match.kind != "other" and not self._gives_up(match):
                self._say(text[at:start])
                return self._taken(text, start, match)
            look = start + 1
        self._say(text[at:])
        return len(text)

    def _arguments(self, text: str, at: int) -> int:
        end = self._json.feed(text, at)
        if end > at:
            self._events.append(CallArguments(self.num_calls - 1, text[at:end]))
        if self._json.done:
            self._mode, self._stage = self._behind, 0
        elif self._json.failed:
            self._end_call()
        return end

    def _behind(self, text: str, at: int) -> int:
        """What closes a call, and the next call of a list; each only if it is there."""
        stages = _BEHIND[self._style]
        if self._stage == len(stages):
            self._end_call()
            return at
        steps = stages[self._stage]
        match = self._match(text, at, steps)
        if steps is _NEXT and match.kind != "other" and not self._gives_up(match):
            return self._taken(text, at, match)
        if steps is not _NEXT and match.kind == "cut":
            return self._taken(text, at, match)  # no call, so this only waits
        self._stage += 1
        return match.end if match.kind == "found" else at

    # Their parts

    def _gives_up(self, match: _Match) -> bool:
        """Whether a call that was cut before its arguments is none."""
        return match.kind == "cut" and self._is_last and not self._forced

    def _taken(self, text: str, at: int, match: _Match) -> int:
        """Begin the call that was found, or wait for the rest of one; at the end there is no rest."""
        if match.kind == "cut" and not self._is_last:
            self._waits = True
            return at
        if match.name is not None:
            self._blank = []
            self._events.append(CallBegin(self.num_calls, self._new_id(), match.name))
            self.num_calls += 1
        self._mode, self._json = self._arguments, JsonObject()
        return match.end if match.kind == "found" else len(text)

    def _end_call(self) -> None:
        self._mode = self._text
        self._is_behind_call, self._has_semicolon = True, False

    def _say(self, text: str) -> None:
        """Content, of which white space waits for what follows."""
        if self._is_behind_call and self._style == "llama3" and not self._has_semicolon:
            start = text.lstrip(_BLANK)
            if start.startswith(";"):
                self._has_semicolon = True
                self._blank.append(text[: len(text) - len(start) + 1])
                text = start[1:]
        core = text.rstrip(_BLANK)
        if core:
            self._is_behind_call = False
            said = "".join((*self._blank, core))
            self._blank = []
            self._events.append(Content(said))
        if len(core) < len(text):
            self._blank.append(text[len(core) :])

    def _match(self, text: str, at: int, steps: tuple[_Step, ...]) -> _Match:
        """How far the text from `at` on fits the steps."""
        name: str | None = None
        for step in steps:
            if step == _SPACE:
                run = _SPACE_RUN.match(text, at)
                at = at if run is None else run.end()
                if at == len(text):
                    return _Match("cut", at, name)
            elif step == _NAME:
                match = self._name(text, at)
                if match.kind != "found":
                    return match
                at, name = match.end, match.name
            else:
                texts = ("{",) if isinstance(step, int) else step
                there = next((one for one in texts if text.startswith(one, at)), None)
                if there is None:
                    left = text[at : at + len(texts[0])]
                    is_cut = at + len(left) == len(text) and any(t.startswith(left) for t in texts)
                    return _Match("cut" if is_cut else "other", at, name)
                at += 0 if step == _BRACE else len(there)
        return _Match("found", at, name)

    def _name(self, text: str, at: int) -> _Match:
        run = _NAME_RUN.match(text, at)
        if run is None:
            return _Match("cut" if at == len(text) else "other")
        written, end = run.group(), run.end()
        if end == len(text) and len(written) <= _MOST_NAME:
            begun = written[1:].partition("\\")[0]
            possible = any(name.startswith(begun) for name in self._names)
            return _Match("cut" if possible else "other")
        if end == len(text) or text[end] != '"':
            return _Match("other")
        try:
            name = json.loads(written + '"')
        except ValueError:
            return _Match("other")
        return _Match("found", end + 1, name) if name in self._names else _Match("other")
