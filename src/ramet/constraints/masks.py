"""Masks that were found, so that they need not be found again.

Knows bytes and which mask was used last; refuses to know how a mask is found. Masks with the same content
are one array, however many states have it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Hashable

from ramet.constraints.matcher import Mask

__all__ = ["MaskCache"]

_KEY_BYTES = 256  # of a key and its places in dictionaries, about


class MaskCache:
    """Holds at most `most_bytes`; the masks that were not asked for longest go first. For any threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self.num_bytes = most_bytes, 0
        self._masks: dict[Hashable, tuple[Mask, bytes]] = {}  # the one used last comes last
        self._uses: dict[bytes, tuple[Mask, int]] = {}  # digest of a content -> it, and its keys
        self._lock = threading.Lock()

    @property
    def num_masks(self) -> int:
        """Different ones."""
        return len(self._uses)

    def get(self, key: Hashable) -> Mask | None:
        with self._lock:
            found = self._masks.pop(key, None)
            if found is None:
                return None
            self._masks[key] = found
            return found[0]

    def put(self, key: Hashable, mask: Mask) -> Mask:
        """An array with the content of `mask`, that nobody can write to."""
        digest = hashlib.blake2b(mask.data, digest_size=16).digest()
        with self._lock:
            if key in self._masks:
                return self._masks[key][0]
            shared, uses = self._uses.get(digest, (mask, 0))
            if not uses:
                mask.flags.writeable = False
                self.num_bytes += mask.nbytes
            self._uses[digest] = shared, uses + 1
            self._masks[key] = shared, digest
            self.num_bytes += _KEY_BYTES
            while self.num_bytes > self._most_bytes and self._masks:
                self._drop_oldest()
            return shared

    def _drop_oldest(self) -> None:
        mask, digest = self._masks.pop(next(iter(self._masks)))
        uses = self._uses[digest][1] - 1
        self.num_bytes -= _KEY_BYTES
        if uses:
            self._uses[digest] = mask, uses
        else:
            del self._uses[digest]
            self.num_bytes -= mask.nbytes
