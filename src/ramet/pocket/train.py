"""Train `pocket`: seeded, resumable with the same command, on text that the generator makes.

Muon for the matrices inside the blocks, AdamW for the embedding and the norms; a short warm-up, a
constant rate, a linear decay to zero, and further cycles that decay from a lower rate. The batch of a
step depends on seed and step only; its rows are shared out over worker processes of one thread each
(on matrices this small, twice as fast as two threads in one process), and the gradients are summed.
State goes to --run as safetensors; `python -m ramet.pocket.export` turns it into the checkpoint.
The defaults are those of the checkpoint in this package.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from .data import Batch, batch, encode
from .network import Network, Shape
from .skills import SHARES, Source, rendered, task
from .tokenizer import load as load_tokenizer


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result of a run.

    The rate is constant and decays to zero in the last `decay` of the first cycle. Each later cycle
    starts from `again_rate` and decays linearly from its first step to its last.
    """

    seed: int = 20261121
    cycles: tuple[int, ...] = (3800, 4400, 7400, 9900)  # the step at which each cycle ends
    again_rate: float = 0.8
    decay: float = 0.28
    warmup: int = 60
    tokens: int = 4096
    muon_rate: float = 0.01
    adam_rate: float = 0.001
    rush: int = 605
    drill_from: int = 1578
    drill_until: int = 2244
    weight_decay: float = 0.01
    clip: float = 1.0

    @property
    def steps(self) -> int:
        return self.cycles[-1]

    def rates(self, step: int) -> tuple[float, float]:
        """The learning rates of Muon and AdamW at a step."""
        start, end = next((start, end) for start, end in pairwise((0, *self.cycles)) if step < end)
        if start:
            factor = self.again_rate * (end - step) / (end - start)
        else:
            factor = min(1.0, (step + 1) / self.warmup, (end - step) / (self.decay * end))
        # The first steps of the run were made with higher rates, which proved too noisy.
        muon, adam = (2.0, 4.0) if step < self.rush else (1.0, 1.0)
        return muon * factor * self.muon_rate, adam * factor * self.adam_rate

    def drills(self, step: int) -> float:
        """The share of copying drills: much for a while, until copying has been found."""
        return 0.55 if self.drill_from <= step < self.drill_until else 0.0

    def length(self, step: int) -> int:
        """Tokens per row: mostly 512; some rows of 1024 and 2048, more of them in the decay."""
        late = (1 - self.decay) * self.cycles[0] < step < self.cycles[0]
        place = step % 20
        if place in ((3, 10, 16) if late else (10,)):
            return 2048
        return 1024 if place in ((0, 6, 13) if late else (0,)) else 512


SAVE_SECONDS = 120.0


class Optimizers:
    """Both optimizers behind one face, with a state of named tensors."""

    def __init__(self, network: Network, plan: Plan) -> None:
        named = list(network.named_parameters())
        inner = [p for n, p in named if p.dim() == 2 and "embed" not in n]
        outer = [p for n, p in named if p.dim() != 2 or "embed" in n]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(inner, weight_decay=plan.weight_decay, momentum=0.95, nesterov=True),
            torch.optim.AdamW(outer, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    def step(self, rates: tuple[float, float]) -> None:
        for optimizer, rate in zip(self.parts, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"optimizer.{i}.{j}.{key}": value.contiguous()
            for i, optimizer in enumerate(self.parts)
            for j, state in optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for i, optimizer in enumerate(self.parts):
            found = optimizer.state_dict()
            for name, value in tensors.items():
                kind, part, index, key = (*name.split("."), "", "", "")[:4]
                if kind == "optimizer" and int(part) == i:
                    found["state"].setdefault(int(index), {})[key] = value
            optimizer.load_state_dict(found)


def save(path: Path, network: Network, optimizers: Optimizers, step: int) -> None:
    """Write next to the target and rename, so that a kill leaves the old or the new state."""
    tensors = dict(chain(network.state_dict().items(), optimizers.tensors().items()))
    fresh = path.with_suffix(".new")
    save_file(tensors, fresh, metadata={"step": str(step)})
    os.replace(fresh, path)


def restore(path: Path, network: Network, optimizers: Optimizers) -> int:
    """The step to go on with."""
    tensors = load_file(path)
    network.load_state_dict({k: v for k, v in tensors.items() if k.startswith("model.")})
    optimizers.restore(tensors)
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


def loss_of(network: Network, hidden: Callable[[Tensor], Tensor], part: Batch, total: float,
            lower: bool) -> Tensor:  # fmt: skip
    """This worker's share of the weighted mean cross-entropy over `total` weight.

    `lower` computes in bfloat16; weights and optimizer stay float32.
    """
    ids, weights = torch.from_numpy(part.ids), torch.from_numpy(part.weights)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
        logits = network.logits(hidden(ids[:, :-1]))
    losses = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / total


@dataclass(frozen=True)
class Worker:
    """One of `count` processes; alone it needs no process group."""

    rank: int = 0
    count: int = 1

    def share(self, data: Batch) -> Batch:
        return Batch(data.ids[self.rank :: self.count], data.weights[self.rank :: self.count])

    def sum_gradients(self, network: Network, loss: Tensor) -> float:
        """Sum over workers, in place, in one message; returns the summed loss."""
        if self.count == 1:
            return loss.item()
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([loss.detach().view(1), *(g.flatten() for g in grads)])
        dist.all_reduce(flat)
        for grad, summed in zip(grads, flat[1:].split([g.numel() for g in grads]), strict=True):
            grad.copy_(summed.view_as(grad))
        return float(flat[0])


ALONE = Worker()


@torch.no_grad()
def skill_losses(network: Network, tokenizer: Tokenizer, count: int = 8) -> dict[str, float]:
    """Mean loss of the last answer's tokens on held-out tasks, per skill."""
    found = {}
    for skill in SHARES:
        source = Source("loss", held=True)
        total, tokens = 0.0, 0
        for _ in range(count):
            ids, weights = encode(tokenizer, rendered(task(source, skill)))
            logits = network(torch.tensor([ids[:-1]]))[0]
            losses = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
            mark = torch.tensor(weights[1:]) >= 0.9
            total, tokens = total + float(losses[mark].sum()), tokens + int(mark.sum())
        found[skill] = round(total / max(1, tokens), 3)
    return found


def train(
    plan: Plan, shape: Shape, tokenizer: Tokenizer, run: Path, until: int | None = None,
    fast: bool = True, worker: Worker = ALONE,
) -> Network:  # fmt: skip
    """Run (or go on with) a plan up to step `until`; `fast` compiles and uses bfloat16."""
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    network = Network(shape)
    optimizers = Optimizers(network, plan)
    state = run / "state.safetensors"
    start = restore(state, network, optimizers) if state.is_file() else 0
    end = until if until is not None else plan.steps
    hidden = torch.compile(network.hidden, dynamic=False) if fast else network.hidden
    saved = time.monotonic()
    for step in range(start, end):
        length = plan.length(step)
        data = batch(tokenizer, f"{plan.seed}:{step}", max(1, plan.tokens // length), length,
                     plan.drills(step))  # fmt: skip
        loss = loss_of(network, hidden, worker.share(data), float(data.weights.sum()), fast)
        loss.backward()
        summed = worker.sum_gradients(network, loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimizers.step(plan.rates(step))
        if worker.rank > 0:
            continue
        if step % 5 == 0:
            _log(run, {"step": step, "loss": round(summed, 4), "length": length})
        if step % 250 == 249:
            _log(run, {"step": step, **skill_losses(network, tokenizer)})
        if time.monotonic() - saved > SAVE_SECONDS or step == end - 1:
            save(state, network, optimizers, step + 1)
            saved = time.monotonic()
    return network


def _log(run: Path, record: dict[str, object]) -> None:
    line = json.dumps({"time": time.strftime("%H:%M:%S"), **record})
    print(line, flush=True)
    with (run / "log.txt").open("a") as file:
        file.write(line + "\n")


def _steps(text: str) -> tuple[int, ...]:
    found = tuple(int(part) for part in text.split(","))
    if not all(a < b for a, b in pairwise((0, *found))):
        raise argparse.ArgumentTypeError(f"{text!r} does not rise; give for example 3800,4400")
    return found


def main() -> None:
    defaults = Plan()
    parser = argparse.ArgumentParser(prog="python -m ramet.pocket.train", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("pocket_run"), help="folder for the state")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--cycles",
        type=_steps,
        default=defaults.cycles,
        metavar="N,N,...",
        help="the step at which each cycle ends; one more goes on from a state",
    )
    parser.add_argument("--tokens", type=int, default=defaults.tokens, help="tokens per step")
    parser.add_argument("--decay", type=float, default=defaults.decay, help="share of the steps")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--plain", action="store_true", help="float32, not compiled")
    args = parser.parse_args()
    plan = Plan(seed=args.seed, cycles=args.cycles, tokens=args.tokens, decay=args.decay)
    options = (args.workers, plan, args.run, not args.plain)
    if args.workers == 1:
        work(0, *options)
    else:
        args.run.mkdir(parents=True, exist_ok=True)
        meeting(args.run).unlink(missing_ok=True)
        spawn(work, options, args.workers)


def meeting(run: Path) -> Path:
    """The file through which workers find each other."""
    return run.resolve() / "workers"


def work(rank: int, count: int, plan: Plan, run: Path, fast: bool) -> None:
    """One worker process."""
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if count > 1:
        dist.init_process_group("gloo", f"file://{meeting(run)}", rank=rank, world_size=count)
    train(plan, Shape(), load_tokenizer(), run, fast=fast, worker=Worker(rank, count))


if __name__ == "__main__":
    main()
