"""Programs whose traces the tests of this folder look at."""

from __future__ import annotations

from typing import Any

import ramet as sgl
from ramet.backends.scripted import Fail, Scripted
from ramet.lang.record import CallRecord
from ramet.lang.trace import BranchTrace, Trace

HOSTILE = "</script><img src=x onerror=alert(1)><!-- \u2028 ]]> 'quoted' \"double\" &amp; @@DATA@@"
PROMPT = "what does a quagga eat"


def overlapping() -> Trace:
    """A branch whose model asked for three tools at once."""
    common: dict[str, Any] = {"branch": "0", "location": "agent.py:7", "samples": 1}
    times = [("ask", 0.0, 0.1), ("sum", 0.1, 0.3), ("find", 0.1, 0.2), ("sum", 0.15, 0.1)]
    calls = tuple(
        CallRecord(
            kind="tool" if index else "generate",
            name=name,
            number=index,
            rid=f"r/0/{index}",
            started=started,
            seconds=seconds,
            prompt_tokens=None if index else 20,
            completion_tokens=None if index else 5,
            error="ToolError: no " + PROMPT if index == 3 else None,
            **common,
        )
        for index, (name, started, seconds) in enumerate(times)
    )
    root = BranchTrace(path="0", parent=None, location="", started=0, ended=0.5, calls=calls)
    facts = {"run": "r", "program": "agent", "model": "m", "backend": "b", "parent": ""}
    return Trace(**facts, began=5.0, wall=0.0, seconds=0.5, branches=(root,))


@sgl.function
def helper(s, what):
    s += f"{PROMPT} about {what}:" + sgl.gen("seen")
    return s["seen"]


@sgl.function
def program(s, width=3):
    s += f"{PROMPT}: Q:" + sgl.gen("plan")
    branches = s.fork(width)
    for index, branch in enumerate(branches):
        branch += f" {index}:" + sgl.gen("idea")
        tries = branch.fork(2)
        tries += " try:" + sgl.gen("try")
        tries.join(wait=False)
    branches.join(return_exceptions=True)
    helper.run("it")
    s += " good?" + sgl.select("good", ["yes", "no"])


def backend(**options: Any) -> Scripted:
    """The second branch fails, and its error quotes the prompt."""
    answers = {" 1:": Fail(f"no answer to {PROMPT!r}", text="part"), ":": HOSTILE}
    return Scripted(answers, scores={"yes": -1, "no": -2}, share=True, **options)


def finished(state: sgl.ProgramState) -> sgl.ProgramState:
    state.error()
    state._script.run.over.wait("over", "")
    return state


def ran(**options: Any) -> sgl.ProgramState:
    return finished(program.run(backend=backend(), **options))
