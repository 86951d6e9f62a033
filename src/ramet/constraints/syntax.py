"""From a Python regular expression to a tree: all texts that `re.fullmatch` takes, and no other.

Knows what the standard library's parser makes of a pattern. What is no regular language, or is one only by
way of the places around a match, is refused by name: look-ahead and look-behind, references to groups,
word boundaries, anchors inside a pattern, possessive repeats. Refuses to know automata.

Three of these have harmless uses that are kept. An anchor where nothing can stand before (or behind) it
says nothing, since a full match begins and ends with the text; so does one beside a line break that
satisfies it. What is atomic says nothing if all its matches are equally long.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, NoReturn

from ramet.constraints import charset, sre
from ramet.constraints.charset import Ranges
from ramet.constraints.limits import DEFAULT, ConstraintLimits
from ramet.constraints.nodes import ANY, EMPTY, Chars, Choice, Node, Repeat, Sequence, Text
from ramet.constraints.scan import Scan, scan
from ramet.constraints.sre import CONSTANTS as C
from ramet.errors import InvalidRequest

__all__ = ["parse"]

# Characters times groups (?: ) around them: the library's parser takes some 0.2 s for so many.
_MOST_PLAIN = 1 << 20
# Of all different sets of a pattern: some 85 times \w. What one costs later grows with its ranges.
_MOST_RANGES = 1 << 16

_CATEGORIES = {
    C.CATEGORY_DIGIT: "d",
    C.CATEGORY_NOT_DIGIT: "D",
    C.CATEGORY_SPACE: "s",
    C.CATEGORY_NOT_SPACE: "S",
    C.CATEGORY_WORD: "w",
    C.CATEGORY_NOT_WORD: "W",
}
_NOT_REGULAR = {
    C.ASSERT: "look-ahead or look-behind",
    C.ASSERT_NOT: "negative look-ahead or look-behind",
    C.FAILURE: "negative look-ahead",  # (?!) since 3.13
    C.GROUPREF: "a reference to a group",
    C.GROUPREF_EXISTS: "a condition on a group",
}
_ANCHORS = {
    C.AT_BEGINNING: "^",
    C.AT_BEGINNING_STRING: r"\A",
    C.AT_END: "$",
    C.AT_END_STRING: r"\Z",
    C.AT_BOUNDARY: r"\b",
    C.AT_NON_BOUNDARY: r"\B",
}
_NEW_LINE = (C.LITERAL, 10)
_LINE = Chars(charset.finished(charset.complement(((10, 10),))))  # what . is without (?s)
_TYPES = C.SRE_FLAG_ASCII | C.SRE_FLAG_UNICODE | C.SRE_FLAG_LOCALE
_SURROGATES = range(0xD800, 0xE000)


def parse(pattern: str, limits: ConstraintLimits = DEFAULT, field: str = "regex") -> Node:
    """The texts t with `re.fullmatch(pattern, t)`, flags being those inside the pattern. Counted repeats
    stay as they are: what they cost is for the consumer to check.

    Raises `InvalidRequest` naming `field` for bad syntax, for what is not supported, and for patterns
    longer, nested deeper, or with more or larger sets than the limits allow.
    """
    scanned = _checked(pattern, limits, field)
    try:
        tree = sre.parse(scanned.pattern)
        return _Reader(pattern, field, tree.state.flags).sequence(
            tree, tree.state.flags, True, True
        )
    except sre.Error as error:
        where = "" if error.pos is None else f" at position {scanned.position(error.pos)}"
        raise InvalidRequest(
            field, pattern, f"is not a regular expression: {error.msg}{where}"
        ) from None
    except (OverflowError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(
            field, pattern, f"is not a regular expression that Python takes: {error}"
        ) from None
    except RecursionError:  # the interpreter's own limit, should it be the lower one
        raise InvalidRequest(field, pattern, "is nested too deeply") from None


def _checked(pattern: str, limits: ConstraintLimits, field: str) -> Scan:
    if not isinstance(pattern, str):
        raise InvalidRequest(field, pattern, "is not a string")
    try:
        size = len(pattern.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            field, pattern, f"has a lone surrogate at position {error.start}", "no text has one"
        ) from None
    if size > limits.source_bytes:
        raise InvalidRequest(
            field, pattern, f"has {size} bytes, more than {limits.source_bytes}", "shorten it"
        )
    scanned = scan(pattern, limits.depth)
    if scanned.depth > limits.depth:
        raise InvalidRequest(field, pattern, f"has more than {limits.depth} groups in each other")
    if scanned.plain > _MOST_PLAIN:
        raise InvalidRequest(
            field, pattern, "has too much inside too many groups (?: )", "write them as ( )"
        )
    return scanned


class _Reader:
    """Of one pattern. `left` and `right` say whether only the ends of the text can be there."""

    def __init__(self, pattern: str, field: str, flags: int) -> None:
        self._pattern, self._field = pattern, field
        self._sets: dict[Any, Chars] = {}
        self._num_ranges = 0
        if flags & getattr(C, "SRE_FLAG_TEMPLATE", 0):
            self._refuse("the flag t", "leave it out")

    def sequence(self, items: Any, flags: int, left: bool, right: bool) -> Node:
        parts: list[Node] = []
        text: list[str] = []
        around = _Around(items)
        for index, (op, value) in enumerate(items):
            if op is C.LITERAL and not flags & C.SRE_FLAG_IGNORECASE:
                text.append(self._char(value))
                continue
            at_left, at_right = left and index <= around.first, right and index >= around.last
            if op is C.AT:
                self._check_anchor(value, flags, at_left, at_right, right, around, index)
                continue
            node = self._item(op, value, flags, at_left, at_right)
            if isinstance(node, Text):
                text.append(node.text)
                continue
            if text:
                parts.append(Text("".join(text)))
                text.clear()
            parts.append(node)
        if text:
            parts.append(Text("".join(text)))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts)) if parts else EMPTY

    def _item(self, op: Any, value: Any, flags: int, left: bool, right: bool) -> Node:
        if op is C.LITERAL or op is C.NOT_LITERAL or op is C.IN:
            return self._set(op, value, flags)
        if op is C.ANY:
            return ANY if flags & C.SRE_FLAG_DOTALL else _LINE
        if op is C.SUBPATTERN:
            _, add, remove, body = value
            inner = (flags & ~_TYPES if add & _TYPES else flags) | add
            return self.sequence(body, inner & ~remove, left, right)
        if op is C.BRANCH:
            return Choice(tuple(self.sequence(o, flags, left, right) for o in value[1]))
        if op is C.MAX_REPEAT or op is C.MIN_REPEAT or op is C.POSSESSIVE_REPEAT:
            return self._repeat(op, value, flags, left, right)
        if op is C.ATOMIC_GROUP:
            if not _has_one_length(value):
                self._refuse("an atomic group whose matches differ in length", "write (?:...)")
            return self.sequence(value, flags, left, right)
        return self._refuse(_NOT_REGULAR.get(op, str(op)), "spell out what may be matched")

    def _repeat(self, op: Any, value: Any, flags: int, left: bool, right: bool) -> Node:
        least, most, body = value
        if op is C.POSSESSIVE_REPEAT and not (least == most and _has_one_length(body)):
            self._refuse("a possessive repeat, which gives nothing back", "leave out the last +")
        if most > 1:  # what stands beside one round may be another one
            left = right = False
        limit = None if most == C.MAXREPEAT else int(most)
        return Repeat(self.sequence(body, flags, left, right), int(least), limit)

    def _check_anchor(
        self, kind: Any, flags: int, left: bool, right: bool, outer: bool, around: _Around, at: int
    ) -> None:
        """Refuse an anchor that says anything. `outer`: behind the whole sequence is the text's end."""
        many = flags & C.SRE_FLAG_MULTILINE
        if kind is C.AT_BEGINNING:
            satisfied = left or bool(many and around.before(at) == _NEW_LINE)
        elif kind is C.AT_BEGINNING_STRING:
            satisfied = left
        elif kind is C.AT_END:
            satisfied = right or bool(many and around.after(at) == _NEW_LINE)
            # also before the line break that ends the text
            satisfied |= outer and around.after_is_last(at) and _is_line_end(around.after(at))
        elif kind is C.AT_END_STRING:
            satisfied = right
        else:
            self._refuse(f"a word boundary {_ANCHORS[kind]}", "spell out what may stand there")
        if not satisfied:
            end = "beginning" if kind in (C.AT_BEGINNING, C.AT_BEGINNING_STRING) else "end"
            self._refuse(
                f"an anchor {_ANCHORS[kind]} that may stand elsewhere than at the {end} of the text",
                "the whole text is matched in any case",
            )

    def _char(self, code: int) -> str:
        if code in _SURROGATES:
            self._refuse("half of a surrogate pair", r"write the character, or \U and 8 digits")
        return chr(code)

    def _set(self, op: Any, value: Any, flags: int) -> Node:
        items = tuple(value) if op is C.IN else ((C.LITERAL, value),)
        key = (op is C.NOT_LITERAL, items, flags & (C.SRE_FLAG_IGNORECASE | C.SRE_FLAG_ASCII))
        found = self._sets.get(key)
        if found is None:
            if op is C.LITERAL:
                self._char(value)
            ranges = charset.finished(_ranges(items, flags, alone=op is not C.IN))
            if op is C.NOT_LITERAL:
                ranges = charset.finished(charset.complement(ranges))
            self._num_ranges += len(ranges)
            if self._num_ranges > _MOST_RANGES:
                self._refuse(f"sets of more than {_MOST_RANGES} ranges", "use fewer large sets")
            found = self._sets[key] = Chars(ranges)
        if op is C.LITERAL and found.ranges == ((value, value),):
            return Text(chr(value))
        return found

    def _refuse(self, what: str, remedy: str) -> NoReturn:
        raise InvalidRequest(
            self._field, self._pattern, f"has {what}, which is not supported", remedy
        )


def _ranges(items: tuple[Any, ...], flags: int, alone: bool) -> Ranges:
    ascii_only = bool(flags & C.SRE_FLAG_ASCII)
    literals: list[int] = []
    ranges: list[tuple[int, int]] = []
    found: list[tuple[int, int]] = []
    negate = False
    for op, value in items:
        if op is C.LITERAL:
            literals.append(value)
        elif op is C.RANGE:
            ranges.append(value)
        elif op is C.CATEGORY:
            found += charset.category(_CATEGORIES[value], ascii_only)
        else:
            negate = True
    if flags & C.SRE_FLAG_IGNORECASE:
        found += charset.fold(literals, ranges, ascii_only, alone)
    else:
        found += [(c, c) for c in literals]
        found += ranges
    united = charset.merged(found)
    return charset.complement(united) if negate else united


class _Around:
    """What stands around the anchors of a sequence: items that may match a character, called wide."""

    def __init__(self, items: Any) -> None:
        self._items = items
        wide = [i for i, (op, value) in enumerate(items) if not _is_zero_width(op, value)]
        self._wide = wide
        self.first, self.last = (wide[0], wide[-1]) if wide else (len(items), -1)

    def before(self, at: int) -> Any:
        place = bisect_left(self._wide, at)
        return self._items[self._wide[place - 1]] if place else None

    def after(self, at: int) -> Any:
        place = bisect_left(self._wide, at)
        return self._items[self._wide[place]] if place < len(self._wide) else None

    def after_is_last(self, at: int) -> bool:
        return bisect_left(self._wide, at) == len(self._wide) - 1


def _is_zero_width(op: Any, value: Any) -> bool:
    return op is C.AT or (op is C.SUBPATTERN and value[3].getwidth()[1] == 0)


def _is_line_end(item: Any) -> bool:
    """A line break or an optional one, in groups or not."""
    op, value = item
    if op is C.MAX_REPEAT or op is C.MIN_REPEAT:
        least, most, body = value
        return bool((least, most) == (0, 1) and len(body) == 1 and _is_line_end(body[0]))
    if op is C.SUBPATTERN:
        return bool(len(value[3]) == 1 and _is_line_end(value[3][0]))
    return bool(item == _NEW_LINE)


def _has_one_length(body: Any) -> bool:
    low, high = body.getwidth()
    return bool(low == high < C.MAXREPEAT - 1)
