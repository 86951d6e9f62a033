"""Why prompt tokens had to be computed although there is a cache: their number by cause.

Knows which prefixes were here before, as keyed hashes at every 32 tokens, and what the tree holds where
a prompt leaves it. Refuses to change either. What it says is for those who run the engine: the cause
`salt` tells that another tenant had the same text, so it is a sum over everybody and no request's own.

Causes, for the prompt tokens of a request that the tree does not hold when the request is admitted:
`evicted`: this prefix, of this salt, was computed before and was forgotten; `salt`: it was computed
under another salt only; `boundary`: the text goes on as cached text does, divided into other tokens;
`never_seen`: all else. A token counts where the model computed it for this request, so what another
request computed meanwhile is counted for nobody. `logits`: tokens whose keys and values are held, computed
again because the logits after them were wanted (the last one of a prompt that is wholly cached).
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from ramet.cache.buffer import common_prefix
from ramet.cache.node import Node
from ramet.cache.scope import PUBLIC, Scope
from ramet.engine.request import Request
from ramet.kernels.plan import IntArray

__all__ = ["CAUSES", "Misses", "PrefixHashes", "SeenPrefixes", "agreeing_tokens"]

CAUSES = ("evicted", "salt", "boundary", "never_seen")
# Tokens between two remembered prefixes of a sequence: `evicted` and `salt` are as exact as that.
BLOCK = 32
# Tokens of one prompt that are compared byte by byte. Where both are divided alike, it costs nothing.
MOST_READ = 64
# Children of a node, the newest, that are asked whether their text goes on as a prompt's does.
MOST_CHILDREN = 64

Hashes = npt.NDArray[np.uint64]
TokenBytes = Callable[[int], bytes]
_HALF = np.uint64(32)
_NOTHING: Hashes = np.empty(0, np.uint64)


class PrefixHashes:
    """One 64-bit number for each prefix of some tokens that ends at a multiple of BLOCK, and one for all.

    A polynomial over blocks, and in each block a keyed sum over its tokens. The key is drawn per process,
    so nobody can make texts collide on purpose.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(16)
        draw = np.random.default_rng(list(self._key))
        numbers: Hashes = draw.integers(0, 1 << 64, 2 * BLOCK + 3, np.uint64) | np.uint64(1)
        self._places, self._short = numbers[:BLOCK], numbers[BLOCK : 2 * BLOCK]
        self._base, self._factor, self._offset = numbers[2 * BLOCK :]
        self._grow(64)

    def of(
        self, tokens: IntArray, first_block: int = 0, before: int = 0
    ) -> tuple[IntArray, Hashes]:
        """(lengths, hashes) of the prefixes that end in or behind block `first_block`, shortest first.
        `tokens` are all of the sequence; `before`: the hash of its first `first_block` blocks."""
        rest = tokens[first_block * BLOCK :].view(np.uint64) + self._offset
        rest *= self._factor
        rest ^= rest >> _HALF
        num_whole, short = divmod(rest.size, BLOCK)
        count = num_whole + (short > 0)
        if first_block + count > self._powers.size:
            self._grow(2 * (first_block + count))
        sums = np.empty(count, np.uint64)
        if num_whole:
            whole = rest[: rest.size - short].reshape(num_whole, BLOCK)
            np.matmul(whole, self._places, out=sums[:num_whole])
        lengths = self._lengths[first_block : first_block + count]
        if short:
            sums[-1:] = rest[-short:] @ self._places[:short]
            sums[-1:] += self._short[short]
            lengths = lengths.copy()
            lengths[-1] = tokens.size
        sums *= self._powers[first_block : first_block + count]
        if before and count:
            sums[:1] += np.uint64(before)
        return lengths, np.cumsum(sums, out=sums)

    def keyed(self, hashes: Hashes, key: int) -> Hashes:
        """The numbers under which prefixes are remembered: others for another `key`."""
        mixed: Hashes = hashes ^ np.uint64(key)
        mixed *= self._factor
        mixed ^= mixed >> _HALF
        mixed *= self._base
        return mixed

    def key_of(self, scope: Scope | None) -> int:
        """Whose a prefix is; None: anybody's."""
        whose = "any" if scope is None else f"{scope.border} {scope.salt}"
        text = whose.encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(text, digest_size=8, key=self._key).digest(), "little")

    def _grow(self, count: int) -> None:
        """Tables for `count` blocks."""
        self._powers = np.cumprod(np.full(count, self._base, np.uint64))
        self._lengths = np.arange(BLOCK, BLOCK * count + 1, BLOCK)
        self._lengths.setflags(write=False)


class SeenPrefixes:
    """A set of hashes of a fixed size (8 bytes each), a power of two. Each has one place, and the newcomer
    takes it: of hashes that came `n` ago, a share of exp(-n / size) is left. Who looks for the longest of
    a sequence's prefixes loses little where one of them is gone."""

    def __init__(self, size: int = 1 << 19) -> None:
        if size < 2 or size & (size - 1):
            raise ValueError(f"size: {size} is not a power of two of at least 2")
        self._shift = np.uint64(64 - (size.bit_length() - 1))
        self._table: Hashes = np.zeros(size, np.uint64)

    def add(self, hashes: Hashes) -> None:
        self._table[(hashes >> self._shift).view(np.int64)] = hashes

    def have(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = self._table[(hashes >> self._shift).view(np.int64)] == hashes
        return found


@dataclass(slots=True)
class _Missing:
    """Of one request: up to which position its missing tokens have which cause (in the order of CAUSES,
    the last one has no end), how many of each were computed; the hashes of its prompt, and those under
    which its prefixes are remembered."""

    ends: tuple[int, int, int]
    hashes: Hashes
    own: Hashes
    counts: list[int] = field(default_factory=lambda: [0] * len(CAUSES))


class Misses:
    """Told by scheduler and loop what becomes of each request. `counts`: tokens by cause, `logits`: those
    that are held and were computed again.

    `token_bytes` gives the text of tokens; without it no miss has the cause `boundary`. With
    `remember=False` (an engine without cache) all misses are `never_seen`.
    """

    def __init__(
        self,
        token_bytes: TokenBytes | None = None,
        *,
        remember: bool = True,
        size: int = 1 << 19,
        key: bytes | None = None,
    ) -> None:
        self.counts = dict.fromkeys(CAUSES, 0)
        self.logits = 0
        self._token_bytes, self._remember = token_bytes, remember
        self._of = PrefixHashes(key)
        self._seen = SeenPrefixes(size)
        self._any_salt = False  # whether somebody ever used one
        self._public, self._anybody = self._of.key_of(PUBLIC), self._of.key_of(None)

    def admitted(self, request: Request) -> None:
        """`request` holds what the tree has of it, and nothing of it was planned yet."""
        held = request.num_computed
        if not self._remember:
            request.missing = _Missing((held,) * 3, _NOTHING, _NOTHING)
            return
        prompt = request.known[: request.num_prompt]
        lengths, hashes = self._of.of(prompt)
        own = self._own(request.scope, lengths, hashes)
        evicted = salt = boundary = held
        if held < prompt.size:
            evicted = max(held, _longest(lengths, self._seen.have(own)))
            salt = max(evicted, self._known_to_others(request.scope, lengths, hashes))
        if self._token_bytes is not None and salt < prompt.size and request.lease is not None:
            node, scope = request.lease.node, request.scope
            boundary += agreeing_tokens(prompt[held:], node, scope, self._token_bytes)
        request.missing = _Missing((evicted, salt, max(salt, boundary)), hashes, own)

    def computed(self, request: Request, start: int, stop: int) -> None:
        """Prompt tokens `start` .. `stop` of `request` were computed for it, and were held by nobody."""
        missing = request.missing
        if isinstance(missing, _Missing):
            before = start
            for i, end in enumerate((*missing.ends, stop)):
                after = min(max(end, before), stop)
                missing.counts[i] += after - before
                before = after

    def prompt_done(self, request: Request) -> None:
        """All of the prompt is computed: count it, unless nobody asked for it, and remember it."""
        missing = request.missing
        if not isinstance(missing, _Missing):
            return
        if not request.background:
            for cause, count in zip(CAUSES, missing.counts, strict=True):
                self.counts[cause] += count
            self.logits += request.num_prompt - request.num_cached - sum(missing.counts)
        self._keep(request.scope, missing.hashes, missing.own)

    def ended(self, request: Request) -> None:
        """Remember what was computed behind the prompt of `request`, which still holds it."""
        missing, request.missing = request.missing, None
        whole = request.num_prompt // BLOCK
        more = request.num_computed // BLOCK > whole
        if isinstance(missing, _Missing) and request.prompt_done and more and self._remember:
            tokens = request.known[: request.num_computed]
            before = int(missing.hashes[whole - 1]) if whole else 0
            lengths, hashes = self._of.of(tokens, whole, before)
            self._keep(request.scope, hashes, self._own(request.scope, lengths, hashes))

    def _own(self, scope: Scope, lengths: IntArray, hashes: Hashes) -> Hashes:
        """Under which numbers prefixes of this scope are remembered."""
        if not scope.salt:
            return self._of.keyed(hashes, self._public)
        own = self._of.keyed(hashes, self._of.key_of(scope))
        if scope.border:
            public = self._of.keyed(hashes, self._public)
            own = np.where(lengths <= scope.border, public, own)
        return own

    def _known_to_others(self, scope: Scope, lengths: IntArray, hashes: Hashes) -> int:
        """The longest prefix that was here under whatever salt."""
        if not (scope.salt or self._any_salt):
            return 0
        keys = (self._anybody, self._public)
        return max(_longest(lengths, self._seen.have(self._of.keyed(hashes, key))) for key in keys)

    def _keep(self, scope: Scope, hashes: Hashes, own: Hashes) -> None:
        self._seen.add(own)
        if scope.salt:
            self._any_salt = True
            self._seen.add(self._of.keyed(hashes, self._anybody))


def _longest(lengths: IntArray, seen: npt.NDArray[np.bool_]) -> int:
    """The last of `lengths` that was seen, or 0."""
    from_end = int(seen[::-1].argmax())
    return int(lengths[-1 - from_end]) if seen[-1 - from_end] else 0


# -- text that is divided into other tokens --------------------------------------------------------


def agreeing_tokens(tokens: IntArray, node: Node, scope: Scope, token_bytes: TokenBytes) -> int:
    """How many of `tokens`, which no child of `node` begins with, are text that goes on below `node`.

    Counted are tokens whose text the tree has in whole, and one that the cached text ends in. None where
    the texts part within the first token of either side: such texts are just different. Texts that stay
    divided differently for longer than MOST_READ tokens are looked at no further.
    """
    if not tokens.size or not (first := token_bytes(tokens.item(0))):
        return 0
    likely = _continuations(node, scope, first, token_bytes)
    walk = _Walk(tokens, scope, token_bytes)
    return max((walk.along(child) for child in likely), default=0)


def _continuations(
    node: Node, scope: Scope, text: bytes, token_bytes: TokenBytes
) -> Iterator[Node]:
    """Children whose first token begins `text`, or is begun by it."""
    salt = scope.at(node.end)
    for child in itertools.islice(reversed(node.children.values()), MOST_CHILDREN):
        if child.salt == salt:
            other = token_bytes(child.tokens.item(0))
            if other and (text.startswith(other) or other.startswith(text)):
                yield child


class _Walk:
    """Reads tokens and a path of the tree side by side, byte by byte. Where the path branches it takes
    the first branch that may go on alike, and does not come back."""

    def __init__(self, tokens: IntArray, scope: Scope, token_bytes: TokenBytes) -> None:
        self._tokens, self._scope, self._bytes = tokens, scope, token_bytes
        self._left = MOST_READ

    def along(self, node: Node) -> int:
        """How many tokens agree with the text of the path from `node` down."""
        mine = cached = b""  # what is left of the two tokens that were read last
        read = place = 0  # tokens read here, and in the edge of `node`
        whole = False  # whether all of the first cached token was found
        while True:
            if not mine:
                if not cached:  # divided alike from here on
                    same = common_prefix(self._tokens[read:], node.tokens[place:])
                    read, place = read + same, place + same
                if read == self._tokens.size:
                    return read
                mine = self._bytes(self._tokens.item(read))
                read += 1
                self._left -= 1
            if not cached:
                if place == len(node):
                    below = self._below(node, mine, self._tokens.item(read - 1))
                    if below is None:
                        begun = mine != self._bytes(self._tokens.item(read - 1))
                        return read if begun and self._is_end(node) else read - 1
                    node, place = below, 0
                cached = self._bytes(node.tokens.item(place))
                place += 1
                self._left -= 1
            length = min(len(mine), len(cached))
            if self._left < 0 or not length or mine[:length] != cached[:length]:
                return read - 1 if whole else 0
            mine, cached = mine[length:], cached[length:]
            whole = whole or not cached

    def _below(self, node: Node, text: bytes, token: int) -> Node | None:
        """The child where `text`, which is the rest of `token` or all of it, goes on."""
        salt = self._scope.at(node.end)
        child = node.children.get(token if salt == node.salt else (salt, token))
        if child is not None and self._bytes(token) == text:
            return child
        return next(_continuations(node, self._scope, text, self._bytes), None)

    def _is_end(self, node: Node) -> bool:
        """Whether the cached text ends here."""
        salt = self._scope.at(node.end)
        return all(child.salt != salt for child in node.children.values())
