"""How often `pocket` is right, per skill and kind, on tasks that training never showed.

For each held-out task the last text that the model is to write is generated greedily from all before
it, to an end token or the expected text's own end, and compared: equal, or accepted by the task's
own test. In `react` every step of the episode must be right. A choice is also scored: the right
option must have the best mean log-probability.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from . import model_path
from .data import encode
from .export import load_network
from .network import Cache, Network
from .skills import END, SHARES, STOP, Source, Task, rendered, task
from .tokenizer import load as load_tokenizer

TABLE, TABLE_END = "<!-- table -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Probe:
    """A prompt, the text that should follow, and where it came from."""

    item: Task
    prompt: tuple[int, ...]
    expected: str
    limit: int

    def right(self, text: str) -> bool:
        if self.item.accept is not None and self.item.accept(_bare(text)):
            return True
        return _bare(text) == _bare(self.expected)


def _bare(text: str) -> str:
    return text.replace(END, "").replace(STOP, "").rstrip("\n")


def probes(tokenizer: Tokenizer, item: Task) -> list[Probe]:
    """Split a task before its last answer, or before each answer of an episode."""
    pieces = rendered(item)
    learned = [i for i, p in enumerate(pieces) if p.weight >= 0.3 and _bare(p.text)]
    found = []
    for i in learned if item.skill == "react" else learned[-1:]:
        ids, _ = encode(tokenizer, pieces[:i])
        limit = len(encode(tokenizer, [pieces[i]])[0]) + 24
        found.append(Probe(item, tuple(ids), pieces[i].text, limit))
    return found


def _fill(prompts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Right-padded ids and their positions; a pad's position is where the next token will go."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    positions = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
        positions[row] = torch.arange(width).clamp(max=len(prompt))
    return ids, positions


@torch.no_grad()
def generate(
    network: Network, prompts: list[tuple[int, ...]], limit: int, ends: set[int]
) -> list[list[int]]:
    """Greedy continuations of a batch of prompts, each up to and with its end token."""
    ids, positions = _fill(prompts)
    cache = Cache(network.shape, len(prompts), ids.shape[1] + limit + 1)
    lengths = torch.tensor([len(p) for p in prompts])
    hidden = network.extend(ids, positions, cache)
    hidden = hidden[torch.arange(len(prompts)), lengths - 1]
    found: list[list[int]] = [[] for _ in prompts]
    open_rows = [True] * len(prompts)
    for _ in range(limit):
        chosen = network.logits(hidden).argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if open_rows[row]:
                found[row].append(token)
                open_rows[row] = token not in ends
        if not any(open_rows):
            break
        hidden = network.extend(chosen[:, None], lengths[:, None], cache)[:, 0]
        lengths = lengths + 1
    return found


class Answerer(Protocol):
    """Whatever runs the model: the network here, or an engine in benchmarks/pocket_quality.py."""

    def generate(
        self, prompts: list[tuple[int, ...]], limit: int, ends: set[int]
    ) -> list[list[int]]:
        """Greedy continuations, each up to and with its end token."""

    def score(self, prompt: tuple[int, ...], option: list[int]) -> float:
        """The mean log-probability of `option` after `prompt`."""


@dataclass(frozen=True)
class Direct:
    """The network without an engine."""

    network: Network

    def generate(
        self, prompts: list[tuple[int, ...]], limit: int, ends: set[int]
    ) -> list[list[int]]:
        return generate(self.network, prompts, limit, ends)

    @torch.no_grad()
    def score(self, prompt: tuple[int, ...], option: list[int]) -> float:
        ids = [*prompt, *option]
        logits = self.network(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
        rows = range(len(prompt) - 1, len(ids) - 1)
        return sum(float(logits[r, ids[r + 1]]) for r in rows) / len(option)


def best_option(model: Answerer, tokenizer: Tokenizer, item: Probe) -> int:
    """The index of the option with the highest mean log-probability after the prompt."""
    scores = [model.score(item.prompt, tokenizer.encode(o).ids) for o in item.item.options]
    return max(range(len(scores)), key=scores.__getitem__)


def answers(model: Answerer, tokenizer: Tokenizer, probes: list[Probe]) -> list[str]:
    """The text generated for each probe, prompts of similar length together."""
    order = sorted(range(len(probes)), key=lambda i: (len(probes[i].prompt), probes[i].limit))
    texts = [""] * len(probes)
    for start in range(0, len(order), 48):
        rows = order[start : start + 48]
        limit = max(probes[i].limit for i in rows)
        found = model.generate([probes[i].prompt for i in rows], limit, {0, 2})
        for i, ids in zip(rows, found, strict=True):
            texts[i] = _until_end(tokenizer.decode(ids, skip_special_tokens=False), probes[i])
    return texts


def _until_end(text: str, item: Probe) -> str:
    """Raw text goes on after an answer: cut where the expected text ends its line or paragraph."""
    body = item.expected
    for mark in ("\n\n", "\n"):
        if body.endswith(mark):
            cut = text.find(mark)
            return text if cut < 0 else text[: cut + len(mark)]
    if body.endswith(STOP) or "<|" not in body:
        lines = _bare(body).count("\n") + 1
        return "\n".join(text.split("\n")[:lines])
    return text


def sample(skill: str, count: int, seed: str = "evaluate") -> list[Task]:
    source = Source(f"{seed}:{skill}", held=True)
    return [task(source, skill) for _ in range(count)]


@dataclass
class Tally:
    """Counts of one line of the table."""

    tasks: int = 0
    right: int = 0
    scored: int = 0
    chosen: int = 0

    def add(self, right: bool, chosen: bool | None) -> None:
        self.tasks += 1
        self.right += right
        self.scored += chosen is not None
        self.chosen += bool(chosen)

    def line(self, skill: str, kind: str) -> str:
        share = f"{100 * self.chosen / self.scored:.1f} %" if self.scored else ""
        return (
            f"| {skill} | {kind} | {self.tasks} | {100 * self.right / self.tasks:.1f} % | {share} |"
        )


def measure(
    model: Answerer, tokenizer: Tokenizer, skill: str, count: int, show: int
) -> dict[str, Tally]:
    """The tallies of one skill: `all` and one per kind."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    groups = [probes(tokenizer, item) for item in sample(skill, count)]
    texts = iter(answers(model, tokenizer, [p for group in groups for p in group]))
    for group in groups:
        missed = [(p, t) for p in group if not p.right(t := next(texts))]
        chosen = None
        if group[-1].item.options:
            index = best_option(model, tokenizer, group[-1])
            best = group[-1].item.options[index]
            chosen = best.strip() == _bare(group[-1].expected).strip()
        for kind in ("all", group[-1].item.kind):
            tallies[kind].add(not missed, chosen)
        if missed and show > 0:
            show -= 1
            _show(tokenizer, *missed[0])
    return tallies


def _show(tokenizer: Tokenizer, item: Probe, text: str) -> None:
    tail = tokenizer.decode(list(item.prompt), skip_special_tokens=False)[-500:]
    kind = f"{item.item.skill}, {item.item.kind}"
    print(f"--- {kind}\n{tail}\n>>> {text!r}\nnot {item.expected!r}")


def table(model: Answerer, tokenizer: Tokenizer, count: int, show: int = 0) -> str:
    """A Markdown table, one line per skill and kind; `show` prints that many misses per skill."""
    rows = ["| skill | kind | tasks | right | options |", "| --- | --- | ---: | ---: | ---: |"]
    for skill in SHARES:
        tallies = measure(model, tokenizer, skill, count, show)
        rows.append(tallies["all"].line(f"**{skill}**", "all"))
        rows += [tallies[kind].line("", kind) for kind in sorted(tallies) if kind != "all"]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ramet.pocket.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=None, help="a checkpoint folder")
    parser.add_argument("--count", type=int, default=300, help="tasks per skill")
    parser.add_argument("--show", type=int, default=0, help="misses to print per skill")
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    args = parser.parse_args()
    folder = args.model or model_path()
    found = table(Direct(load_network(folder)), load_tokenizer(folder), args.count, args.show)
    print(found)
    if args.write:
        write_table(found, Path(__file__).parent / "README.md")


def write_table(found: str, readme: Path) -> None:
    """Put the table between its two marks."""
    before, _, rest = readme.read_text().partition(TABLE)
    _, end, after = rest.partition(TABLE_END)
    if not end:
        raise ValueError(f"{readme} has no {TABLE} followed by {TABLE_END}")
    readme.write_text(f"{before}{TABLE}\n{found}\n{TABLE_END}{after}")


if __name__ == "__main__":
    main()
