"""`ramet trace --fsm`: the automaton of a regular expression, before and after its runs are compressed.

In a terminal as text, else as a picture (.svg), as a graph for Graphviz (.dot) or as text (.txt). Knows the
compressed automaton's data and what each form is called; how it is drawn is `fsm_picture`'s business.
"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ramet.cli.failure import UsageError
from ramet.cli.fsm_characters import Machine, Way, machine
from ramet.constraints.automaton import Automaton
from ramet.constraints.compressed import Graph, compress, graph
from ramet.errors import CheckpointError

__all__ = ["MOST_STATES", "dot", "show_fsm"]

MOST_STATES = {".svg": 150, ".dot": 1_000, ".txt": 1_000}  # without those within characters
_MOST_BYTE_STATES = 10_000  # with them
_IN_TERMINAL = 200
_WIDTH = 100  # columns of a text file


def show_fsm(
    regex: str, output: str | None, console: Console, *, tokens: bool = False, model: str = "pocket"
) -> None:
    """Write to the file `output`, or print to `console`. `tokens`: how the tokenizer of `model` divides
    the text that is forced. Raises `InvalidRequest` for the expression and `UsageError` for the rest."""
    form = _form(output)
    automaton = _automaton(regex)
    most = _IN_TERMINAL if output is None else MOST_STATES[form]
    whole = graph(automaton, _MOST_BYTE_STATES)
    if whole is None:
        raise _too_many(_MOST_BYTE_STATES, form)
    before = machine(whole)
    if before.num_states > most:
        raise _too_many(most, form)
    short = compress(whole)
    after = machine(short)
    notes = _tokens(short, after, model) if tokens else {}
    titles = _titles(whole, before, short, after)
    if output is None:
        _print(console, titles, before, after, notes)
        return
    try:
        Path(output).write_text(_written(form, titles, before, after, notes), "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error
    console.print(f"{output}: {titles[0]}; {titles[1]}", markup=False, soft_wrap=True)


def _too_many(most: int, form: str) -> UsageError:
    return UsageError(
        f"the automaton of this regular expression has more than {most:,} states: too many to "
        f"{'print' if form == '.txt' else 'draw'}. Try a part of it, or smaller counts in {{...}}"
    )


def _form(output: str | None) -> str:
    form = ".txt" if output is None else Path(output).suffix
    if form not in MOST_STATES:
        raise UsageError(f"{output}: the name must end with {', '.join(MOST_STATES)}")
    return form


def _automaton(regex: str) -> Automaton:
    from ramet.constraints.limits import DEFAULT
    from ramet.constraints.product import make

    found = make("regex", regex, DEFAULT).automaton
    if found is None:
        raise UsageError("nothing was made of this regular expression")
    return found


def _titles(whole: Graph, before: Machine, short: Graph, after: Machine) -> tuple[str, str]:
    runs = sum(len(edge.text) > 0 for edge in short.edges)
    within = len(whole.states) - before.num_states
    utf8 = f" (and {within} within characters)" if within else ""
    one = f"as it is: {before.num_states} states{utf8}, {len(before.ways)} edges"
    two = f"compressed: {after.num_states} states, {len(after.ways)} edges, {runs} of them runs"
    return one, two


def _tokens(short: Graph, after: Machine, model: str) -> dict[Way, str]:
    """For each run its tokens, as far as they are the same whatever follows, and what is left open."""
    from ramet.engine.tokenizer import Tokenizer
    from ramet.pocket import model_path

    try:
        tokenizer = Tokenizer.load(model_path() if model == "pocket" else Path(model))
    except (CheckpointError, OSError) as error:
        raise UsageError(f"cannot load the tokenizer of {model!r}: {error}") from error
    following = _following(short)
    notes: dict[Way, str] = {}
    for way in after.ways:
        if not way.text:
            continue
        text = way.text.decode("utf-8", "ignore")  # a character that is not whole is not forced
        ids = tokenizer.encode_forced(text, following[after.states[way.target]])
        pieces = [tokenizer.token_text(token) for token in ids]
        rest = text[len("".join(pieces)) :]
        shown = "·".join(map(_visible, pieces)) + (f" | {_visible(rest)}" if rest else "")
        notes[way] = f"{len(ids)} token{'' if len(ids) == 1 else 's'}: {shown}"
    return notes


def _following(short: Graph) -> dict[int, frozenset[int]]:
    """Bytes that may come next in each state."""
    found: dict[int, set[int]] = {state: set() for state in short.states}
    for edge in short.edges:
        if edge.text:
            found[edge.source].add(edge.text[0])
        for low, high in edge.ranges:
            found[edge.source].update(range(low, high + 1))
    return {state: frozenset(bytes_) for state, bytes_ in found.items()}


def _visible(text: str) -> str:
    return text.replace("\n", "\\n").replace(" ", "␣")


# -- text ----------------------------------------------------------------------------------------


def _written(
    form: str, titles: tuple[str, str], before: Machine, after: Machine, notes: dict[Way, str]
) -> str:
    if form == ".svg":
        from ramet.cli.fsm_picture import picture

        return picture([(titles[0], before, {}), (titles[1], after, notes)])
    if form == ".dot":
        return dot(titles, before, after, notes)
    file = io.StringIO()
    console = Console(width=_WIDTH, no_color=True, file=file)
    _print(console, titles, before, after, notes)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def _print(
    console: Console,
    titles: tuple[str, str],
    before: Machine,
    after: Machine,
    notes: dict[Way, str],
) -> None:
    for title, drawn in zip(titles, (before, after)):
        console.print(Text(title, style="bold"))
        console.print(_table(drawn, notes))
        console.print()


def _table(drawn: Machine, notes: dict[Way, str]) -> Table:
    """A row per state: its number (double ring: the text may end there) and where it leads."""
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    leaving: dict[int, list[Way]] = {state: [] for state in range(drawn.num_states)}
    for way in drawn.ways:
        leaving[way.source].append(way)
    for state, ways in leaving.items():
        mark = Text("◎" if state in drawn.accepting else "○", style="green")
        line = Text()
        for number, way in enumerate(ways):
            line.append("   " if number else "")
            line.append(way.label, style="bold green" if way.text else "cyan")
            line.append(f" → {way.target}")
            if way in notes:
                line.append(f" ({notes[way]})", style="dim")
        table.add_row(Text(f"{'▶ ' if state == 0 else ''}{state}"), mark, line)
    return table


def dot(titles: tuple[str, str], before: Machine, after: Machine, notes: dict[Way, str]) -> str:
    """Both machines as clusters of one graph for Graphviz."""
    lines = ["digraph automata {", "  rankdir=LR;", '  node [shape=circle, fontname="monospace"];']
    lines.append('  edge [fontname="monospace"];')
    for name, title, drawn in zip("ab", titles, (before, after)):
        lines.append(f"  subgraph cluster_{name} {{")
        lines.append(f"    label={_quoted(title)};")
        lines.append(f"    {name} [shape=point, style=invis];")
        lines.append(f"    {name} -> {name}0;")
        for state in range(drawn.num_states):
            ring = ", shape=doublecircle" if state in drawn.accepting else ""
            lines.append(f'    {name}{state} [label="{state}"{ring}];')
        for way in drawn.ways:
            label = way.label + (f"\n{notes[way]}" if way in notes else "")
            style = ", color=darkgreen, penwidth=2" if way.text else ""
            lines.append(
                f"    {name}{way.source} -> {name}{way.target} [label={_quoted(label)}{style}];"
            )
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    """Backslashes and quotes are Graphviz's own; a line of a label ends with \\n."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{safe}"'
