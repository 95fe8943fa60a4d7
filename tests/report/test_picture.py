"""The data's part of the report: numbers by hand, the most similar pairs, hostile text as text, torn files told."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasks.report import page, picture
from tasks.stage import StageError

HOSTILE = "</pre></svg><script>alert(1)</script><img src=x onerror=alert(1)> ‮ \ud800 {{ 7 * 7 }} | $x$"


def cell(documents, characters, **about):
    return {"source": "docs", "language": "en", "domain": None, "licence": "MIT", "snapshot": "1", "year": None,
            "documents": documents, "characters": characters} | about


def side(cells, length, scores=None):
    return {"cells": cells, "length": length, "scores": scores or {}, "documents": sum(c["documents"] for c in cells),
            "characters": sum(c["characters"] for c in cells)}


MADE = {
    "before": side([cell(6, 600), cell(2, 400, source="novel", language="zh", licence="CC0-1.0")],
                   {"en": {"6": 5, "8": 1}, "zh": {"6": 2}}),
    "after": side([cell(3, 300, domain="code"), cell(1, 100, source="novel", language="zh", licence="CC0-1.0",
                                                     domain="knowledge")],
                  {"en": {"6": 3}, "zh": {"8": 1}}, {"fluency": {"en": [0] * 9 + [3], "zh": [1] + [0] * 9}}),
}
VALUE = {"read": 5, "kept": 4, "dropped": {"fluency": 1}, "failed": 0, "characters_in": 700, "characters_out": 600,
         "histograms": {"fluency": {"en": [1] + [0] * 8 + [3], "zh": [1] + [0] * 9}},
         "domain": {"before": {"code": {"characters": 300}, "knowledge": {"characters": 100},
                               "mathematics": {"characters": 0}}}}


def stage(read, kept, dropped, characters, failed=0):
    return {"read": read, "kept": kept, "dropped": dropped, "failed": failed, "characters_in": 1000,
            "characters_out": characters}


def rate(value):
    return {"value": value, "standard_error": 0.01, "examples": 50}


def metrics(folder):
    """Every metrics file of the data stages, by hand."""
    row = {"documents": 4, "characters": 400, "share_before": 0.25, "share_after": 0.5, "epochs": 2.0,
           "tokens_estimate": 99, "characters_trained": 800}
    files = {
        "sources": {"docs": {"licence": "MIT", "files": 3, "bytes": 12}}, "picture": MADE, "value": VALUE,
        "extract": stage(10, 8, {"empty": 1}, 1000, failed=1), "filter": stage(8, 6, {"short": 2}, 800),
        "dedup": stage(6, 5, {"exact": 1}, 700), "safety": stage(5, 5, {}, 700) | {"masked": {"email": 2, "ip": 0}},
        "decontaminate": stage(4, 4, {}, 400) | {
            "training_characters": 500, "contaminated_fraction": 0.02, "limit": 0.1, "characters_cut": 7,
            "documents_cut": 1, "overlapping_after": 0,
            "directions": {"near_duplicate": {"documents": 1, "pairs": 3}}},
        "mixture": stage(4, 4, {}, 400) | {"all": {"all": row}, "source": {"docs": row}, "language": {"en": row},
                                           "domain": {"code": row}},
        "evalsets": {"held_out_documents": 2}, "crawl": {"docs": {"pages": 7, "bytes": 9, "dropped": {}}},
        "classifiers": {"ads": {"accuracy": rate(0.9), "precision": rate(0.8), "recall": rate(0.7), "auc": 0.95,
                                "min_auc": 0.9, "threshold": 0.5, "calibration_error": 0.02,
                                "accuracy_by_language": {"zh": {"auc": 0.94}, "en": {"auc": 0.96}}}}}
    folder.mkdir()
    for name, found in files.items():
        (folder / f"{name}.json").write_text(json.dumps(found))
    return folder


def write(path, *documents):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in documents))


def pair(n, similarity, text="t"):
    return {"id": f"d{n}", "text": text, "metadata": {
        "url": f"http://a/{n}", "reason": "passage", "overlaps": ["cloze-1", text], "direction": "item_in_document",
        "similarity": similarity, "ngram": text, "excerpt": {"document": f"{text} mine", "item": f"{text} asked"}}}


def sample(text, **about):
    return {"id": "docs:1", "text": text, "metadata": {
        "url": text, "language": "en", "domain": "code", "masked": {"email": 2}, "raw": f"{text} menu",
        "extracted": text, "cut": text, "put": text,
        "characters": {"raw": 9000, "before": 80, "after": 60, "cut": 20, "put": 5}} | about}


def test_the_funnel_is_in_percent_of_its_start(tmp_path):
    rows = picture.funnel(metrics(tmp_path / "m"))
    assert [row["stage"] for row in rows] == ["extract", "filter", "dedup", "safety", "value", "decontaminate",
                                              "mixture"]
    assert [row["of_documents"] for row in rows] == pytest.approx([80, 60, 50, 50, 40, 40, 40])
    assert [row["of_characters"] for row in rows] == pytest.approx([100, 80, 70, 70, 60, 40, 40])
    assert rows[0]["dropped"] == [("empty", 1, 10.0), ("failed", 1, 10.0)]
    assert rows[1]["dropped"] == [("short", 2, 20.0)]
    assert picture.funnel(tmp_path) == []


def test_small_multiples_are_shares_of_each_side():
    length, language, domain, source, zh, en = sorted(
        picture.panels(MADE, VALUE), key=lambda p: ["length", "language", "domain", "source", "fluency, zh",
                                                    "fluency, en"].index(p["title"]))
    assert (length["labels"], length["before"], length["after"]) == (
        ["64", "128", "256"], [87.5, 0, 12.5], [75, 0, 25])
    assert (language["labels"], language["before"], language["after"]) == (["en", "zh"], [60, 40], [75, 25])
    assert (domain["labels"], domain["before"], domain["after"]) == (
        ["code", "knowledge", "mathematics"], [75, 25, 0], [75, 25, 0])
    assert source["labels"] == ["docs", "novel"] and language["unit"] == "characters"
    assert en["before"] == [25] + [0] * 8 + [75] and en["after"] == [0] * 9 + [100] and zh["after"][0] == 100


def test_what_is_beyond_the_bars_stands_together_and_a_year_is_shown_where_one_is_known():
    many = {name: side([cell(1, 100 - n, source=f"s{n:02d}", year=1990 + n) for n in range(12)], {"en": {"6": 12}})
            for name in ("before", "after")}
    panels = {panel["title"]: panel for panel in picture.panels(many, VALUE)}
    source = panels["source"]
    assert source["labels"] == [f"s{n:02d}" for n in range(7)] + ["5 others"]
    assert sum(source["before"]) == pytest.approx(100) and "year" in panels


@pytest.mark.parametrize(("part", "whole", "said"), [
    (1, 4, "25.0%"), (0, 4, "0.0%"), (1, 5000, "0.02%"), (1, 0, "-"), (5, 5, "100.0%")])
def test_a_share_is_never_shown_as_nothing(part, whole, said):
    assert picture.share(part, whole) == said


def test_tables_say_what_the_files_say(tmp_path):
    folder = metrics(tmp_path / "m")
    assert picture.sources(MADE)["rows"] == [
        ["docs", "MIT", "en", "1", "-", "6", "3", "600", "300", "50.0%"],
        ["novel", "CC0-1.0", "zh", "1", "-", "2", "1", "400", "100", "25.0%"]]
    assert picture.mixture(folder)["rows"][0] == ["source: docs", "4", "400", "25.0%", "50.0%", "2.00", "99"]
    assert picture.classifiers(folder)["rows"] == [
        ["ads", "50", "0.950 (0.9)", "en 0.960, zh 0.940", "0.900 ± 0.010", "0.800 ± 0.010", "0.700 ± 0.010", "0.5",
         "0.020"]]
    found = json.loads((folder / "classifiers.json").read_text())
    found["ads"]["accuracy_by_language"]["zh"]["auc"] = None  # all of one class there
    found["ads"]["precision"] = {"value": None, "standard_error": None, "examples": 0}  # none above the threshold
    (folder / "classifiers.json").write_text(json.dumps(found))
    assert picture.classifiers(folder)["rows"][0][3:7] == ["en 0.960, zh -", "0.900 ± 0.010", "-", "0.700 ± 0.010"]
    assert picture.masked(folder)["rows"] == [["email", "2", "2000.00"], ["ip", "0", "0.00"]]
    assert picture.directions(folder)["rows"] == [["near duplicate", "1", "3"]]


def test_the_most_similar_pairs_are_shown_and_all_are_counted(tmp_path):
    found = [pair(n, n / 1000) for n in range(500)]
    held_out = {"id": "h", "text": "", "metadata": {"reason": "held_out"}}
    for n in range(2):
        write(tmp_path / f"decontaminate/{n}.jsonl", held_out, *found[n::2])
    pairs = picture.pairs(tmp_path)
    assert pairs["documents"] == 500
    assert [one["similarity"] for one in pairs["shown"]] == [f"{n / 1000:.3f}" for n in range(499, 479, -1)]
    assert pairs["shown"][0]["document"] == "t mine" and pairs["shown"][0]["items"] == "cloze-1, t"
    assert picture.pairs(tmp_path / "none") == {"documents": 0, "shown": []}


@pytest.fixture
def report(tmp_path, monkeypatch):
    """The whole stage in a folder of its own; returns the page's text and its tags."""
    monkeypatch.chdir(tmp_path)
    Path("transcripts").mkdir()
    Path("answers").mkdir()
    metrics(Path("metrics"))

    def made():
        write(Path("rejected/decontaminate/passages.jsonl"), pair(1, 0.9, HOSTILE))
        page.report(Path("metrics"), Path("transcripts"), Path("answers"), Path("rejected"),
                    Path("samples"), Path("s.json"), Path("MODEL_CARD.md"), Path("DATA_CARD.md"), models={})
        tags, parser = [], HTMLParser()
        parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
        source = Path("report/index.html").read_text("utf-8")
        parser.feed(source)
        return source, tags

    Path("report").mkdir()
    return made


def test_hostile_samples_and_pairs_stay_text(report):
    row = MADE["after"]["cells"][0]
    hostile = MADE | {"after": side([row | {"source": HOSTILE[:60], "licence": HOSTILE}], {"en": {"6": 3}})}
    Path("metrics/picture.json").write_text(json.dumps(hostile))
    write(Path("samples/samples.jsonl"), sample(HOSTILE), sample("话说天下大势", cut="", put="", masked={}))
    source, tags = report()
    assert not [tag for tag, _ in tags if tag in ("script", "img", "iframe", "object")]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source and "{{ 7 * 7 }}" in source and "话说天下大势" in source
    assert not [url for _, attributes in tags if "javascript" in (url := attributes.get("href", ""))]
    assert "9,000 → 80 → 60 characters · masked: email 2" in " ".join(source.split())
    policy = dict(next(attributes for tag, attributes in tags if "http-equiv" in attributes))["content"]
    assert policy.startswith("default-src 'none'") and "script" not in policy
    assert sum(tag == "svg" for tag, _ in tags) == 5 and source.count('class="step"') == 7
    assert 'style="width:80.00%"' in source and "Nothing was cut after extraction" in source


def test_the_cards_say_what_was_made_and_every_number_leads_to_its_file(report):
    write(Path("samples/samples.jsonl"), sample("text"))
    _, tags = report()
    card = Path("DATA_CARD.md").read_text("utf-8")
    assert "| filter | short | 2 | 20.0% |" in card and "| extract | failed | 1 | 10.0% |" in card
    assert "| novel | CC0-1.0 | zh | 1 | - | 2 | 1 | 400 | 100 | 25.0% |" in card and "| email | 2 | 2000.00 |" in card
    assert "4 documents, 400 characters; 800\ncharacters with its repeats" in card
    assert "1 pinned packages, sites and files" in card and "7 pages were crawled from 1\nsites" in card
    for section in ("Motivation", "Composition", "Collection", "Cleaning and labelling", "Uses", "Distribution",
                    "Maintenance"):  # Gebru et al. 2018
        assert f"\n## {section}\n" in card

    about_models = Path("MODEL_CARD.md").read_text("utf-8")
    for section in ("Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data",
                    "Ethical considerations", "Caveats and recommendations"):  # Mitchell et al. 2019
        assert f"\n## {section}\n" in about_models
    assert "4 documents, 400 characters. Of\n500 characters 2.00% overlapped" in about_models
    assert len(about_models.splitlines()) < 100  # one page
    links = [attributes for tag, attributes in tags if tag == "a" and attributes.get("class") == "v"]
    assert {"decontaminate.json", "safety.json", "extract.json"} <= {Path(link["href"]).name for link in links}
    for link in links:
        path, name = Path("report", link["href"]), link["title"].partition(": ")[0]
        assert path.is_file() and path.resolve() == Path(name).resolve()


@pytest.mark.parametrize(("path", "content", "said"), [
    ("metrics/picture.json", '{"before": ', "picture.json is no readable metrics file"),
    ("metrics/classifiers.json", "[]", "classifiers.json holds list"),
    ("samples/samples.jsonl", '{"text": 1}\n', "samples.jsonl:1 is not a document"),
    ("samples/samples.jsonl", None, "holds no .jsonl shard"),
    ("metrics/mixture.json", None, "run the stage that writes it"),
])
def test_a_missing_or_torn_file_is_one_line_that_names_it(report, path, content, said):
    write(Path("samples/samples.jsonl"), sample("text"))
    Path(path).unlink() if content is None else Path(path).write_text(content)
    with pytest.raises(StageError, match=said) as fault:
        report()
    assert "\n" not in str(fault.value)
