"""A model's thoughts apart from its answer: `<think> ... </think>` at the start of the text.

The text comes in pieces, and its parts are the same however it was cut. Thoughts count as such only where
the text begins with the opening mark, or the prompt ended with it. White space around either part belongs
to neither. Refuses to know protocols.
"""

from __future__ import annotations

__all__ = ["OPENING", "ReasoningSplit", "ends_in_thought"]

OPENING, _CLOSING = "<think>", "</think>"


def ends_in_thought(prompt: str) -> bool:
    """The chat template has opened the thoughts itself."""
    return prompt.rstrip().endswith(OPENING)


class ReasoningSplit:
    """`push` and `finish` return (new thoughts, new answer). `begun`: the prompt opened the thoughts.
    With `at_once` thoughts are held back until they have ended."""

    def __init__(self, begun: bool = False, at_once: bool = False) -> None:
        self._begun, self._at_once = begun, at_once
        self._state = (
            "start"  # then "thought", "gap" (between the two) and "answer", or that at once
        )
        self._tail = ""  # may be the beginning of a mark
        self._blank: list[str] = []  # white space that is part of the thoughts if more follows
        self._any = False  # there were thoughts
        self._held: list[str] = []  # thoughts, with `at_once`

    def push(self, text: str) -> tuple[str, str]:
        if self._state == "answer":
            return "", text
        thought = ""
        text, self._tail = self._tail + text, ""
        if self._state == "start":
            text = self._start(text)
        if self._state == "thought":
            thought, text = self._thought(text)
        if self._state == "gap":
            text = text.lstrip()
            if text:
                self._state = "answer"
        return thought, text if self._state == "answer" else ""

    def finish(self) -> tuple[str, str]:
        tail, self._tail = self._tail, ""
        state, self._state = self._state, "answer"
        if state == "start" and not self._begun:
            return "", tail
        thought = self._thinking(tail) if state in ("start", "thought") else ""
        return "".join(self._held) + thought, ""

    def _start(self, text: str) -> str:
        """Is there an opening mark? What is left of the text when that is known."""
        begin = text.lstrip()
        if begin.startswith(OPENING):
            self._state = "thought"
            return begin[len(OPENING) :]
        if OPENING.startswith(begin):
            self._tail = text
            return ""
        self._state = "thought" if self._begun else "answer"
        return text

    def _thought(self, text: str) -> tuple[str, str]:
        """New thoughts, and what follows them."""
        thoughts, mark, rest = text.partition(_CLOSING)
        if mark:
            self._state = "gap"
        else:
            kept = _partial_mark(text)
            thoughts, self._tail = text[: len(text) - kept], text[len(text) - kept :]
        new = self._thinking(thoughts)
        if self._at_once:
            self._held.append(new)
            new = ""
            if mark:
                new, self._held = "".join(self._held), []
        return new, rest

    def _thinking(self, text: str) -> str:
        """`text` with the white space before it, without the white space behind it."""
        if not self._any:
            text = text.lstrip()
        bare = text.rstrip()
        if not bare:
            self._blank.append(text)
            return ""
        before = "".join(self._blank)
        self._blank, self._any = [text[len(bare) :]], True
        return before + bare


def _partial_mark(text: str) -> int:
    """How many characters at the end may be the beginning of the closing mark."""
    for length in range(min(len(text), len(_CLOSING) - 1), 0, -1):
        if _CLOSING.startswith(text[-length:]):
            return length
    return 0
