"""What the engine sees of a constraint, whatever enforces it.

A `Constraint` is compiled once for one vocabulary and shared by all requests; it never changes as far as
anybody can see. A `Matcher` is one generation's place in it. Knows protocols only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Constraint", "Mask", "Matcher"]

# uint32 [words]: bit i % 32 of word i // 32 says whether token i may come. Not to be written to.
Mask = npt.NDArray[np.uint32]


class Constraint(Protocol):
    """Matchers of one constraint may be used by different threads at the same time."""

    def start(self) -> Matcher:
        """At the beginning of a text."""
        ...


class Matcher(Protocol):
    """One generation's place in a constraint. Tokens are the vocabulary's texts; tokens that end a
    generation are not its business: the engine adds them where `may_end`. For one thread at a time."""

    @property
    def may_end(self) -> bool:
        """The text so far satisfies the constraint."""
        ...

    @property
    def done(self) -> bool:
        """The text satisfies the constraint and no text could follow."""
        ...

    def mask(self, budget: int | None = None) -> Mask | None:
        """Every token after which a legal text can still be reached, and no other. With a `budget` only
        those after which a legal end is surely reached with so many tokens, the next one included, if
        there are such. None: that takes longer than a step should wait; `prepare` finds it. Raises
        `InvalidRequest` where the constraint turns out to need more than its limits."""
        ...

    def prepare(self, budget: int | None = None) -> None:
        """Make `mask` and `forced` ready. May take long, leaves the interpreter to others meanwhile, and
        may be called on another thread while nobody else uses this matcher. Raises what they raise."""
        ...

    def accept(self, token_id: int) -> bool:
        """Go on behind the token. False, and nothing changes, if it may not come."""
        ...

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens."""
        ...

    def forced(self) -> Sequence[int] | None:
        """Tokens of the text that must come next, in the tokenizer's own division of it, as far as that
        is the same whatever may legally follow. They are not accepted yet. Mostly none. None as `mask`'s."""
        ...

    def fork(self) -> Matcher:
        """Another matcher at the same place, independent of this one."""
        ...
