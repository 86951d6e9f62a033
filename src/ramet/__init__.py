"""Ramet runs LLM programs: Python functions that call language models many times and share everything
they can.

Importing this costs no model and no tensor library: what needs one is loaded when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ramet import errors
from ramet.global_config import global_config  # before anyone imports that module: same name
from ramet.lang.api import (
    assistant,
    assistant_begin,
    assistant_end,
    flush_cache,
    gen,
    gen_int,
    gen_string,
    get_server_info,
    image,
    select,
    separate_reasoning,
    system,
    system_begin,
    system_end,
    use_tools,
    user,
    user_begin,
    user_end,
    video,
)
from ramet.lang.choices import (
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from ramet.lang.defaults import register_default_backend, set_default_backend
from ramet.lang.program import SglFunction, function
from ramet.lang.record import CallRecord, Event, listening
from ramet.lang.state import ProgramState
from ramet.lang.tools import Tool, ToolCall, ToolError, ToolTurn, describe_tools, tool

__version__ = "0.1.0"

_LAZY = {
    "Engine": "ramet.backends.local",
    "Scripted": "ramet.backends.scripted",
    "RuntimeEndpoint": "ramet.backends.remote",
    "Runtime": "ramet.backends.remote",
    "OpenAI": "ramet.backends.openai",
    "Anthropic": "ramet.backends.anthropic",
    "Gemini": "ramet.backends.gemini",
    "VertexAI": "ramet.backends.gemini",
    "ServerArgs": "ramet.server.args",
}
_NEVER = {
    "LiteLLM": "use OpenAI(base_url=...) for any service with an OpenAI-like interface",
    "Crusoe": "use OpenAI(base_url=...)",
}

__all__ = [
    "CallRecord",
    "Event",
    "ProgramState",
    "SglFunction",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolTurn",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "describe_tools",
    "errors",
    "flush_cache",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_info",
    "global_config",
    "greedy_token_selection",
    "image",
    "listening",
    "select",
    "separate_reasoning",
    "set_default_backend",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "tool",
    "unconditional_likelihood_normalized",
    "use_tools",
    "user",
    "user_begin",
    "user_end",
    "video",
]

if TYPE_CHECKING:
    from ramet.backends.scripted import Scripted as Scripted


def __getattr__(name: str) -> Any:
    """Backends, loaded when they are named."""
    if name in _NEVER:
        raise AttributeError(f"ramet has no {name}: {_NEVER[name]}")
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'ramet' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # a library that the backend needs is missing: its own message says which
        raise AttributeError(f"ramet.{name} is not part of this version of Ramet") from None


def _default_backend() -> Any:
    """One embedded model per process, loaded when the first program needs it."""
    return importlib.import_module("ramet.backends.local").default_engine()


register_default_backend(_default_backend)
