"""The sampling values of one generation as a record for backends that are not ours.

Knows names and the forms in which services take them. Our own calls carry `ramet.params.SamplingParams`,
which checks values; this one has none to check, as it is made of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ramet.backend import GenerateCall
from ramet.config import global_config

__all__ = ["SglSamplingParams"]


@dataclass
class SglSamplingParams:
    """`dtype` is None where a type has become a `regex` already, as it has in every generation."""

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    n: int = 1
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] | None = ()
    stop_regex: str | Sequence[str] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    ignore_eos: bool = False
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool | None = None
    json_schema: str | None = None
    dtype: str | None = None
    regex: str | None = None

    @classmethod
    def of(cls, call: GenerateCall) -> SglSamplingParams:
        values = call.params.to_dict()
        if call.return_logprob:
            values |= {
                "return_logprob": True,
                "logprob_start_len": call.logprob_start_len,
                "top_logprobs_num": call.top_logprobs_num,
                "return_text_in_logprobs": call.return_text_in_logprobs,
            }
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SglSamplingParams:
        """Of the values that have a field here; None stands for the default."""
        record = cls()
        for field in fields(cls):
            value = values.get(field.name)
            if value is not None:
                setattr(record, field.name, list(value) if isinstance(value, tuple) else value)
        return record

    def clone(self) -> SglSamplingParams:
        return replace(self)

    def to_openai_kwargs(self) -> dict[str, Any]:
        return {
            "max_tokens": self.max_new_tokens,
            "max_completion_tokens": self.max_new_tokens,
            "n": self.n,
            "stop": self.stop or None,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
        }

    def to_vertexai_kwargs(self) -> dict[str, Any]:
        return {
            "candidate_count": 1,
            "max_output_tokens": self.max_new_tokens,
            "stop_sequences": self._stops(),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k if self.top_k > 0 else None,
        }

    def to_anthropic_kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = {
            "max_tokens": self.max_new_tokens,
            "stop_sequences": self._stops(),
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        return kwargs | ({"top_k": self.top_k} if self.top_k > 0 else {})

    def to_litellm_kwargs(self) -> dict[str, Any]:
        return {
            "max_tokens": self.max_new_tokens,
            "stop": self.stop or None,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
        }

    def to_srt_kwargs(self) -> dict[str, Any]:
        """`sampling_params` of the native protocol."""
        names = (
            "max_new_tokens min_new_tokens n stop stop_token_ids stop_regex temperature top_p top_k "
            "min_p frequency_penalty presence_penalty ignore_eos regex json_schema"
        )
        return {
            "skip_special_tokens": global_config.skip_special_tokens_in_output,
            "spaces_between_special_tokens": global_config.spaces_between_special_tokens_in_out,
            **{name: getattr(self, name) for name in names.split()},
        }

    def _stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)
