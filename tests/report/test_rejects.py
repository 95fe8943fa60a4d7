"""Rejects are counted whole and sampled the same way each time; nothing in them can run on the page."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest

from tasks.report import rejects


def write(folder, lines, shards=1):
    folder.mkdir(parents=True)
    for number in range(shards):
        (folder / f"{number:05d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[number::shards]))


def reject(n, reason, **metadata):
    return {"text": f"{n} " + "word " * 200, "id": f"d{n}",
            "metadata": {"url": f"http://a/{n}", "reason": reason, **metadata}}


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page of a folder of rejects, parsed: (source, tags with their attributes)."""
    monkeypatch.chdir(tmp_path)

    def made(rejected):
        rejects.write(rejects.sampled(rejected), jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(rejects.__file__).parent), autoescape=True,
            undefined=jinja2.StrictUndefined, trim_blocks=True))
        tags, parser = [], HTMLParser()
        parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
        source = (tmp_path / "report/rejects.html").read_text("utf-8")
        parser.feed(source)
        return source, tags

    return made


def test_every_reason_is_counted_and_twenty_are_shown(tmp_path):
    lines = [reject(n, "short" if n < 350 else "odd", rule={"value": n, "limit": 40}, language="en")
             for n in range(353)]
    write(tmp_path / "filter", lines, 2)
    found = rejects.sampled(tmp_path)
    assert [(row["stage"], row["reason"], row["count"]) for row in found] == [("filter", "short", 350),
                                                                              ("filter", "odd", 3)]
    samples = found[0]["samples"]
    assert len(samples) == 20 == len({sample["url"] for sample in samples}) and len(found[1]["samples"]) == 3
    for sample in samples:
        assert sample["url"] == f"http://a/{sample['value']}" and sample["limit"] == 40
        assert len(sample["text"]) == rejects.CHARACTERS and sample["about"] == "language en"
    ordered = sorted(lines[:350], key=lambda d: hashlib.sha256(
        f"{d['id']} {d['text'][:rejects.CHARACTERS]}".encode()).hexdigest())
    assert [sample["url"] for sample in samples] == [d["metadata"]["url"] for d in ordered[:20]]
    write(tmp_path / "other/filter", lines)  # one shard or two: the same samples
    assert rejects.sampled(tmp_path / "other") == found


def test_nobody_is_named(tmp_path):
    write(tmp_path / "filter", [reject(1, "short") | {"text": "Write to jane.roe@pythonware.com, or call."}])
    [row] = rejects.sampled(tmp_path)
    assert row["samples"][0]["text"] == "Write to [email withheld], or call."


def test_hostile_rejects_stay_text(tmp_path, page):
    hostile = "</pre><script>alert(1)</script><img src=x onerror=alert(1)> \u202e \x00 \ud800 {{ 7 * 7 }}"
    write(tmp_path / "rejected/extract", [
        {"text": hostile, "id": "a", "metadata": {"url": "javascript:alert(1)",
                                                  "reason": "\"><script>alert(2)</script>",
                                                  "rule": {"value": "<b>", "limit": "<i>"}, "source": "</bdi><u>"}},
        {"text": "", "id": "b", "metadata": {"reason": "empty"}}])
    source, tags = page(tmp_path / "rejected")
    names = [tag for tag, _ in tags]
    assert names.count("script") == 1 and not {"img", "i", "u", "iframe", "object"} & set(names)
    assert not [attributes for _, attributes in tags if any(name.startswith("on") for name in attributes)]
    assert [attributes["href"] for tag, attributes in tags if "href" in attributes] == ["index.html#data"]
    assert "{{ 7 * 7 }}" in source and "\ud800" not in source


def test_the_policy_allows_the_pages_own_script_alone(tmp_path, page):
    write(tmp_path / "rejected/filter", [reject(1, "short")])
    source, tags = page(tmp_path / "rejected")
    policy = next(attributes["content"] for _, attributes in tags if "http-equiv" in attributes)
    script = re.search(r"<script>(.*)</script>", source, re.DOTALL)[1]
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_no_rejects_make_a_page_that_says_so(tmp_path, page):
    (tmp_path / "rejected").mkdir()
    assert "Nothing was dropped." in page(tmp_path / "rejected")[0]
