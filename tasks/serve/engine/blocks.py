"""Which blocks of the backend's memory are free, which sequences hold them, and which full ones can be found again.

Every block counts its holders. A full block that was published under the key of its content (prefix.py) outlives its
last holder: it stays until memory is wanted, the least recently used first, and a sequence with the same beginning
takes it instead of computing it. A published block is never written again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class Blocks:
    """A pool of `count` blocks of `size` tokens; the lowest free number is handed out first (ranges stay dense)."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.free = list(range(count))
        self.holders = [0] * count
        self.keys: dict[int, bytes] = {}      # of published blocks
        self.published: dict[bytes, int] = {}
        self.idle: dict[int, None] = {}       # published, held by none; least recently used first

    @property
    def available(self) -> int:
        """Blocks that can be handed out: free ones, and published ones that none holds."""
        return len(self.free) + len(self.idle)

    @property
    def usage(self) -> float:
        """Share of blocks held by sequences, 0..1."""
        return 1 - self.available / self.count

    def needed(self, tokens: int) -> int:
        """How many blocks cover `tokens` tokens."""
        return -(-tokens // self.size)

    def grow(self, held: list[int], tokens: int) -> bool:
        """Extend `held` until it covers `tokens` tokens. False, and nothing taken, where too few are available."""
        wanted = self.needed(tokens) - len(held)
        if wanted > self.available:
            return False
        for _ in range(wanted):
            block = heapq.heappop(self.free) if self.free else self.evict()
            self.holders[block] = 1
            held.append(block)
        return True

    def evict(self) -> int:
        """Forget the least recently used published block that none holds, and return it."""
        block = next(iter(self.idle))
        del self.idle[block]
        del self.published[self.keys.pop(block)]
        return block

    def matched(self, keys: Iterable[bytes]) -> int:
        """How many of `keys`, from the first on without a gap, are published."""
        count = 0
        for key in keys:
            if key not in self.published:
                break
            count += 1
        return count

    def share(self, held: list[int], keys: Iterable[bytes]) -> None:
        """Extend `held` by the published blocks of `keys`."""
        for key in keys:
            block = self.published[key]
            self.holders[block] += 1
            self.idle.pop(block, None)
            held.append(block)

    def publish(self, block: int, key: bytes) -> None:
        """Let a full block be found under `key`; where another block of that content is found already, it stays."""
        if key not in self.published:
            self.published[key] = block
            self.keys[block] = key

    def release(self, held: list[int]) -> None:
        """Give up every block of `held` and empty it; the end of a sequence is forgotten before its beginning."""
        for block in reversed(held):
            self.holders[block] -= 1
            if self.holders[block] == 0:
                if block in self.keys:
                    self.idle[block] = None
                else:
                    heapq.heappush(self.free, block)
        held.clear()
