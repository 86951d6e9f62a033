"""One JSON object, followed through any cut of its text.

Knows the grammar of JSON (RFC 8259) and nothing else: a state, a stack of open brackets, no values. Refuses
to know what the object is for. Each character is looked at once; the patterns give nothing back.
"""

from __future__ import annotations

import re

__all__ = ["JsonObject"]

_SPACE = re.compile(r"[ \t\n\r]*+")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*+')
_DIGITS = re.compile(r"[0-9]*+")
_LITERALS = {"t": "rue", "f": "alse", "n": "ull"}
_CLOSES = {"{": "}", "[": "]"}
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPES = frozenset('"\\/bfnrt')
_FRACTION = {".": "dot", "e": "e", "E": "e"}
# What may follow within a number; "0" stands for any digit. A number may end in the states of `_WHOLE`.
_NUMBER: dict[str, dict[str, str]] = {
    "minus": {},
    "zero": _FRACTION,
    "digits": {"0": "digits", **_FRACTION},
    "dot": {"0": "decimals"},
    "decimals": {"0": "decimals", "e": "e", "E": "e"},
    "e": {"0": "exponent", "+": "sign", "-": "sign"},
    "sign": {"0": "exponent"},
    "exponent": {"0": "exponent"},
}
_WHOLE = frozenset(("zero", "digits", "decimals", "exponent"))
_RUNS = frozenset(("digits", "decimals", "exponent"))


class JsonObject:
    """Give `feed` the text from its `{` on. `done`: its `}` was read; `failed`: what follows the text so
    far is no JSON. What was read is always the beginning of some object's text."""

    __slots__ = ("_is_key", "_left", "_open", "_state", "done", "failed")

    def __init__(self) -> None:
        self.done = self.failed = False
        self._state, self._open = "value", list[str]()
        self._is_key = False  # whether the string that is being read is one
        self._left = ""  # of true, false, null; or four, three, ... characters of a \u escape

    def feed(self, text: str, at: int) -> int:
        """Read `text` from `at` on: the place behind what was read. That is less than all of it where
        the object is done or has failed."""
        size = len(text)
        while at < size and not self.done and not self.failed:
            state = self._state
            if state == "string":
                at = self._string(text, at)
            elif state in _NUMBER:
                at = self._number(text, at)
            elif state == "literal":
                at = self._literal(text, at)
            elif state == "escape" or state == "hex":
                at += self._escape(text[at])
            else:
                space = _SPACE.match(text, at)
                at = at if space is None else space.end()
                if at < size:
                    at += self._structure(text[at], state)
        return at

    def _structure(self, char: str, state: str) -> bool:
        """Whether the character is taken. States: a `value`, the `first` value of a list, a `key`, the
        `first key` of an object, a `colon`, what comes `after` a value."""
        if state in ("value", "first"):
            return self._value(char, state)
        if state in ("key", "first key"):
            if char == '"':
                self._state, self._is_key = "string", True
                return True
            return self._close(char) if state == "first key" else self._fail()
        if state == "colon":
            self._state = "value"
            return True if char == ":" else self._fail()
        if char == ",":
            self._state = "key" if self._open[-1] == "{" else "value"
            return True
        return self._close(char)

    def _value(self, char: str, state: str) -> bool:
        if char == '"':
            self._state, self._is_key = "string", False
        elif char in _CLOSES:
            self._open.append(char)
            self._state = "first key" if char == "{" else "first"
        elif char in _LITERALS:
            self._state, self._left = "literal", _LITERALS[char]
        elif char == "-":
            self._state = "minus"
        elif "0" <= char <= "9":
            self._state = "zero" if char == "0" else "digits"
        else:
            return self._close(char) if state == "first" else self._fail()
        return True

    def _close(self, char: str) -> bool:
        if char != _CLOSES[self._open[-1]]:
            return self._fail()
        self._open.pop()
        self._state, self.done = "after", not self._open
        return True

    def _fail(self) -> bool:
        self.failed = True
        return False

    def _string(self, text: str, at: int) -> int:
        plain = _PLAIN.match(text, at)
        at = at if plain is None else plain.end()
        if at == len(text):
            return at
        if text[at] == '"':
            self._state = "colon" if self._is_key else "after"
        elif text[at] == "\\":
            self._state = "escape"
        else:  # a control character
            return at + self._fail()
        return at + 1

    def _escape(self, char: str) -> bool:
        if self._state == "escape":
            self._state, self._left = ("hex", "0000") if char == "u" else ("string", "")
            return True if char == "u" or char in _ESCAPES else self._fail()
        self._left = self._left[1:]
        self._state = "hex" if self._left else "string"
        return True if char in _HEX else self._fail()

    def _literal(self, text: str, at: int) -> int:
        for char in self._left:
            if at == len(text):
                return at
            if text[at] != char:
                return at + self._fail()
            at, self._left = at + 1, self._left[1:]
        self._state = "after"
        return at

    def _number(self, text: str, at: int) -> int:
        if self._state in _RUNS:
            run = _DIGITS.match(text, at)
            at = at if run is None else run.end()
            if at == len(text):
                return at
        char = text[at]
        kind = "0" if "0" <= char <= "9" else char
        if self._state == "minus" and kind == "0":
            self._state = "zero" if char == "0" else "digits"
        elif kind in _NUMBER[self._state]:
            self._state = _NUMBER[self._state][kind]
        elif self._state in _WHOLE:
            self._state = "after"  # whatever it is, it comes behind the number
            return at
        else:
            return at + self._fail()
        return at + 1
