"""Who may share a token's KV: everybody up to a border, one salt from there on.

Knows salts and positions. Refuses to know tokens, nodes and who a tenant is. The empty salt is that of
what is public, so a key with it has no border.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from ramet.errors import InvalidRequest

__all__ = ["PUBLIC", "Scope"]


class Scope(NamedTuple):
    """Build with `of`. Tokens at positions below `border` are public, those from it on are `salt`'s."""

    salt: str
    border: int

    @classmethod
    def of(cls, salt: str, num_public: int = 0) -> Scope:
        """Of a sequence whose first `num_public` tokens are public."""
        if num_public < 0:
            raise InvalidRequest(
                "num_public", num_public, "is negative", "give the number of leading public tokens"
            )
        return cls(salt, num_public) if salt else PUBLIC

    def at(self, position: int) -> str:
        """The salt of the token at `position`."""
        return "" if position < self.border else self.salt

    def reach(self, position: int, stop: int) -> int:
        """How far up to `stop` the salt is the one at `position`."""
        return min(stop, self.border) if position < self.border else stop

    def agrees(self, other: Scope) -> int:
        """Up to which position equal tokens of both are the same key."""
        if self == other:
            return sys.maxsize
        ends = [scope.border for scope in (self, other) if scope.salt]
        return min(ends)


PUBLIC = Scope("", 0)
