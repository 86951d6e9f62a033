"""How a state looks: its text in colours by who wrote it, and a table of its calls.

Knows strokes of ink and call records. Plain text is the program's, dim are role markers, green is what
the model generated, cyan what it chose.
"""

from __future__ import annotations

import html as markup
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ramet.lang.record import CallRecord, Ink, Style

if TYPE_CHECKING:
    from ramet.lang.chain import Chain

__all__ = ["ansi", "html", "rich_text", "segments", "table"]

_ANSI: dict[Style, str] = {"role": "\x1b[2m", "generated": "\x1b[32m", "chosen": "\x1b[36m"}
_RESET = "\x1b[0m"
_RICH: dict[Style, str] = {"text": "", "role": "dim", "generated": "green", "chosen": "cyan"}
_CSS: dict[Style, str] = {
    "role": "color:#888",
    "generated": "color:#067d17;background:#eefbee",
    "chosen": "color:#00708a;background:#e8f8fb",
}
_COLUMNS = ("variable", "branch", "prompt", "cached", "generated", "time")


def segments(chain: Chain) -> list[tuple[Style, str | None, str]]:
    """The text so far as (style, variable, text), in order and without gaps."""
    position = chain.position
    text = position.prompt.text()
    found: list[tuple[Style, str | None, str]] = []
    at = 0
    for ink in Ink.strokes(position.ink):
        if ink.start > at:
            found.append(("text", None, text[at : ink.start]))
        found.append((ink.style, ink.name, text[ink.start : ink.end]))
        at = ink.end
    if at < len(text):
        found.append(("text", None, text[at:]))
    return found


def table(calls: Sequence[CallRecord]) -> list[tuple[str, ...]]:
    """One row of texts per call, in the order of `_COLUMNS`; a failed call shows its error, and one whose
    text was cut before its constraint was met says so."""
    rows: list[tuple[str, ...]] = []
    for call in calls:
        share = call.cached_share
        cached = "" if call.cached_tokens is None else str(call.cached_tokens)
        rows.append(
            (
                call.name or "(unnamed)",
                call.branch,
                "" if call.prompt_tokens is None else str(call.prompt_tokens),
                cached if share is None else f"{cached} ({share:.0%})",
                call.error or _generated(call),
                _seconds(call.seconds),
            )
        )
    return rows


def _generated(call: CallRecord) -> str:
    count = "" if call.completion_tokens is None else str(call.completion_tokens)
    return f"{count} (incomplete)".lstrip() if call.incomplete else count


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def ansi(chain: Chain, calls: Sequence[CallRecord]) -> str:
    """For a terminal."""
    text = "".join(
        f"{_ANSI[style]}{part}{_RESET}" if style in _ANSI else part
        for style, _, part in segments(chain)
    )
    if chain.error is not None:
        text += f"\n\x1b[31m{chain.error}{_RESET}"
    if not calls:
        return text
    rows = [_COLUMNS, *table(calls)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return text + "\n\n" + "\n".join(line.rstrip() for line in lines)


def rich_text(chain: Chain, calls: Sequence[CallRecord]) -> Any:
    """For `rich.print` (which is the only caller, so rich is there)."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    text = Text()
    for style, _, part in segments(chain):
        text.append(part, _RICH[style])
    if chain.error is not None:
        text.append(f"\n{chain.error}", "red")
    grid = Table(*_COLUMNS, box=None)
    for row in table(calls):
        grid.add_row(*(Text(cell) for cell in row))
    return Group(text, "", grid) if calls else text


def html(chain: Chain, calls: Sequence[CallRecord]) -> str:
    """For a notebook; everything that came from outside is escaped."""
    parts = []
    for style, name, part in segments(chain):
        text = markup.escape(part)
        title = f' title="{markup.escape(name)}"' if name else ""
        parts.append(f'<span style="{_CSS[style]}"{title}>{text}</span>' if style in _CSS else text)
    if chain.error is not None:
        parts.append(f'\n<span style="color:#b00">{markup.escape(str(chain.error))}</span>')
    body = f'<pre style="white-space:pre-wrap">{"".join(parts)}</pre>'
    return body + _html_table(calls) if calls else body


def _html_table(calls: Sequence[CallRecord]) -> str:
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{markup.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table(calls)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
