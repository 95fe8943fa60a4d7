"""What the data stages dropped: twenty documents of each reason, chosen by the hash of their id, as a page of its own.

Rejects are the worst of the web and nothing in them may run: all text is escaped, addresses are text and no links,
and the page's policy allows no script but its own, by hash, and no request at all. Personal data, which most of them
left the chain too early to have masked, is withheld.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from tasks.data import documents, pii

SAMPLES, CHARACTERS = 20, 600
PAGE = Path("report/rejects.html")
SHOWN = ("reason", "rule", "url")  # metadata that has a place of its own in a sample


def sampled(rejected: Path) -> list[dict[str, Any]]:
    """One row a stage and reason, largest first by stage: {"stage", "reason", "count", "samples"}, each sample being
    {"url", "value", "limit", "about", "text"}. Memory: the samples, whatever the number of rejects."""
    found = []
    for stage in sorted(path for path in rejected.iterdir() if path.is_dir()):
        counts: Counter[str] = Counter()
        drawn: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for document in (document for shard in sorted(stage.glob("*.jsonl")) for document in documents.read(shard)):
            reason = str(document.metadata.get("reason", "unknown"))
            counts[reason] += 1
            shown = drawn.setdefault(reason, [])
            key = f"{document.id} {document.text[:CHARACTERS]}"
            shown.append((hashlib.sha256(key.encode("utf-8", "replace")).hexdigest(), sample(document)))
            if len(shown) >= 10 * SAMPLES:
                drawn[reason] = smallest(shown)
        found += [{"stage": stage.name, "reason": reason, "count": count,
                   "samples": [one for _, one in smallest(drawn[reason])]}
                  for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return found


def smallest(drawn: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """The SAMPLES of least hash."""
    return sorted(drawn, key=lambda item: item[0])[:SAMPLES]


def sample(document: documents.Document) -> dict[str, Any]:
    """What the page shows of a dropped document; a lone surrogate, which no page can hold, is replaced."""
    rule = document.metadata.get("rule") or {}
    about = [f"{name} {value}" for name, value in flat(document.metadata) if value not in (None, "")]
    shown = {"url": document.metadata.get("url") or document.id, "about": " · ".join(about),
             "value": rule.get("value", ""), "limit": rule.get("limit", ""),
             "text": pii.withhold(document.text[:2 * CHARACTERS])[:CHARACTERS]}
    return {name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for name, value in shown.items()}


def flat(metadata: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The plain values of `metadata` that have no place of their own, those of a mapping under its name."""
    for name, value in sorted(metadata.items()):
        if name not in SHOWN:
            inner = sorted(value.items()) if isinstance(value, dict) else [("", value)]
            yield from ((f"{name}.{key}".rstrip("."), one) for key, one in inner
                        if isinstance(one, (str, int, float)) and len(str(one)) <= 120)


def write(rows: list[dict[str, Any]], environment: jinja2.Environment) -> None:
    """Write report/rejects.html."""
    script = (Path(__file__).parent / "rejects.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("rejects.html.j2").render(rows=rows, script=script, digest=digest)
    partial = PAGE.with_suffix(".partial")
    partial.parent.mkdir(exist_ok=True)
    partial.write_text(page, encoding="utf-8")
    partial.replace(PAGE)
