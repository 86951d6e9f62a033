"""An automaton as an SVG: states in columns from left to right, edges as curves with their labels.

Knows numbered states, labels and how much room they take; where things stand in a column is `fsm_columns`'
business. No library: the SVG is text.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from xml.sax.saxutils import escape

from ramet.cli.fsm_characters import Machine, Way
from ramet.cli.fsm_columns import ROW, Place, layers, order, settle

__all__ = ["picture"]

_RADIUS, _MARGIN, _TITLE = 15.0, 26.0, 34.0
_CHAR = 7.3  # width of a letter
_LONGEST = 44  # letters of a label; the whole one is its tooltip
_GAP = 26.0  # of a column, besides labels
_LOOP = 30.0  # a loop's height above its state
_STYLE = """\
text { font: 12px "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #24292f; }
.state { fill: #ffffff; stroke: #57606a; stroke-width: 1.4; }
.start { fill: #ddf4ff; }
.edge { fill: none; stroke: #8c959f; stroke-width: 1.2; }
.run { stroke: #1a7f37; stroke-width: 2; }
.label { paint-order: stroke; stroke: #ffffff; stroke-width: 4px; text-anchor: middle; }
.forced { fill: #1a7f37; font-weight: bold; }
.small { font-size: 10.5px; fill: #57606a; }
.number { text-anchor: middle; font-size: 11px; }
.title { font: bold 14px sans-serif; }"""


def picture(titled: Sequence[tuple[str, Machine, dict[Way, str]]]) -> str:
    """Machines below each other; each with a title and notes that stand below the labels of some edges."""
    parts, top, width = [], 0.0, 0.0
    for title, machine, notes in titled:
        drawn = _Drawing(machine, notes)
        parts.append(
            f'<text class="title" x="{_MARGIN:g}" y="{top + 24:.1f}">{escape(title)}</text>'
        )
        parts.append(f'<g transform="translate(0,{top + _TITLE:.1f})">\n{drawn.svg()}\n</g>')
        top += _TITLE + drawn.height
        width = max(width, drawn.width, _CHAR * 1.2 * len(title) + 2 * _MARGIN)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{top:.0f}" '
        f'viewBox="0 0 {width:.0f} {top:.0f}">'
    )
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8" '
        'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.5 L8 4 L0 7.5 Z" fill="#57606a"/></marker></defs>'
    )
    ground = f'<rect width="{width:.0f}" height="{top:.0f}" fill="#ffffff"/>'
    return "\n".join([head, f"<style>\n{_STYLE}\n</style>", arrow, ground, *parts, "</svg>", ""])


class _Drawing:
    """One machine laid out; `width` and `height` include the margins."""

    def __init__(self, machine: Machine, notes: dict[Way, str]) -> None:
        self._machine, self._notes = machine, notes
        layer, turned = layers(machine)
        self._turned = turned
        self._places = [Place(state, layer[state]) for state in range(machine.num_states)]
        for way in machine.ways:
            if way.source == way.target:
                self._places[way.source].above = ROW / 2 + _LOOP
        self._chains = {way: self._chain(way) for way in machine.ways if way.source != way.target}
        columns = self._columns()
        order(columns)
        settle(columns)
        lowest = min(place.y for column in columns for place in column)
        for column in columns:
            for place in column:
                place.y += _MARGIN + _LOOP + 8 - lowest
        self._x = self._column_places(len(columns))
        self.width = self._x[-1] + _RADIUS + _MARGIN + 14
        self.height = max(p.y for column in columns for p in column) + _RADIUS + _MARGIN

    def _chain(self, way: Way) -> list[Place]:
        """The places that an edge goes through, from left to right."""
        ends = [self._places[way.source], self._places[way.target]]
        first, last = ends[::-1] if way in self._turned else ends
        between = [Place(None, layer) for layer in range(first.layer + 1, last.layer)]
        chain = [first, *between, last]
        for left, right in itertools.pairwise(chain):
            left.near.append(right)
            right.near.append(left)
        return chain

    def _columns(self) -> list[list[Place]]:
        every = {id(place): place for place in self._places}
        every.update((id(place), place) for chain in self._chains.values() for place in chain)
        columns: list[list[Place]] = [[] for _ in range(1 + max(p.layer for p in every.values()))]
        for place in every.values():
            columns[place.layer].append(place)
        return columns

    def _column_places(self, count: int) -> list[float]:
        """Where each column stands: as far from the one before as the labels between them need."""
        gaps = [2 * _RADIUS + _GAP] * max(0, count - 1)
        for way, chain in self._chains.items():
            at = chain[(len(chain) - 1) // 2].layer
            letters = max(len(_cut(way.label)), len(self._notes.get(way, "")) * 0.9)
            gaps[at] = max(gaps[at], letters * _CHAR + 2 * _RADIUS + _GAP)
        for way in self._machine.ways:  # labels of loops stand above their states
            at = self._places[way.source].layer
            if way.source == way.target and at < len(gaps):
                gaps[at] = max(gaps[at], len(_cut(way.label)) * _CHAR * 0.75 + _RADIUS)
        found = [_MARGIN + 40]
        for gap in gaps:
            found.append(found[-1] + gap)
        return found

    # -- SVG ---------------------------------------------------------------------------------------

    def svg(self) -> str:
        lines = [self._entry()]
        lines += [self._edge(way) for way in self._machine.ways]
        lines += [self._label(way) for way in self._machine.ways]
        lines += [self._state(state) for state in range(self._machine.num_states)]
        return "\n".join(lines)

    def _at(self, place: Place) -> tuple[float, float]:
        return self._x[place.layer], place.y

    def _entry(self) -> str:
        x, y = self._at(self._places[0])
        return f'<path class="edge" marker-end="url(#arrow)" d="M{x - 42:.1f} {y:.1f} H{x - _RADIUS:.1f}"/>'

    def _state(self, state: int) -> str:
        x, y = self._at(self._places[state])
        start = " start" if state == 0 else ""
        rings = [f'<circle class="state{start}" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS:g}"/>']
        if state in self._machine.accepting:
            inner = (
                f'<circle class="state{start}" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS - 3.5:g}"/>'
            )
            rings.append(inner)
        return "".join(rings) + f'<text class="number" x="{x:.1f}" y="{y + 4:.1f}">{state}</text>'

    def _edge(self, way: Way) -> str:
        kind = "edge run" if way.text else "edge"
        if way.source == way.target:
            x, y = self._at(self._places[way.source])
            up = y - _RADIUS
            path = f"M{x - 7:.1f} {up + 2:.1f} C{x - 20:.1f} {up - _LOOP:.1f} {x + 20:.1f} {up - _LOOP:.1f} {x + 7:.1f} {up + 2:.1f}"
        else:
            path = self._curve(way)
        return f'<path class="{kind}" marker-end="url(#arrow)" d="{path}"/>'

    def _curve(self, way: Way) -> str:
        points = [self._at(place) for place in self._chains[way]]
        points[0] = points[0][0] + _RADIUS, points[0][1]
        points[-1] = points[-1][0] - _RADIUS, points[-1][1]
        if way in self._turned:
            # Towards the left: from below the one on the right to below the one on the left.
            points = points[::-1]
            (right, high), (left, low) = points[0], points[-1]
            points[0] = right + _RADIUS - 6, high + _RADIUS - 1
            points[-1] = left - _RADIUS + 6, low + _RADIUS + 1
            if len(points) == 2:
                (x, y), (end_x, end_y) = points
                under = max(y, end_y) + 34
                return f"M{x:.1f} {y:.1f} C{x - 6:.1f} {under:.1f} {end_x + 6:.1f} {under:.1f} {end_x:.1f} {end_y:.1f}"
        path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        for (x, y), (next_x, next_y) in itertools.pairwise(points):
            half = (next_x - x) / 2
            path += f" C{x + half:.1f} {y:.1f} {next_x - half:.1f} {next_y:.1f} {next_x:.1f} {next_y:.1f}"
        return path

    def _label(self, way: Way) -> str:
        x, y = self._label_place(way)
        label = escape(_cut(way.label))
        title = f"<title>{escape(way.label)}</title>" if len(way.label) > _LONGEST else ""
        kind = "label forced" if way.text else "label"
        lines = [f'<text class="{kind}" x="{x:.1f}" y="{y - 5:.1f}">{title}{label}</text>']
        if way in self._notes:
            note = escape(self._notes[way])
            lines.append(f'<text class="label small" x="{x:.1f}" y="{y + 13:.1f}">{note}</text>')
        return "".join(lines)

    def _label_place(self, way: Way) -> tuple[float, float]:
        if way.source == way.target:
            x, y = self._at(self._places[way.source])
            return x, y - _RADIUS - 0.75 * _LOOP
        chain = self._chains[way]
        at = (len(chain) - 1) // 2
        (x, y), (next_x, next_y) = self._at(chain[at]), self._at(chain[at + 1])
        if way in self._turned and len(chain) == 2:
            return (x + next_x) / 2, max(y, next_y) + _RADIUS + 26
        # Where several edges meet or part, towards the end at which they are apart.
        right, left = (
            sum(other.layer == beside.layer for other in here.near)
            for here, beside in ((chain[at], chain[at + 1]), (chain[at + 1], chain[at]))
        )
        part = 0.35 if left > 1 and right == 1 else 0.65 if right > 1 and left == 1 else 0.5
        along, down = _bent(part)
        above = 0 if abs(next_y - y) < 8 else 9  # above a level edge, upon a steep one
        return x + (next_x - x) * along, y + (next_y - y) * down + above


def _bent(part: float) -> tuple[float, float]:
    """How far along and down a curve between two places is, at `part` of it."""
    rest = 1 - part
    return 1.5 * part * rest + part**3, 3 * part**2 - 2 * part**3


def _cut(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
