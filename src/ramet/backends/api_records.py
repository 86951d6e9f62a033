"""What every remote API has in common, as records: a question, an answer, what it cost, what went wrong.

Knows no provider and does no I/O. A provider's module turns a `Question` into its request and its events
into a `Reply`; a failed attempt is a `Failure`, a failed call an `ApiError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from ramet.errors import BackendError, InvalidRequest, RametError
from ramet.params import SamplingParams

__all__ = [
    "ApiError",
    "Decision",
    "Failure",
    "Image",
    "MissingSdk",
    "Part",
    "Price",
    "Question",
    "Reader",
    "Reply",
    "Sample",
    "TokenUsage",
    "Turn",
    "Usage",
]


class MissingSdk(RametError, ImportError):
    """The package of a provider is not installed."""


class ApiError(BackendError):
    """A call of a remote API failed for good.

    `provider`, `status` (of the last HTTP answer, None if there was none), `request_id`, `attempts` (how
    many requests were sent), `tried` (one dictionary for each attempt that was followed by another: reason,
    status, waited) and `retries` (their number), `spent` (tokens that the provider reported for this call,
    failed attempts included) and `text` (what had arrived, if anything).
    """

    provider: str = ""
    status: int | None = None
    request_id: str | None = None
    attempts: int = 0
    retries: int = 0
    tried: tuple[dict[str, Any], ...] = ()
    spent: Usage
    text: str = ""

    def __init__(self, message: str, **facts: Any) -> None:
        self.spent = Usage()
        for name, value in facts.items():
            setattr(self, name, value)
        super().__init__(message)


class Failure(Exception):
    """One attempt failed. `retry`: another one may succeed. `wait`: seconds that the server asked for."""

    def __init__(
        self,
        reason: str,
        *,
        retry: bool,
        status: int | None = None,
        wait: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
        usage: Usage | None = None,
        text: str = "",
    ) -> None:
        self.reason, self.retry, self.status, self.wait = reason, retry, status, wait
        self.headers, self.request_id, self.usage, self.text = headers, request_id, usage, text
        super().__init__(reason)


# ---- tokens and money ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. `prompt` holds all of a prompt's; `cached` and `cache_write` say which of these were read
    from the provider's prompt cache and written to it."""

    prompt: int = 0
    cached: int = 0
    cache_write: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def to_dict(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "cached_tokens": self.cached,
            "cache_write_tokens": self.cache_write,
            "completion_tokens": self.completion,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Money for a million tokens. Cached tokens and tokens written to a cache cost what the prompt's do
    unless said otherwise."""

    prompt: float
    completion: float
    cached: float | None = None
    cache_write: float | None = None

    def cost(self, usage: Usage) -> float:
        cached = self.prompt if self.cached is None else self.cached
        written = self.prompt if self.cache_write is None else self.cache_write
        plain = usage.prompt - usage.cached - usage.cache_write
        prompt = plain * self.prompt + usage.cached * cached + usage.cache_write * written
        return (prompt + usage.completion * self.completion) / 1e6

    @staticmethod
    def of(prices: Mapping[str, Price] | None, model: str) -> Price | None:
        """The price of the longest name in the table that the model's name begins with."""
        for name, price in (prices or {}).items():
            if not isinstance(price, Price):
                raise InvalidRequest(f"prices[{name!r}]", price, "is not a Price")
        names = [name for name in prices or () if model.startswith(name)]
        return prices[max(names, key=len)] if prices and names else None


class TokenUsage:
    """Tokens of all calls of a backend since the start or the last `reset()`, failed attempts included
    as far as the provider reports them. `requests` counts what was sent, `unreported` the answers that
    came without usage. `cost` is None without a price."""

    def __init__(self, price: Price | None = None) -> None:
        self._price = price
        self.reset()

    def reset(self) -> None:
        self.prompt_tokens = self.cached_tokens = self.cache_write_tokens = 0
        self.completion_tokens = self.requests = self.unreported = 0

    def add(self, usage: Usage | None) -> None:
        if usage is None:
            self.unreported += 1
            return
        self.prompt_tokens += usage.prompt
        self.cached_tokens += usage.cached
        self.cache_write_tokens += usage.cache_write
        self.completion_tokens += usage.completion

    @property
    def cost(self) -> float | None:
        if self._price is None:
            return None
        return self._price.cost(
            Usage(
                self.prompt_tokens,
                self.cached_tokens,
                self.cache_write_tokens,
                self.completion_tokens,
            )
        )

    def to_dict(self) -> dict[str, Any]:
        names = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens")
        counts = {name: getattr(self, name) for name in (*names, "requests", "unreported")}
        return counts if self._price is None else {**counts, "cost": self.cost}

    def __repr__(self) -> str:
        return f"TokenUsage({', '.join(f'{k}={v}' for k, v in self.to_dict().items())})"


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice, and what there is to know of how it was made."""

    decision: str
    meta_info: dict[str, Any]


# ---- questions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Image:
    """`data` is base64 of type `media_type`; without it the provider fetches `url`."""

    media_type: str = ""
    data: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message. `mark`: a prefix that other calls share ends here."""

    content: str | Image
    mark: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.content for part in self.parts if isinstance(part.content, str))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request, before it is any provider's. `text` is the whole prompt, for backends that continue
    texts; `turns` is the conversation, for those that answer. `stops` are those to send. `schema` is in
    the provider's own dialect. `top_logprobs` is None if no log-probabilities are wanted."""

    model: str
    params: SamplingParams
    text: str = ""
    turns: tuple[Turn, ...] = ()
    stops: tuple[str, ...] = ()
    n: int = 1
    max_tokens: int = 128
    schema: dict[str, Any] | None = None
    strict: bool = True
    stream: bool = False
    top_logprobs: int | None = None


# ---- answers ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sample:
    """One text of an answer. `finish` is a finish reason of ours, None while none has come."""

    text: str = ""
    finish: dict[str, Any] | None = None
    logprobs: list[list[Any]] = field(default_factory=list)
    top_logprobs: list[list[list[Any]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reply:
    """`usage` is None where the provider did not tell."""

    samples: Sequence[Sample]
    usage: Usage | None
    id: str = ""
    model: str = ""


class Reader(Protocol):
    """Reads one answer. Both ways raise `Failure` for what cannot be an answer of this provider."""

    def event(self, data: Mapping[str, Any]) -> str:
        """Take one event of a stream; returns what is new in the text of sample 0."""
        ...

    def whole(self, data: Mapping[str, Any]) -> None:
        """Take an answer that came in one piece."""
        ...

    def reply(self) -> Reply:
        """All that has come. Raises `Failure` if the end is missing."""
        ...

    def usage(self) -> Usage | None:
        """What has been reported so far, also by an answer that broke off."""
        ...
