"""A remote API as a backend: from a call of the language to questions, and from replies to completions.

Knows the language's protocol and what a provider can do; `api_asking` asks. What the provider cannot do is
lowered by a plan or refused here, before anything is sent.
"""

from __future__ import annotations

import dataclasses
import math
import time
import weakref
from collections.abc import Mapping
from typing import Any

from ramet.backend import (
    Capabilities,
    ChoiceScore,
    Completion,
    GenerateCall,
    Hint,
    OnChunk,
    RoleTemplate,
    ScoreCall,
)
from ramet.backends.api_asking import Asking, Feed, Judged
from ramet.backends.api_client import Limits, Log
from ramet.backends.api_messages import PlainRoles, check_roles, turns_of, with_note
from ramet.backends.api_records import (
    Decision,
    Price,
    Question,
    Reply,
    Turn,
)
from ramet.backends.api_structured import Plan, Structured, plan_choice, plan_text
from ramet.errors import InvalidRequest, Unsupported
from ramet.params import SamplingParams
from ramet.prompt import Prompt, Text

__all__ = ["ApiBackend"]

_DEFAULTS = SamplingParams()
_THINKING_TOKENS = 4096  # room for what a model thinks before it picks a choice

# What a program calls a parameter, and what it can do instead.
_REMEDIES = {
    "min_new_tokens": "ask for a longer text in words",
    "stop_token_ids": "use stop= with texts",
    "ignore_eos": "leave it out",
    "repetition_penalty": "use frequency_penalty or presence_penalty",
    "logit_bias": "say in words what you want",
    "skip_special_tokens": "leave it at its default",
}


class ApiBackend(Asking):
    """The part that all remote APIs share; see the subclasses for their options."""

    provider = ""

    def __init__(
        self,
        model_name: str,
        *,
        capabilities: Capabilities,
        structured: Structured | None,
        limits: Limits,
        prices: Mapping[str, Price] | None,
        chat_template: RoleTemplate | None,
        max_asks: int,
    ) -> None:
        if not isinstance(model_name, str) or not model_name:
            raise InvalidRequest("model_name", model_name, "is not the name of a model")
        if isinstance(max_asks, bool) or not isinstance(max_asks, int) or max_asks < 0:
            raise InvalidRequest("max_asks", max_asks, "is not a whole number of at least 0")
        if chat_template is not None and not hasattr(chat_template, "get_prefix_and_suffix"):
            raise InvalidRequest(
                "chat_template",
                chat_template,
                "is not a template",
                "pass one, or pass its name to run(chat_template=...)",
            )
        self._structured = structured
        self._capabilities = _within_budget(capabilities, structured, max_asks)
        self._template: RoleTemplate | None = chat_template
        if chat_template is None and capabilities.chat_only:
            self._template = PlainRoles()
        self._price = Price.of(prices, model_name)
        self._forks: weakref.WeakSet[Prompt] = weakref.WeakSet()
        super().__init__(
            model_name, limits, self._price, chat=capabilities.chat_only, max_asks=max_asks
        )

    # -- the protocol ----------------------------------------------------------------------------

    @property
    def model_path(self) -> str:
        return self.model_name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def chat_template(self) -> RoleTemplate | None:
        return self._template

    @property
    def is_chat_model(self) -> bool:
        return self._capabilities.chat_only

    @property
    def structured_method(self) -> str:
        """The provider's way to keep a schema; "" if it has none."""
        return self._structured.method if self._structured is not None else ""

    @property
    def limits(self) -> Limits:
        return self._api.limits

    def hint(self, hint: Hint) -> None:
        if hint.kind == "will_fork" and hint.prompt is not None:
            self._forks.add(hint.prompt)

    def flush_cache(self) -> bool:
        """Forget which prefixes are shared. A provider's own cache cannot be emptied: False."""
        self._forks.clear()
        return False

    def get_server_info(self) -> dict[str, Any]:
        limits = dataclasses.asdict(self.limits)
        return {
            "model_path": self.model_name,
            "backend": self.provider,
            "max_asks": self.max_asks,
            **limits,
            "capabilities": dataclasses.asdict(self._capabilities),
            "token_usage": self.token_usage.to_dict(),
        }

    def __enter__(self) -> ApiBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_name!r})"

    async def generate(
        self, call: GenerateCall, on_chunk: OnChunk | None = None
    ) -> list[Completion]:
        params = call.params
        plan = plan_text(params, self._structured, self.max_asks, chat=self.is_chat_model)
        if not self.is_chat_model and params.greedy:
            plan = dataclasses.replace(plan, asks=1)  # the same question has the same answer
        question = self._question(call, plan)
        if params.max_new_tokens == 0:
            return [_empty(call) for _ in range(params.n)]
        feed = None
        if on_chunk is not None and plan.streams and self._capabilities.streaming:
            feed = Feed(call, on_chunk)
        async with self._api.turn() as log:
            answers = await self._answers(log, question, plan, params, feed)
        return self._completions(call, answers, plan, log)

    async def decide(self, call: ScoreCall, choices_method: object) -> Decision:
        """Let the model pick one of the choices. Its meta information has `scores` (1.0 for the choice) and
        `method` (how it was made to pick). Methods that want log-probabilities are refused."""
        self._check_open()
        # By name, because the methods are the language's: its default asks for the likeliest choice.
        if repr(choices_method) != "TokenLengthNormalized":
            raise Unsupported(
                f"choices_method={choices_method!r} is not possible on {self.name}: the model itself "
                "picks there, without log-probabilities; leave choices_method out"
            )
        scores, meta = await self._pick(call)
        best = max(range(len(scores)), key=lambda i: (scores[i], -i))
        return Decision(call.choices[best], {"scores": scores, **meta})

    async def score(self, call: ScoreCall) -> list[ChoiceScore]:
        """`decide` in the form of log-probabilities: the picked choice is certain, the others are
        impossible. There are no unconditional ones."""
        self._check_open()
        if call.unconditional:
            raise Unsupported(f"unconditional log-probabilities are not possible on {self.name}")
        scores, meta = await self._pick(call)
        best = max(range(len(scores)), key=lambda i: (scores[i], -i))
        return [
            ChoiceScore(
                tokens=((0.0 if i == best else -math.inf, -1, choice),),
                meta_info=meta if i == 0 else {},  # one call: its tokens count once
            )
            for i, choice in enumerate(call.choices)
        ]

    async def _pick(self, call: ScoreCall) -> tuple[list[float], dict[str, Any]]:
        """A score for each choice, the best one highest, and the call's meta information."""
        turns: tuple[Turn, ...] = ()
        begun = ""
        if self.is_chat_model:
            check_roles(call, self._template, self.name)
            turns = turns_of(call, self._forks)
            if turns[-1].role == "assistant" and (
                self._structured or not self._capabilities.prefill
            ):
                begun, turns = turns[-1].text, turns[:-1]
        plan = plan_choice(
            call.choices, self._structured, self.max_asks, chat=self.is_chat_model, begun=begun
        )
        if not self.is_chat_model:
            plan = dataclasses.replace(plan, asks=1)
        question = self._put(call, plan, self._params_of_pick(call), turns)
        async with self._api.turn() as log:
            [answer] = await self._answers(log, question, plan, question.params, None)
        if answer.incomplete:
            raise self._api.error(log, f"the answer {answer.text!r} was cut before it was a choice")
        meta = {"method": plan.method, **self._meta(call.rid, answer, plan, log)}
        return [1.0 if choice == answer.text else 0.0 for choice in call.choices], meta

    def _params_of_pick(self, call: ScoreCall) -> SamplingParams:
        # No token is less than a byte.
        longest = max(len(choice.encode()) for choice in call.choices)
        greedy = "temperature" not in self._capabilities.refused
        return SamplingParams(
            max_new_tokens=longest + 16 + (_THINKING_TOKENS if self._thinks else 0),
            temperature=0.0 if greedy else _DEFAULTS.temperature,
        )

    # -- what is asked ---------------------------------------------------------------------------

    def _question(self, call: GenerateCall, plan: Plan) -> Question:
        self._check_open()
        self._check_params(call)
        turns: tuple[Turn, ...] = ()
        if self.is_chat_model:
            check_roles(call, self._template, self.name)
            turns = turns_of(call, self._forks)
            self._check_prefill(turns, plan)
        self._check_provider(call, turns)
        return self._put(call, plan, call.params, turns, call.top_logprobs_num, call.return_logprob)

    def _put(
        self,
        call: GenerateCall | ScoreCall,
        plan: Plan,
        params: SamplingParams,
        turns: tuple[Turn, ...],
        top_logprobs: int = 0,
        logprobs: bool = False,
    ) -> Question:
        return Question(
            model=self.model_name,
            params=params,
            text="" if self.is_chat_model else call.prompt.text(),
            turns=with_note(turns, plan.note) if self.is_chat_model else (),
            stops=() if plan.kind or params.no_stop_trim else self._sent_stops(params.stop),
            n=params.n,
            max_tokens=params.max_new_tokens + plan.spare_tokens,
            schema=plan.sent.schema if plan.sent is not None else None,
            strict=plan.sent is None or plan.sent.strict,
            top_logprobs=top_logprobs if logprobs else None,
        )

    def _sent_stops(self, stops: tuple[str, ...]) -> tuple[str, ...]:
        return stops[: self._capabilities.max_stops]

    def _check_params(self, call: GenerateCall) -> None:
        can = self._capabilities
        for name in can.refused:
            value = getattr(call.params, name)
            if value != getattr(_DEFAULTS, name):
                shown = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
                raise Unsupported(
                    f"{shown.get(name, name)}={value!r} is not possible on {self.name}: the API "
                    f"has no such parameter; {_REMEDIES.get(name, 'leave it at its default')}"
                )
        if call.params.n > can.max_n:
            raise InvalidRequest("n", call.params.n, f"is more than {can.max_n}")
        if call.return_logprob and call.logprob_start_len >= 0:
            raise Unsupported(
                f"log-probabilities of the prompt are not possible on {self.name}; "
                "leave logprob_start_len out"
            )

    def _check_prefill(self, turns: tuple[Turn, ...], plan: Plan) -> None:
        if turns[-1].role != "assistant":
            return
        if not self._capabilities.prefill:
            raise Unsupported(
                f"going on in an assistant block that holds text already ({turns[-1].text[-40:]!r}) is "
                f"not possible on {self.name}: the API answers with whole blocks; make the gen the "
                "first thing in its block, or say in a user block how the answer begins"
            )
        if plan.sent is not None:
            raise Unsupported(
                f"{plan.kind}= behind text in the same assistant block is not possible on {self.name}: "
                "its structured output is always a whole block; make the gen the first thing in it"
            )

    def _check_provider(self, call: GenerateCall, turns: tuple[Turn, ...]) -> None:
        """Refuse what only this provider cannot do."""

    # -- what the language gets ------------------------------------------------------------------

    def _completions(
        self, call: GenerateCall, answers: list[Judged], plan: Plan, log: Log
    ) -> list[Completion]:
        found = []
        replies: list[Reply] = []
        for answer in answers:
            if answer.incomplete and plan.sent is not None and not plan.sent.same_text:
                raise self._api.error(
                    log,
                    f"the answer {answer.text[:60]!r} was cut before it was whole; raise max_tokens",
                )
            meta = self._meta(call.rid, answer, plan, log)
            if answer.reply in replies:  # the provider counts the tokens of all samples together
                meta.pop("completion_tokens", None)
            else:
                replies.append(answer.reply)
            if call.return_logprob:
                meta["output_token_logprobs"] = answer.sample.logprobs
                meta["output_token_logprobs_length"] = len(answer.sample.logprobs)
                if call.top_logprobs_num:
                    meta["output_top_logprobs"] = answer.sample.top_logprobs
            spans = (Text(answer.text),) if answer.text else ()
            found.append(Completion(text=answer.text, spans=spans, meta_info=meta))
        return found

    def _meta(self, rid: str, answer: Judged, plan: Plan, log: Log) -> dict[str, Any]:
        reply = answer.reply
        meta: dict[str, Any] = {
            "id": rid,
            "finish_reason": answer.finish,
            "model": reply.model or self.model_name,
            "response_id": reply.id,
            "e2e_latency": time.monotonic() - log.started,
            "attempts": log.attempts,
            "retries": list(log.retries),
            "spent": log.spent.to_dict(),
        }
        if reply.usage is not None:
            meta["prompt_tokens"] = reply.usage.prompt
            meta["cached_tokens"] = reply.usage.cached
            meta["completion_tokens"] = reply.usage.completion
        if log.first_token is not None:
            meta["first_token_latency"] = log.first_token
        if self._price is not None:
            meta["cost"] = self._price.cost(log.spent)
        if plan.kind:
            meta["constraint"] = {
                "kind": plan.kind,
                "method": plan.method,
                "asks": answer.ask,
                "rejected": list(answer.rejected),
            }
        return meta


def _within_budget(
    capabilities: Capabilities, structured: Structured | None, max_asks: int
) -> Capabilities:
    """Without a budget, what takes checking and asking again is not offered."""
    if max_asks:
        return capabilities
    return dataclasses.replace(
        capabilities,
        regex=False,
        json_schema=capabilities.json_schema and structured is not None,
        score=capabilities.score and capabilities.select != "ask_again",
        emulated=(),
    )


def _empty(call: GenerateCall) -> Completion:
    """No tokens were wanted: nothing is asked, and nothing spent."""
    meta = {"id": call.rid, "finish_reason": {"type": "length", "length": 0}, "attempts": 0}
    return Completion(text="", spans=(), meta_info={**meta, "retries": [], "completion_tokens": 0})
