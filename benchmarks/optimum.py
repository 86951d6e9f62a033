"""What any engine must do for a trace: the tokens that have to be computed once, counted on a trie.

All sequences of the trace are put into one trie in the order in which their calls began. A node is a
token in the context of everything before it, so it stands for one row of keys and values, and it need be
computed once if nothing is ever forgotten. Exactly this is counted:

- A call's prompt, then what it generated without the last token: a token that was drawn last has not
  been through the model. If a later prompt goes on from it, it is that prompt's token.
- `unique_prompt_tokens`: nodes that a prompt brought in. `optimal_hit_rate` is 1 minus their share of all
  prompt tokens. A scored choice is a prompt, prompt and choice together, like in the engine's counters.
- A prompt that is in the trie already down to its end counts as cached altogether, although an engine
  may compute its last row again for the logits: the optimum is a bound that can be out of reach by one
  token per repeated prompt.

The same walk gives what a floor of the time needs (see `roofline`): contexts, rows of logits, the number
of forward passes that depend on one another, and how often each row of keys and values has to be read.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Needs", "needs"]


class Sequence(Protocol):
    """What is read of a traced call (`recorder.TracedCall`)."""

    @property
    def program(self) -> int: ...

    @property
    def prompt(self) -> npt.NDArray[np.int64]: ...

    @property
    def output(self) -> npt.NDArray[np.int64]: ...

    @property
    def generated(self) -> int: ...

    @property
    def scored_from(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Needs:
    """`prompt_tokens` and `generated_tokens`: of all calls, as they were asked. The rest is what they
    need at least: `unique_prompt_tokens` and `unique_tokens` (prompts' and all) to compute, `logit_rows`
    to multiply with the output matrix, `context_sum` the sum of the context lengths of the unique tokens,
    `passes` forward passes one after the other, `kv_reads` readings of one token's keys and values by
    passes after the one that computed it."""

    prompt_tokens: int
    generated_tokens: int
    unique_prompt_tokens: int
    unique_tokens: int
    logit_rows: int
    context_sum: int
    passes: int
    kv_reads: int

    @property
    def optimal_hit_rate(self) -> float:
        if not self.prompt_tokens:
            return 0.0
        return 1 - self.unique_prompt_tokens / self.prompt_tokens


@dataclass(slots=True)
class _Trie:
    """Node 0 is the root. Per node: depth, and `later`, the most draws that follow it on any path."""

    next: dict[tuple[int, int], int] = field(default_factory=dict)
    depth: list[int] = field(default_factory=lambda: [0])
    later: list[int] = field(default_factory=lambda: [0])
    drawn: set[tuple[int, int]] = field(default_factory=set)  # edges that a call drew

    def walk(self, node: int, tokens: npt.NDArray[np.int64]) -> list[int]:
        """The nodes of `tokens` below `node`, made where there are none."""
        path = []
        for token in tokens.tolist():
            child = self.next.setdefault((node, token), len(self.depth))
            if child == len(self.depth):
                self.depth.append(self.depth[node] + 1)
                self.later.append(0)
            path.append(node := child)
        return path


def needs(trace: Iterable[Sequence], concurrency: int) -> Needs:
    """Of calls in the order in which they began; at most `concurrency` programs ran at a time."""
    trie = _Trie()
    logits: set[int] = set()
    passes: dict[int, int] = defaultdict(int)
    prompt_tokens = generated = from_prompts = 0
    for call in trace:
        prompt_tokens += len(call.prompt)
        generated += call.generated
        before = len(trie.depth)
        path = trie.walk(0, call.prompt)
        from_prompts += len(trie.depth) - before
        path += trie.walk(path[-1], call.output[: max(0, call.generated - 1)])
        logits.update(_logits(call, path))
        draws = _draws(trie, call, path)
        passes[call.program] = max(passes[call.program], draws + (call.scored_from is not None))
    return Needs(
        prompt_tokens=prompt_tokens,
        generated_tokens=generated,
        unique_prompt_tokens=from_prompts,
        unique_tokens=len(trie.depth) - 1,
        logit_rows=len(logits),
        context_sum=sum(trie.depth),
        passes=_passes(list(passes.values()), concurrency),
        kv_reads=sum(trie.later[1:]),
    )


def _logits(call: Sequence, path: list[int]) -> list[int]:
    """The nodes whose logits the call reads."""
    if call.scored_from is not None:
        return path[max(0, call.scored_from - 1) : len(call.prompt) - 1]
    return path[len(call.prompt) - 1 :] if call.generated else []


def _draws(trie: _Trie, call: Sequence, path: list[int]) -> int:
    """How many tokens of the call's whole sequence were drawn, by it or by calls before it. Each draw needs
    a pass of its own after that of the draw before. Notes how many follow each node."""
    nodes = [0, *path]
    at = len(call.prompt)
    for i in range(call.generated):
        if i < len(call.output) and at + i < len(nodes):
            trie.drawn.add((nodes[at + i], int(call.output[i])))
    sequence = np.concatenate([call.prompt, call.output]).tolist()[: len(path)]
    upto, counts = 0, []
    for node, token in zip(nodes, sequence):
        upto += (node, token) in trie.drawn
        counts.append(upto)
    own_last = call.generated - (counts[-1] - counts[at - 1]) if call.generated else 0
    total = upto + max(0, own_last)
    for node, count in zip(path, counts):
        # The first draw after a node may come out of the very pass that computes it.
        trie.later[node] = max(trie.later[node], total - count - 1)
    return total


def _passes(of_programs: list[int], concurrency: int) -> int:
    if not of_programs:
        return 0
    return max(*of_programs, math.ceil(sum(of_programs) / concurrency))
