"""From options to a running core: model, tokenizer, KV pool, runner.

The only place that knows every part of an engine at once.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from ramet.engine.drafts import Drafts
from ramet.engine.loop import EngineCore
from ramet.engine.options import EngineOptions
from ramet.engine.runner import ModelRunner
from ramet.engine.schedule import Limits
from ramet.engine.tokenizer import Tokenizer
from ramet.errors import InvalidRequest
from ramet.kernels.threads import set_num_threads
from ramet.models import load_model
from ramet.models.decoder import Decoder

__all__ = ["assemble"]

# The default cache on a CPU: a quarter of the free memory, and no more than this many tokens (more would
# only make every table that is as long as the cache slower).
CPU_MEMORY_SHARE = 0.25
CPU_MAX_TOKENS = 131_072


def assemble(path: Path, options: EngineOptions) -> tuple[EngineCore, Tokenizer, Decoder]:
    """Load what `options` name; `path` is the resolved checkpoint folder. Raises `CheckpointError` and
    `InvalidRequest`."""
    if options.num_threads is not None:
        set_num_threads(options.num_threads)
    tokenizer = Tokenizer.load(Path(options.tokenizer_path or path))
    model = load_model(
        path,
        device=options.device,
        dtype=options.dtype,
        quantization=options.quantization,
        kv_dtype=options.kv_cache_dtype,
        native=options.exact,
        max_context=options.context_length,
        progress=options.progress,
    )
    _check_exact(model, options)
    num_slots = options.max_cache_tokens or _default_slots(model, options)
    try:
        pool = model.make_kv_pool(num_slots)
    except InvalidRequest as error:  # under the name that the caller knows
        raise InvalidRequest("max_cache_tokens", num_slots, error.problem, error.remedy) from error
    core = EngineCore(
        ModelRunner(model, pool),
        num_slots=num_slots,
        max_context=model.max_context,
        clock=time.perf_counter,
        limits=Limits(
            max_step_tokens=options.max_step_tokens,
            max_running=options.max_running,
            use_cache=not options.disable_radix_cache,
        ),
        policy=options.schedule_policy,
        max_overtaken=options.max_overtaken,
        audit_every_step=options.audit,
        seed=options.seed or 0,
        drafts=Drafts() if _drafts(model, options) else None,
        token_bytes=tokenizer.token_bytes.of,
    )
    return core, tokenizer, model


def _check_exact(model: Decoder, options: EngineOptions) -> None:
    """Only the native kernels give the same bits whatever is shared (their absence on a CPU was said
    when they were looked for)."""
    if options.exact and model.native is None:
        raise InvalidRequest(
            "exact", True, f"does not hold on {options.device}", "leave the option out"
        )


def _drafts(model: Decoder, options: EngineOptions) -> bool:
    """A guess is verified in a step of several rows; unless rows are exact, that could change a bit."""
    return model.native is not None if options.drafts is None else options.drafts


def _default_slots(model: Decoder, options: EngineOptions) -> int:
    per_slot = model.kv_bytes_per_slot
    if model.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(model.device)
        budget = free - (1 - options.mem_fraction_static) * total
    else:
        budget = CPU_MEMORY_SHARE * _free_memory()
    slots = int(budget // per_slot)
    if model.device.type != "cuda":
        slots = min(slots, CPU_MAX_TOKENS)
    if slots < 1:
        raise InvalidRequest(
            "max_cache_tokens",
            None,
            f"leaves no room: one token takes {per_slot} bytes",
            "free some memory",
        )
    return slots


def _free_memory() -> int:
    """Bytes that are free or can be freed, on Linux; all physical memory elsewhere."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
