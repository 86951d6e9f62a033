"""The step loop: plan, run, sample, commit.

`EngineCore` is synchronous and has no thread, no socket and no clock of its own: whoever hosts it calls
`step()` while `has_work`. A failing model, a failing request and a broken invariant end a request at
most, never the loop.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ramet.cache.audit import AuditError, audit
from ramet.cache.repair import repair
from ramet.cache.slots import SlotPool
from ramet.cache.tree import RadixTree
from ramet.engine.batch import Batch, SampleQuery
from ramet.engine.constrained import Constrained
from ramet.engine.drafts import Drafts
from ramet.engine.misses import Misses
from ramet.engine.policy import MAX_OVERTAKEN, PolicyName, WaitingQueue
from ramet.engine.request import Request, ScoredToken
from ramet.engine.schedule import Limits, Scheduler
from ramet.engine.stats import EngineStats
from ramet.errors import BackendError, InvalidRequest

__all__ = ["Background", "EngineCore", "Outcome", "Runner", "run_at_once"]

# (what takes long, what comes after it): the second is to be called between two steps.
Background = Callable[[Callable[[], None], Callable[[], None]], None]


def run_at_once(function: Callable[[], None], then: Callable[[], None]) -> None:
    """A `Background` for hosts without another thread."""
    function()
    then()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch gave: a token (or the error that this one row has) for each of `batch.samples`, the
    scores for each of `batch.scores`."""

    tokens: Sequence[ScoredToken | Exception]
    scores: Sequence[Sequence[ScoredToken]]


class Runner(Protocol):
    """The model's side. `run` computes a batch (it writes the KV of every row before anything reads it)
    and returns logits in a form of its own; `sample` draws and scores."""

    def run(self, batch: Batch) -> Any: ...

    def sample(self, batch: Batch, logits: Any) -> Outcome: ...


class EngineCore:
    """`num_slots` is the capacity in tokens, `max_context` the most tokens that one request may have.
    `clock` returns seconds; only differences count. `background` runs a function that takes too long for
    a step and then another one between two steps. `token_bytes` gives the text of a token, to tell where
    a prompt's text is cached but divided into other tokens."""

    def __init__(
        self,
        runner: Runner,
        *,
        num_slots: int,
        max_context: int,
        clock: Callable[[], float],
        limits: Limits | None = None,
        policy: PolicyName = "lpm",
        max_overtaken: int = MAX_OVERTAKEN,
        audit_every_step: bool = False,
        seed: int = 0,
        drafts: Drafts | None = None,
        background: Background = run_at_once,
        token_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self.runner, self.clock, self.max_context = runner, clock, max_context
        self.slots = SlotPool(num_slots)
        self.tree = RadixTree(self.slots, _increasing(clock))
        queue = WaitingQueue(policy, max_overtaken, seed)
        limits = limits or Limits()
        self.misses = Misses(token_bytes, remember=limits.use_cache)
        self.scheduler = Scheduler(self.tree, self.slots, queue, limits, drafts, self.misses)
        self.drafts, self.background = drafts, background
        self.audit_every_step = audit_every_step
        self._constrained: set[Request] = set()
        self._requests: dict[str, Request] = {}
        self._num_arrived = 0
        self._count = dict.fromkeys(
            ["steps", "computed", "cached", "generated", "prompt", "finished", "aborted", "failed"],
            0,
        )
        self._count.update(failed_steps=0, repairs=0, drafted=0, accepted=0, forced=0)

    # -- requests --------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def add(self, request: Request) -> None:
        """Queue a request. Raises `InvalidRequest` if it could never run."""
        self.check_fits(request.num_prompt, request.params.max_new_tokens)
        if request.rid in self._requests:
            raise InvalidRequest(
                "rid", request.rid, "is the id of a running request", "choose another"
            )
        request.arrival, self._num_arrived = self._num_arrived, self._num_arrived + 1
        request.arrival_time = self.clock()
        self._requests[request.rid] = request
        self.scheduler.waiting.add(request)
        if request.constrained is not None:
            self._constrained.add(request)
            self._begin(request, request.constrained)

    def check_fits(self, num_prompt: int, max_new_tokens: int) -> None:
        if num_prompt == 0:
            raise InvalidRequest("prompt", "", "has no tokens", "give at least one token")
        total = num_prompt + max_new_tokens
        if total > self.max_context:
            raise InvalidRequest(
                "prompt",
                f"{num_prompt} tokens",
                f"and max_new_tokens={max_new_tokens} are more than the model's context of "
                f"{self.max_context} tokens",
                "shorten the prompt or ask for fewer tokens",
            )
        if total - (max_new_tokens > 0) > self.slots.num_slots:
            raise InvalidRequest(
                "prompt",
                f"{num_prompt} tokens",
                f"and max_new_tokens={max_new_tokens} need more KV slots than the "
                f"{self.slots.num_slots} there are",
                "raise max_cache_tokens",
            )

    def abort(self, rid: str, message: str = "aborted") -> bool:
        """End a request now, wherever it is. False if it is not (any more) here."""
        request = self._requests.get(rid)
        if request is None:
            return False
        self._finish(request, {"type": "abort", "message": message, "status_code": 499}, "aborted")
        return True

    def requests(self) -> list[Request]:
        return list(self._requests.values())

    # -- the loop --------------------------------------------------------------------------------

    def step(self) -> bool:
        """One forward pass at most. False if there was nothing to do, or nothing can be done before the
        background has done its part."""
        if self._constrained:
            self._find_masks()
        batch = self.scheduler.plan()
        if batch is None:
            return False
        try:
            outcome = self._execute(batch)
        except Exception as error:  # the model failed: the requests pay, not the process
            self._step_failed(batch, error)
        else:
            self.scheduler.commit(batch)
            self._commit(batch, outcome)
        if not batch.planned:
            self._stalled()
        if self.audit_every_step:
            self.audit()
        return True

    def _execute(self, batch: Batch) -> Outcome:
        if not batch.num_rows:
            return Outcome((), ())
        logits = self.runner.run(batch)
        return self.runner.sample(batch, logits)

    def _commit(self, batch: Batch, outcome: Outcome) -> None:
        self._count["steps"] += 1
        self._count["computed"] += batch.num_rows
        for score, scored in zip(batch.scores, outcome.scores, strict=True):
            score.request.prompt_scores.extend(scored)
        num_generated = 0
        for query, token in self._answers(batch, outcome):
            request = query.request
            if request.finish_reason is not None:
                continue  # aborted by a listener, or ended by a token before, within this very loop
            if query.num_before < len(request.output_ids):
                continue  # a guess before it forced this token
            if isinstance(token, Exception):
                self._fail(request, token)
            else:
                num_generated += 1
                self._append(request, token)
        self._count["generated"] += num_generated
        for request, _ in batch.planned:
            if request.wants_sample or request.finished:
                continue
            if request.num_todo == 0 and request.next_scored >= request.num_prompt:
                self._finish(request, {"type": "length", "length": 0}, "finished")

    def _answers(
        self, batch: Batch, outcome: Outcome
    ) -> Iterator[tuple[SampleQuery, ScoredToken | Exception]]:
        """The tokens that count: those after a wrong guess do not."""
        pairs = zip(batch.samples, outcome.tokens, strict=True)
        if self.drafts is None or not any(s.draft is not None for s in batch.segments):
            return pairs
        return self._without_wrong_guesses(pairs)

    def _without_wrong_guesses(
        self, pairs: Iterable[tuple[SampleQuery, ScoredToken | Exception]]
    ) -> Iterator[tuple[SampleQuery, ScoredToken | Exception]]:
        for request, group in itertools.groupby(pairs, key=lambda pair: pair[0].request):
            answers = list(group)
            right = 0
            for query, (_, before) in zip(answers[1:], answers):
                token = query[0].draft[-1]
                if isinstance(before, Exception) or before.token_id != token:
                    break
                right += 1
            proposed = len(answers) - 1
            if proposed:
                self._verified(request, proposed, right)
            yield from answers[: 1 + right]

    def _verified(self, request: Request, proposed: int, accepted: int) -> None:
        """Give back the slots of wrong guesses."""
        if request.lease is not None:
            request.lease.truncate(request.num_known + accepted)
        if self.drafts is not None:
            self.drafts.verified(request, proposed, accepted)
        self._count["drafted"] += proposed
        self._count["accepted"] += accepted
        self._count["computed"] -= proposed - accepted

    def _append(self, request: Request, token: ScoredToken) -> None:
        if not request.prompt_done:
            self._prompt_done(request)
        request.append(token.token_id)
        if request.logprobs.output:
            request.output_scores.append(token)
        try:
            reason = self._ending(request, token.token_id)
            if reason is None and request.constrained is not None:
                reason = self._jump(request, request.constrained)
        except Exception as error:  # a constraint beyond its limits
            self._fail(request, error)
            return
        if self.drafts is not None:
            self.drafts.generated(request)
        if reason is not None:
            self._finish(request, reason, "finished")
        else:
            self._notify(request)

    def _begin(self, request: Request, constrained: Constrained) -> None:
        """What a constraint says before anything was drawn."""
        try:
            reason = {"type": "stop", "matched": None} if constrained.done else None
            if request.wants_sample and reason is None:
                reason = self._jump(request, constrained)
        except Exception as error:  # a constraint beyond its limits
            self._fail(request, error)
            return
        if reason is not None:
            self._finish(request, reason, "finished")

    def _jump(self, request: Request, constrained: Constrained) -> dict[str, Any] | None:
        """Take the tokens that the constraint forces; they are computed with the next step's."""
        for token_id in constrained.forced():
            request.append(token_id)
            self._count["forced"] += 1
            constrained.num_forced += 1
            if (reason := self._ending(request, token_id)) is not None:
                return reason
        return None

    def _ending(self, request: Request, token_id: int) -> dict[str, Any] | None:
        """Why the generation ends with this token, if it does."""
        count = len(request.output_ids)
        if token_id in request.stop_token_ids and count > request.params.min_new_tokens:
            return {"type": "stop", "matched": token_id}
        request.text.push(token_id)
        if request.text.finished is not None:
            return {"type": "stop", "matched": request.text.finished}
        constrained = request.constrained
        if constrained is not None:
            if not constrained.accept(token_id):
                raise BackendError(f"token {token_id} was drawn, which the constraint forbids")
            if constrained.done:
                return {"type": "stop", "matched": None}
        if count >= request.params.max_new_tokens:
            incomplete = constrained is not None and not constrained.may_end
            return {
                "type": "length",
                "length": count,
                **({"incomplete": True} if incomplete else {}),
            }
        return None

    # -- masks -------------------------------------------------------------------------------------

    def _find_masks(self) -> None:
        """Have the masks that the next step draws under; a request whose mask takes long is parked."""
        for request in list(self._constrained):
            constrained = request.constrained
            if constrained is None or request.parked:
                continue
            try:
                if constrained.must_jump and (reason := self._jump(request, constrained)):
                    self._finish(request, reason, "finished")
                elif not constrained.ready():
                    self._park(request, constrained)
            except Exception as error:  # a constraint beyond its limits
                self._fail(request, error)

    def _park(self, request: Request, constrained: Constrained) -> None:
        failure: list[Exception] = []

        def prepare() -> None:
            try:
                constrained.prepare()
            except Exception as error:
                failure.append(error)

        def back() -> None:
            request.parked = False
            if failure and not request.finished:
                self._fail(request, failure[0])

        request.parked = True
        self.background(prepare, back)

    def _prompt_done(self, request: Request) -> None:
        request.prompt_done = True
        request.first_token_time = self.clock()
        if self.drafts is not None:
            self.drafts.prompt_computed(request)
        self.misses.prompt_done(request)
        if not request.background:  # a prefetch asks for nothing of its own
            self._count["cached"] += request.num_cached
            self._count["prompt"] += request.num_prompt

    # -- endings ---------------------------------------------------------------------------------

    def _finish(self, request: Request, reason: dict[str, Any], counter: str) -> None:
        if not request.wants_sample and counter == "finished":
            self._prompt_done(request)
        request.finish_reason = reason
        request.finish_time = self.clock()
        request.text.finish(reason)
        self._count[counter] += 1
        if self.drafts is not None:
            self.drafts.generated(request)
        self.misses.ended(request)
        self.scheduler.remove(request)
        self._requests.pop(request.rid, None)
        self._constrained.discard(request)
        self._notify(request)

    def _fail(self, request: Request, error: Exception) -> None:
        request.error = error
        code = 400 if isinstance(error, InvalidRequest) else 500
        reason = {"type": "abort", "message": str(error), "status_code": code}
        self._finish(request, {**reason, "err_type": type(error).__name__}, "failed")

    def _notify(self, request: Request) -> None:
        try:
            request.on_update(request)
        except Exception as error:  # a listener's fault is not the engine's
            warnings.warn(f"a listener of request {request.rid} raised {error!r}", stacklevel=2)
            if not request.finished:
                self.abort(request.rid, "its listener failed")

    def _step_failed(self, batch: Batch, error: Exception) -> None:
        self._count["failed_steps"] += 1
        requests = self.scheduler.rollback(batch)
        if len(requests) == 1:
            failure = BackendError(f"the model failed on this request: {error}")
            failure.__cause__ = error
            self._fail(requests[0], failure)

    def recover(self, error: Exception) -> None:
        """After an exception outside of the model: a fault of the engine itself, which may have left a step
        half done. Every request ends with it, and the cache is mended."""
        if self.tree.in_step:
            with contextlib.suppress(Exception):  # what is broken is found below
                self.tree.rollback_step()
        for request in self.requests():
            with contextlib.suppress(Exception):
                if (lease := request.lease) is not None:  # what was reserved was not computed
                    lease.truncate(max(lease.num_published, min(lease.num_computed, len(lease))))
            failure = BackendError("the engine failed in a step of this request")
            failure.__cause__ = error
            try:
                self._fail(request, failure)
            except Exception as another:  # it still ends, and owns nothing that the audit knows of
                warnings.warn(
                    f"request {request.rid} could not be let go: {another!r}", stacklevel=2
                )
                self._requests.pop(request.rid, None)
                self.scheduler.forget(request)
                self._notify(request)
        self.audit()

    def _stalled(self) -> None:
        """No request could take part in a step: a broken promise of the scheduler. End the oldest
        rather than wait for ever, and mend what can be mended."""
        self.audit()
        oldest = min(self._requests.values(), key=lambda r: r.arrival, default=None)
        if oldest is not None:
            self._fail(oldest, BackendError("the scheduler found no way to run this request"))

    # -- looking -----------------------------------------------------------------------------------

    def audit(self) -> None:
        """Check every invariant of the cache. Raises in tests (`audit_every_step`); in service what is
        broken is repaired and reported."""
        leases = self.scheduler.open_leases()
        try:
            audit(self.tree, leases)
        except AuditError as error:
            if self.audit_every_step:
                raise
            self._count["repairs"] += 1
            repair(self.tree, leases)
            warnings.warn(
                f"the KV cache was inconsistent and has been repaired: {error}", stacklevel=2
            )

    def flush(self) -> bool:
        """Forget every cached prefix. False (and nothing happens) while requests are here."""
        if self.has_work:
            return False
        self.tree.flush()
        if self.drafts is not None:
            self.drafts.forget()
        return True

    def stats(self) -> EngineStats:
        count, missed = self._count, self.misses.counts
        return EngineStats(
            num_steps=count["steps"],
            num_computed_tokens=count["computed"],
            num_cached_tokens=count["cached"],
            num_generated_tokens=count["generated"],
            num_prompt_tokens=count["prompt"],
            num_missed_never_seen=missed["never_seen"],
            num_missed_evicted=missed["evicted"],
            num_missed_salt=missed["salt"],
            num_missed_boundary=missed["boundary"],
            num_missed_logits=self.misses.logits,
            num_draft_tokens=self._count["drafted"],
            num_accepted_tokens=self._count["accepted"],
            num_forced_tokens=self._count["forced"],
            num_preemptions=self.scheduler.num_preemptions,
            num_finished=count["finished"],
            num_aborted=count["aborted"],
            num_failed=count["failed"],
            num_failed_steps=count["failed_steps"],
            num_repairs=count["repairs"],
            num_running=len(self.scheduler.running),
            num_waiting=len(self.scheduler.waiting),
            num_slots=self.slots.num_slots,
            num_free_slots=self.slots.num_free,
            num_tree_tokens=self.tree.num_tree_tokens,
            num_pinned_tokens=self.tree.num_pinned_tokens,
            num_evicted_tokens=self.tree.num_evicted_tokens,
        )


def _increasing(clock: Callable[[], float]) -> Callable[[], float]:
    """`clock`, with a little more where it stands still: what is used later is younger."""
    last = -math.inf

    def tick() -> float:
        nonlocal last
        last = max(clock(), math.nextafter(last, math.inf))
        return last

    return tick
