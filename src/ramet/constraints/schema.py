"""What a JSON Schema becomes: a regular language where it can be one, else a grammar of the library.

Knows the order of the steps only.
"""

from __future__ import annotations

from dataclasses import dataclass

from ramet.constraints.limits import DEFAULT, ConstraintLimits
from ramet.constraints.nodes import Node
from ramet.constraints.schema_check import Checked, check_schema
from ramet.constraints.schema_library import grammar_of
from ramet.constraints.schema_nodes import NotRegular, build
from ramet.constraints.schema_possible import pruned
from ramet.errors import InvalidRequest

__all__ = ["Schema", "read", "read_checked"]


@dataclass(frozen=True, slots=True)
class Schema:
    """`node`: the texts as a regular language, or None with the `reason` why that cannot be. `ignored`:
    places of annotations, which constrain nothing."""

    checked: Checked
    node: Node | None
    reason: str
    ignored: tuple[str, ...]

    @property
    def grammar(self) -> str:
        """For `guidance.compile`: the same values, with white space as bounded (see `schema_library`).
        Raises `InvalidRequest` for what only the regular form can enforce."""
        return grammar_of(self.checked)


def read(text: str, limits: ConstraintLimits = DEFAULT) -> Schema:
    """Read a `json_schema`. Raises `InvalidRequest` with the place of any keyword that is wrong or that
    nothing would enforce, and for a schema that no value matches."""
    checked = read_checked(text, limits, "json_schema")
    try:
        node, reason = build(checked, limits), ""
    except NotRegular as why:
        node, reason = None, str(why)
    schema = Schema(checked, node, reason, checked.ignored)
    if node is None:
        _ = schema.grammar  # refuses what the library does not enforce
    return schema


def read_checked(text: str, limits: ConstraintLimits, field: str) -> Checked:
    """Only the checks. For schemas that stand inside something else; raises as `read` does."""
    checked = pruned(check_schema(text, limits, field))
    if checked is None:
        raise InvalidRequest(field, text, "allows nothing: no value matches it")
    return checked
