"""What each token is in bytes, and how the bytes of several tokens become text.

Knows the decoders of `tokenizer.json` whose tokens each stand for fixed bytes: byte-level ones and
SentencePiece's. For these the text of any tokens is their bytes put together and read as UTF-8, so a
stream can be decoded token by token and gives the same text. A decoder of another kind is refused. The
`tokenizers` library agrees wherever the bytes are valid UTF-8 (it writes one U+FFFD per byte of a broken
group of SentencePiece byte tokens, this file one per broken sequence).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ramet.engine.cuts import flatten
from ramet.errors import CheckpointError

__all__ = ["TokenBytes", "byte_level_alphabet"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_level_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies (GPT-2): printable Latin-1 ones for
    themselves, the others in order from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return alphabet


class TokenBytes:
    """`pieces[id]` is the token's entry in the vocabulary, None for an id without one; `hidden` are the
    special tokens. Raises `CheckpointError` for a decoder of an unknown kind."""

    def __init__(
        self,
        pieces: Sequence[str | None],
        hidden: frozenset[int],
        decoder: Mapping[str, Any] | None,
    ) -> None:
        self.hidden = hidden
        self._pieces = pieces
        self._cache: list[bytes | None] = [None] * len(pieces)
        self._texts: list[str | None] = [None] * len(pieces)
        self._alphabet: dict[str, int] | None = None
        self._replacements: list[tuple[str, str]] = []
        self._byte_tokens = False
        self._strip = b""  # what is dropped from the start of a text, if it is there
        self._strip_first_token = ""  # what is dropped from everywhere in a text's first token
        self._read(flatten(decoder))

    def of(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text that has begun; none for an id without a token."""
        if not 0 <= token_id < len(self._pieces):
            return b""
        found = self._cache[token_id]
        if found is None:
            found = self._cache[token_id] = self._bytes(self._pieces[token_id] or "")
        return found

    def text_of(self, token_id: int) -> str:
        """`of` as text, if that is text wherever it stands: whole characters, at least one. "" else."""
        if not 0 <= token_id < len(self._texts):
            return ""
        found = self._texts[token_id]
        if found is None:
            try:
                found = self.of(token_id).decode("utf-8")
            except UnicodeDecodeError:
                found = ""
            self._texts[token_id] = found
        return found

    def first(self, token_id: int) -> bytes:
        """The bytes that the token gives as the very first of a text."""
        found = self.of(token_id)
        if self._strip and found.startswith(self._strip):
            return found[len(self._strip) :]
        if self._strip_first_token and 0 <= token_id < len(self._pieces):
            return self._bytes((self._pieces[token_id] or "").replace(self._strip_first_token, ""))
        return found

    def join(self, token_ids: Iterable[int], skip_special_tokens: bool) -> bytes:
        shown = [
            token
            for token in token_ids
            if self.of(token) and not (skip_special_tokens and token in self.hidden)
        ]
        return self.first(shown[0]) + b"".join(map(self.of, shown[1:])) if shown else b""

    def _bytes(self, piece: str) -> bytes:
        if self._alphabet is not None:
            try:
                return bytes([self._alphabet[char] for char in piece])
            except KeyError:  # an added token with characters of its own
                return piece.encode("utf-8", "surrogatepass")
        for old, new in self._replacements:
            piece = piece.replace(old, new)
        if self._byte_tokens and (byte := _BYTE_TOKEN.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        return piece.encode("utf-8", "surrogatepass")

    def _read(self, stages: list[Mapping[str, Any]]) -> None:
        fused = False
        if not stages:
            raise CheckpointError(
                "tokenizer.json has no decoder, so the text of tokens is not defined; "
                "give it the decoder that fits its pre-tokenizer"
            )
        for stage in stages:
            match stage["type"]:
                case "ByteLevel":
                    self._alphabet = byte_level_alphabet()
                case "Replace" if "String" in stage["pattern"] and not fused:
                    self._replacements.append((stage["pattern"]["String"], stage["content"]))
                case "ByteFallback":
                    self._byte_tokens = True
                case "Fuse":
                    fused = True
                case "Strip" if fused and stage["stop"] == 0 and stage["start"] <= 1:
                    self._strip = stage["content"].encode() * stage["start"]
                case "Metaspace":
                    self._replacements.append((stage["replacement"], " "))
                    scheme = stage.get("prepend_scheme", "always")
                    if scheme != "never" and stage.get("add_prefix_space", True):
                        self._strip_first_token = stage["replacement"]
                case other:
                    raise CheckpointError(
                        f"tokenizer.json: decoder {other!r} is not one whose tokens stand for bytes of "
                        "their own (ByteLevel, Metaspace, or SentencePiece's Replace, ByteFallback, "
                        "Fuse, Strip); this tokenizer cannot be used"
                    )
