"""A checkpoint's own chat template, as a Ramet server sends it.

Knows the `tokenizer` field of the server's model information and rebuilds from it what the template's
reader needs. The template runs in the same sandbox as one from a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ramet.backend import RoleTemplate
from ramet.engine.chat import derive_role_template
from ramet.errors import RametError

__all__ = ["template_of", "tokenizer_field"]


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    chat_template: str | None
    special_texts: Mapping[str, str]
    eos_token_ids: frozenset[int]
    special_texts_by_id: Mapping[int, str]


def tokenizer_field(tokenizer: Any) -> dict[str, Any]:
    """What a server puts into the field, of a `ramet.engine.tokenizer.Tokenizer`."""
    return {
        "chat_template": tokenizer.chat_template,
        "special_texts": dict(tokenizer.special_texts),
        "eos_token_ids": sorted(tokenizer.eos_token_ids),
        "special_texts_by_id": {str(i): t for i, t in tokenizer.special_texts_by_id.items()},
    }


def template_of(field: Mapping[str, Any]) -> RoleTemplate | None:
    """None if there is no template in it, or one that does not render block after block."""
    try:
        source = field.get("chat_template")
        checkpoint = _Checkpoint(
            None if source is None else str(source),
            {str(name): str(text) for name, text in (field.get("special_texts") or {}).items()},
            frozenset(int(token) for token in field.get("eos_token_ids") or ()),
            {int(i): str(t) for i, t in (field.get("special_texts_by_id") or {}).items()},
        )
        return derive_role_template(checkpoint)
    except (RametError, TypeError, ValueError, AttributeError):
        return None  # the table's guess is better than none
