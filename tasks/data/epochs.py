"""How often a document is trained on: its `metadata.epochs`, whole repeats and a fraction that its hash decides.

Repeating is worth nearly as much as new text up to about four epochs and little beyond (Muennighoff et al. 2023,
"Scaling data-constrained language models", section 5), which is what `mixture.max_epochs` is for.
"""

from __future__ import annotations

import hashlib
import math

from tasks.stage import StageError


def copies(name: str, epochs: float) -> int:
    """How many times document `name` (its id) stands in the training text: `epochs` rounded down, or up with the
    probability of its fraction, by a hash of the id, so that it is the same in every run and 2.5 of 1,000 documents
    are about 2,500.

    Raises StageError for what is no number of epochs.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, (int, float)) or not (0 <= epochs < math.inf):
        raise StageError(f"document {name} has epochs {epochs!r}: it must be a number from 0 on; "
                         "run the mixture stage again")
    digest = hashlib.sha256(f"epochs:{name}".encode("utf-8", "surrogatepass")).digest()
    whole = math.floor(epochs)
    return whole + (int.from_bytes(digest[:8], "big") / 2**64 < epochs - whole)
