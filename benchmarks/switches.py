"""What can be turned off, to see what it is worth: the ablations of Zheng et al., figure 8c, and drafts.

A switch is options of the engine, or a way to hand programs in; each differs from `full` in one thing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["SWITCHES", "Switch"]


@dataclass(frozen=True, slots=True)
class Switch:
    """`options` go to the engine. `hints`: are forks announced to it; `serial`: has a program one call at
    a time; `one_by_one`: does a program begin only when the one before has ended."""

    name: str
    about: str
    options: dict[str, Any] = field(default_factory=dict)
    hints: bool = True
    serial: bool = False
    one_by_one: bool = False


SWITCHES: dict[str, Switch] = {
    switch.name: switch
    for switch in (
        Switch("full", "everything on"),
        # An announced prefix would be computed for nobody.
        Switch("no_cache", "nothing is shared", {"disable_radix_cache": True}, hints=False),
        Switch("fcfs", "first come, first served", {"schedule_policy": "fcfs"}),
        Switch("random", "random order of service", {"schedule_policy": "random"}),
        Switch("no_hint", "forks are not announced", hints=False),
        Switch("serial", "branches of a program one after the other", serial=True),
        Switch("no_drafts", "next tokens are not guessed", {"drafts": False}),
        Switch("one_by_one", "programs one after the other", one_by_one=True),
    )
}
