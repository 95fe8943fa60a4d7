"""The README's tables are the committed metrics'."""

import re
from pathlib import Path

import yaml

from tasks import params
from tasks.data.registry import SourcesParams
from tasks.report import readme


def test_the_readme_says_what_the_metrics_say():
    text = Path("README.md").read_text(encoding="utf-8")
    assert readme.filled(text, readme.tables(Path("metrics"))) == text


def test_its_example_of_sources_is_one():
    [example] = re.findall(r"```yaml\n(sources:.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)
    values = params.load()
    values["sources"] |= yaml.safe_load(example)["sources"]
    corpora = params.section(SourcesParams, "sources", values).corpora
    assert {corpus.kind for corpus in corpora} >= {"seed", "warc", "jsonl"}
