"""The retention table of a data stage: what was read, kept, dropped by reason, failed; the sum is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.stage import StageError


def table(counts: Mapping[str, float]) -> dict[str, Any]:
    """{"read", "kept", "dropped": {reason: n}, "failed", "characters_in", "characters_out"} from a stage's counts, and
    "cut": {what: n} where it cut parts out of documents.

    Raises StageError unless read = kept + dropped + failed.
    """
    reasons = sorted(key for key in counts if key.startswith("dropped/"))
    dropped = {key.removeprefix("dropped/"): int(counts[key]) for key in reasons}
    rows = {key: int(counts.get(key, 0)) for key in ("read", "kept", "failed", "characters_in", "characters_out")}
    if rows["read"] != rows["kept"] + sum(dropped.values()) + rows["failed"]:
        raise StageError(f"documents were lost: read {rows['read']} but kept {rows['kept']} + dropped "
                         f"{sum(dropped.values())} + failed {rows['failed']}; this is a fault of the stage")
    cut = {key.removeprefix("cut/"): int(counts[key]) for key in sorted(counts) if key.startswith("cut/")}
    return rows | {"dropped": dropped} | ({"cut": cut} if cut else {})
