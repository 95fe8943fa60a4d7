"""Which blocks of the backend's memory are free, and which a sequence holds."""

from __future__ import annotations

import heapq


class Blocks:
    """A pool of `count` blocks of `size` tokens; the lowest free number is handed out first (ranges stay dense)."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.free = list(range(count))

    def grow(self, held: list[int], tokens: int) -> bool:
        """Extend `held` until it covers `tokens` tokens. False, and nothing taken, where too few are free."""
        wanted = -(-tokens // self.size) - len(held)
        if wanted > len(self.free):
            return False
        held.extend(heapq.heappop(self.free) for _ in range(wanted))
        return True

    def release(self, held: list[int]) -> None:
        """Take back every block of `held` and empty it."""
        for block in held:
            heapq.heappush(self.free, block)
        held.clear()

    @property
    def usage(self) -> float:
        """Share of blocks in use, 0..1."""
        return 1 - len(self.free) / self.count
