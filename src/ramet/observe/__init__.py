"""What programs did, spent and shared, for people and for other tools.

Knows traces (`ramet.lang.trace`) and turns them into pages, timelines and spans. Nothing here is loaded,
and nothing is written down beyond a few counts per call, unless somebody asks.

    with ramet.observe.tracing() as seen:
        states = program.run_batch(questions)
    seen.write("batch.html")                     # or state.trace, at any time:
    ramet.observe.write_trace("one.json", states[0].trace)
"""

from __future__ import annotations

from ramet.lang.trace import BranchTrace, Part, Prices, Totals, Trace
from ramet.observe.chrome import chrome_trace
from ramet.observe.html import html_page
from ramet.observe.spans import instrument, uninstrument
from ramet.observe.trace import Collector, tracing, write_trace

__all__ = [
    "BranchTrace",
    "Collector",
    "Part",
    "Prices",
    "Totals",
    "Trace",
    "chrome_trace",
    "html_page",
    "instrument",
    "tracing",
    "uninstrument",
    "write_trace",
]
