r"""Grammars in the notation `root ::= ...`: from a text to a tree.

    root  ::= "(" digits ")" | root ("+" root)*     # rules refer to each other
    digits ::= [0-9]{1,3} [^\n"]+ .                 # sets, any character but a line break

Knows the notation that llama.cpp calls GBNF and SGLang's users send as `ebnf`: strings in double quotes,
sets, groups, `* + ? {n} {n,} {n,m}`, comments, the escapes `\n \r \t \\ \" \' \[ \] \- \^ \/ \xHH \uHHHH
\UHHHHHHHH`. A rule goes on until the next name with `::=`. Refuses to know what enforces a grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from ramet.constraints import charset
from ramet.constraints.nodes import Chars, Text
from ramet.errors import InvalidRequest

__all__ = ["Alternatives", "Expression", "Name", "Row", "Times", "parse_rules"]

_MOST_DEPTH = 64  # of groups
_MOST_COUNT = 10_000  # of a repeat
_MOST_PARTS = 20_000

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*)
      | (?P<rule>[A-Za-z_][\w-]*[ \t]*::=)
      | (?P<name>[A-Za-z_][\w-]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<set>\[(?:[^\]\\\n]|\\.)*\])
      | (?P<count>\{[ ]*(?P<least>\d{1,9})[ ]*(?P<comma>,)?[ ]*(?P<most>\d{1,9})?[ ]*\})
      | (?P<mark>[()|*+?.])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))|([^\\])", re.S
)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"} | {c: c for c in "\\\"'[]-^/."}
_DOT = Chars(charset.finished(charset.complement(((10, 10),))))


@dataclass(frozen=True, slots=True)
class Name:
    """A rule."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Row:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Alternatives:
    options: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Times:
    body: Expression
    least: int
    most: int | None


Expression = Chars | Text | Name | Row | Alternatives | Times


def parse_rules(text: str, field: str) -> dict[str, Expression]:
    """Rules by name. Raises `InvalidRequest` with the line for bad syntax, for a rule that is missing or
    there twice, and beyond the limits above."""
    return _Reader(text, field).rules()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int
    least: int = 0
    most: int | None = None


class _Reader:
    def __init__(self, text: str, field: str) -> None:
        self._text, self._field, self._parts = text, field, 0
        self._tokens = list(self._scan())
        self._at = 0

    def rules(self) -> dict[str, Expression]:
        found: dict[str, Expression] = {}
        names: list[Name] = []
        while self._now().kind != "end":
            head = self._take()
            if head.kind != "rule":
                self._refuse(head.line, f"{head.text!r} stands where a rule should begin")
            name = head.text.split(":")[0].rstrip()
            if name in found:
                self._refuse(head.line, f"the rule {name} is there twice")
            found[name] = self._alternatives(names, 0)
        if "root" not in found:
            self._refuse(1, "there is no rule named root")
        for one in names:
            if one.name not in found:
                self._refuse(one.line, f"there is no rule named {one.name}")
        return found

    def _refuse(self, line: int, problem: str) -> NoReturn:
        raise InvalidRequest(self._field, self._text, f"is no grammar: line {line}: {problem}")

    def _scan(self) -> Iterator[_Token]:
        at, line = 0, 1
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                self._refuse(line, f"{self._text[at : at + 20]!r} is not understood")
            kind, text = str(found.lastgroup), found.group()
            if found["count"] is not None:
                least = int(found["least"])
                most = int(found["most"]) if found["most"] else (None if found["comma"] else least)
                if found["most"] and not found["comma"]:
                    self._refuse(line, f"{text} lacks a comma")
                if max(least, most or 0) > _MOST_COUNT or (most is not None and most < least):
                    self._refuse(line, f"{text} is empty, or counts beyond {_MOST_COUNT}")
                yield _Token("count", text, line, least, most)
            elif kind != "space":
                yield _Token(kind, text, line)
            line += text.count("\n")
            at = found.end()
        yield _Token("end", "the end", line)

    def _now(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _alternatives(self, names: list[Name], depth: int) -> Expression:
        if depth > _MOST_DEPTH:
            self._refuse(self._now().line, f"groups are nested deeper than {_MOST_DEPTH}")
        options = [self._row(names, depth)]
        while self._now().text == "|":
            self._take()
            options.append(self._row(names, depth))
        return options[0] if len(options) == 1 else Alternatives(tuple(options))

    def _row(self, names: list[Name], depth: int) -> Expression:
        parts: list[Expression] = []
        while self._now().kind in ("name", "string", "set") or self._now().text in ("(", "."):
            self._parts += 1
            if self._parts > _MOST_PARTS:
                self._refuse(self._now().line, f"there are more than {_MOST_PARTS} parts")
            part = self._part(names, depth)
            repeats = 0
            while self._now().kind == "count" or self._now().text in ("*", "+", "?"):
                part, repeats = self._times(part), repeats + 1
                if repeats > 3:
                    self._refuse(self._now().line, "a repeat of a repeat of a repeat")
            parts.append(part)
        if self._now().text not in ("|", ")") and self._now().kind not in ("rule", "end"):
            self._refuse(self._now().line, f"{self._now().text!r} is not understood here")
        return parts[0] if len(parts) == 1 else Row(tuple(parts))

    def _times(self, part: Expression) -> Expression:
        token = self._take()
        if token.kind == "count":
            return Times(part, token.least, token.most)
        return Times(part, int(token.text == "+"), 1 if token.text == "?" else None)

    def _part(self, names: list[Name], depth: int) -> Expression:
        token = self._take()
        if token.kind == "name":
            names.append(Name(token.text, token.line))
            return names[-1]
        if token.kind == "string":
            return Text("".join(char for char, _ in self._characters(token)))
        if token.kind == "set":
            return self._set(token)
        if token.text == ".":
            return _DOT
        inside = self._alternatives(names, depth + 1)
        if self._take().text != ")":
            self._refuse(token.line, "a group is not closed")
        return inside

    def _characters(self, token: _Token) -> Iterator[tuple[str, bool]]:
        """The characters between the marks, and whether they were escaped."""
        for found in _ESCAPE.finditer(token.text, 1, len(token.text) - 1):
            code = found[1] or found[2] or found[3]
            if code:
                number = int(code, 16)
                if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                    self._refuse(token.line, f"{found.group()} is no character")
                yield chr(number), True
            elif found[4]:
                if found[4] not in _LETTERS:
                    self._refuse(token.line, f"the escape {found.group()} is not known")
                yield _LETTERS[found[4]], True
            else:
                yield found[5], False

    def _set(self, token: _Token) -> Chars:
        chars = list(self._characters(token))
        inverted = bool(chars) and chars[0] == ("^", False)
        chars = chars[inverted:]
        ranges: list[tuple[int, int]] = []
        at = 0
        while at < len(chars):
            first = last = ord(chars[at][0])
            if at + 2 < len(chars) and chars[at + 1] == ("-", False):
                last = ord(chars[at + 2][0])
                at += 2
            if last < first:
                self._refuse(token.line, f"the range {chr(first)}-{chr(last)} is empty")
            ranges.append((first, last))
            at += 1
        found = charset.merged(ranges)
        return Chars(charset.finished(charset.complement(found) if inverted else found))
