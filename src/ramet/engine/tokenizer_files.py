"""What stands in a tokenizer's files.

Reads `tokenizer.json` as plain data and the small files beside it: the vocabulary, the added tokens, the
same tokenizer without its dummy space, special tokens, chat templates. Refuses to tokenize.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ramet.engine.cuts import AddedToken
from ramet.errors import CheckpointError

__all__ = [
    "read_added_tokens",
    "read_json",
    "read_pieces",
    "read_settings",
    "read_source",
    "special_texts",
    "without_prefix",
]

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


def read_settings(folder: Path) -> dict[str, Any]:
    """The content of tokenizer_config.json over that of special_tokens_map.json, with `eos_token_id` (all
    that any file says) and `chat_templates` (by name)."""
    settings = read_json(folder / "special_tokens_map.json")
    own = read_json(folder / "tokenizer_config.json")
    settings |= {name: value for name, value in own.items() if value is not None}
    config = read_json(folder / "config.json")
    settings["eos_token_id"] = [
        read_json(folder / "generation_config.json").get("eos_token_id"),
        config.get("eos_token_id"),
        (config.get("text_config") or {}).get("eos_token_id"),
    ]
    settings["chat_templates"] = _chat_templates(folder, settings.get("chat_template"))
    return settings


def read_pieces(spec: Mapping[str, Any]) -> list[str | None]:
    vocabulary = spec["model"]["vocab"]
    if isinstance(vocabulary, Mapping):
        entries = [(index, piece) for piece, index in vocabulary.items()]
    else:  # Unigram: [piece, score] in order
        entries = [(index, entry[0]) for index, entry in enumerate(vocabulary)]
    entries += [(token["id"], token["content"]) for token in spec.get("added_tokens") or ()]
    pieces: list[str | None] = [None] * (1 + max((index for index, _ in entries), default=-1))
    for index, piece in entries:
        pieces[index] = piece
    return pieces


def read_added_tokens(spec: Mapping[str, Any], normalize: Callable[[str], str]) -> list[AddedToken]:
    """`normalize` is the tokenizer's own normalizer."""
    found = []
    for token in spec.get("added_tokens") or ():
        content, normalized = token["content"], bool(token.get("normalized"))
        forms = {content}
        if normalized:
            forms.add(normalize(content))
        found.append(
            AddedToken(
                id=token["id"],
                content=content,
                forms=tuple(sorted(forms)),
                special=bool(token.get("special")),
                normalized=normalized,
                lstrip=bool(token.get("lstrip")),
                rstrip=bool(token.get("rstrip")),
                single_word=bool(token.get("single_word")),
            )
        )
    return found


def without_prefix(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tokenizer without the dummy space that it puts in front of texts, or None if it puts none."""
    bare = {**spec, "normalizer": copy.deepcopy(spec.get("normalizer"))}
    bare["pre_tokenizer"] = copy.deepcopy(spec.get("pre_tokenizer"))
    changed = [_unprefix(bare["pre_tokenizer"]), _unprefix(bare["normalizer"])]
    if (bare["normalizer"] or {}).get("type") == "Prepend":
        bare["normalizer"] = None
        changed.append(True)
    return bare if any(changed) else None


def _unprefix(component: dict[str, Any] | None) -> bool:
    """Take prefixes out of a component in place. True if there were any."""
    if component is None:
        return False
    changed = False
    if component["type"] == "Sequence":
        name = "normalizers" if "normalizers" in component else "pretokenizers"
        kept = [part for part in component[name] if part["type"] != "Prepend"]
        changed = len(kept) < len(component[name])
        component[name] = kept
        return any([changed, *map(_unprefix, kept)])
    if component["type"] == "ByteLevel":
        changed = bool(component.get("add_prefix_space", True))
        component["add_prefix_space"] = False
    if component["type"] == "Metaspace":
        changed = component.get("prepend_scheme", "always") != "never"
        changed = changed and component.get("add_prefix_space", True)
        component.pop("add_prefix_space", None)
        component["prepend_scheme"] = "never"
    return changed


def read_source(path: Path) -> str:
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} has no {path.name}; a checkpoint needs its tokenizer in that form "
            "(the transformers library converts others)"
        )
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that may be missing."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_source(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def special_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in _SPECIAL_NAMES:
        value = settings.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str) and value:
            found[name] = value
    return found


def _chat_templates(folder: Path, setting: object) -> dict[str, str]:
    """By name: those of tokenizer_config.json, then the files, which newer checkpoints have instead."""
    found: dict[str, str] = {}
    if isinstance(setting, str):
        found["default"] = setting
    elif isinstance(setting, list):
        for entry in setting:
            if not (isinstance(entry, Mapping) and {"name", "template"} <= set(entry)):
                raise CheckpointError(f"{folder}: chat_template is no list of named templates")
            found[str(entry["name"])] = str(entry["template"])
    files = {"default": folder / "chat_template.jinja"}
    files |= {p.stem: p for p in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    for name, path in files.items():
        if path.is_file():
            try:
                found[name] = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from error
    return found
