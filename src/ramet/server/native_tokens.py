"""`/tokenize` and `/detokenize`: texts and token ids.

Knows bodies; refuses to know HTTP and engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ramet.errors import InvalidRequest
from ramet.server.json_fields import Fields, shown
from ramet.server.native_bounds import MAX_MESSAGES, MAX_NAME, MAX_PROMPTS, flag, refuse_unknown
from ramet.server.served import ServedModel

__all__ = ["read_detokenize", "read_tokenize"]


def read_tokenize(body: Mapping[str, Any], model: ServedModel) -> dict[str, Any]:
    """The answer of `/tokenize`."""
    known = frozenset(
        ("model", "prompt", "messages", "add_special_tokens", "add_generation_prompt")
    )
    refuse_unknown(body, known, frozenset())
    prompt, messages = body.get("prompt"), body.get("messages")
    if (prompt is None) == (messages is None):
        raise InvalidRequest("prompt", prompt, "and messages: exactly one of them must be given")
    special = body.get("add_special_tokens") is None or flag(body, "add_special_tokens")
    begun = body.get("add_generation_prompt") is None or flag(body, "add_generation_prompt")
    Fields(body).text("model", MAX_NAME)
    if messages is not None:
        objects = isinstance(messages, list) and all(isinstance(m, dict) for m in messages)
        if not objects or len(messages) > MAX_MESSAGES:
            problem = f"is not a list of at most {MAX_MESSAGES} objects"
            raise InvalidRequest("messages", shown(messages), problem)
        tokens: Any = model.render(messages, begun)
    elif isinstance(prompt, str):
        tokens = model.encode(prompt, special)
    elif isinstance(prompt, list) and all(isinstance(one, str) for one in prompt):
        if len(prompt) > MAX_PROMPTS:
            raise InvalidRequest("prompt", f"{len(prompt)} texts", f"are more than {MAX_PROMPTS}")
        tokens = [model.encode(one, special) for one in prompt]
    else:
        raise InvalidRequest("prompt", shown(prompt), "is neither a text nor a list of texts")
    many = bool(tokens) and isinstance(tokens[0], list)
    count: Any = [len(one) for one in tokens] if many else len(tokens)
    return {"tokens": tokens, "count": count, "max_model_len": model.max_context}


def read_detokenize(body: Mapping[str, Any], model: ServedModel) -> dict[str, Any]:
    """The answer of `/detokenize`."""
    refuse_unknown(body, frozenset(("model", "tokens", "skip_special_tokens")), frozenset())
    Fields(body).text("model", MAX_NAME)
    tokens = body.get("tokens")
    skip = body.get("skip_special_tokens") is None or flag(body, "skip_special_tokens")
    many = isinstance(tokens, list) and bool(tokens) and isinstance(tokens[0], list)
    lists: list[Any] = tokens if isinstance(tokens, list) and many else [tokens]
    if len(lists) > MAX_PROMPTS:
        raise InvalidRequest("tokens", f"{len(lists)} lists", f"are more than {MAX_PROMPTS}")
    for one in lists:
        if not isinstance(one, list):
            raise InvalidRequest("tokens", shown(tokens), "is not a list of token ids")
        for token in one:
            if type(token) is not int or not 0 <= token < model.tokenizer.vocab_size:
                raise InvalidRequest("tokens", shown(token), "is no token id of this model")
    texts = [model.tokenizer.decode(one, skip) for one in lists]
    return {"text": texts if many else texts[0]}
