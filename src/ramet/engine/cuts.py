"""Where a text may be cut so that its two parts, tokenized apart, give the tokens of the whole.

Knows the pipeline of a `tokenizer.json` (added tokens, normalizer, pre-tokenizer, model). A cut is
between two characters (a, b) and must hold for every text around them, also for text that is not
written yet. Where that cannot be shown there is no cut. Refuses to tokenize.

Why a pair (a, b) is safe. Every stage of the pre-tokenizer scans for matches of an expression that
never looks behind. If nothing in the expression can examine b right after it consumed a, no match and
no attempt at one reaches across, so what is found before the cut is what is found when the text ends
there; and if b alone is a match, a match begins at b: the cut is a border between pieces in the whole
text too. The model works on each piece alone. For tokenizers without pieces (SentencePiece's BPE) the
same holds between a and b if no token of the vocabulary holds "ab": then no merge reaches across.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.engine.pattern import OTHER, Adjacency, NotUnderstood, adjacency, parse

__all__ = ["AddedToken", "SafeCuts", "safe_cuts"]

_GPT2 = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel's own
)
_OTHER = "other"  # the symbol of characters outside ASCII
_SPACE = "▁"
_FIRST = frozenset(map(chr, range(33, 127))) | {" ", "\n", "\t", "\r"}
_UNICODE_FORMS = {"NFC", "NFD", "NFKC", "NFKD"}

Component = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AddedToken:
    """One entry of `added_tokens`. `forms` are the texts it is looked for as (raw and normalized)."""

    id: int
    content: str
    forms: tuple[str, ...]
    special: bool
    normalized: bool
    lstrip: bool
    rstrip: bool
    single_word: bool


@dataclass(frozen=True, slots=True)
class SafeCuts:
    """`before[b]`: the symbols after which a text may be cut in front of `b`. `clean_ids`: added tokens
    in front of which a text may always be cut."""

    before: Mapping[str, frozenset[str]]
    clean_ids: frozenset[int]

    def last(self, text: str) -> int:
        """The last safe cut in `text` as an index, or 0. Cuts next to white space outside ASCII are
        never safe: engines differ in what they call white space."""
        return self.last_before(text, None)

    def last_before(self, text: str, following: frozenset[int] | None) -> int:
        """`last`, where something may follow `text` that begins with one of the bytes `following` (None:
        with anything): the whole text, if it may be cut in front of each of them."""
        before = self.before
        if not before or not text:
            return 0
        right = _symbol(text[-1])
        if following is not None and all(
            right in before.get(_symbol_of_byte(byte), ()) for byte in following
        ):
            return len(text)
        for cut in range(len(text) - 1, 0, -1):
            left = _symbol(text[cut - 1])
            if left in before.get(right, ()):
                return cut
            right = left
        return 0


def safe_cuts(
    pre_tokenizer: Component | None,
    normalizer: Component | None,
    model: Component,
    vocabulary: Iterable[str],
    added: Sequence[AddedToken],
) -> SafeCuts:
    """Components are those of `tokenizer.json`; `vocabulary` is read only if the answer depends on it."""
    everything = "\0".join(form for token in added for form in token.forms)
    clean = frozenset(token.id for token in added if _is_clean(token, everything))
    try:
        pairs = _pairs(flatten(pre_tokenizer), flatten(normalizer), model, vocabulary)
        pairs = _without_added(pairs, added, flatten(pre_tokenizer), flatten(normalizer))
    except NotUnderstood:
        pairs = {}
    return SafeCuts({b: frozenset(lefts) for b, lefts in pairs.items() if lefts}, clean)


def flatten(component: Component | None) -> list[Component]:
    """The stages of a component, sequences opened."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    inner = (
        component.get("pretokenizers")
        or component.get("normalizers")
        or component.get("decoders")
        or []
    )
    return [stage for part in inner for stage in flatten(part)]


def _symbol(char: str) -> str:
    if char < "\x80":
        return char if char in _FIRST else ""
    plain = unicodedata.category(char) in OTHER and char not in (
        _SPACE,
        "\u180e",
        "\u200b",
        "\ufeff",
    )
    return _OTHER if plain else ""


def _symbol_of_byte(byte: int) -> str:
    """Of a character that begins with the byte: outside ASCII it could be one that is never safe."""
    return _symbol(chr(byte)) if byte < 0x80 else ""


# -- pieces --------------------------------------------------------------------------------------------


def _pairs(
    stages: list[Component],
    normalizers: list[Component],
    model: Component,
    vocabulary: Iterable[str],
) -> dict[str, set[str]]:
    if _is_sentencepiece(stages, normalizers):
        return _sentencepiece_pairs(stages, model, vocabulary)
    kinds = {stage["type"] for stage in normalizers}
    if not kinds <= _UNICODE_FORMS:
        raise NotUnderstood("a normalizer that may reach across any cut")
    found = _piece_pairs([graph for stage in _checked(stages) for graph in _graphs(stage)])
    if _adds_prefix_space(stages):
        found = {" ": found.get(" ", set())}
    if kinds:  # what is outside ASCII may compose with what is before it; white space never does
        found = {b: lefts - {_OTHER} for b, lefts in found.items() if b in " \n\t\r"}
    return found


def _checked(stages: list[Component]) -> list[Component]:
    for stage in stages[:-1]:
        if stage["type"] == "ByteLevel":
            raise NotUnderstood("stages that see bytes")
    if _adds_prefix_space(stages) and len(stages) > 1:
        raise NotUnderstood("a prefix for every piece")
    return stages


def _adds_prefix_space(stages: list[Component]) -> bool:
    return any(s["type"] == "ByteLevel" and s.get("add_prefix_space", True) for s in stages)


def _graphs(stage: Component) -> list[Adjacency]:
    """The expression that a stage splits by; none for a stage that splits nothing."""
    match stage["type"]:
        case "ByteLevel":
            return [adjacency(parse(_GPT2))] if stage.get("use_regex", True) else []
        case "Digits":
            return [adjacency(parse(r"\p{N}" if stage["individual_digits"] else r"\p{N}+"))]
        case "Split":
            behavior = (stage["behavior"], bool(stage.get("invert")))
            if behavior not in (("Isolated", False), ("Removed", True)):
                raise NotUnderstood(f"split behaviour {behavior}")
            pattern = stage["pattern"]
            text = pattern["Regex"] if "Regex" in pattern else re.escape(pattern["String"])
            return [adjacency(parse(text))]
    raise NotUnderstood(stage["type"])


def _piece_pairs(graphs: list[Adjacency]) -> dict[str, set[str]]:
    """Pairs that no stage reaches across and that at least one stage makes a border."""
    if not graphs:
        raise NotUnderstood("one piece")
    symbols = [*_FIRST, _OTHER]
    pairs: dict[str, set[str]] = {}
    for b in symbols:
        rights = OTHER if b == _OTHER else frozenset(b)
        if not any(rights <= graph.alone for graph in graphs):
            continue
        pairs[b] = {
            a
            for a in symbols
            if not a.isspace()  # added tokens may strip white space across a cut
            and not any(
                graph.next[left] & rights
                for graph in graphs
                for left in (OTHER if a == _OTHER else (a,))
            )
        }
    return pairs


# -- one piece, spaces as "▁" --------------------------------------------------------------------------


def _is_sentencepiece(stages: list[Component], normalizers: list[Component]) -> bool:
    """Spaces become "▁" in front of a model that may see the whole text, and nothing else happens."""
    spaced = False
    for stage in normalizers:
        if stage["type"] == "Replace" and stage["content"] == _SPACE:
            spaced = stage["pattern"] == {"String": " "}
            if not spaced:
                return False
        elif stage["type"] != "Prepend" or stage["prepend"] != _SPACE:
            return False
    if len(stages) > 1:
        return False
    if stages and stages[0]["type"] == "Metaspace":
        return not normalizers and stages[0]["replacement"] == _SPACE
    if stages:  # a split at spaces finds none after the normalizer
        return spaced and stages[0]["type"] == "Split" and stages[0]["pattern"] == {"String": " "}
    return spaced


def _sentencepiece_pairs(
    stages: list[Component], model: Component, vocabulary: Iterable[str]
) -> dict[str, set[str]]:
    split = bool(stages) and stages[0]["type"] == "Metaspace" and stages[0].get("split", True)
    pairs = {" ": {a for a in (*_FIRST, _OTHER) if not a.isspace()}} if split else {}
    plain = model["type"] == "BPE" and not any(
        model.get(mark)
        for mark in ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
    )
    if plain:
        for b, lefts in _unmerged_pairs(model, vocabulary).items():
            pairs.setdefault(b, set()).update(lefts)
    elif not split:
        raise NotUnderstood("a model that weighs the whole text, or marks inside words")
    return pairs


def _unmerged_pairs(model: Component, vocabulary: Iterable[str]) -> dict[str, set[str]]:
    """Pairs that stand side by side in no token: no merge ever reaches across, and merges on one side do
    not look at the other. Characters without a token of their own could become one unknown token with
    their neighbours, so they make no pair."""
    joined: set[tuple[str, str]] = set()
    single: set[str] = {_OTHER} if model.get("byte_fallback") else set()
    for token in vocabulary:
        chars = [" " if char == _SPACE else _coarse(char) for char in token]
        joined.update(itertools.pairwise(chars))
        if len(chars) == 1:
            single.add(chars[0])
    single &= {*_FIRST, _OTHER}
    lefts = {a for a in single if not a.isspace()}
    return {b: {a for a in lefts if (a, b) not in joined} for b in single}


# -- added tokens --------------------------------------------------------------------------------------


def _is_clean(token: AddedToken, everything: str) -> bool:
    """Found in the raw text wherever it stands, whatever follows: no longer added token (`everything`
    holds the forms of all) can swallow it. What it strips on its left is on its own side of the cut."""
    if token.normalized or token.rstrip or token.single_word or not token.content.strip():
        return False
    return everything.count(token.content) == 1


def _without_added(
    pairs: dict[str, set[str]],
    added: Sequence[AddedToken],
    stages: list[Component],
    normalizers: list[Component],
) -> dict[str, set[str]]:
    """Take away the pairs at which an added token could be cut in two or lose what it strips."""
    if any(token.single_word for token in added):
        raise NotUnderstood("added tokens that look at their neighbours")
    prepends = any(stage["type"] == "Prepend" for stage in normalizers)
    if (
        (prepends or _adds_prefix_space(stages))
        and normalizers
        and any(token.normalized for token in added)
    ):
        raise NotUnderstood("added tokens that are found in normalized text with a prefix")
    left = {b: set(lefts) for b, lefts in pairs.items()}
    spaced = _is_sentencepiece(stages, normalizers)
    for token in added:
        for form in token.forms:
            for a, b in itertools.pairwise(form):
                right = " " if spaced and b == _SPACE else b
                left.get(_coarse(right), set()).discard(_coarse(a))
            if form and (token.rstrip or prepends):  # a prefix is due right after the token
                for b in " \n\t\r":
                    left.get(b, set()).discard(_coarse(form[-1]))
    return left


def _coarse(char: str) -> str:
    return char if char < "\x80" else _OTHER
