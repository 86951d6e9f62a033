"""The native automaton: what `slow.SlowCore` defines, at the speed that a decoding step needs.

Knows the C interface of native/interface.cpp; refuses to know subset construction and walks, which are
there. A call leaves the interpreter free and holds the automaton's own lock, which a long walk offers to
whoever waits.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt

from ramet.build import LEVELS, BuildError, Library, load
from ramet.constraints.budget import Budget
from ramet.constraints.matcher import Mask
from ramet.constraints.table import DEAD, Table
from ramet.constraints.trie import TokenTrie

if TYPE_CHECKING:
    from ramet.constraints.nfa import Nfa

__all__ = ["AUTOMATA", "LEVEL", "NativeCore", "partition", "why_not"]

AUTOMATA = Library("constraints", "the automata of constraints", Path(__file__).parent / "native")
# Walks are loads and branches: wider vectors were measured to change nothing.
LEVEL = LEVELS["portable"]
# Nodes of a trie that a walk passes: the unit in which native code counts its work. Measured: 330 nodes, or
# what is counted as 560 to 1000 of them when states are found.
WORK_PER_MICROSECOND = 400

_MOST = 2**62
_POINTER, _INT32, _INT64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
_OK, _OUT_OF_WORK, _STATES, _BYTES, _WORK, _CANCELLED, _BAD_STATE = range(7)


class _Nfa(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("first", "low", "high", "target")),
        *((name, _POINTER) for name in ("eps_first", "eps_target", "distance")),
        *((name, _INT32) for name in ("start", "final", "states", "edges", "eps_edges")),
    )


class _Trie(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("byte", "depth", "end", "first", "below", "height")),
        *((name, _POINTER) for name in ("group", "order", "all")),
        *((name, _INT32) for name in ("nodes", "tokens", "deepest", "num_words")),
    )


_ARGUMENTS = {
    "new": (_POINTER, [_POINTER, _INT64, _INT64, _INT64]),
    "of_table": (_POINTER, [_INT32, _INT32, *[_POINTER] * 4]),
    "free": (None, [_POINTER]),
    "cancel": (None, [_POINTER]),
    "numbers": (_INT32, [_POINTER, _POINTER]),
    "step": (_INT32, [_POINTER, _INT32, ctypes.c_char_p, _INT64, _POINTER]),
    "facts": (_INT32, [_POINTER, _INT32, _POINTER, _POINTER]),
    "path": (_INT32, [_POINTER, _INT32, _INT32, _INT64, _INT64, *[_POINTER] * 3]),
    "distances": (_INT32, [_POINTER, _POINTER, _INT64, _POINTER]),
    "mask": (_INT32, [_POINTER, _INT32, _POINTER, _INT64, _POINTER]),
    "next_states": (_INT32, [_POINTER, _INT32, _POINTER, _INT64, _POINTER]),
    "complete": (_INT32, [_POINTER, _INT32, _INT64, _INT64]),
    "export": (_INT32, [_POINTER, _INT32, *[_POINTER] * 4]),
    "partition": (_INT32, [_INT32, _INT32, *[_POINTER] * 3]),
}  # fmt: skip


@functools.cache
def _library() -> ctypes.CDLL:
    """Compiled on first use. Raises BuildError."""
    library = load(AUTOMATA, LEVEL)
    for name, (result, arguments) in _ARGUMENTS.items():
        function = getattr(library, f"ramet_dfa_{name}")
        function.restype, function.argtypes = result, arguments
    return library


@functools.cache
def why_not() -> str | None:
    """None where the native automata work, else the reason, which is also said once as a warning."""
    try:
        _library()
    except BuildError as error:
        warnings.warn(
            f"no native automata: {error}. Running the slower NumPy ones: a constraint's first masks "
            "take some ten milliseconds each",
            stacklevel=2,
        )
        return str(error)
    return None


class NativeCore:
    """`Core` in C++. `source`: an Nfa, determinized as far as it is asked, or a complete table."""

    def __init__(self, source: Nfa | Table, budget: Budget) -> None:
        self._budget, self._lib = budget, _library()
        dfa = self._of_table(source) if isinstance(source, Table) else self._of_nfa(source)
        if not dfa:
            raise MemoryError("no memory for an automaton")
        self._dfa: int = dfa
        weakref.finalize(self, self._lib.ramet_dfa_free, dfa)
        distance = source.distance
        self.max_distance = int(distance.max(initial=0))
        self.start = self.numbers()[0]
        self._tries: dict[TokenTrie, _Trie] = {}

    def _of_nfa(self, nfa: Nfa) -> int | None:
        arrays = _Kept()
        given = _Nfa(
            *(arrays(a, t) for a, t in (
                (nfa.first, np.int32), (nfa.low, np.uint8), (nfa.high, np.uint8), (nfa.target, np.int32),
                (nfa.eps_first, np.int32), (nfa.eps_target, np.int32), (nfa.distance, np.int32),
            )),
            nfa.start, nfa.final, len(nfa.distance), len(nfa.target), len(nfa.eps_target),
        )  # fmt: skip
        most = self._budget
        work = most.microseconds * WORK_PER_MICROSECOND
        found: int | None = self._lib.ramet_dfa_new(
            ctypes.byref(given), most.states, most.num_bytes, work
        )
        return found

    def _of_table(self, table: Table) -> int | None:
        arrays = _Kept()
        found: int | None = self._lib.ramet_dfa_of_table(
            table.states, table.classes, arrays(table.class_of, np.uint8), arrays(table.to, np.int32),
            arrays(table.accepting, np.uint8), arrays(table.distance, np.int32),
        )  # fmt: skip
        return found

    def numbers(self) -> tuple[int, int, int, int]:
        """(start, states so far, classes of bytes, bytes of memory)"""
        found = (_INT64 * 5)()
        self._lib.ramet_dfa_numbers(self._dfa, found)
        return found[0], found[1], found[2], found[3]

    def cancel(self) -> None:
        self._lib.ramet_dfa_cancel(self._dfa)

    def step(self, state: int, data: bytes) -> int:
        to = _INT32()
        status = self._lib.ramet_dfa_step(self._dfa, state, data, len(data), ctypes.byref(to))
        if status:
            self._refuse(status, state)
        return to.value

    def facts(self, state: int) -> tuple[bool, int, bytes]:
        """(accepting, distance, 256 bits: bytes that do not die)"""
        facts, bits = (_INT32 * 2)(), ctypes.create_string_buffer(32)
        status = self._lib.ramet_dfa_facts(self._dfa, state, facts, bits)
        if status:
            self._refuse(status, state)
        return facts[0] != 0, facts[1], bits.raw

    def distances(self, states: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        states = np.ascontiguousarray(states, np.int32)
        found = np.empty(len(states), np.int32)
        status = self._lib.ramet_dfa_distances(
            self._dfa, states.ctypes.data, len(states), found.ctypes.data
        )
        if status:
            self._refuse(status, int(states.max()))
        return found

    def path(
        self, state: int, nearest: bool, most: int, microseconds: int | None
    ) -> tuple[bytes, list[int]] | None:
        data, states, count = np.empty(most, np.uint8), np.empty(most, np.int32), _INT64()
        work = _MOST if microseconds is None else microseconds * WORK_PER_MICROSECOND
        status = self._lib.ramet_dfa_path(
            self._dfa, state, nearest, most, work,
            data.ctypes.data, states.ctypes.data, ctypes.byref(count),
        )  # fmt: skip
        if status > _OUT_OF_WORK:
            self._refuse(status, state)
        if status == _OUT_OF_WORK:
            return None
        return data[: count.value].tobytes(), states[: count.value].tolist()

    def mask(self, state: int, trie: TokenTrie, microseconds: int | None) -> Mask | None:
        mask = np.empty(trie.num_words, np.uint32)
        return mask if self._walk("mask", state, trie, microseconds, mask) else None

    def next_states(
        self, state: int, trie: TokenTrie, microseconds: int | None
    ) -> npt.NDArray[np.int32] | None:
        found = np.full(trie.size, DEAD, np.int32)
        return found if self._walk("next_states", state, trie, microseconds, found) else None

    def _walk(
        self,
        name: str,
        state: int,
        trie: TokenTrie,
        microseconds: int | None,
        into: npt.NDArray[np.uint32] | npt.NDArray[np.int32],
    ) -> bool:
        given = self._tries.get(trie)
        if given is None:
            given = self._tries[trie] = _trie(trie)
        work = _MOST if microseconds is None else microseconds * WORK_PER_MICROSECOND
        function = getattr(self._lib, f"ramet_dfa_{name}")
        status = function(self._dfa, state, ctypes.byref(given), work, into.ctypes.data)
        if status > _OUT_OF_WORK:
            self._refuse(status, state)
        return bool(status == _OK)

    def complete(self, most: int, most_bytes: int | None, microseconds: int | None) -> bool:
        num_bytes = _MOST if most_bytes is None else most_bytes
        work = _MOST if microseconds is None else microseconds * WORK_PER_MICROSECOND
        status = self._lib.ramet_dfa_complete(self._dfa, most, num_bytes, work)
        if status > _OUT_OF_WORK:
            self._refuse(status, self.start)
        return bool(status == _OK)

    def export(self) -> Table:
        _, states, classes, _ = self.numbers()
        table = Table(
            np.empty((states, classes), np.int32),
            np.empty(256, np.uint8),
            np.empty(states, np.uint8),
            np.empty(states, np.int32),
        )
        self._lib.ramet_dfa_export(
            self._dfa, states, table.class_of.ctypes.data, table.to.ctypes.data,
            table.accepting.ctypes.data, table.distance.ctypes.data,
        )  # fmt: skip
        return table

    def _refuse(self, status: int, state: int) -> NoReturn:
        budget = self._budget
        if status == _BAD_STATE:
            budget.refuse_state(state)
        refuse = {
            _STATES: budget.refuse_states,
            _BYTES: budget.refuse_bytes,
            _WORK: budget.refuse_work,
            _CANCELLED: budget.refuse_cancelled,
        }[status]
        refuse()


class _Kept(list[npt.NDArray[np.generic]]):
    """Addresses of arrays, which live as long as this does."""

    def __call__(self, array: npt.NDArray[np.generic], kind: type[np.generic]) -> int:
        self.append(np.ascontiguousarray(array, kind))
        return self[-1].ctypes.data


def _trie(trie: TokenTrie) -> _Trie:
    """Points into the trie's arrays, which never move."""
    arrays = (
        trie.byte,
        trie.depth,
        trie.end,
        trie.first,
        trie.below,
        trie.height,
        trie.group,
        trie.order,
        trie.all,
    )
    counts = (trie.nodes, len(trie.order), trie.deepest, trie.num_words)
    return _Trie(*(array.ctypes.data for array in arrays), *counts)


def partition(table: Table) -> npt.NDArray[np.int32]:
    """[states]: the number of each state's class of states that accept the same texts."""
    block, arrays = np.empty(table.states, np.int32), _Kept()
    count = _library().ramet_dfa_partition(
        table.states, table.classes, arrays(table.to, np.int32),
        arrays(table.accepting, np.uint8), block.ctypes.data,
    )  # fmt: skip
    if count < 0:
        raise MemoryError("no memory to minimise an automaton")
    return block
