"""A run as one HTML page that needs nothing else: no network, no server, no build.

Knows the page's data; `page.html`, `page.css` and `page.js` beside this file know how it looks. A model's
text is hostile until shown otherwise: data lies in the page as JSON without any character that HTML gives
a meaning to, the script puts it into text nodes only, and the page's policy lets run nothing but that one
script (by its hash) and load nothing at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from ramet.lang.record import CallRecord
from ramet.lang.trace import BranchTrace, Totals, Trace, model_name
from ramet.observe.chrome import branch_order

__all__ = ["html_page", "page_data"]

# What ends a script element, begins a comment, or ends a line of JavaScript.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&'\u2028\u2029"}


def html_page(traces: Sequence[Trace]) -> str:
    """The page for one run or several; with texts if the traces have them."""
    folder = resources.files(__package__)
    script = folder.joinpath("page.js").read_text("utf-8")
    style = folder.joinpath("page.css").read_text("utf-8")
    values = {
        "TITLE": html.escape(_title(traces)),
        "STYLE": style,
        "STYLE_HASH": _hash(style),
        "SCRIPT": script,
        "SCRIPT_HASH": _hash(script),
        "DATA": _json(page_data(traces)),
    }
    page = folder.joinpath("page.html").read_text("utf-8")
    return re.sub(r"@@([A-Z_]+)@@", lambda found: values[found[1]], page)


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _json(data: Any) -> str:
    plain = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return plain.translate(_ESCAPES)


def _title(traces: Sequence[Trace]) -> str:
    names = sorted({trace.program for trace in traces})
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def page_data(traces: Sequence[Trace]) -> dict[str, Any]:
    """What the script draws. `at` is a run's beginning in seconds after the first one's."""
    start = min((trace.began for trace in traces), default=0.0)
    runs = [run for trace in traces for run in _runs(trace, start, 0)]
    return {
        "title": _title(traces),
        "wall": min((trace.wall for trace in traces), default=None),
        "has_texts": any(trace.has_texts for trace in traces),
        "totals": _totals(Totals.of(c for t in traces for run in t.walk() for c in run.calls)),
        "runs": runs,
    }


def _runs(trace: Trace, start: float, depth: int) -> list[dict[str, Any]]:
    """The run and, behind it, those nested in it."""
    ordered = sorted(trace.branches, key=lambda branch: branch_order(branch.path))
    found = {
        "id": trace.run,
        "program": trace.program,
        "model": model_name(trace.model),
        "backend": trace.backend,
        "depth": depth,
        "at": trace.began - start,
        "seconds": trace.ended,
        "finished": trace.seconds is not None,
        "left_out": trace.num_nested_left_out,
        "totals": _totals(trace.totals),
        "branches": [_branch(branch) for branch in ordered],
    }
    return [found, *(more for run in trace.nested for more in _runs(run, start, depth + 1))]


def _branch(branch: BranchTrace) -> dict[str, Any]:
    lanes = branch.lanes
    return {
        "path": branch.path,
        "parent": branch.parent,
        "line": branch.location,
        "start": branch.started,
        "end": branch.ended,
        "joined": branch.joined,
        "failed": branch.failed,
        "error": branch.error,
        "text": None if branch.text is None else [list(part) for part in branch.text],
        "calls": [_call(call) | {"lane": lane} for call, lane in zip(branch.calls, lanes)],
        "lanes": 1 + max(lanes, default=0),
    }


def _call(call: CallRecord) -> dict[str, Any]:
    """Without what is unknown or nothing: a page of ten thousand calls should open."""
    found = asdict(call)
    found["line"] = found.pop("location")
    return (
        {name: value for name, value in found.items() if value not in (None, 0, False)}
        | {
            "number": call.number,
            "started": call.started,
            "seconds": call.seconds,
        }
        | {
            name: value
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
            if (value := getattr(call, name)) is not None
        }
    )


def _totals(found: Totals) -> dict[str, Any]:
    return {name: value for name, value in asdict(found).items() if value is not None}
