"""Engines that say which tokens may come next, behind one small interface.

Each is told a vocabulary and a constraint, and asked step by step. Nothing of Ramet is imported unless it is
the one asked. One thread each, no cache of compiled constraints, otherwise the settings that their own
documentation starts with; JSON with any whitespace that they allow, and more fields where a schema allows them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["ENGINES", "Compiled", "Engine", "Mask", "Place", "Tokens", "Unsupported"]

Mask = npt.NDArray[np.uint32]


class Unsupported(Exception):
    """The engine refuses the constraint, or cannot go on with it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """`texts[id]` is what the token adds to a text, b"" for special tokens and unused ids. `folder` holds
    its tokenizer.json."""

    texts: list[bytes]
    ends: list[int]
    folder: Path

    @property
    def words(self) -> int:
        return (len(self.texts) + 31) // 32

    def encoder(self) -> Callable[[str], list[int]]:
        """For text that follows other text: without the space that some tokenizers begin with."""
        from tokenizers import Tokenizer

        spec = json.loads((self.folder / "tokenizer.json").read_text("utf-8"))
        steps = (spec.get("normalizer") or {}).get("normalizers", [])
        steps[:] = [step for step in steps if step["type"] != "Prepend"]
        library = Tokenizer.from_str(json.dumps(spec))
        return lambda text: list(library.encode(text, add_special_tokens=False).ids)


class Place(Protocol):
    """Somewhere in a text. The array that `mask` gives is valid until its next call."""

    def mask(self) -> Mask: ...

    def accept(self, token: int) -> bool: ...

    def may_end(self) -> bool: ...

    def forced(self) -> Sequence[int] | str:
        """What must come next as the engine itself would use it: tokens, or text."""
        ...


class Compiled(Protocol):
    def start(self) -> Place: ...


class Engine(Protocol):
    def compile(self, kind: str, source: str) -> Compiled:
        """Raises `Unsupported`."""
        ...

    def about(self) -> str: ...


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


# -- Ramet ---------------------------------------------------------------------------------------


class _Ramet:
    def __init__(self, tokens: Tokens) -> None:
        from ramet.constraints.compiler import Compiler
        from ramet.engine.constraining import vocabulary_of
        from ramet.engine.tokenizer import Tokenizer
        from ramet.errors import RametError

        tokenizer = Tokenizer.load(tokens.folder)
        self._compiler = Compiler(lambda: vocabulary_of(tokenizer, len(tokens.texts)))
        # What is made once per engine: the tree of tokens, and the process for large sources.
        self._compiler.compile("regex", "a")
        large = {"enum": [f"{number:040}" for number in range(40)]}
        with contextlib.suppress(RametError):
            self._compiler.compile("json_schema", json.dumps(large))

    def compile(self, kind: str, source: str) -> Compiled:
        from ramet.errors import RametError

        try:
            return _RametCompiled(self._compiler.compile(kind, source))
        except RametError as error:
            raise Unsupported(str(error)) from error

    def about(self) -> str:
        import ramet

        return f"ramet {ramet.__version__}"


class _RametCompiled:
    def __init__(self, constraint: Any) -> None:
        self._constraint = constraint

    def start(self) -> Place:
        return _RametPlace(self._constraint.start())


class _RametPlace:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self.late = 0  # masks that an engine would have waited for on another thread

    def mask(self) -> Mask:
        found = self._matcher.mask()
        while found is None:
            self.late += 1
            self._matcher.prepare()
            found = self._matcher.mask()
        return found  # type: ignore[no-any-return]

    def accept(self, token: int) -> bool:
        return bool(self._matcher.accept(token))

    def may_end(self) -> bool:
        return bool(self._matcher.may_end)

    def forced(self) -> Sequence[int] | str:
        found = self._matcher.forced()
        while found is None:
            self.late += 1
            self._matcher.prepare()
            found = self._matcher.forced()
        return list(found)


# -- llguidance ----------------------------------------------------------------------------------


class _Wrapped:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokens: Tokens) -> None:
        self.eos_token_id = tokens.ends[0]
        self.bos_token_id = None
        # It has no empty tokens; those that begin with 0xFF are special ones to it.
        self.tokens = [text or b"\xff[%d]" % i for i, text in enumerate(tokens.texts)]
        self.special_token_ids = [i for i, text in enumerate(tokens.texts) if not text]
        self._encode = tokens.encoder()

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


class _Guidance:
    def __init__(self, tokens: Tokens) -> None:
        import llguidance

        self._library = llguidance
        self._words = tokens.words
        wrapped = llguidance.TokenizerWrapper(_Wrapped(tokens))
        self._tokenizer = llguidance.LLTokenizer(
            wrapped, n_vocab=len(tokens.texts), eos_token=list(tokens.ends)
        )

    def compile(self, kind: str, source: str) -> Compiled:
        matcher = self._library.LLMatcher
        if kind == "regex":
            grammar = matcher.grammar_from_regex(source)
        else:
            grammar = matcher.grammar_from_json_schema(source)
        made = matcher(self._tokenizer, grammar)
        if made.is_error():
            raise Unsupported(made.get_error())
        return _GuidanceCompiled(made, self._words)

    def about(self) -> str:
        return _version("llguidance")


class _GuidanceCompiled:
    """Later texts begin with a copy of the matcher that wrote the first one, which keeps what its lexer
    has found."""

    def __init__(self, matcher: Any, words: int) -> None:
        self._matcher, self._words = matcher, words
        self._used = False

    def start(self) -> Place:
        if not self._used:
            self._used = True
            return _GuidancePlace(self._matcher, self._words)
        matcher = self._matcher.deep_copy()
        matcher.reset()
        return _GuidancePlace(matcher, self._words)


class _GuidancePlace:
    def __init__(self, matcher: Any, words: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros(words, np.uint32)

    def mask(self) -> Mask:
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            raise Unsupported(self._matcher.get_error())
        return self._mask

    def accept(self, token: int) -> bool:
        return bool(self._matcher.consume_token(token))

    def may_end(self) -> bool:
        return bool(self._matcher.is_accepting())

    def forced(self) -> Sequence[int] | str:
        return list(self._matcher.compute_ff_tokens())


# -- xgrammar ------------------------------------------------------------------------------------


class _XGrammar:
    def __init__(self, tokens: Tokens) -> None:
        import xgrammar

        self._library, self._tokens = xgrammar, tokens
        info = xgrammar.TokenizerInfo(
            tokens.texts, xgrammar.VocabType.RAW, stop_token_ids=list(tokens.ends)
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile(self, kind: str, source: str) -> Compiled:
        try:
            if kind == "regex":
                made = self._compiler.compile_regex(source)
            else:
                made = self._compiler.compile_json_schema(source, strict_mode=False)
        except Exception as error:  # its errors are of several kinds
            raise Unsupported(f"{type(error).__name__}: {error}") from error
        return _XGrammarCompiled(self._library, made, self._tokens)

    def about(self) -> str:
        return _version("xgrammar")


class _XGrammarCompiled:
    def __init__(self, library: Any, made: Any, tokens: Tokens) -> None:
        self._library, self._made, self._tokens = library, made, tokens

    def start(self) -> Place:
        return _XGrammarPlace(self._library.GrammarMatcher(self._made), self._tokens)


class _XGrammarPlace:
    def __init__(self, matcher: Any, tokens: Tokens) -> None:
        self._matcher, self._end = matcher, tokens.ends[0]
        self._rows = np.full((1, tokens.words), -1, np.int32)
        self._mask = self._rows.view(np.uint32)[0]

    def mask(self) -> Mask:
        if not self._matcher.fill_next_token_bitmask(self._rows):
            self._rows.fill(-1)
        return self._mask

    def accept(self, token: int) -> bool:
        return bool(self._matcher.accept_token(token))

    def may_end(self) -> bool:
        self.mask()
        return bool(self._mask[self._end >> 5] >> (self._end & 31) & 1)

    def forced(self) -> Sequence[int] | str:
        return str(self._matcher.find_jump_forward_string())


# -- outlines-core -------------------------------------------------------------------------------


class _Outlines:
    def __init__(self, tokens: Tokens) -> None:
        import outlines_core

        self._library, self._words = outlines_core, tokens.words
        ids: dict[bytes, list[int]] = {}
        for number, text in enumerate(tokens.texts):
            if text:
                ids.setdefault(text, []).append(number)
        self._vocabulary = outlines_core.Vocabulary(tokens.ends[0], ids)

    def compile(self, kind: str, source: str) -> Compiled:
        from outlines_core.json_schema import build_regex_from_schema

        try:
            regex = source if kind == "regex" else build_regex_from_schema(source)
            return _OutlinesCompiled(
                self._library, self._library.Index(regex, self._vocabulary), self._words
            )
        except Exception as error:  # its errors are of several kinds
            raise Unsupported(f"{type(error).__name__}: {error}") from error

    def about(self) -> str:
        return _version("outlines_core")


class _OutlinesCompiled:
    def __init__(self, library: Any, index: Any, words: int) -> None:
        self._library, self._index, self._words = library, index, words

    def start(self) -> Place:
        return _OutlinesPlace(self._library.Guide(self._index), self._words)


class _OutlinesPlace:
    def __init__(self, guide: Any, words: int) -> None:
        self._guide = guide
        self._mask = np.zeros(words, np.uint32)

    def mask(self) -> Mask:
        self._guide.write_mask_into(self._mask.ctypes.data, self._mask.size, 4)
        return self._mask

    def accept(self, token: int) -> bool:
        try:
            self._guide.advance(token, return_tokens=False)
        except ValueError:
            return False
        return True

    def may_end(self) -> bool:
        return bool(self._guide.is_finished())

    def forced(self) -> Sequence[int] | str:
        return ()


ENGINES: dict[str, Callable[[Tokens], Engine]] = {
    "ramet": _Ramet,
    "llguidance": _Guidance,
    "xgrammar": _XGrammar,
    "outlines-core": _Outlines,
}
