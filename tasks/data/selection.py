"""What stays by its value scores, what comes back for its likeness to the seeds, and what fills a domain's gap.

Everything here is a pure function of rows: one a document, without its text. Three steps, each explained by a count:
`select` drops the worst by thresholds and quantiles of each language; `retrieve` takes back what is like the seeds
(enrichment); `complete` takes back the best of the domains that fall short of their target (targeted completion). Only
what value itself dropped and the documents of `pool` sources can come back: what an earlier stage dropped is not here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import Field, model_validator

from tasks.data.domain import DOMAINS
from tasks.params import Section

LOWER_IS_BETTER = ("ads",)
POOL = "pool"  # the reason of a pool source's document that nothing has called for


class Bound(Section):
    """How bad a score may be; both may be set, null is off."""

    limit: float | None = Field(ge=0, le=1, description="lowest score kept (ads: the highest)")
    keep: float | None = Field(gt=0, le=1, description="share of the language's documents kept at least, best first")


class Bounds(Section):
    """The bounds of one language, asked in this order; the first one broken is the reason."""

    fluency: Bound
    ads: Bound
    density: Bound
    education: Bound


class Targets(Section):
    """The share of the kept characters each domain should have; null asks for nothing."""

    knowledge: float | None = Field(ge=0, le=1)
    mathematics: float | None = Field(ge=0, le=1)
    code: float | None = Field(ge=0, le=1)

    @model_validator(mode="after")
    def fit(self) -> Targets:
        """Refuses targets that cannot all be met."""
        if (total := sum(share or 0 for share in self.model_dump().values())) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {total:g}; they must not exceed 1")
        return self


@dataclass
class Row:
    """A document without its text. `reason`: why value drops it; `rescued`: the reason it had, once taken back, `by`
    "seed" or "target"."""

    id: str
    source: str
    language: str
    domain: str
    characters: int
    scores: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    rescued: str | None = None
    by: str | None = None

    def take(self, by: str) -> None:
        """Back among the kept."""
        self.reason, self.rescued, self.by = None, self.reason, by

    def order(self) -> tuple[float, str]:
        """Best first: by the mean of the scores, each turned so that more is better, then by id."""
        return -sum(good(name, score) for name, score in self.scores.items()) / max(1, len(self.scores)), self.id


def good(name: str, score: float) -> float:
    """A score turned so that more is better."""
    return 1 - score if name in LOWER_IS_BETTER else score


def select(rows: Sequence[Row], bounds: Mapping[str, Bounds], pool: Iterable[str]) -> dict[str, dict[str, float]]:
    """Set the reason of every row that a bound drops and of every row of a `pool` source.

    Returns the cut-offs that held, {score: {language: value}}: the stricter of limit and quantile. A row at the
    cut-off stays, so ties never cost more than 1 - keep. Languages without bounds are not judged.
    """
    apart = frozenset(pool)
    languages: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.source in apart:
            row.reason = POOL
        else:
            languages[row.language].append(row)
    held: dict[str, dict[str, float]] = {name: {} for name in Bounds.model_fields}
    for language, members in sorted(languages.items()):
        if language not in bounds:
            continue
        for name in Bounds.model_fields:
            least = cutoff([good(name, row.scores[name]) for row in members], name, getattr(bounds[language], name))
            if least is None:
                continue
            held[name][language] = round(good(name, least), 6)
            for row in members:
                if row.reason is None and good(name, row.scores[name]) < least:
                    row.reason = name
    return held


def cutoff(values: Sequence[float], name: str, bound: Bound) -> float | None:
    """The least value kept, of values where more is better; None where the bound is off."""
    least = [] if bound.limit is None else [good(name, bound.limit)]
    if bound.keep is not None:
        dropped = len(values) - math.ceil(bound.keep * len(values))
        least.append(sorted(values)[dropped])
    return max(least, default=None)


def retrieve(rows: Sequence[Row], threshold: float | None, max_share: float) -> None:
    """Take back the dropped rows with a seed score from `threshold` on, the most alike first.

    At most `max_share` of the characters kept so far are added; a row that would pass it is left, a smaller one may
    still fit. null takes nothing.
    """
    if threshold is None:
        return
    budget = max_share * sum(row.characters for row in rows if row.reason is None)
    alike = [row for row in rows if row.reason is not None and row.scores.get("seed", -1.0) >= threshold]
    for row in sorted(alike, key=lambda row: (-row.scores["seed"], row.id)):
        if row.characters <= budget:
            budget -= row.characters
            row.take("seed")


def complete(rows: Sequence[Row], targets: Targets) -> dict[str, int]:
    """Take back the best dropped rows of the domains below their target, and return the characters still missing.

    One row at a time, for the domain furthest below its target, as every row added moves all shares. The last row of
    a domain may pass its target. {domain: characters}: what the domain lacks with all else as it then is.
    """
    wanted = {name: share for name, share in targets.model_dump().items() if share is not None}
    has = dict.fromkeys(DOMAINS, 0)
    waiting: dict[str, list[Row]] = {name: [] for name in wanted}
    for row in rows:
        if row.reason is None:
            has[row.domain] += row.characters
        elif row.domain in waiting:
            waiting[row.domain].append(row)
    for queue in waiting.values():
        queue.sort(key=Row.order, reverse=True)
    while True:
        total = sum(has.values())
        short = [(wanted[name] * total - has[name], name) for name, queue in waiting.items()
                 if queue and has[name] < wanted[name] * total]
        if not short:
            break
        row = waiting[max(short)[1]].pop()
        row.take("target")
        has[row.domain] += row.characters
    return {name: missing(has, name, share) for name, share in wanted.items()}


def missing(has: Mapping[str, int], name: str, share: float) -> int:
    """Characters of domain `name` to add, the others as they are, until it has `share` of all; 0 where it has.

    A share of 1 beside other domains can never be had; what the others have is then what is missing.
    """
    others = sum(has.values()) - has[name]
    return max(0, math.ceil((share * others / (1 - share) if share < 1 else has[name] + others) - has[name] - 1e-6))
