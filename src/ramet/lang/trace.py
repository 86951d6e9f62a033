"""A run as it can be shown: its branches, their calls, what was spent and what was shared.

Knows the records of runs and makes unchanging pictures of them, which hold no text unless it was asked
for: not the prompts, not the answers, not the messages of errors, which may quote both. Refuses to know
how a trace is drawn or stored: that is `ramet.observe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ramet.errors import InvalidRequest
from ramet.lang.record import CallRecord, Ink, RunRecord, Style

if TYPE_CHECKING:
    from ramet.lang.chain import Chain

__all__ = [
    "BranchTrace",
    "Part",
    "Prices",
    "Totals",
    "Trace",
    "model_name",
    "parent_of",
    "parts",
    "trace_of",
]

MILLION = 1_000_000


class Part(NamedTuple):
    """A piece of a branch's text. `call` is the number of the branch's call that made it, or None."""

    style: Style
    name: str | None
    call: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money per million tokens. Prompt tokens from the cache cost `cached` (None: as all others)."""

    prompt: float
    generated: float
    cached: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 <= value < float("inf"):
                raise InvalidRequest(field.name, value, "is not a price", "use money per million")

    def of(self, call: CallRecord) -> float | None:
        """What the call cost; None if the backend did not tell its tokens."""
        if call.prompt_tokens is None or call.completion_tokens is None:
            return None
        cached = call.cached_tokens or 0
        share = self.prompt if self.cached is None else self.cached
        money = (call.prompt_tokens - cached) * self.prompt + cached * share
        return (money + call.completion_tokens * self.generated) / MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over calls. What a backend did not tell is left out of a sum, never taken for zero: a sum is
    None if no call told it, and `num_untold` calls of the model did not tell how long their prompt was.
    `tools` of the calls were of functions. `seconds` adds up the calls' times, which overlap."""

    calls: int = 0
    tools: int = 0
    failed: int = 0
    incomplete: int = 0
    retries: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    forced_tokens: int | None = None
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None
    seconds: float = 0.0
    cost: float | None = None
    num_untold: int = 0

    @property
    def cached_share(self) -> float | None:
        """Part of the prompts' tokens that came from the cache, 0 to 1."""
        if not self.prompt_tokens or self.cached_tokens is None:
            return None
        return self.cached_tokens / self.prompt_tokens

    @staticmethod
    def of(calls: Iterable[CallRecord]) -> Totals:
        found = list(calls)
        summed: dict[str, Any] = {
            name: _sum(getattr(call, name) for call in found)
            for name in (
                "prompt_tokens",
                "cached_tokens",
                "completion_tokens",
                "forced_tokens",
                "drafted_tokens",
                "accepted_tokens",
                "cost",
            )
        }
        return Totals(
            calls=len(found),
            tools=sum(call.kind == "tool" for call in found),
            failed=sum(call.error is not None for call in found),
            incomplete=sum(call.incomplete for call in found),
            retries=sum(call.retries for call in found),
            seconds=sum(call.seconds for call in found),
            num_untold=sum(c.prompt_tokens is None and c.kind != "tool" for c in found),
            **summed,
        )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchTrace:
    """One branch. `started` and `ended` are seconds since the run began; `ended` of a branch that nobody
    joined is that of its last call. `location` is the line of the fork. `text` is None unless texts were
    asked for, and for a branch that nobody holds any more."""

    path: str
    parent: str | None
    location: str
    started: float
    ended: float
    joined: float | None = None
    failed: float | None = None
    error: str | None = None
    calls: tuple[CallRecord, ...] = ()
    text: tuple[Part, ...] | None = None

    @property
    def totals(self) -> Totals:
        """Of this branch alone."""
        return Totals.of(self.calls)

    @property
    def lanes(self) -> tuple[int, ...]:
        """For each call a row to draw it in: 0 except for calls that overlap, as tools may."""
        busy: list[float] = []
        found = [0] * len(self.calls)
        for index in sorted(range(len(found)), key=lambda index: self.calls[index].started):
            call = self.calls[index]
            free = (lane for lane, until in enumerate(busy) if until <= call.started)
            found[index] = lane = next(free, len(busy))
            busy[lane : lane + 1] = [call.ended]
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One run, or a branch of it with all that was forked from there: `branches[0]` is where it starts,
    parents come before their branches. Holds what had ended when it was made; `seconds` is None if the
    run was still under way. `nested` are the runs that the program's body started. `began` is a time of
    `time.perf_counter`, `wall` the same moment in Unix seconds."""

    run: str
    program: str
    model: str
    backend: str
    parent: str
    began: float
    wall: float
    seconds: float | None
    branches: tuple[BranchTrace, ...]
    nested: tuple[Trace, ...] = ()
    num_nested_left_out: int = 0

    @property
    def root(self) -> BranchTrace:
        return self.branches[0]

    @property
    def ended(self) -> float:
        """Seconds after `began` at which the run, or what is known of it, was over."""
        return (
            max(branch.ended for branch in self.branches) if self.seconds is None else self.seconds
        )

    def __iter__(self) -> Iterator[CallRecord]:
        return iter(self.calls)

    def __str__(self) -> str:
        """A line for each call: branch, name, tokens (cached ones of the prompt), seconds."""
        lines = [f"{self.program} on {self.model}: {len(self.branches)} branches"]
        for call in self.calls:
            prompt = "?" if call.prompt_tokens is None else call.prompt_tokens
            said = "?" if call.completion_tokens is None else call.completion_tokens
            tokens = f"{prompt} tokens ({call.cached_tokens or 0} cached) -> {said}"
            failed = f"  {call.error}" if call.error else ""
            name = call.name or call.kind
            lines.append(f"  {call.branch}  {name}  {tokens}  {call.seconds:.3f} s{failed}")
        return "\n".join(lines)

    def __len__(self) -> int:
        return sum(len(branch.calls) for branch in self.branches)

    @property
    def calls(self) -> tuple[CallRecord, ...]:
        """The calls of all branches in the order of their beginnings, without those of nested runs."""
        found = [call for branch in self.branches for call in branch.calls]
        return tuple(sorted(found, key=lambda call: (call.started, call.branch, call.number)))

    def branch(self, path: str) -> BranchTrace:
        for branch in self.branches:
            if branch.path == path:
                return branch
        raise KeyError(f"no branch {path!r} in this trace")

    def under(self, path: str) -> tuple[BranchTrace, ...]:
        """The branch and all that was forked from it."""
        return tuple(b for b in self.branches if _within(b.path, path))

    def walk(self) -> Iterator[Trace]:
        """This run and all that were started inside it."""
        yield self
        for run in self.nested:
            yield from run.walk()

    @property
    def totals(self) -> Totals:
        """Of all branches and nested runs."""
        return Totals.of(call for run in self.walk() for call in run.calls)

    def totals_of(self, path: str) -> Totals:
        """Of a branch and all that was forked from it."""
        return Totals.of(call for branch in self.under(path) for call in branch.calls)

    @property
    def has_texts(self) -> bool:
        return any(branch.text is not None for run in self.walk() for branch in run.branches)

    def priced(self, prices: Prices) -> Trace:
        """With `cost` of all calls whose backend did not report it itself."""
        branches = [
            replace(branch, calls=tuple(_priced(call, prices) for call in branch.calls))
            for branch in self.branches
        ]
        nested = tuple(run.priced(prices) for run in self.nested)
        return replace(self, branches=tuple(branches), nested=nested)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, totals included."""
        found = asdict(replace(self, nested=()))
        found["nested"] = [run.to_dict() for run in self.nested]
        found["totals"] = asdict(self.totals)
        return found


def _priced(call: CallRecord, prices: Prices) -> CallRecord:
    return call if call.cost is not None else replace(call, cost=prices.of(call))


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root + ".")


def parent_of(path: str) -> str | None:
    """The branch that a branch was forked from; None for a program."""
    return path.rpartition(".")[0] or None


def model_name(path: str) -> str:
    """A name for people of a checkpoint's place: its folder, or the model's own name in a hub's cache."""
    folders = [part for part in path.replace("\\", "/").split("/") if part]
    for folder in folders:
        if folder.startswith("models--"):
            return folder.removeprefix("models--").replace("--", "/")
    if len(folders) > 1 and folders[-1] == "model":
        return folders[-2]
    return folders[-1] if path.startswith(("/", ".", "~")) and folders else path


def parts(chain: Chain, since: int = 0) -> tuple[Part, ...]:
    """A branch's text from character `since` on, in order and without gaps."""
    position = chain.position
    text = position.prompt.text()
    found: list[Part] = []
    at = since
    for ink in Ink.strokes(position.ink):
        if ink.end <= since:
            continue
        if ink.start > at:
            found.append(Part("text", None, None, text[at : ink.start]))
        start = max(ink.start, at)
        found.append(Part(ink.style, ink.name, ink.call, text[start : ink.end]))
        at = ink.end
    if at < len(text):
        found.append(Part("text", None, None, text[at:]))
    return tuple(found)


def trace_of(record: RunRecord, root: str = "0", *, texts: bool = False) -> Trace:
    """What is known of the run by now, from branch `root` on."""
    calls: dict[str, list[CallRecord]] = {}
    for call in list(record.calls):
        if _within(call.branch, root):
            told = call if texts or call.error is None else replace(call, error=call.error_type)
            calls.setdefault(call.branch, []).append(told)
    nested = tuple(trace_of(run, texts=texts) for run in list(record.nested)) if root == "0" else ()
    return Trace(
        run=record.id,
        program=record.program,
        model=record.model,
        backend=record.backend,
        parent=record.parent,
        began=record.began,
        wall=record.wall,
        seconds=record.seconds,
        branches=tuple(_branches(record, root, calls, texts)),
        nested=nested,
        num_nested_left_out=record.num_nested_left_out,
    )


def _branches(
    record: RunRecord, root: str, calls: dict[str, list[CallRecord]], texts: bool
) -> Iterator[BranchTrace]:
    """Parents first, then in the order of the forks."""
    begins: dict[str, tuple[float, str]] = {"0": (0.0, "")}
    joins: dict[str, float] = {}
    last: dict[str, float] = {"0": record.seconds or 0.0}  # a fork or a join is a sign of life
    for event in list(record.branchings):
        last[event.branch] = max(event.time, last.get(event.branch, 0.0))
        for path in event.branches:
            if event.kind == "fork":
                begins[path] = (event.time, event.location)
            else:
                joins[path] = event.time
    for path, (started, location) in begins.items():
        if not _within(path, root):
            continue
        own = tuple(calls.get(path, ()))
        failure = record.failures.get(path)
        times = [started, last.get(path, 0.0), joins.get(path, 0.0)]
        times += [call.ended for call in own]
        times += [failure[0]] if failure is not None else []
        error = None if failure is None else failure[1]
        chain = record.chain(path) if texts else None
        yield BranchTrace(
            path=path,
            parent=parent_of(path),
            location=location,
            started=started,
            ended=max(times),
            joined=joins.get(path),
            failed=None if failure is None else failure[0],
            error=error if texts or error is None else error.partition(":")[0],
            calls=own,
            text=None if chain is None else parts(chain, chain.start.num_chars),
        )
