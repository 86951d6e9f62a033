"""What a constraint may cost before it is refused.

Every number bounds work that a stranger's regular expression or schema can ask for. Too much is an
`InvalidRequest` that names the field, the number and the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT", "ConstraintLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintLimits:
    """`source_bytes`: of a regular expression; `schema_bytes`: of a schema, grammar or tag. `depth`: of
    nested groups or schemas. `nfa_states`: after counted repeats are written out. `dfa_states`: that one
    constraint may come to have while it is used. `minimal_states`: a DFA with at most so many states is
    built whole and minimised at once, a larger one as far as texts lead. `seconds`: for compiling.
    `mask_bytes`: of masks kept per constraint."""

    source_bytes: int = 1 << 16
    schema_bytes: int = 1 << 18
    depth: int = 128
    nfa_states: int = 100_000
    dfa_states: int = 50_000
    minimal_states: int = 4096
    seconds: float = 1.2
    mask_bytes: int = 64 << 20


DEFAULT = ConstraintLimits()
