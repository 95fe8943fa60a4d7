"""The tables say what the metrics files say, and a torn file is one clear line."""

import json
from pathlib import Path

import pytest

from tasks.report import card, gather, lineage, picture, readme
from tasks.stage import StageError

METRICS = Path(__file__).resolve().parents[2] / "metrics"


def score(value, stderr, baselines, n=50):
    return {"value": value, "stderr": stderr, "low": 0.0, "high": 1.0, "n": n, "baselines": baselines}


MODELS = {
    "a": {"scores": {"held_out": {"bits_per_byte": score(1.75, 0.02, {"uniform": 3.4, "unigram": 2.9})},
                     "tools": {"exact_match": score(0.5, 0.07, {"random call": 1e-5, "most frequent": 0.02})}}},
    "b": {"scores": {"held_out": {"bits_per_byte": score(1.1, 0.01, {"uniform": 3.4, "unigram": 2.9})}}},
}


def test_scores_put_each_model_in_its_column_and_the_best_trivial_answer_last():
    table = gather.scores(MODELS)
    assert table["head"] == ["score", "a", "b", "trivial"]
    bits, tools = table["rows"]
    assert bits == ["held-out bits per byte ↓, n=50", "1.750 ± 0.020", "1.100 ± 0.010", "2.900 (unigram)"]
    assert tools == ["tool calls, exact, n=50", "0.500 ± 0.070", "", "0.020 (most frequent)"]


def test_ngrams_and_untrained_models_have_columns_where_they_were_measured():
    learned = [{"uniform": 3.4, "bigram": 2.5, "trigram": 2.25, "untrained": 3.41 + n} for n in (0, 1)]
    models = {name: {"scores": {"held_out": {"bits_per_byte": score(1.5, 0.1, found) | {"detectable": 0.4}}}}
              for name, found in zip("ab", learned)}
    models["b"]["scores"]["mine"] = {"acc": score(0.5, 0.1, {"chance": 0.25})}
    table = gather.scores(models)
    assert table["head"] == ["score", "a", "b", "trivial", "n-gram", "untrained"]
    assert table["rows"][0][3:] == ["3.400 (uniform)", "2.250 (trigram)", "3.410 a; 4.410 b"]
    assert table["rows"][1] == ["mine, acc, n=50", "", "0.500 ± 0.100", "0.250 (chance)", "", ""]
    assert gather.power(models)["rows"] == [["held-out bits per byte", "0.400", "0.400"]]


def test_retention_is_a_share_of_what_extraction_gave(tmp_path):
    for name, kept in (("extract", 2000), ("filter", 1000), ("dedup", 500), ("safety", 500), ("value", 400),
                       ("decontaminate", 250), ("mixture", 200)):
        (tmp_path / f"{name}.json").write_text(json.dumps(
            {"read": 1234, "kept": 10, "dropped": {"x": 3, "y": 4}, "failed": 1, "characters_out": kept}))
    rows = gather.retention(tmp_path)["rows"]
    assert [row[-1] for row in rows] == ["100.0%", "50.0%", "25.0%", "25.0%", "20.0%", "12.5%", "10.0%"]
    assert rows[0][1:6] == ["1,234", "10", "7", "1", "0.8%"]


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[1, 2]", b"\xff\xfe"])
def test_a_torn_metrics_file_is_one_line_that_names_it(tmp_path, content):
    path = tmp_path / "filter.json"
    path.write_bytes(content)
    with pytest.raises(StageError, match="filter.json") as fault:
        gather.load(path)
    assert "\n" not in str(fault.value)


def test_a_missing_metrics_file_names_the_remedy(tmp_path):
    with pytest.raises(StageError, match="run the stage"):
        gather.load(tmp_path / "none.json")


def test_curve_reads_empty_cells_as_nan(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("step,loss,held_out_bpb\n1,2.5,\n2,2.0,3.1\n")
    curve = gather.curve(path)
    assert curve["step"] == [1, 2] and curve["loss"] == [2.5, 2.0]
    assert curve["held_out_bpb"][0] != curve["held_out_bpb"][0] and curve["held_out_bpb"][1] == 3.1


def test_markdown_escapes_what_would_break_a_row():
    assert card.markdown({"head": ["a", "b"], "rows": [["x|y", "1"]]}) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"


def test_readme_is_filled_between_its_markers_and_nowhere_else():
    text = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n"
    assert readme.filled(text, "new\n") == "before\n<!-- results -->\nnew\n<!-- /results -->\nafter\n"
    with pytest.raises(StageError, match="markers"):
        readme.filled("no markers", "new\n")


def test_lineage_reads_every_stage_of_a_lock(tmp_path):
    lock = tmp_path / "dvc.lock"
    lock.write_text("schema: '2.0'\nstages:\n  one:\n    cmd: python -m x\n    deps:\n    - path: a\n      md5: aa\n"
                    "      size: 3\n    outs:\n    - path: b\n      md5: bb\n      size: 4\n")
    assert lineage.stages(lock) == [{"name": "one", "cmd": "python -m x", "params": {}, "deps": [("a", "aa", 3)],
                                     "outs": [("b", "bb", 4)]}]
    assert lineage.stages(tmp_path / "none") == []


def tables():
    """Every table of the committed metrics."""
    made = gather.load(METRICS / "picture.json")
    return [gather.scores(gather.folder(METRICS / "evaluate")), picture.sources(made),
            *(one(METRICS) for one in (gather.retention, gather.training, gather.tuning, gather.quantization,
                                       gather.agents, picture.mixture, picture.classifiers, picture.masked,
                                       picture.directions))]


@pytest.mark.parametrize("table", tables(), ids=lambda table: table["head"][0])
def test_every_number_names_a_file_and_a_key_that_are_there(table):
    assert len(table["from"]) == len(table["rows"]) > 0
    for row, sources in zip(table["rows"], table["from"]):
        assert isinstance(sources, str) or len(sources) == len(row)
        for source in filter(None, [sources] if isinstance(sources, str) else sources[1:]):
            file, _, keys = source.partition(" ")
            for key in keys.split(", "):
                found = json.loads((METRICS / file).read_text())
                for part in key.split("."):
                    found = found[part]


def test_a_cells_source_holds_its_number():
    models = gather.folder(METRICS / "evaluate")
    table = gather.scores(models)
    for row, sources in zip(table["rows"], table["from"]):
        for cell, source in zip(row[1:], sources[1:]):
            if not source:
                assert not cell
                continue
            file, _, key = source.partition(" ")
            found = json.loads((METRICS / file).read_text())
            for part in key.split("."):
                found = found[part]
            assert cell.split()[0] == (f"{found:.3f}" if isinstance(found, float) else f"{found['value']:.3f}")


def test_what_a_notebook_needs_is_asked_for_by_name(tmp_path):
    gather.require(METRICS, "pretrain", "extract.json")
    (tmp_path / "quantize").mkdir()
    for name in ("quantize", "extract.json"):
        with pytest.raises(StageError, match=f"{name} is not there: ./run makes it"):
            gather.require(tmp_path, name)
