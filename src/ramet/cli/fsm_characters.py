"""An automaton over bytes as people read it: edges with sets of characters, and runs of text.

The states within a character's UTF-8 disappear where the characters that go through them can be told;
elsewhere edges show bytes. Knows graphs as plain data and how a set of characters is written; refuses to know
how an automaton was made and how it is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ramet.constraints.charset import Ranges, category, complement, finished, merged
from ramet.constraints.compressed import Graph

__all__ = ["Machine", "Way", "machine", "written"]

_LAST = 0x10FFFF
_PARTS = 6  # ranges of a set that are written before it is cut short
_ESCAPES = {0x0A: r"\n", 0x0D: r"\r", 0x09: r"\t", 0x5C: r"\\"}


@dataclass(frozen=True, slots=True)
class Way:
    """From state to state: `label`, and whether it is the `text` of a run."""

    source: int
    target: int
    label: str
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Machine:
    """States are numbered from 0 in the order in which texts come to them; 0 is the start. `states`: what
    each is called in the graph."""

    states: tuple[int, ...]
    accepting: frozenset[int]
    ways: tuple[Way, ...]

    @property
    def num_states(self) -> int:
        return len(self.states)


def machine(graph: Graph) -> Machine:
    inner = _inside_characters(graph)
    states = [state for state in graph.states if state not in inner]
    number = {state: i for i, state in enumerate(states)}
    leaving: dict[int, list[tuple[int, int, int]]] = {state: [] for state in graph.states}
    for edge in graph.edges:
        leaving[edge.source] += [(low, high, edge.target) for low, high in edge.ranges]
    ways = []
    for edge in graph.edges:
        if edge.text:
            label = _text(edge.text)
            ways.append(Way(number[edge.source], number[edge.target], label, edge.text))
    for state in states:
        for target, label in _labels(state, leaving, inner):
            ways.append(Way(number[state], number[target], label))
    ways.sort(key=lambda way: (way.source, way.target))
    return Machine(tuple(states), frozenset(number[s] for s in graph.accepting), tuple(ways))


def _labels(
    state: int, leaving: dict[int, list[tuple[int, int, int]]], inner: set[int]
) -> Iterator[tuple[int, str]]:
    sets: dict[int, list[tuple[int, int]]] = {}
    raw: dict[int, list[tuple[int, int]]] = {}
    for low, high, target in leaving[state]:
        if target in inner:
            for code_low, code_high, end in _characters([(low, high)], target, leaving, inner):
                sets.setdefault(end, []).append((code_low, code_high))
        elif high < 0x80:
            sets.setdefault(target, []).append((low, high))
        else:
            raw.setdefault(target, []).append((low, high))
    for target in dict.fromkeys([*sets, *raw]):
        parts = [written(merged(sets[target]))] if target in sets else []
        parts += [_byte_range(low, high) for low, high in raw.get(target, ())]
        yield target, " ".join(parts)


# -- UTF-8 ---------------------------------------------------------------------------------------


def _inside_characters(graph: Graph) -> set[int]:
    """States that are reached only from bytes above 0x7F and left only by such that continue a
    character. What a run touches stays: its text is shown as it is."""
    inner = {state for state in graph.states if state != graph.start} - graph.accepting
    for edge in graph.edges:
        if edge.text or any(low < 0x80 for low, _ in edge.ranges):
            inner.discard(edge.target)
        if edge.text or any(low < 0x80 or high > 0xBF for low, high in edge.ranges):
            inner.discard(edge.source)
    # Whoever is entered in the midst of a character, from a state that stays, stays as well.
    before = None
    while before != inner:
        before = set(inner)
        for edge in graph.edges:
            starts = bool(edge.ranges) and edge.ranges[0][0] >= 0xC2
            if edge.target in inner and edge.source not in inner and not starts:
                inner.discard(edge.target)
    return inner


def _characters(
    path: list[tuple[int, int]],
    state: int,
    leaving: dict[int, list[tuple[int, int, int]]],
    inner: set[int],
) -> Iterator[tuple[int, int, int]]:
    """(first, last code point, state behind) of all characters that begin with the byte ranges of `path`."""
    for low, high, target in leaving[state]:
        longer = [*path, (low, high)]
        if target in inner:
            yield from _characters(longer, target, leaving, inner)
        else:
            for first, last in _code_points(longer):
                yield first, last, target


def _code_points(path: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ranges of code points for ranges of bytes, as few as they make."""
    lead_bits = {2: 0x1F, 3: 0x0F, 4: 0x07}[len(path)]
    spans = [(0, 0)]
    for place, (low, high) in enumerate(path):
        bits = lead_bits if place == 0 else 0x3F
        full = place > 0 and (low, high) == (0x80, 0xBF)
        longer = []
        for first, last in spans:
            if full or first == last:
                longer.append((first << 6 | low & bits, last << 6 | high & bits))
            else:
                for above in range(first, last + 1):
                    longer.append((above << 6 | low & bits, above << 6 | high & bits))
        spans = longer
    yield from spans


# -- labels --------------------------------------------------------------------------------------


def written(ranges: Ranges) -> str:
    """A set of characters as short as a regular expression writes it; cut where it is long."""
    known = _known().get(ranges)
    if known:
        return known
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _char(ranges[0][0])
    for name in "wds":  # one of these classes and a few more
        inside = finished(category(name, False))
        rest = _without(ranges, inside)
        if len(rest) <= _PARTS < len(ranges) and not _without(inside, ranges):
            return f"[\\{name}{_parts(rest)}]"
    missing = finished(complement(ranges))
    if len(missing) < len(ranges) and sum(high - low for low, high in missing) < _LAST // 2:
        return f"[^{_parts(missing)}]"
    return f"[{_parts(ranges)}]"


def _known() -> dict[Ranges, str]:
    """By identity of the set: `category` remembers its answers."""
    names = {finished(category(name, False)): f"\\{name}" for name in "dwsDWS"}
    any_char = finished(((0, _LAST),))
    return {any_char: "any", finished(complement(((0x0A, 0x0A),))): ".", **names}


def _without(ranges: Ranges, others: Ranges) -> Ranges:
    return finished(complement(merged((*finished(complement(ranges)), *others))))


def _parts(ranges: Iterable[tuple[int, int]]) -> str:
    some = [
        _char(low) if low == high else f"{_char(low)}{'-' if high > low + 1 else ''}{_char(high)}"
        for low, high in ranges
    ]
    more = f" … {len(some) - _PARTS} more" if len(some) > _PARTS + 1 else ""
    return "".join(some[:_PARTS] if more else some) + more


def _char(code: int) -> str:
    if code in _ESCAPES:
        return _ESCAPES[code]
    if code == 0x20:
        return "␣"
    if chr(code).isprintable():
        return chr(code)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def _text(data: bytes) -> str:
    """What is no UTF-8 shows as bytes."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(
        f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else _char(ord(c)) for c in text
    )


def _byte_range(low: int, high: int) -> str:
    return f"\\x{low:02x}" if low == high else f"[\\x{low:02x}-\\x{high:02x}]"
