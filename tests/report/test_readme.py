"""The README's tables are the committed metrics'."""

from pathlib import Path

from tasks.report import readme


def test_the_readme_says_what_the_metrics_say():
    text = Path("README.md").read_text(encoding="utf-8")
    assert readme.filled(text, readme.tables(Path("metrics"))) == text
