"""Conversations in which special tokens come from the chat template alone.

A client's text may spell a special token, and would end its own turn and begin one of another role with it.
`Quoting` keeps such spellings text. Before the template sees a client's text, a mark is put into every name
of a special token in it, so that the names that stand whole in what the template writes are the template's.
These are then written by secret names, the marks are taken out, and the text is encoded by a tokenizer that
is the same but for knowing its special tokens by their secret names. The tokens are therefore those of the
template's text, except that what clients spelled is plain text.

Knows texts and the tokenizers' form. Refuses to know templates, roles and messages.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as LibraryTokenizer

from ramet.engine.tokenizer import Tokenizer
from ramet.errors import InvalidRequest

__all__ = ["Quoting"]

_MARK_DIGITS = 24  # no filter of a template changes digits, and nobody guesses so many


class Quoting:
    """For one tokenizer. A name of one character cannot be broken by a mark and is left as it is."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.mark = "".join(secrets.choice("0123456789") for _ in range(_MARK_DIGITS))
        names = {text for text in tokenizer.special_texts_by_id.values() if len(text) > 1}
        self._names = frozenset(names)
        self._found = re.compile(_any_of(names)) if names else None
        self._places = re.compile(f"(?={_any_of(names)})(.)", re.DOTALL) if names else None
        self._begins = frozenset(name[:i] for name in names for i in range(1, len(name)))
        self._ends = frozenset(name[i:] for name in names for i in range(1, len(name)))
        self._most = max(map(len, names), default=0)

    # -- before the template -------------------------------------------------------------------------

    def quoted(self, value: Any) -> Any:
        """`value`, with a mark in every name of a special token in its texts, and at the ends of texts that
        could be part of one together with what the template writes beside them."""
        if isinstance(value, str):
            return self._quoted_text(value)
        if isinstance(value, Mapping):
            return {self.quoted(name): self.quoted(one) for name, one in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
            return [self.quoted(one) for one in value]
        return value

    def _quoted_text(self, text: str) -> str:
        if self._found is None or self._places is None:
            return text
        if self._found.search(text):
            text = self._places.sub(lambda match: match[1] + self.mark, text)
        end, start = text.rstrip(), text.lstrip()  # templates trim
        sizes = range(1, min(self._most, len(end) + 1))
        if any(end[-size:] in self._begins for size in sizes):
            text = end + self.mark + text[len(end) :]
            start = text.lstrip()
        if any(start[:size] in self._ends for size in sizes):
            text = text[: len(text) - len(start)] + self.mark + start
        return text

    def unmarked(self, value: Any) -> Any:
        """What was quoted, as it was."""
        if isinstance(value, str):
            return value.replace(self.mark, "")
        if isinstance(value, (list, tuple)):
            return [self.unmarked(one) for one in value]
        return value

    # -- behind it -----------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of a text that a template wrote and that has marks, without the tokenizer's first tokens.
        Raises `InvalidRequest` where the tokenizer's special tokens cannot be renamed."""
        if self._renamed is None:
            raise InvalidRequest(
                "messages",
                "the name of a special token",
                "stands in a text, and this model's tokenizer cannot tell it from the token",
            )
        library, names, whole = self._renamed
        own = whole.sub(lambda match: names.get(match[0], match[0]), text)
        try:
            encoding = library.encode(own.replace(self.mark, ""), add_special_tokens=False)
        except UnicodeEncodeError:
            raise InvalidRequest(
                "messages", "a text", "holds a lone surrogate, which is no Unicode text"
            ) from None
        return list(encoding.ids)

    def prepare(self) -> None:
        """Do now what the first text with a mark would wait for: fractions of a second for a large
        vocabulary."""
        _ = self._renamed

    @functools.cached_property
    def _renamed(self) -> tuple[LibraryTokenizer, dict[str, str], re.Pattern[str]] | None:
        """The tokenizer with secret names, these by the real ones, and what finds the names of all added
        tokens, longest first, as the tokenizer does."""
        spec = json.loads(self._tokenizer._library.to_str())
        secret = secrets.token_hex(16)
        names = {
            token["content"]: f"<{secret}-{token['id']}>"
            for token in spec["added_tokens"]
            if token["content"] in self._names
        }
        added = [token["content"] for token in spec["added_tokens"]]
        library = _renamed_library(spec, names)
        return None if library is None else (library, names, re.compile(_any_of(added)))


def _renamed_library(spec: dict[str, Any], names: Mapping[str, str]) -> LibraryTokenizer | None:
    """A tokenizer whose special tokens have other names; None if it does not come out the same else."""
    ids = {token["content"]: token["id"] for token in spec["added_tokens"]}
    for token in spec["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = spec["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if not _makes(merge, names)]
    spec["post_processor"] = None  # knows special tokens by name, and has nothing to do here
    try:
        library = LibraryTokenizer.from_str(json.dumps(spec))
    except Exception:  # the library raises bare Exception
        return None
    library.no_padding()
    library.no_truncation()
    if getattr(library.model, "dropout", None):
        library.model.dropout = None
    same = all(
        library.encode(secret, add_special_tokens=False).ids == [ids[name]]
        for name, secret in names.items()
    )
    return library if same else None


def _makes(merge: Any, names: Mapping[str, str]) -> bool:
    """Whether a merge of plain pieces gives a special token, or takes one."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left + right in names or left in names or right in names


def _any_of(names: Iterable[str]) -> str:
    """An expression for the longest of the names at a place. A tree of their beginnings, so that a place
    costs time in the length of a name, however many there are."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for char in name:
            node = node.setdefault(char, {})
        node[""] = {}
    return _branch(tree)


def _branch(node: dict[str, Any]) -> str:
    ways = [re.escape(char) + _branch(after) for char, after in node.items() if char]
    if not ways:
        return ""
    inner = ways[0] if len(ways) == 1 and "" not in node else f"(?:{'|'.join(ways)})"
    return f"{inner}?" if "" in node else inner
