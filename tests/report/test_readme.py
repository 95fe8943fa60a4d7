"""The READMEs' tables are the committed metrics', and the Chinese one tells of what the English one tells."""

import re
from pathlib import Path

import pytest
import yaml

from tasks import params
from tasks.data.registry import SourcesParams
from tasks.report import readme
from tasks.stage import StageError

ENGLISH, CHINESE = (Path(name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))


def test_the_readmes_say_what_the_metrics_say():
    assert readme.both(ENGLISH, CHINESE, Path("metrics")) == (ENGLISH, CHINESE)


def test_the_transcript_and_the_tables_are_copied_and_their_absence_is_told():
    run = "<!-- transcript -->\n```\n$ ./run\n```\n<!-- /transcript -->\n"
    made = readme.filled("<!-- transcript -->\nold\n<!-- /transcript -->\n", readme.transcript(run), "transcript")
    assert made == run
    with pytest.raises(StageError, match="no transcript"):
        readme.transcript("nothing")
    with pytest.raises(StageError, match="0 pairs of results markers"):
        readme.both("nothing", "nothing", Path("metrics"))


def test_each_leads_to_the_other():
    assert "(README.zh.md)" in ENGLISH[:300] and "(README.md)" in CHINESE[:300]


@pytest.mark.parametrize("what", [r"`(\./run [^`]+)`", r"\]\(((?:docs/)[^)]+)\)", r"```yaml\n(.*?)```",
                                  r"^(#+) "], ids=["commands", "links", "yaml", "headings"])
def test_the_chinese_one_leaves_nothing_out(what):
    found = [re.findall(what, text, re.DOTALL | re.MULTILINE) for text in (ENGLISH, CHINESE)]
    if what.startswith("^"):
        assert found[0] == found[1]
    else:
        assert set(found[0]) <= set(found[1])


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_its_example_of_sources_is_one(text):
    [example] = re.findall(r"```yaml\n(sources:.*?)```", text, re.DOTALL)
    values = params.load()
    values["sources"] |= yaml.safe_load(example)["sources"]
    corpora = params.section(SourcesParams, "sources", values).corpora
    assert {corpus.kind for corpus in corpora} >= {"seed", "warc", "jsonl"}
