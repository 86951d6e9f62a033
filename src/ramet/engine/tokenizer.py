"""Text to token ids and back, for the tokenizer of a checkpoint folder.

Knows `tokenizer.json` through the `tokenizers` library, and which tokens begin and end a text. Encoding a
prompt costs time in what was appended since an ancestor of it was encoded, where `ramet.engine.cuts` can
show that cutting there changes nothing. Refuses to know models and requests. All methods may be called
from any thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as LibraryTokenizer

from ramet.engine.cuts import safe_cuts
from ramet.engine.prompt_ids import GrowingIds, PromptIds
from ramet.engine.token_bytes import TokenBytes
from ramet.engine.tokenizer_files import (
    read_added_tokens,
    read_pieces,
    read_settings,
    read_source,
    special_texts,
    without_prefix,
)
from ramet.errors import CheckpointError, InvalidRequest, Unsupported
from ramet.kernels.plan import IntArray
from ramet.prompt import Media, Prompt, Text, Tokens

if TYPE_CHECKING:
    from ramet.backend import RoleTemplate

__all__ = ["Tokenizer"]


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """A prompt's tokens up to some node: `fixed` (nothing that follows can change them), then `open_ids`,
    the tokens of `open_text`, which following text may change. `encode` is how `open_text` is to be
    encoded; None where the last span was no text. `begins` says that the prompt begins with text, so that
    its tokens begin with the tokenizer's own first ones."""

    fixed: GrowingIds
    open_text: str
    open_ids: IntArray
    encode: Callable[[str], list[int]] | None
    begins: bool


_NO_IDS: IntArray = np.empty(0, np.int64)


class Tokenizer:
    """Build with `load`. `bos_token` and `eos_token` are texts or None; `eos_token_ids` end a generation.
    `special_texts` are the named special tokens, for templates, `special_texts_by_id` all special tokens;
    `chat_templates` are the checkpoint's own, by name, "default" the one that programs use. `token_bytes`
    gives each token's bytes (for masks and streams)."""

    def __init__(self, source: str, settings: Mapping[str, Any]) -> None:
        """`source` is the text of tokenizer.json, `settings` the content of tokenizer_config.json with
        `eos_token_id` and `chat_templates` added. Raises `CheckpointError`."""
        spec = json.loads(source)
        self._library = _build(source)
        self._pieces = read_pieces(spec)
        normalizer = self._library.normalizer
        added = read_added_tokens(spec, normalizer.normalize_str if normalizer else str)
        self._added_ids = frozenset(token.id for token in added)
        self.special_texts_by_id = {token.id: token.content for token in added if token.special}
        self._special_ids_by_text = {text: i for i, text in self.special_texts_by_id.items()}
        self.token_bytes = TokenBytes(
            self._pieces, frozenset(self.special_texts_by_id), spec.get("decoder")
        )
        self._cuts = safe_cuts(
            spec.get("pre_tokenizer"),
            spec.get("normalizer"),
            spec["model"],
            (piece for piece in self._pieces if piece is not None),
            added,
        )
        clean = [token for token in added if token.id in self._cuts.clean_ids]
        # Where added tokens are looked for in the text as it is, none is in a text without its beginning.
        self._clean_starts: frozenset[str] | None = None
        if normalizer is None or not any(token.normalized for token in clean):
            self._clean_starts = frozenset(token.content[:1] for token in clean)
        bare = without_prefix(spec)
        self._library_inside = self._library if bare is None else _build(json.dumps(bare))
        self.special_texts = special_texts(settings)
        self.bos_token = self.special_texts.get("bos_token")
        self.eos_token = self.special_texts.get("eos_token")
        self._first_ids = self._find_first_ids(settings)
        self.eos_token_ids = self._find_eos_ids(settings)
        self.chat_templates: dict[str, str] = dict(settings.get("chat_templates") or {})

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read the tokenizer of a checkpoint folder. Raises `CheckpointError`."""
        folder = Path(folder)
        source = read_source(folder / "tokenizer.json")
        settings = read_settings(folder)
        try:
            return cls(source, settings)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{folder}: tokenizer.json is broken: {error!r}") from error

    # -- single texts ------------------------------------------------------------------------------

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """`add_special_tokens` puts the tokens in front that the tokenizer begins texts with (BOS), unless
        the text begins with them itself. What it would put at the end is never added: a prompt is to be
        continued. Special tokens written in the text become these tokens."""
        ids = self._encode_start(text)
        first = self._first_ids if add_special_tokens else []
        return ids if ids[: len(first)] == first else [*first, *ids]

    def encode_continuation(self, text: str) -> list[int]:
        """As text that follows other tokens: no BOS and no dummy space in front."""
        if self._library_inside is self._library:
            return self._encode_start(text)
        encoding = _run(self._library_inside, text)
        split = self._find_added(encoding, text, self._added_ids, range(len(encoding)))
        if split is None:
            return list(encoding.ids)
        # what follows an added token begins as the tokenizer has it
        head = list(_run(self._library_inside, text[:split]).ids) if split else []
        return head + self._encode_start(text[split:])

    def encode_forced(self, text: str, following: frozenset[int]) -> list[int]:
        """Tokens of `text` in the midst of other text, as far as they are the same whatever follows that
        begins with one of the bytes `following` (none of them: nothing follows)."""
        cut = self._cuts.last_before(text, following)
        ids = self.encode_continuation(text[:cut]) if cut else []
        # A text that holds the name of an added token is not that token.
        return ids if self._added_ids.isdisjoint(ids) else []

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens that begin a text. Bytes that are no UTF-8 become U+FFFD."""
        return self.token_bytes.join(ids, skip_special_tokens).decode("utf-8", "replace")

    def token_text(self, token_id: int) -> str:
        """The text that the token adds to a text that has begun (a special token's name included)."""
        return self.token_bytes.of(token_id).decode("utf-8", "replace")

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special_texts_by_id

    def special_id(self, text: str) -> int | None:
        """The id of the special token that is written as `text`."""
        return self._special_ids_by_text.get(text)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return len(self._pieces)

    @property
    def chat_template(self) -> str | None:
        """Source of the checkpoint's default chat template."""
        return self.chat_templates.get("default")

    def role_template(self) -> RoleTemplate | None:
        """The checkpoint's template in the language's form; None if it has none, or one that does not
        render block after block."""
        from ramet.engine.chat import derive_role_template

        return derive_role_template(self)

    # -- prompts -----------------------------------------------------------------------------------

    def encode_prompt(self, prompt: Prompt) -> IntArray:
        """All token ids of `prompt`, int64, not to be written to: adjacent texts as one piece, `Tokens` as
        they are, the tokenizer's first tokens (BOS) in front if the prompt begins with text (or is
        empty). Raises `InvalidRequest` for text that is no Unicode and `Unsupported` for media."""
        return self.prompt_ids(prompt).buffer().view

    def prompt_ids(self, prompt: Prompt) -> PromptIds:
        """`encode_prompt` without the copy."""
        return self._ended(self._encoded(prompt))

    def choice_tokens(
        self, prompt: Prompt, choices: Sequence[str]
    ) -> tuple[PromptIds, list[PromptIds], int]:
        """(ids of the prompt, ids of prompt + choice for each choice, start): tokens from `start` on are
        those that the choices compete with. It is the first position where any of them differs from the
        prompt (a choice may merge with the prompt's end), the same for all; each choice has a token there.
        Raises `InvalidRequest` for no, empty or equal choices."""
        if not choices:
            raise InvalidRequest("choices", choices, "is empty", "give at least one choice")
        if "" in choices:
            raise InvalidRequest("choices", choices, "holds an empty text")
        if len(set(choices)) < len(choices):
            raise InvalidRequest("choices", choices, "holds the same text twice")
        state = self._encoded(prompt)
        prompt_ids = self._ended(state)
        full = [self.prompt_ids(prompt + Text(choice)) for choice in choices]
        # What is fixed is common to all, unless they are so short that what they begin with is open.
        known = len(state.fixed) if len(state.fixed) >= len(self._first_ids) else 0
        start = min(min(prompt_ids.common_prefix(ids, known), len(ids) - 1) for ids in full)
        return prompt_ids, full, start

    def _encoded(self, prompt: Prompt) -> _Encoded:
        node, later = prompt, []
        while node.parent is not None and self not in node.memo:
            later.append(node.span)
            node = node.parent
        state: _Encoded | None = node.memo.get(self)
        if state is not None and not later:
            return state
        grown = _Growth(self, state)
        texts: list[str] = []
        for span in reversed(later):
            if isinstance(span, Text):
                texts.append(span.text)
                continue
            grown.add_text("".join(texts))
            texts = []
            if isinstance(span, Tokens):
                grown.add_tokens(span.ids)
            elif isinstance(span, Media):
                raise Unsupported(f"{span.kind}: this model's prompts are text only")
        grown.add_text("".join(texts))
        state = grown.state()
        if (
            prompt.parent is not None
        ):  # the empty prompt is everybody's and outlives every tokenizer
            prompt.memo[self] = state
        return state

    def _ended(self, state: _Encoded) -> PromptIds:
        return state.fixed.ended(self._first_ids if state.begins else (), state.open_ids)

    def _encode_start(self, text: str) -> list[int]:
        return list(_run(self._library, text).ids)

    def _last_cut(self, text: str) -> tuple[int, Callable[[str], list[int]]]:
        """The last place where `text` can be cut, and how what follows the cut is encoded."""
        cut = self._cuts.last(text)
        special = self._last_special(text, cut)
        if special > cut:  # begins with an added token, so it is no continuation of anything
            return special, self._encode_start
        return cut, self.encode_continuation

    def _last_special(self, text: str, after: int) -> int:
        """Where the last clean added token at or after `after` stands, or 0."""
        starts = self._clean_starts
        if starts is not None and not any(start in text for start in starts):
            return 0
        encoding = _run(self._library, text[after:])
        backwards = range(len(encoding) - 1, -1, -1)
        found = self._find_added(encoding, text[after:], self._cuts.clean_ids, backwards)
        return 0 if found is None else after + found

    def _find_added(
        self, encoding: Encoding, text: str, wanted: frozenset[int], order: Iterable[int]
    ) -> int | None:
        """Where the first added token of `wanted` (in `order`) stands in the text, with the white space
        that it strips on its left. The model may give such an id too: the text tells them apart."""
        ids = encoding.ids
        for index in order:
            if ids[index] in wanted:
                start, end = encoding.token_to_chars(index) or (0, 0)
                if text[start:end].strip() == (self._pieces[ids[index]] or "").strip():
                    return int(start)
        return None

    # -- what begins and ends texts ----------------------------------------------------------------

    def _find_first_ids(self, settings: Mapping[str, Any]) -> list[int]:
        bos = None if self.bos_token is None else self._library.token_to_id(self.bos_token)
        explicit = settings.get("add_bos_token")
        if explicit is False or (explicit and bos is None):
            return []
        if explicit and bos is not None:
            return [bos]
        plain = self._library.encode("a", add_special_tokens=False).ids
        full = self._library.encode("a", add_special_tokens=True).ids
        for at in range(len(full) - len(plain) + 1):
            if full[at : at + len(plain)] == plain:
                return list(full[:at])
        return []

    def _find_eos_ids(self, settings: Mapping[str, Any]) -> frozenset[int]:
        found: set[int] = set()
        for value in settings.get("eos_token_id") or ():
            for token in value if isinstance(value, list) else [value]:
                if token is None:
                    continue
                if isinstance(token, bool) or not isinstance(token, int) or token < 0:
                    raise CheckpointError(f"eos_token_id {token!r} is no token id")
                found.add(token)
        if self.eos_token is not None:
            eos = self._library.token_to_id(self.eos_token)
            if eos is not None:
                found.add(eos)
        return frozenset(found)


class _Growth:
    """A prompt's encoding while spans are appended to it."""

    def __init__(self, tokenizer: Tokenizer, before: _Encoded | None) -> None:
        self._tokenizer = tokenizer
        self._fixed: list[IntArray] = []
        self._before = GrowingIds.empty() if before is None else before.fixed
        self._text, self._ids, self._encode = "", _NO_IDS, None
        self._begins: bool | None = None
        if before is not None:
            self._text, self._ids, self._encode = before.open_text, before.open_ids, before.encode
            self._begins = before.begins

    _encode: Callable[[str], list[int]] | None

    def add_text(self, text: str) -> None:
        if not text:
            return
        if self._begins is None:
            self._begins = True
            self._encode = self._tokenizer._encode_start
        encode = self._encode or self._tokenizer.encode_continuation
        whole = self._text + text
        cut, encode_rest = self._tokenizer._last_cut(whole)
        if cut:
            self._fixed.append(np.array(encode(whole[:cut]), np.int64))
            whole, encode = whole[cut:], encode_rest
        self._text, self._ids, self._encode = whole, np.array(encode(whole), np.int64), encode

    def add_tokens(self, ids: Sequence[int]) -> None:
        if self._begins is None:
            self._begins = False
        self._fixed += [self._ids, np.array(ids, np.int64)]
        self._text, self._ids, self._encode = "", _NO_IDS, None

    def state(self) -> _Encoded:
        fixed = np.concatenate(self._fixed) if self._fixed else _NO_IDS
        begins = self._begins is not False
        return _Encoded(self._before.append(fixed), self._text, self._ids, self._encode, begins)


def _run(library: LibraryTokenizer, text: str) -> Encoding:
    try:
        return library.encode(text, add_special_tokens=False)
    except (UnicodeEncodeError, TypeError):
        if not isinstance(text, str):
            raise InvalidRequest("text", text, "is not a string") from None
        raise InvalidRequest(
            "text",
            text,
            "holds a lone surrogate, which is no Unicode text",
            'decode the bytes it came from with errors="replace"',
        ) from None


def _build(source: str) -> LibraryTokenizer:
    try:
        library = LibraryTokenizer.from_str(source)
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"the tokenizers library refuses tokenizer.json: {error}") from error
    library.no_padding()
    library.no_truncation()
    if getattr(library.model, "dropout", None):
        library.model.dropout = None  # dropped merges are for training
    return library
