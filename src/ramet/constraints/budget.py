"""What determinizing may cost, and the words with which too much is refused.

Knows numbers and the request's field that they belong to; refuses to know who counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from ramet.constraints.limits import ConstraintLimits
from ramet.errors import Aborted, InvalidRequest

__all__ = ["Budget"]

# Sets of states and the table together. A state takes 4 bytes per member of its set and per class of
# bytes, mostly 100 to 400 bytes in all: `dfa_states` is what ordinary constraints meet first.
MEMORY = 64 << 20
# Microseconds of determinizing in an automaton's whole life. Constraints in use need some 1,000; one whose
# states are few but dear must come to an end, too.
LIFE = 10_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """`states`, `num_bytes`, `microseconds` (about): of one automaton. `field` and `value`: what the caller
    gave, for the error."""

    states: int
    num_bytes: int
    microseconds: int
    field: str
    value: object

    @classmethod
    def of(cls, limits: ConstraintLimits, field: str, value: object) -> Budget:
        return cls(limits.dfa_states, MEMORY, LIFE, field, value)

    def refuse_states(self) -> NoReturn:
        self._refuse(f"needs more than {self.states} states of an automaton")

    def refuse_bytes(self) -> NoReturn:
        self._refuse(f"needs more than {self.num_bytes} bytes of memory for its automaton")

    def refuse_work(self) -> NoReturn:
        self._refuse(
            f"needs more than about {self.microseconds / 1e6:g} s for its automaton's states"
        )

    def refuse_cancelled(self) -> NoReturn:
        raise Aborted(f"{self.field}: its compilation was cancelled")

    def refuse_state(self, state: int) -> NoReturn:
        raise InvalidRequest("state", state, "is no state of this automaton")

    def _refuse(self, problem: str) -> NoReturn:
        remedy = "write what may come in another way: shorter counted repeats, fewer alternatives that begin alike"
        raise InvalidRequest(self.field, self.value, problem, remedy)
