"""One request of any protocol: what it wants generated, and what becomes of it.

Knows prompts as token ids, samples and failures. Refuses to know JSON, sockets and processes: a protocol
(`native.py`, `openai_chat.py`, ...) reads a body into an `Exchange` and writes samples as its own answers;
`handler.py` runs any `Exchange`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ramet.engine.prompt_ids import PromptIds
from ramet.engine.request import LogprobOptions
from ramet.kernels.plan import IntArray
from ramet.params import SamplingParams

__all__ = ["Call", "EventWriter", "Exchange", "Failure", "Sample", "Status"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One prompt, of which `params.n` samples are wanted. `rid` is None where the client gave none.
    `token_text`: texts of tokens in log-probability triples. `spans`: the sample's `kept` is wanted."""

    ids: Sequence[int] | IntArray | PromptIds
    params: SamplingParams
    logprobs: LogprobOptions = field(default_factory=LogprobOptions)
    rid: str | None = None
    token_text: bool = False
    spans: bool = False


@dataclass(slots=True, kw_only=True)
class Sample:
    """One sample of one call, as far as it has come.

    `index` counts all samples of the exchange, call by call; `call` is its call's place, `choice` its own
    place in the call. `text` and `output_ids` are all so far; a text only ever grows. `meta` is the native
    protocol's `meta_info` as last told: `id`, `finish_reason`, `prompt_tokens`, `completion_tokens`,
    `cached_tokens`, `seed`, `e2e_latency`, ... and, where asked for, `input_token_logprobs`,
    `output_token_logprobs`, `output_top_logprobs`, ... with an entry for each of `output_ids`.
    `finish_reason`, in the native form (`{"type": "stop", "matched": ...}`), is None while it runs.
    `kept`: of the finished text, (ids of leading tokens, the text behind them)."""

    index: int
    call: int = 0
    choice: int = 0
    text: str = ""
    output_ids: list[int] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    finish_reason: dict[str, Any] | None = None
    kept: tuple[list[int], str] | None = None


class Status:
    """HTTP status codes that failures have."""

    BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, TOO_LARGE = 400, 401, 404, 413
    TOO_MANY, CLOSED, INTERNAL, UNAVAILABLE, TIMEOUT = 429, 499, 500, 503, 504


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no answer, in words for the client: never an internal detail. `field` is the dotted
    name of the value at fault. `retry_after` in seconds."""

    status: int
    message: str
    field: str | None = None
    code: str | None = None
    retry_after: float | None = None


class EventWriter(Protocol):
    """The events of one stream, as `data: ...` frames in bytes. Called in this order: `begin` once,
    `changed` any number of times with samples that have something new (several steps may have gone by:
    what is new is what the writer has not written), and one of `end` and `failed`."""

    def begin(self) -> Iterable[bytes]: ...

    def changed(self, sample: Sample) -> Iterable[bytes]: ...

    def end(self, samples: Sequence[Sample]) -> Iterable[bytes]: ...

    def failed(self, failure: Failure) -> Iterable[bytes]: ...


class Exchange(Protocol):
    """A request that was read and found right. `cache_salt` is the client's own part of the salt."""

    @property
    def calls(self) -> Sequence[Call]: ...

    @property
    def stream(self) -> bool: ...

    @property
    def cache_salt(self) -> str: ...

    def answer(self, samples: Sequence[Sample]) -> Any:
        """The whole response, as a value that JSON can hold. All samples have finished."""
        ...

    def events(self) -> EventWriter: ...
