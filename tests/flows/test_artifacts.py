"""Tables and curves from metrics files: right cells, escaped text, nothing from nothing, a broken file told."""

from __future__ import annotations

import base64
import io
import json
import re

from matplotlib.image import imread

from flows import artifacts


def test_retention_counts_and_orders_reasons(tmp_path):
    (tmp_path / "filter.json").write_text(json.dumps(
        {"read": 10, "kept": 5, "dropped": {"short": 1, "a|b": 3}, "failed": 1, "characters_out": 50}))
    rows = artifacts.retention(tmp_path).splitlines()
    assert rows[2:] == ["| filter | 10 | 5 | 4 | 1 | - | - | a\\|b 3, short 1 |"]
    (tmp_path / "extract.json").write_text(json.dumps(
        {"read": 40, "kept": 10, "dropped": {"empty": 30}, "failed": 0, "characters_out": 400}))
    assert artifacts.retention(tmp_path).splitlines()[2:] == [
        "| extract | 40 | 10 | 30 | 0 | 25.0% | 100.0% | empty 30 |",
        "| filter | 10 | 5 | 4 | 1 | 12.5% | 12.5% | a\\|b 3, short 1 |"]


def test_curve_is_a_png_with_a_line_in_it(tmp_path):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/scratch.csv").write_text(
        "step,tokens,train_loss,held_out_bpb\n1,100,8.0,\n2,200,6.0,3.5\n3,300,5.0,3.0\n")
    page = artifacts.curves(tmp_path)
    image = imread(io.BytesIO(base64.b64decode(re.search(r"base64,([^)]+)\)", page).group(1))))
    assert image.shape[0] > 200 and image.shape[1] > 500
    blue = (image[..., 2] > 0.6) & (image[..., 0] < 0.3)  # matplotlib's first colour, the curve
    assert blue.sum() > 500


def test_the_data_picture_has_bars_of_both_sides_and_the_tables(tmp_path):
    cell = {"source": "docs", "language": "en", "domain": "code", "licence": "MIT", "snapshot": "2", "year": None}
    sides = {side: {"cells": [cell | {"documents": n, "characters": 100 * n}], "length": {"en": {"6": n}},
                    "scores": {"fluency": {"en": [0] * 9 + [n]}}} for side, n in (("before", 8), ("after", 6))}
    (tmp_path / "picture.json").write_text(json.dumps(sides))
    (tmp_path / "value.json").write_text(json.dumps({"histograms": {"fluency": {"en": [2] + [0] * 8 + [6]}},
                                                     "domain": {"before": {"code": {"characters": 700}}}}))
    row = {"documents": 6, "characters": 600, "share_before": 1.0, "share_after": 1.0, "epochs": 1.5,
           "tokens_estimate": 300}
    (tmp_path / "mixture.json").write_text(json.dumps({name: {"docs": row} for name in
                                                       ("source", "language", "domain")}))
    (tmp_path / "safety.json").write_text(json.dumps({"masked": {"email": 3}, "characters_in": 2_000_000}))
    page = artifacts.data_picture(tmp_path)
    image = imread(io.BytesIO(base64.b64decode(re.search(r"base64,([^)]+)\)", page).group(1))))[..., :3]
    blue, grey = ((abs(image - colour).max(axis=2) < 0.04).sum() for colour in
                  ([0.184, 0.494, 0.847], [0.7, 0.725, 0.753]))  # 2f7ed8; 808a96 at six tenths on white
    assert blue > 2000 and grey > 2000
    assert "| docs | MIT | en | 2 | - | 8 | 6 | 800 | 600 | 75.0% |" in page
    assert "| email | 3 | 1.50 |" in page and "| source: docs | 6 | 600 | 100.0% | 100.0% | 1.50 | 300 |" in page


def test_nothing_from_nothing(tmp_path):
    assert artifacts.retention(tmp_path) == artifacts.curves(tmp_path) == artifacts.data_picture(tmp_path) == ""
    (tmp_path / "params.yaml").write_text("models: {base: models/t/base}\n")
    assert artifacts.scores(tmp_path / "metrics") == ""


def test_scores_are_the_reports_rows_in_the_order_of_the_models(tmp_path):
    (tmp_path / "metrics/evaluate").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("models: {base: models/t/base, absent: models/t/x, aligned: models/t/chat}\n")
    for name, value in (("aligned", 0.75), ("base", 0.5)):
        cell = {"value": value, "stderr": 0.1, "n": 20, "baselines": {"chance": 0.25}}
        (tmp_path / f"metrics/evaluate/{name}.json").write_text(json.dumps({"scores": {"cloze": {"acc": cell}}}))
    head, _, row = artifacts.scores(tmp_path / "metrics").splitlines()
    assert head.index("base") < head.index("aligned") and "absent" not in head
    assert row.index("0.500 ± 0.100") < row.index("0.750 ± 0.100") and "0.250 (chance)" in row and "n=20" in row


def test_a_broken_file_is_told_and_ends_no_run(tmp_path, monkeypatch):
    """Only what reaches the server is watched here; that it shows there is tests/chain's."""
    made = {}
    monkeypatch.setattr(artifacts, "create_markdown_artifact",
                        lambda markdown, key, description: made.update({key: markdown}))
    (tmp_path / "metrics/pretrain").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("models: {}\n")
    (tmp_path / "metrics/filter.json").write_text("{broken")
    (tmp_path / "metrics/pretrain/scratch.csv").write_text("step,train_loss\n1,x\n")
    assert artifacts.publish(tmp_path) == ["retention", "loss-curve"]
    assert "cannot be read" in made["retention"] and "cannot be read" in made["loss-curve"]
