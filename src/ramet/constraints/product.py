"""From the source of a constraint to what enforces it: an automaton, or a grammar for llguidance.

Without a vocabulary, so that it can be made in another process and kept on disk: a minimal automaton where
the whole one is small, else the Nfa that is determinized as texts lead. Knows the kinds of sources; waits
for nobody.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ramet.constraints import minimal
from ramet.constraints.automaton import Automaton
from ramet.constraints.limits import ConstraintLimits
from ramet.constraints.nfa import Nfa, build
from ramet.constraints.nodes import Node
from ramet.constraints.syntax import parse
from ramet.errors import InvalidRequest

__all__ = ["KINDS", "VERSION", "Product", "is_small", "load", "make", "save"]

KINDS = ("regex", "json_schema", "ebnf", "structural_tag")
VERSION = 1  # of what a source means: raise it when a reader changes
SMALL_SOURCE = 1024  # characters
MINIMAL_WORK = 300_000  # microseconds for finding all states of an automaton


@dataclass(frozen=True, slots=True)
class Product:
    """Either `automaton` (with the `nfa` it comes from, if it is not complete) or `grammar`."""

    automaton: Automaton | None = None
    nfa: Nfa | None = None
    grammar: str | None = None


def make(kind: str, source: str, limits: ConstraintLimits) -> Product:
    """Raises `InvalidRequest` naming `kind`."""
    if kind == "regex":
        return _of_node(parse(source, limits, kind), kind, source, limits)
    if kind == "json_schema":
        return _of_schema(source, limits)
    if kind == "ebnf":
        from ramet.constraints.grammar import read as read_grammar

        return Product(grammar=read_grammar(source, limits))
    if kind == "structural_tag":
        from ramet.constraints.tags import read as read_tags

        return Product(grammar=read_tags(source, limits))
    raise InvalidRequest("kind", kind, "is no kind of constraint", f"known are {', '.join(KINDS)}")


def check_size(kind: str, source: str, limits: ConstraintLimits) -> None:
    """Raises `InvalidRequest` for what is too long to be looked at."""
    most = limits.source_bytes if kind == "regex" else limits.schema_bytes
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > most:
        raise InvalidRequest(kind, source, f"has {size} bytes, more than {most}", "shorten it")


def is_small(source: str) -> bool:
    """Can it be read in a few milliseconds? What it stands for may be large: that is native code's work,
    which leaves the interpreter to others."""
    return len(source) <= SMALL_SOURCE


def _of_node(node: Node, kind: str, source: str, limits: ConstraintLimits) -> Product:
    nfa = build(node, limits, kind, source)
    lazy = Automaton(nfa, limits, field=kind, value=source)
    smallest = minimal.minimise(lazy, MINIMAL_WORK)
    return Product(smallest) if smallest is not None else Product(lazy, nfa)


def _of_schema(source: str, limits: ConstraintLimits) -> Product:
    """Our own automaton where the schema is regular and small enough, else a grammar."""
    from ramet.constraints.schema import read as read_schema

    schema = read_schema(source, limits)
    if schema.node is None:
        return Product(grammar=schema.grammar)
    try:
        return _of_node(schema.node, "json_schema", source, limits)
    except InvalidRequest:
        return Product(grammar=schema.grammar)


# -- files ---------------------------------------------------------------------------------------------

_ARRAYS = [f.name for f in dataclasses.fields(Nfa) if f.name not in ("start", "final")]


def save(made: Product, path: Path) -> None:
    """Under names that begin with `path`. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if made.grammar is not None:
        _write(_name(path, "grammar"), made.grammar.encode("utf-8", "surrogatepass"))
    elif made.nfa is not None:
        arrays = {name: getattr(made.nfa, name) for name in _ARRAYS}
        np.savez(_name(path, "nfa.npz"), ends=[made.nfa.start, made.nfa.final], **arrays)
    elif made.automaton is not None:
        minimal.save(made.automaton, _name(path, "npz"))


def load(path: Path, limits: ConstraintLimits, kind: str, source: str) -> Product | None:
    """What `save` wrote; None where there is nothing, or something is wrong with it. An Nfa is believed:
    only files that this process asked for may hold one."""
    found = minimal.load(_name(path, "npz"), limits, field=kind, value=source)
    if found is not None:
        return Product(found)
    try:
        return Product(grammar=_name(path, "grammar").read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        pass
    try:
        with np.load(_name(path, "nfa.npz"), allow_pickle=False) as arrays:
            start, final = arrays["ends"].tolist()
            nfa = Nfa(start=start, final=final, **{name: arrays[name] for name in _ARRAYS})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Product(Automaton(nfa, limits, field=kind, value=source), nfa)


def keepable(made: Product) -> bool:
    """Is it worth a file, and can a file be trusted? Minimal automata: they are checked when read."""
    return made.automaton is not None and made.nfa is None


def _name(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{ending}")


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.part")
    fresh.write_bytes(data)
    os.replace(fresh, path)
