"""The field `ebnf`: grammars in the notation `root ::= ...`, or in Lark's as llguidance understands it.

Knows how to say a grammar so that exactly its texts are allowed. One without recursion is a regular
expression. In one with recursion the library matches piece by piece, greedily: pieces are as long as that
is safe (see `lexemes`), else single characters. Lark is passed on as it is: there the pieces are the
writer's own. Refuses to know tokens.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from math import inf

from ramet.constraints.gbnf import Alternatives, Expression, Name, Row, Times, parse_rules
from ramet.constraints.lark import checked_lark
from ramet.constraints.lexemes import Piece, unsafe
from ramet.constraints.limits import DEFAULT, ConstraintLimits
from ramet.constraints.nodes import Chars, Choice, Node, Repeat, Sequence, Text
from ramet.constraints.schema_library import NO_FORCING
from ramet.errors import InvalidRequest

__all__ = ["read", "regex_of"]

_RULES = re.compile(r"^[ \t]*[A-Za-z_][\w-]*[ \t]*::=", re.MULTILINE)
_MOST_RULES = 500
_MOST_LEAST = 50_000
_MOST_NODES = 20_000  # of a piece with the rules written into it
_MOST_PIECES = 100  # looked at together; single characters if there are more


def read(source: str, limits: ConstraintLimits = DEFAULT, field: str = "ebnf") -> str:
    """The grammar for `guidance.compile`. Raises `InvalidRequest` with the line of what is wrong."""
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > limits.source_bytes:
        raise InvalidRequest(field, f"{size} bytes", f"are more than {limits.source_bytes}")
    if not _RULES.search(source):
        return checked_lark(source, limits, field)
    rules = parse_rules(source, field)
    if len(rules) > _MOST_RULES:
        raise InvalidRequest(field, f"{len(rules)} rules", f"are more than {_MOST_RULES}")
    kept = _ending(rules)
    if kept is None:
        raise InvalidRequest(
            field,
            source,
            f"allows nothing: root never ends, or not within {_MOST_LEAST} characters",
        )
    rules = kept
    regular = _Regular(rules)
    whole = regular.node(Name("root", 1))
    if whole is not None:
        return f"{NO_FORCING}start: /{regex_of(whole)}/\n"
    return _Pieces(rules, regular, limits).grammar()


def regex_of(node: Node) -> str:
    """A tree as a regular expression that the library reads in the same way."""
    match node:
        case Text(text):
            return "".join(f"\\x{{{ord(char):x}}}" for char in text)
        case Chars(ranges):
            inside = "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in ranges)
            return f"[{inside}]" if inside else r"[^\x{0}-\x{10ffff}]"
        case Sequence(parts):
            return "".join(map(regex_of, parts))
        case Choice(options):
            return f"(?:{'|'.join(map(regex_of, options))})"
        case Repeat(body, least, most):
            return f"(?:{regex_of(body)}){{{least},{'' if most is None else most}}}"


def _ending(rules: dict[str, Expression]) -> dict[str, Expression] | None:
    """Without alternatives from which no text ever comes to an end, or none of less than `_MOST_LEAST`
    characters; None if that is all of the root."""
    least = dict.fromkeys(rules, inf)
    for _ in rules:
        before = dict(least)
        for name in reversed(rules):
            least[name] = _least(rules[name], least)
        if least == before:
            break
    known = {name for name, size in least.items() if size <= _MOST_LEAST}
    if "root" not in known:
        return None
    found = ((name, _without(rules[name], known)) for name in known)
    return {name: one for name, one in found if one is not None}


def _least(expression: Expression, least: dict[str, float]) -> float:
    """Characters of the shortest text, as far as is known yet."""
    match expression:
        case Name(name, _):
            return least[name]
        case Text(text):
            return len(text)
        case Chars(ranges):
            return 1 if ranges else inf
        case Row(parts):
            return sum(_least(part, least) for part in parts)
        case Alternatives(options):
            return min(_least(option, least) for option in options)
        case Times(body, count, _):
            return count * _least(body, least) if count else 0


def _without(expression: Expression, known: set[str]) -> Expression | None:
    match expression:
        case Name(name, _):
            return expression if name in known else None
        case Chars(ranges):
            return expression if ranges else None
        case Row(parts):
            row = [_without(part, known) for part in parts]
            kept = tuple(part for part in row if part is not None)
            return Row(kept) if len(kept) == len(row) else None
        case Alternatives(options):
            some = (_without(option, known) for option in options)
            kept = tuple(option for option in some if option is not None)
            return Alternatives(kept) if kept else None
        case Times(body, least, most):
            inside = _without(body, known)
            if inside is None:
                return None if least else Row(())
            return Times(inside, least, most)
    return expression


class _Regular:
    """Expressions without recursion, as trees."""

    def __init__(self, rules: dict[str, Expression]) -> None:
        self._rules = rules
        self._known: dict[str, tuple[Node, int] | None] = {}  # with sizes
        self._size = 0

    def node(self, expression: Expression) -> Node | None:
        """None: it comes back to itself, or is large when rules are written into it."""
        self._size = 0
        return self._node(expression, 0)

    def _node(self, expression: Expression, depth: int) -> Node | None:
        self._size += 1
        if self._size > _MOST_NODES or depth > 200:
            return None
        match expression:
            case Name(name, _):
                return self._rule(name, depth)
            case Row(parts):
                found = self._all(parts, depth)
                return None if found is None else Sequence(found)
            case Alternatives(options):
                found = self._all(options, depth)
                return None if found is None else Choice(found)
            case Times(body, least, most):
                inside = self._node(body, depth + 1)
                return None if inside is None else Repeat(inside, least, most)
        return expression

    def _all(self, parts: tuple[Expression, ...], depth: int) -> tuple[Node, ...] | None:
        found = []
        for part in parts:
            node = self._node(part, depth + 1)
            if node is None:
                return None
            found.append(node)
        return tuple(found)

    def _rule(self, name: str, depth: int) -> Node | None:
        if name in self._known:
            known = self._known[name]
            if known is None:
                return None
            self._size += known[1]
            return known[0] if self._size <= _MOST_NODES else None
        self._known[name] = None  # as long as it is looked at
        before = self._size
        node = self._node(self._rules[name], depth + 1)
        if node is not None:
            self._known[name] = (node, self._size - before)
        return node


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbours in a row that are regular together."""

    node: Node
    parts: tuple[Expression, ...]


class _Pieces:
    """A recursive grammar as rules over lexemes."""

    def __init__(
        self, rules: dict[str, Expression], regular: _Regular, limits: ConstraintLimits
    ) -> None:
        self._regular, self._limits = regular, limits
        self._rules = rules
        self._names = {name: f"r{i}" for i, name in enumerate(rules)}
        self._lexemes: dict[Node, str] = {}
        self._split: set[Node] = set()  # pieces that are not safe

    def grammar(self) -> str:
        deadline = time.monotonic() + self._limits.seconds / 2
        cache: dict[Node, Piece] = {}
        while True:
            self._lexemes = {}
            lines = self._lines()
            found = [cache.setdefault(n, Piece(n, self._limits)) for n in self._lexemes]
            longer = [piece for piece in found if not isinstance(piece.node, Chars)]
            if len(longer) > _MOST_PIECES:
                self._split.update(piece.node for piece in longer)
                continue
            single = [piece for piece in found if isinstance(piece.node, Chars)]
            bad = unsafe(longer, single, deadline)
            if bad is None:
                break
            self._split.add(longer[bad].node)
        names = [f"{name}: /{regex_of(node)}/" for node, name in self._lexemes.items()]
        return NO_FORCING + "\n".join((f"start: {self._names['root']}", *lines, *names)) + "\n"

    def _lines(self) -> list[str]:
        """The rules that the root reaches."""
        waiting, seen, lines = ["root"], {"root"}, []
        while waiting:
            name = waiting.pop()
            reached: list[str] = []
            lines.append(f"{self._names[name]}: {self._written(self._rules[name], reached)}")
            for other in reached:
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return lines

    def _written(self, expression: Expression, reached: list[str]) -> str:
        node = self._regular.node(expression)
        if node is not None and not self._must_split(node):
            return self._lexeme(node)
        match expression:
            case Name(name, _):
                reached.append(name)
                return self._names[name]
            case Text(text):
                parts = [self._lexeme(Chars(((ord(c), ord(c)),))) for c in text]
                return f"({' '.join(parts)})" if parts else '""'
            case Row(parts):
                written = [self._run(run, reached) for run in self._runs(parts)]
                return f"({' '.join(written)})" if written else '""'
            case Alternatives(options):
                return f"({' | '.join(self._written(one, reached) for one in options)})"
            case Times(body, least, most):
                count = f"{{{least},{'' if most is None else most}}}"
                return f"({self._written(body, reached)}){count}"
        return self._lexeme(expression)

    def _must_split(self, node: Node) -> bool:
        return node in self._split and not isinstance(node, Chars)

    def _lexeme(self, node: Node) -> str:
        if node == Text("") or node == Sequence(()):
            return '""'
        return self._lexemes.setdefault(node, f"T{len(self._lexemes)}")

    def _runs(self, parts: tuple[Expression, ...]) -> list[Expression | _Run]:
        runs: list[Expression | _Run] = []
        for part in parts:
            node = self._regular.node(part)
            last = runs[-1] if runs else None
            if node is None:
                runs.append(part)
            elif isinstance(last, _Run):
                runs[-1] = _Run(Sequence((last.node, node)), (*last.parts, part))
            else:
                runs.append(_Run(node, (part,)))
        return runs

    def _run(self, run: Expression | _Run, reached: list[str]) -> str:
        """In one piece if that is safe, else without its last part, and so on."""
        if not isinstance(run, _Run):
            return self._written(run, reached)
        if not self._must_split(run.node):
            return self._lexeme(run.node)
        if len(run.parts) == 1:
            return self._written(run.parts[0], reached)
        head = self._runs(run.parts[:-1])[0]
        return f"{self._run(head, reached)} {self._written(run.parts[-1], reached)}"
