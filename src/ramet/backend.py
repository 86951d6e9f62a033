"""The contract between the language and whatever runs models.

Knows calls, answers and capabilities as plain records, and backends only as a protocol. The language
imports this and never a concrete backend; a backend imports this and never the language.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from ramet.params import SamplingParams
from ramet.prompt import Prompt, Span

__all__ = [
    "Backend",
    "Capabilities",
    "ChoiceScore",
    "Chunk",
    "Completion",
    "GenerateCall",
    "Hint",
    "Message",
    "OnChunk",
    "RoleTemplate",
    "ScoreCall",
    "TokenLogprob",
]

Message = Mapping[str, Any]
"""One closed role block in OpenAI form: {"role": ..., "content": ...}."""

TokenLogprob = tuple[float | None, int, str | None]
"""(natural log-probability or None for a prompt's very first token, token id, its text or None)."""


@runtime_checkable
class RoleTemplate(Protocol):
    """How roles look in a prompt's text. `ramet.lang.chat_template.ChatTemplate` is the table's form;
    a backend may give one derived from its checkpoint's own template."""

    @property
    def name(self) -> str: ...

    @property
    def default_system_prompt(self) -> str | None: ...

    @property
    def stop_str(self) -> Sequence[str]: ...

    def get_prefix_and_suffix(self, role: str, earlier: Sequence[Message]) -> tuple[str, str]:
        """Text before and after a block of `role` that follows the blocks `earlier`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do. What it cannot is lowered by the language or refused by name."""

    score: bool = True  # `score` answers (select); `select` says by which means
    logprobs: bool = True
    seed: bool = True
    regex: bool = False
    json_schema: bool = False
    ebnf: bool = False
    structural_tag: bool = False
    images: bool = False
    chat_only: bool = False  # sees messages, never raw text
    max_n: int = 4096
    streaming: bool = True
    prefill: bool = True  # goes on from a text that an assistant's block holds already
    max_stops: int | None = None  # stop strings that it looks for itself; None: any number
    refused: tuple[str, ...] = ()  # names of SamplingParams that must have their defaults
    emulated: tuple[str, ...] = ()  # constraints kept by checking an answer and asking again
    select: Literal["logprobs", "enum", "logit_bias", "ask_again"] = "logprobs"
    tools: bool = False  # forced calls of tools with schemas
    prompt_cache: Literal["own", "marked", "automatic", "none"] = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateCall:
    """Continue `prompt` (or `messages`, for a backend that is `chat_only`).

    `rid` is unique per call and of the form "<program run>/<branch path>/<number>", so that a scheduler
    can see which calls belong together. `logprob_start_len=-1` asks for no prompt log-probabilities.
    """

    prompt: Prompt
    params: SamplingParams
    messages: Sequence[Message] = ()
    rid: str = ""
    return_logprob: bool = False
    logprob_start_len: int = -1
    top_logprobs_num: int = 0
    return_text_in_logprobs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """News of a running generation (sample 0 when n > 1). `text` is the new text since the last chunk;
    `meta_info` is the running one, its per-token lists holding only what is new since the last chunk."""

    text: str
    meta_info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One finished sample. `spans` is what a program appends to its prompt: `"".join(s.text for s in
    spans) == text`. `meta_info` has the fields of the native protocol (finish_reason, prompt_tokens,
    completion_tokens, cached_tokens, e2e_latency, ...)."""

    text: str
    spans: tuple[Span, ...]
    meta_info: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCall:
    """Log-probabilities of each text of `choices` as a continuation of `prompt`. With `unconditional`,
    also of each choice on its own."""

    prompt: Prompt
    choices: Sequence[str]
    unconditional: bool = False
    messages: Sequence[Message] = ()
    rid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceScore:
    """Log-probabilities of exactly the tokens that belong to one choice (frontend rule: the token ids of
    prompt and prompt + choice are compared; all choices compete from the same position)."""

    tokens: tuple[TokenLogprob, ...]
    unconditional: tuple[TokenLogprob, ...] | None = None
    meta_info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """Advice that may be ignored. `will_fork`: `count` calls that extend `prompt` will come;
    `prefetch`: one will; `done`: nothing of the program run `rid` will come any more."""

    kind: Literal["prefetch", "will_fork", "done"]
    prompt: Prompt | None = None
    count: int = 1
    rid: str = ""


OnChunk = Callable[[Chunk], None]


@runtime_checkable
class Backend(Protocol):
    """What the language needs of anything that runs models.

    All coroutines run on Ramet's own event loop; cancelling one cancels the work behind it. Errors are
    raised as `RametError`s. `hint` must return at once and never raise.
    """

    @property
    def model_path(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def chat_template(self) -> RoleTemplate | None:
        """The model's own template, or None: the language then guesses by `model_path`."""
        ...

    async def generate(
        self, call: GenerateCall, on_chunk: OnChunk | None = None
    ) -> list[Completion]:
        """`call.params.n` completions. `on_chunk` is called on Ramet's event loop."""
        ...

    async def score(self, call: ScoreCall) -> list[ChoiceScore]: ...

    def hint(self, hint: Hint) -> None: ...

    def flush_cache(self) -> bool: ...

    def get_server_info(self) -> dict[str, Any]: ...

    def shutdown(self) -> None: ...
