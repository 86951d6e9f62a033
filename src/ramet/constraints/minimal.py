"""The smallest automaton of a language, where the whole one is small enough; on disk, too.

Knows complete tables; refuses to know what they are for. A minimal automaton has fewer different states, so
fewer masks are looked for, and it needs no Nfa. States are merged by Hopcroft's algorithm (see
slow.partition, native/partition.cpp), and numbered by a breadth-first search, so that equal languages give
equal files.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from ramet.constraints import budget, compiled, slow
from ramet.constraints.automaton import Automaton
from ramet.constraints.limits import DEFAULT, ConstraintLimits
from ramet.constraints.table import DEAD, NEVER, Table, distances, merge_classes

__all__ = ["load", "minimise", "save"]

VERSION = 1
_ARRAYS = ("version", "to", "class_of", "accepting")
_OVERHEAD = 1024  # bytes around an array in a file, at most


def minimise(automaton: Automaton, max_work: int | None = None) -> Automaton | None:
    """The same language with the fewest states, all of them known. None: `automaton` has more than
    `limits.minimal_states` states, or finding them takes more than about `max_work` microseconds or half
    of its memory. Raises what finding states raises."""
    limits = automaton.limits
    # Half of the memory: what is too large for this must still be able to serve as it is.
    if not automaton.complete(limits.minimal_states, max_work, budget.MEMORY // 2):
        return None
    table = merged(automaton.core.export(), native=automaton.native)
    return _automaton(table, limits, automaton.field, automaton.value, automaton.native)


def merged(table: Table, *, native: bool) -> Table:
    """The minimal table of the same language."""
    # The partition costs time for each class of bytes.
    to, class_of = merge_classes(table.to, table.class_of)
    table = Table(to, class_of, table.accepting, table.distance)
    block = compiled.partition(table) if native else slow.partition(table)
    _, first = np.unique(block, return_index=True)
    # The start's block becomes state 0, which `Table.of` begins with.
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    number = np.append(rank[block], np.int32(DEAD))
    members = np.sort(first)
    return Table.of(number[table.to[members]], table.class_of, table.accepting[members])


def _automaton(
    table: Table, limits: ConstraintLimits, field: str, value: object, native: bool | None
) -> Automaton:
    return Automaton(table, limits, field=field, value=value, native=native)


def save(automaton: Automaton, path: Path) -> None:
    """Write an automaton that is complete. There is no moment at which half a file can be read. Raises
    OSError."""
    table = automaton.core.export()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                version=np.int64(VERSION),
                to=table.to,
                class_of=table.class_of,
                accepting=table.accepting,
            )
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def load(
    path: Path,
    limits: ConstraintLimits = DEFAULT,
    *,
    field: str = "constraint",
    value: object = "",
    native: bool | None = None,
) -> Automaton | None:
    """What `save` wrote. None where there is no such file, or anything is wrong with it: it is then found
    anew."""
    table = _read(path, limits.minimal_states)
    return None if table is None else _automaton(table, limits, field, value, native)


def _read(path: Path, most: int) -> Table | None:
    try:
        with zipfile.ZipFile(path) as file:
            sizes = [(entry.compress_type, entry.file_size) for entry in file.infolist()]
        # Before anything is unpacked: a file may claim to be larger than the memory.
        if any(
            kind != zipfile.ZIP_STORED or size > most * 1024 + _OVERHEAD for kind, size in sizes
        ):
            return None
        with np.load(path, allow_pickle=False) as found:
            if set(found.files) != set(_ARRAYS):
                return None
            version, to, class_of, accepting = (found[name] for name in _ARRAYS)
    except (OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError):
        return None
    except zipfile.BadZipFile:
        return None
    if version.shape != () or version.dtype != np.int64 or version != VERSION:
        return None
    return _checked(to, class_of, accepting, most)


def _checked(
    to: np.ndarray, class_of: np.ndarray, accepting: np.ndarray, most: int
) -> Table | None:
    shapes = to.ndim == 2 and class_of.shape == (256,) and accepting.shape == to.shape[:1]
    kinds = to.dtype == np.int32 and class_of.dtype == accepting.dtype == np.uint8
    if not shapes or not kinds or not 0 < len(to) <= most or not 0 < to.shape[1] <= 256:
        return None
    if to.min() < DEAD or to.max() >= len(to) or accepting.max() > 1:
        return None
    if class_of.max() >= to.shape[1]:
        return None
    far = distances(to, accepting)
    if (far == NEVER).any():  # a state without an end: masks would lead into it
        return None
    return Table(to, class_of, accepting, far)
