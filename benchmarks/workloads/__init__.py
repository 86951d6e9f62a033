"""The workloads of Zheng et al. (arXiv 2312.07104) as Ramet programs, with synthetic data.

`WORKLOADS` holds them by name; `WORKLOADS[name].make(words, size)` gives a `Load`: a program, the
arguments of each of its runs, and how many runs go on at a time. What is shared with what, lengths, caps
and the shape of forks are those of the original benchmarks; texts are drawn from a seed. Lengths of
outputs are forced (`ignore_eos` and a drawn cap), because random weights say nothing of their own.
"""

from __future__ import annotations

from benchmarks.workloads import agents, branches, chat, few_shot, trees
from benchmarks.workloads.base import Load, Size, Workload
from benchmarks.workloads.words import Words

__all__ = ["WORKLOADS", "Load", "Size", "Words", "Workload"]

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for module in (few_shot, agents, trees, branches, chat)
    for workload in module.WORKLOADS
}
