"""What has to be known of a pattern's text before the standard library may parse it.

Knows groups, sets, escapes and comments, nothing of what they mean. The library's parser calls itself for
every group, and warns (into tables that only grow) of sets that a later Python might read otherwise.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

__all__ = ["Scan", "scan"]

# Every alternative takes what it began with, closed or not, so that no text is read twice.
_TOKEN = re.compile(
    r"""\\. | \[\^?+\]?+[^]\\]*+(?:\\.[^]\\]*+)*+(\])?+       # an escape, a set
    | \(\?\#[^)\\]*+(?:\\.[^)\\]*+)*+\)?+                      # (?# a comment)
    | \(\?([a-zA-Z]*+)(?:-([a-zA-Z]*+))?([:)]) | \( | \) | \#  # flags, groups""",
    re.DOTALL | re.VERBOSE,
)
_COMMENT = re.compile(r"#[^\n\\]*+(?:\\.[^\n\\]*+)*+", re.DOTALL)
_WARNED = re.compile(r"^\[\[|--|&&|~~|\|\|")
_ELEMENT = re.compile(
    r"(\\.|[^\\])(?:-(\\.|[^\\]))?", re.DOTALL
)  # of a set: a character or a range
_ODD = frozenset("[-&~|]")


@dataclass(frozen=True, slots=True)
class Scan:
    """`pattern` means what the scanned one meant, and warns nobody. `depth`: of groups in groups; counting
    stops when it is more than asked for. `plain`: for each character the groups (?: ) around it, summed:
    the parser unpacks each of them element by element."""

    pattern: str
    depth: int
    plain: int
    added: tuple[int, ...]  # places in `pattern` that the scanned one does not have

    def position(self, position: int) -> int:
        """In the scanned pattern, of a place in this one."""
        return position - bisect_left(self.added, position)


def scan(pattern: str, most: int) -> Scan:
    """Linear in the length of the pattern. `most`: groups in groups that matter."""
    pieces: list[str] = []
    added: list[int] = []
    verbose, plain = [False], [0]  # innermost last; `plain` counts all groups (?: ) around
    deepest = at = copied = work = seen = 0
    while (found := _TOKEN.search(pattern, at)) is not None:
        at = found.end()
        first = pattern[found.start()]
        if first == "[" and _WARNED.search(found[0]):
            pieces.append(pattern[copied : found.start()])
            closing = found[1] or ""
            body = found[0].removesuffix(closing)
            pieces += (_escaped(body, found.start() + len(added), added), closing)
            copied = at
            continue
        if first in "()":
            work += (at - seen) * plain[-1]
            seen = at
        if first == "(" and not found[0].startswith("(?#"):
            inner = verbose[-1] or "x" in (found[2] or "")
            inner = inner and "x" not in (found[3] or "")
            if found[4] == ")":
                verbose[-1] = inner
            else:
                verbose.append(inner)
                plain.append(plain[-1] + (found[0] == "(?:"))
                deepest = max(deepest, len(verbose) - 1)
                if deepest > most:
                    break
        elif first == ")" and len(verbose) > 1:
            verbose.pop()
            plain.pop()
        elif first == "#" and verbose[-1]:
            comment = _COMMENT.match(pattern, found.start())
            at = comment.end() if comment is not None else at
    pieces.append(pattern[copied:])
    work += (len(pattern) - seen) * plain[-1]
    return Scan("".join(pieces), deepest, work, tuple(added))


def _escaped(text: str, start: int, added: list[int]) -> str:
    """A set without its closing bracket, with a backslash before all that might be taken for an operation
    on sets. `start`: its place in the new pattern."""
    opening = 2 if text.startswith("[^") else 1
    found = [text[:opening]]
    at = start + opening
    for element in _ELEMENT.finditer(text, opening):
        for dash, part in (("", element[1]), ("-", element[2])):
            if part is None:
                continue
            at += len(dash)
            if part in _ODD:
                added.append(at)
                part = "\\" + part
            found.append(dash + part)
            at += len(part)
    return "".join(found)
