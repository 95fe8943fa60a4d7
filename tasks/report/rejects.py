"""What the data stages dropped: a few documents of each reason, chosen by the hash of their id."""

from __future__ import annotations

import hashlib
import heapq
from pathlib import Path

from tasks.data import documents

SAMPLES, CHARACTERS = 4, 400


def sampled(rejected: Path) -> list[tuple[str, str, int, list[str]]]:
    """(stage, reason, how many, texts of up to SAMPLES of them cut to CHARACTERS), largest reason first by stage."""
    found = []
    for stage in sorted(path for path in rejected.iterdir() if path.is_dir()):
        by_reason: dict[str, list[tuple[str, str]]] = {}
        for document in (document for shard in sorted(stage.glob("*.jsonl")) for document in documents.read(shard)):
            shown = f"{document.metadata.get('url') or document.id}\n{document.text[:CHARACTERS]}"
            order = hashlib.sha256(f"{document.id} {shown}".encode()).hexdigest()
            by_reason.setdefault(document.metadata["reason"], []).append((order, shown))
        found += [(stage.name, reason, len(kept), [text for _, text in heapq.nsmallest(SAMPLES, kept)])
                  for reason, kept in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))]
    return found
