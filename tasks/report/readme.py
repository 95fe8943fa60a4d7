"""Writes the results tables of README.md between its markers, from the metrics files.

`python -m tasks.report.readme` after a run; a test holds that the README says what metrics/ says.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tasks import params
from tasks.report import card, gather
from tasks.stage import StageError

README, METRICS = Path("README.md"), Path("metrics")


def tables(metrics: Path) -> str:
    """The README's tables as markdown: scores, agents, training, quantization."""
    models = params.section(dict[str, str], "models", params.load())
    made = (gather.scores(gather.evaluated(metrics, models)), gather.agents(metrics), gather.training(metrics),
            gather.quantization(metrics))
    return "\n".join(card.markdown(table) for table in made)


def filled(readme: str, body: str) -> str:
    """`readme` with `body` between the results markers. Raises StageError where the markers are not there once."""
    made, count = re.subn(r"(<!-- results -->\n).*?(<!-- /results -->)", lambda m: m[1] + body + m[2], readme,
                          flags=re.DOTALL)
    if count != 1:
        raise StageError(f"README.md has {count} pairs of results markers; it needs one")
    return made


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tasks.report.readme", description=__doc__.splitlines()[0]).parse_args()
    try:
        README.write_text(filled(README.read_text(encoding="utf-8"), tables(METRICS)), encoding="utf-8")
    except StageError as error:
        sys.exit(f"error: {error}")
