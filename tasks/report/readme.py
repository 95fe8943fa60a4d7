"""Writes what README.md and README.zh.md take from a run between their markers: the results tables from the metrics
files in both, and in the Chinese one the English one's transcript.

`python -m tasks.report.readme` after a run; a test holds that both say what metrics/ says.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tasks import params
from tasks.report import card, gather
from tasks.stage import StageError

README, CHINESE, METRICS = Path("README.md"), Path("README.zh.md"), Path("metrics")


def tables(metrics: Path) -> str:
    """The README's tables as markdown: scores, agents, training, quantization."""
    models = params.section(dict[str, str], "models", params.load())
    made = (gather.scores(gather.evaluated(metrics, models)), gather.agents(metrics), gather.training(metrics),
            gather.quantization(metrics))
    return "\n".join(card.markdown(table) for table in made)


def filled(readme: str, body: str, name: str = "results") -> str:
    """`readme` with `body` between the markers of `name`. Raises StageError where the markers are not there once."""
    made, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: m[1] + body + m[2], readme,
                          flags=re.DOTALL)
    if count != 1:
        raise StageError(f"the README has {count} pairs of {name} markers; it needs one")
    return made


def transcript(readme: str) -> str:
    """The fenced block between the transcript's markers. Raises StageError where there is none."""
    found = re.search(r"<!-- transcript -->\n(```\n.*?```\n)", readme, re.DOTALL)
    if not found:
        raise StageError("README.md has no transcript: a fenced block behind its <!-- transcript --> marker")
    return found[1]


def both(english: str, chinese: str, metrics: Path) -> tuple[str, str]:
    """The two READMEs, filled."""
    body = tables(metrics)
    english = filled(english, body)
    return english, filled(filled(chinese, body), transcript(english), "transcript")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tasks.report.readme", description=__doc__.splitlines()[0]).parse_args()
    try:
        texts = both(README.read_text(encoding="utf-8"), CHINESE.read_text(encoding="utf-8"), METRICS)
    except StageError as error:
        sys.exit(f"error: {error}")
    for path, text in zip((README, CHINESE), texts, strict=True):
        path.write_text(text, encoding="utf-8")
