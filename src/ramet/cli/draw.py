"""Drawing a picture of a run in a terminal: a tree of branches, a table of calls, a line of totals.

Knows rich and the picture; refuses to know how the run came about. While a run goes on the tree has to
fit the screen, so every text shows its end only; the finished tree shows everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ramet.cli.picture import Branch, Call, Fork, Picture, Run, Written
from ramet.cli.report import Row, Totals, rows

__all__ = ["calls_table", "finished_tree", "running_tree", "totals_line"]

STYLES = {
    "text": "",
    "role": "dim",
    "generated": "green",
    "chosen": "cyan",
}
_FRAME = 4  # lines of the screen that the running tree leaves free
_GUIDES = 12  # columns that a few levels of guides and numbers take

Fit = Callable[[Text], Text]


def finished_tree(picture: Picture) -> RenderableType:
    with picture.lock:
        return Group(*(_run_tree(run, lambda text: text) for run in picture.runs.values()))


def running_tree(picture: Picture, console: Console) -> RenderableType:
    """The tree cut to the height of the screen: each text's last lines, as many as there is room for."""
    with picture.lock:
        texts = sum(len(list(_blocks(branch))) for branch in picture.branches())
        room = console.height - _FRAME - len(picture.runs)
        lines = max(room // max(texts, 1), 1)
        columns = max(console.width - _GUIDES, 20)
        trees = [
            _run_tree(run, lambda text: _tail(text, lines, columns))
            for run in picture.runs.values()
        ]
        return Group(*trees, Text(f"{_calls(len(picture.calls))} done", "dim"))


def _run_tree(run: Run, fit: Fit) -> Tree:
    label = Text.assemble(_mark(run.root, run.finished), (run.program, "bold"))
    tree = Tree(label, guide_style="dim")
    _grow(tree, list(_blocks(run.root)), fit)
    return tree


def _grow(node: Tree, blocks: Sequence[Text | Fork], fit: Fit) -> None:
    for block in blocks:
        if isinstance(block, Fork):
            for index, branch in enumerate(block.branches):
                _add_branch(node, index, branch, fit)
        else:
            node.add(fit(block))


def _add_branch(parent: Tree, index: int, branch: Branch, fit: Fit) -> None:
    """A branch is one node: its number, and beside it the first thing that it wrote."""
    row = [Text.assemble(_mark(branch, branch.joined), (f"{index} ", "dim"))]
    blocks = list(_blocks(branch))
    first = blocks[0] if blocks else None
    if isinstance(first, Text):
        row.append(fit(first))
        del blocks[0]
    label = Table.grid()
    label.add_row(*row)
    _grow(parent.add(label), blocks, fit)


def _blocks(branch: Branch) -> Iterator[Text | Fork]:
    """What stands between forks, as one text each. White space alone is not worth a line."""
    text = Text()
    for item in branch.items:
        if isinstance(item, Written):
            text.append(item.text, STYLES[item.style])
        else:
            yield from _worth_showing(text)
            yield item
            text = Text()
    yield from _worth_showing(text)


def _worth_showing(text: Text) -> Iterator[Text]:
    if text.plain.strip():
        text.rstrip()
        yield text


def _tail(text: Text, lines: int, columns: int) -> Text:
    """The last `lines` lines of `text`, as `columns` break it (roughly: a full line may be shorter)."""
    last = text[max(len(text) - columns * lines, 0) :]
    kept = Text("\n").join(list(last.split("\n"))[-lines:])
    return text if len(kept) == len(text) else Text.assemble(("… ", "dim"), kept)


def _mark(branch: Branch, done: bool) -> Text:
    if branch.error is not None:
        return Text("✗ ", "bold red")
    if branch.calls_open:
        return Text("● ", "yellow")
    return Text("✓ ", "green") if done else Text("○ ", "dim")


def calls_table(calls: Sequence[Call]) -> RenderableType:
    """Calls with their tokens, and what part of each prompt was in the cache already."""
    found = rows(calls)
    several = len({row.program for row in found}) > 1
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    if several:
        table.add_column("program")
    table.add_column("call")
    table.add_column("branch", style="dim")
    for title in ("prompt", "cached", "", "generated", "time"):
        table.add_column(title, justify="right")
    for row in found:
        cells = _cells(row)
        table.add_row(*([row.program] if several else []), *cells)
    return table


def _cells(row: Row) -> list[RenderableType]:
    share = "" if row.cached_share is None else f"{row.cached_share:.0%}"
    colour = "red" if row.failed else STYLES["chosen" if row.kind == "select" else "generated"]
    times = f" ×{row.calls}" if row.calls > 1 else ""
    return [
        Text.assemble((row.name or row.kind, colour), (times, "dim")),
        row.branch,
        _number(row.prompt),
        _number(row.cached),
        Text(share, "cyan"),
        "" if row.kind == "select" else _number(row.generated),
        _time(row.seconds),
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _number(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def totals_line(found: Totals, seconds: float) -> Text:
    parts = [_calls(found.calls)]
    if found.failed:
        parts.append(f"{found.failed} failed")
    if found.asked:
        parts.append(f"{found.asked:,} tokens asked")
    if found.asked and found.computed is not None:
        share = max(found.asked - found.computed, 0) / found.asked
        parts[-1] += f", {found.computed:,} computed: sharing saved {share:.0%}"
    return Text(" · ".join([*parts, _time(seconds)]), "bold")


def _calls(number: int) -> str:
    return f"{number} call{'' if number == 1 else 's'}"
