"""What an engine can be told when it starts: one frozen record, checked when built.

Knows names, defaults and bounds; refuses to know how they are used. Also answers to the names that
other servers use for the same thing (`ServerArgs` of the public frontend).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ramet.engine.policy import MAX_OVERTAKEN, POLICIES, PolicyName
from ramet.errors import InvalidRequest

__all__ = ["EngineOptions"]

_OTHER_NAMES = {
    "max_total_tokens": "max_cache_tokens",
    "chunked_prefill_size": "max_step_tokens",
    "max_running_requests": "max_running",
    "random_seed": "seed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options of `ramet.Engine`.

    - `model_path`: a checkpoint folder, or "pocket" for the embedded model.
    - `tokenizer_path`: where the tokenizer is, if not in the model's folder.
    - `device`: "cpu" or "cuda" (also "cuda:1"). `dtype`: None picks fp16 weights with fp32 arithmetic on
      a CPU and the checkpoint's 16-bit type on a GPU; "float32" is for parity.
    - `quantization`: "int8" rounds weights to 8 bits while loading and activations row by row (CPU).
    - `kv_cache_dtype`: of cached keys and values; on a CPU "float32" (None) or "float16", which takes
      half the memory.
    - `exact`: a request gives the same bits whatever is shared or runs beside it. None: on a CPU where
      the native kernels can be built (all but machines without a C++ compiler), with a warning where
      not. True refuses to start where it does not hold, False runs the PyTorch kernels (for comparison).
    - `context_length`: tokens that one request may have (default: what the checkpoint says).
    - `max_cache_tokens`: KV slots; default: a quarter of the free memory (CPU), or
      `mem_fraction_static` of what is free after loading (GPU).
    - `max_step_tokens`: rows per step; longer prompts are computed in chunks.
    - `max_running`: requests that decode at the same time.
    - `schedule_policy`: "lpm" (longest cached prefix first), "fcfs", "random". A waiting request is
      overtaken by at most as many later arrivals as were waiting when it came, or by `max_overtaken` if
      those were fewer.
    - `drafts`: guess the next tokens from what was computed before, verify them in the same step, keep
      what the model says: the same bits in fewer steps. None: where `exact` holds.
    - `jump_forward`: tokens that a constraint forces are taken without asking the model. False asks it
      for each of them, and gets the same tokens (for comparison).
    - `complete_constraints`: where `max_new_tokens` draws near, a constrained text is led to its shortest
      legal end. False lets it be cut; its finish_reason then says "incomplete".
    - `disable_radix_cache`: share nothing (for comparison).
    - `chat_template`: name of a table template, instead of the checkpoint's own.
    - `seed`: seeds of requests that bring none are drawn from it (None: from the operating system).
    - `num_threads`: of the CPU's linear algebra in this process (None: leave it as it is).
    - `audit`: check every invariant of the cache after every step (slow; for tests).
    - `progress`: called with (bytes read, bytes in all) while the model loads.
    """

    model_path: str = "pocket"
    tokenizer_path: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    exact: bool | None = None
    context_length: int | None = None
    max_cache_tokens: int | None = None
    mem_fraction_static: float = 0.85
    max_step_tokens: int = 1024
    max_running: int = 256
    schedule_policy: PolicyName = "lpm"
    max_overtaken: int = MAX_OVERTAKEN
    drafts: bool | None = None
    jump_forward: bool = True
    complete_constraints: bool = True
    disable_radix_cache: bool = False
    chat_template: str | None = None
    served_model_name: str | None = None
    seed: int | None = None
    num_threads: int | None = None
    audit: bool = False
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        for name in ("max_step_tokens", "max_running", "max_overtaken"):
            _at_least_one(name, getattr(self, name))
        for name in ("context_length", "max_cache_tokens", "num_threads"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        if self.schedule_policy not in POLICIES:
            known = ", ".join(POLICIES)
            raise InvalidRequest(
                "schedule_policy", self.schedule_policy, "is unknown", f"known are {known}"
            )
        if not 0 < self.mem_fraction_static <= 1:
            raise InvalidRequest(
                "mem_fraction_static", self.mem_fraction_static, "is not in (0, 1]"
            )

    @classmethod
    def from_kwargs(cls, values: dict[str, Any]) -> EngineOptions:
        """Names as above or as other servers spell them; an unknown name is an error."""
        known = {f.name for f in dataclasses.fields(cls)}
        clean: dict[str, Any] = {}
        for name, value in values.items():
            own = _OTHER_NAMES.get(name, name)
            if own not in known:
                raise InvalidRequest(
                    name,
                    value,
                    "is no option of the engine",
                    f"known are {', '.join(sorted(known))}",
                )
            if own in clean:
                raise InvalidRequest(name, value, f"is another name of {own}, which is given too")
            clean[own] = value
        if "model_path" in clean:
            clean["model_path"] = str(clean["model_path"])
        return cls(**clean)

    def to_dict(self) -> dict[str, Any]:
        return {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "progress"
        }


def _at_least_one(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRequest(name, value, "is not a whole number of at least 1")
