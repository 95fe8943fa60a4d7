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
        {"read": 10, "kept": 5, "dropped": {"short": 1, "a|b": 3}, "failed": 1}))
    rows = artifacts.retention(tmp_path).splitlines()
    assert rows[2:] == ["| filter | 10 | 5 | 4 | 1 | a\\|b 3, short 1 |"]


def test_curve_is_a_png_with_a_line_in_it(tmp_path):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/scratch.csv").write_text(
        "step,tokens,train_loss,held_out_bpb\n1,100,8.0,\n2,200,6.0,3.5\n3,300,5.0,3.0\n")
    page = artifacts.curves(tmp_path)
    image = imread(io.BytesIO(base64.b64decode(re.search(r"base64,([^)]+)\)", page).group(1))))
    assert image.shape[0] > 200 and image.shape[1] > 500
    blue = (image[..., 2] > 0.6) & (image[..., 0] < 0.3)  # matplotlib's first colour, the curve
    assert blue.sum() > 500


def test_nothing_from_nothing(tmp_path):
    assert artifacts.retention(tmp_path) == artifacts.curves(tmp_path) == ""
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
