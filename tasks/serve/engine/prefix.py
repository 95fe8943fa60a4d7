"""Keys of blocks by content: a chain of hashes, so that a key stands for all tokens from the beginning to its block.

A cryptographic hash, because a key that two texts share would hand one client what another's prompt computed.
"""

from __future__ import annotations

import hashlib
from array import array

DIGEST = 16  # bytes


class Chain:
    """The keys of a sequence's full blocks, computed once each as its tokens grow.

    `origin` tells apart what gives other keys and values for the same tokens: the adapter.
    """

    def __init__(self, origin: str, size: int) -> None:
        self.size = size
        self.keys: list[bytes] = []
        self.last = hashlib.blake2b(origin.encode(), digest_size=DIGEST).digest()

    def cover(self, tokens: list[int]) -> list[bytes]:
        """Keys of the full blocks of `tokens`, which continue those of the call before."""
        for start in range(len(self.keys) * self.size, len(tokens) - self.size + 1, self.size):
            content = array("q", tokens[start:start + self.size]).tobytes()
            self.last = hashlib.blake2b(self.last + content, digest_size=DIGEST).digest()
            self.keys.append(self.last)
        return self.keys
