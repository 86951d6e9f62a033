"""One request's place in its constraint: which tokens may be drawn, and which need not be.

Turns a `Matcher` (texts only) into what a step uses: masks that hold the tokens that end a generation,
tokens that are known without asking the model, guesses that the constraint allows. Knows no model and no
schedule.

Where the constraint leaves one text only, that text comes in the tokenizer's own division and its tokens
need not be asked for (jump-forward, arXiv 2312.07104 section 4). Whoever wants log-probabilities has the
model asked all the same, under a mask of the one token, so that wanting them changes no token.
"""

from __future__ import annotations

from collections.abc import Sequence

from ramet.constraints.bits import holds, mask_of
from ramet.constraints.matcher import Mask, Matcher

__all__ = ["Constrained"]


class Constrained:
    """`vocab_size`: of the logits. `end_ids` end the generation; they may come where the text may end and,
    as far as they are text themselves, nowhere else. `budget`: tokens that may be generated, of them
    `least` before an end token. `jump`: forced tokens are taken without asking the model. `steer`: keep the
    way to a legal end short enough for the budget.
    `not_first`: tokens whose text would lose its beginning at the start of the output. `ends_are_text`:
    some of `end_ids` could come as text; False saves looking."""

    def __init__(
        self,
        matcher: Matcher,
        *,
        vocab_size: int,
        end_ids: frozenset[int],
        budget: int,
        least: int = 0,
        jump: bool = True,
        steer: bool = True,
        not_first: Mask | None = None,
        ends_are_text: bool = True,
    ) -> None:
        self.matcher = matcher
        self.masks: list[Mask] = []  # of the next token, and of those after each guessed one
        self.num_forced = 0
        self.must_jump = jump  # nobody has looked yet whether tokens are forced here
        self._count = 0
        self._budget, self._least = budget, least
        self._jump, self._steer, self._not_first = jump, steer, not_first
        self._ends_are_text = ends_are_text
        self._ends = [token for token in end_ids if 0 <= token < vocab_size]
        self._end_words = mask_of(self._ends, (vocab_size + 31) // 32)

    @property
    def done(self) -> bool:
        return self.matcher.done

    @property
    def may_end(self) -> bool:
        return self.matcher.may_end

    # -- tokens ------------------------------------------------------------------------------------

    def accept(self, token_id: int) -> bool:
        """Go on behind a token of the output (not one that ends it)."""
        if not self.matcher.accept(token_id):
            return False
        self._count += 1
        self.must_jump = self._jump
        self.masks.clear()
        return True

    def forced(self) -> Sequence[int]:
        """Tokens that come next and that nobody asks for; at most as many as the budget has. None so far
        where finding them takes long: then `must_jump` stays."""
        if not self.must_jump or (found := self._forced_here()) is None:
            return ()
        self.must_jump = False
        return found[: self._budget - self._count]

    # -- masks -------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Find the mask of the next token; False where that takes too long for a step (then `prepare`,
        on another thread, and ask again). Raises `InvalidRequest` for a constraint beyond its limits."""
        if self.must_jump:
            return False
        if not self.masks:
            found = self._mask(0)
            if found is None:
                return False
            self.masks.append(found)
        return True

    def prepare(self) -> None:
        self.matcher.prepare(self._left(self._count))

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        """As many of the guessed `tokens` as the constraint allows, with forced ones in their places; at
        most `most`. `masks` then has one for each of them, too."""
        del self.masks[1:]
        if most < 1 or not self.ready():
            return []
        found: list[int] = []
        left = list(tokens)
        try:
            while len(found) < most:
                forced = self._forced_here(len(found))
                if forced is None:
                    break
                if forced:
                    token, left = forced[0], left[1:] if left[:1] == [forced[0]] else []
                elif left:
                    token = left.pop(0)
                else:
                    break
                if token in self._ends or not self.matcher.accept(token):
                    break
                found.append(token)
                mask = None if self.matcher.done else self._mask(len(found))
                if mask is None:  # nothing can be asked for behind this token
                    self.matcher.rollback(1)
                    found.pop()
                    break
                self.masks.append(mask)
        finally:
            self.matcher.rollback(len(found))
        return found

    def _left(self, count: int) -> int | None:
        """What a mask has to keep to."""
        return self._budget - count if self._steer else None

    def _forced_here(self, ahead: int = 0) -> Sequence[int] | None:
        found = self.matcher.forced()
        if found is None:
            return None
        first = self._count + ahead == 0
        if found and first and self._not_first is not None and holds(self._not_first, found[0]):
            return ()
        end = next((i for i, token in enumerate(found) if token in self._ends), len(found))
        return found[:end]

    def _mask(self, ahead: int) -> Mask | None:
        """Of the token `ahead` places behind the next one, at the matcher's place."""
        count = self._count + ahead
        asked = ahead or not self._jump  # of guessed tokens the model is asked about all
        if asked:
            forced = self._forced_here(ahead)
            if forced is None:
                return None
            if forced:
                return mask_of(forced[:1], len(self._end_words))
        found = self.matcher.mask(self._left(count))
        if found is None:
            return None
        if count == 0 and self._not_first is not None:
            found = found & ~self._not_first
        return self._with_ends(found, count)

    def _with_ends(self, mask: Mask, count: int) -> Mask:
        if self.matcher.may_end and count >= self._least:
            return mask | self._end_words
        # Ids that end a generation and are text would end it where the text is not complete.
        return mask & ~self._end_words if self._ends_are_text else mask
