"""What `run` takes besides the program's own arguments, each option spelled once.

Knows names, defaults and order. Everything else that is passed to `run` belongs to the program.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ramet.backend import RoleTemplate
from ramet.config import global_config
from ramet.lang.record import Listener
from ramet.params import SamplingParams

__all__ = ["RunOptions", "run_signature", "split_options"]

SAMPLING_DEFAULTS: Mapping[str, Any] = {
    "max_new_tokens": 128,
    "n": 1,
    "stop": None,
    "stop_token_ids": None,
    "stop_regex": None,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "ignore_eos": False,
    "return_logprob": None,
    "logprob_start_len": None,
    "top_logprobs_num": None,
    "return_text_in_logprobs": None,
    "repetition_penalty": None,
}

OTHER_DEFAULTS: Mapping[str, Any] = {
    "stream": False,
    "backend": None,
    "use_thread": True,
    "chat_template": None,
    "sampling_seed": None,
    "listener": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """`sampling` are the defaults of the program's generations; the rest as `SglFunction.run` says."""

    sampling: Mapping[str, Any]
    stream: bool = False
    backend: Any = None
    use_thread: bool = True
    chat_template: str | RoleTemplate | None = None
    sampling_seed: int | None = None
    listener: Listener | None = None


def split_options(values: Mapping[str, Any]) -> tuple[RunOptions, dict[str, Any]]:
    """The options among `values`, and what is left for the program. Wrong values raise here."""
    sampling = {name: values.get(name, value) for name, value in SAMPLING_DEFAULTS.items()}
    sampling["skip_special_tokens"] = global_config.skip_special_tokens_in_output
    sampling["spaces_between_special_tokens"] = global_config.spaces_between_special_tokens_in_out
    fields = SamplingParams.__dataclass_fields__
    checked = {name: value for name, value in sampling.items() if name in fields}
    SamplingParams.from_dict({**checked, "sampling_seed": values.get("sampling_seed")}, "run")
    others = {name: values[name] for name in OTHER_DEFAULTS if name in values}
    rest = {
        name: value
        for name, value in values.items()
        if name not in SAMPLING_DEFAULTS and name not in OTHER_DEFAULTS
    }
    return RunOptions(sampling=sampling, **others), rest


def run_signature() -> inspect.Signature:
    """What `help()` shows for `run`."""
    kind = inspect.Parameter
    options = [
        kind(name, kind.KEYWORD_ONLY, default=default)
        for name, default in {**SAMPLING_DEFAULTS, **OTHER_DEFAULTS}.items()
    ]
    return inspect.Signature(
        [
            kind("self", kind.POSITIONAL_ONLY),
            kind("args", kind.VAR_POSITIONAL),
            *options,
            kind("kwargs", kind.VAR_KEYWORD),
        ]
    )
