"""How a state looks: its text in colours by who wrote it, a table of its calls, and what they add up to.

Knows parts of text and call records. Plain text is the program's, dim are role markers, green is what
the model generated, cyan what it chose. In a notebook each of these is followed by what it took, the
branches that were forked can be opened, and each call has a bar: what of its tokens came from the cache,
what was computed, what was generated.
"""

from __future__ import annotations

import html as markup
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ramet.lang.record import CallRecord, Style
from ramet.lang.trace import BranchTrace, Part, Totals, Trace, parts, trace_of

if TYPE_CHECKING:
    from ramet.lang.chain import Chain

__all__ = ["ansi", "html", "rich_text", "segments", "summary", "table"]

_ANSI: dict[Style, str] = {"role": "\x1b[2m", "generated": "\x1b[32m", "chosen": "\x1b[36m"}
_RESET = "\x1b[0m"
_RICH: dict[Style, str] = {"text": "", "role": "dim", "generated": "green", "chosen": "cyan"}
_CSS: dict[Style, str] = {
    "role": "color:#888",
    "generated": "color:#1f8a37;background:rgba(47,158,68,.13)",
    "chosen": "color:#0b7f9a;background:rgba(31,151,168,.15)",
}
# Of a call's bar, in the order of the tokens. They are legible on white and on black.
_BAR = {
    "cached": "#3b82c4",
    "computed": "#c99a2e",
    "prompt": "#8b95a3",  # where nobody told what of it was cached
    "forced": "#8a63c9",
    "generated": "#2f9e44",
}
_MOST_BRANCHES = 64  # a notebook's page is a glance; `ramet.observe` draws whole runs
_COLUMNS = ("variable", "branch", "prompt", "cached", "generated", "time")


def segments(chain: Chain) -> list[tuple[Style, str | None, str]]:
    """The text so far as (style, variable, text), in order and without gaps."""
    return [(part.style, part.name, part.text) for part in parts(chain)]


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


def summary(calls: Sequence[CallRecord]) -> str:
    """One line: calls, failures, tokens, cost."""
    found = Totals.of(calls)
    said = [f"{found.calls} call{'' if found.calls == 1 else 's'}"]
    for count, word in (
        (found.failed, "failed"),
        (found.incomplete, "incomplete"),
        (found.retries, "retried"),
    ):
        said += [f"{count} {word}"] if count else []
    if found.prompt_tokens is not None:
        share = found.cached_share
        cached = "" if share is None else f" ({share:.0%} cached)"
        said.append(f"{found.prompt_tokens:,} prompt tokens{cached}")
    if found.completion_tokens is not None:
        forced = f" ({found.forced_tokens:,} forced)" if found.forced_tokens else ""
        said.append(f"{found.completion_tokens:,} generated{forced}")
    if found.cost is not None:
        said.append(f"cost {found.cost:.4g}")
    return " · ".join(said)


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
    table_text = "\n".join(line.rstrip() for line in lines)
    return f"{text}\n\n{table_text}\n\x1b[2m{summary(calls)}{_RESET}"


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
    return Group(text, "", grid, Text(summary(calls), "dim")) if calls else text


def html(chain: Chain, calls: Sequence[CallRecord]) -> str:
    """For a notebook; everything that came from outside is escaped."""
    trace = trace_of(chain.run.record, chain.path, texts=True)
    own = {call.number: call for call in trace.root.calls}
    body = _html_text(parts(chain), own)
    if chain.error is not None:
        body += f'\n<span style="color:#d33">{markup.escape(str(chain.error))}</span>'
    page = f'<pre style="white-space:pre-wrap">{body}</pre>{_html_branches(trace)}'
    return page + _html_table(calls) if calls else page


def _html_text(found: Sequence[Part], calls: dict[int, CallRecord]) -> str:
    said = []
    for part in found:
        text = markup.escape(part.text)
        if part.style in _CSS:
            title = f' title="{markup.escape(part.name)}"' if part.name else ""
            text = f'<span style="{_CSS[part.style]}"{title}>{text}</span>'
        said.append(text)
        if part.call is not None and part.call in calls:
            said.append(_html_note(calls[part.call]))
    return "".join(said)


def _html_note(call: CallRecord) -> str:
    """What a call took, small, behind what it gave."""
    facts = [_seconds(call.seconds)]
    if call.completion_tokens:
        facts.insert(0, f"{call.completion_tokens} tok")
    if call.cached_share:
        facts.append(f"{call.cached_share:.0%} cached")
    if call.incomplete:
        facts.append("incomplete")
    return f'<sub style="opacity:.6;user-select:none"> {" · ".join(facts)} </sub>'


def _html_branches(trace: Trace) -> str:
    """The branches, parents first, each with its own text folded away."""
    shown = trace.branches[1 : 1 + _MOST_BRANCHES]
    page = "".join(_html_branch(branch, trace.root.path) for branch in shown)
    hidden = len(trace.branches) - 1 - len(shown)
    return page + (f'<div style="opacity:.6">and {hidden} more branches</div>' if hidden else "")


def _html_branch(branch: BranchTrace, root: str) -> str:
    depth = branch.path.count(".") - root.count(".") - 1
    head = f"branch {branch.path}"
    if branch.calls:
        head += f" · {summary(branch.calls)}"
    mark = '<span style="color:#d33">failed</span> ' if branch.error else ""
    if branch.text is None:
        inside = '<i style="opacity:.6">the program has let go of this branch</i>'
    else:
        inside = _html_text(branch.text, {call.number: call for call in branch.calls})
    if branch.error is not None:
        inside += f'\n<span style="color:#d33">{markup.escape(branch.error)}</span>'
    return (
        f'<details style="margin-left:{depth + 0.5:g}em"><summary>{mark}{markup.escape(head)}</summary>'
        f'<pre style="white-space:pre-wrap">{inside}</pre></details>'
    )


def _html_table(calls: Sequence[CallRecord]) -> str:
    head = "".join(f"<th>{name}</th>" for name in (*_COLUMNS, ""))
    most = max((sum(size for _, size in _bar(call)) for call in calls), default=0)
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{markup.escape(cell)}</td>" for cell in row)
        + f"<td>{_html_bar(call, most)}</td></tr>"
        for call, row in zip(calls, table(calls))
    )
    used = {name for call in calls for name, size in _bar(call) if size}
    legend = " ".join(
        f'<span style="color:{colour}">■</span> {name}'
        for name, colour in _BAR.items()
        if name in used
    )
    return (
        f'<table style="color:inherit"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f'<div style="opacity:.8">{summary(calls)}<br>{legend}</div>'
    )


def _bar(call: CallRecord) -> list[tuple[str, int]]:
    """The call's tokens by what became of them."""
    cached, forced = call.cached_tokens or 0, call.forced_tokens or 0
    rest = "prompt" if call.cached_tokens is None else "computed"
    sizes = {
        "cached": cached,
        rest: max((call.prompt_tokens or 0) - cached, 0),
        "forced": forced,
        "generated": max((call.completion_tokens or 0) - forced, 0),
    }
    return list(sizes.items())


def _html_bar(call: CallRecord, most: int) -> str:
    cells = "".join(
        f'<i title="{size} {name}" style="display:block;width:{size / most:.2%};background:{_BAR[name]}">'
        "</i>"
        for name, size in _bar(call)
        if size
    )
    return f'<div style="display:flex;width:12em;height:.7em">{cells}</div>'
