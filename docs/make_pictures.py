"""Draw the picture of the README from a real run.

    python docs/make_pictures.py

Runs examples/demo.py on the embedded model, cold, and writes docs/demo.svg: the tree, the table and the
totals that `ramet run examples/demo.py` prints.
"""

from __future__ import annotations

import io
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from ramet.backends.local import Engine
from ramet.cli.draw import calls_table, finished_tree, totals_line
from ramet.cli.load import load_module, pick_program
from ramet.cli.picture import Picture
from ramet.cli.report import totals
from ramet.lang.record import listening

DOCS = Path(__file__).parent
WIDTH = 100
# rich's own format fetches a font from the network; the viewer's own monospace font does as well.
FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: "Fira Code", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main() -> None:
    program = pick_program(load_module(DOCS.parent / "examples" / "demo.py"), None)
    picture = Picture()
    with Engine("pocket", seed=0) as engine:
        started = time.perf_counter()
        with listening(picture.see):
            program.run(backend=engine)
            picture.wait_until_over()
        seconds = time.perf_counter() - started
        computed = engine.stats.num_computed_tokens
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(finished_tree(picture))
    console.print()
    console.print(calls_table(picture.calls))
    console.print(totals_line(totals(picture.calls, computed), seconds))
    console.save_svg(
        str(DOCS / "demo.svg"),
        title="ramet run examples/demo.py",
        theme=MONOKAI,
        code_format=FORMAT,
        unique_id="demo",
    )


if __name__ == "__main__":
    main()
