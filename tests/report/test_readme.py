"""The README's tables are the committed metrics'."""

import re
from pathlib import Path

import yaml

from tasks import params
from tasks.data.crawl import CrawlParams
from tasks.report import readme


def test_the_readme_says_what_the_metrics_say():
    text = Path("README.md").read_text(encoding="utf-8")
    assert readme.filled(text, readme.tables(Path("metrics"))) == text


def test_its_example_of_a_seed_is_one():
    [example] = re.findall(r"```yaml\n(crawl:.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)
    values = params.load()
    values["crawl"] |= yaml.safe_load(example)["crawl"]
    assert params.section(CrawlParams, "crawl", values).seeds[0].url.startswith("https://")
