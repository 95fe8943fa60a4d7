"""The report's part on pretraining: a figure for what the curve holds, and a row of speed only where it was measured."""

import json

import pytest

from tasks.report import training
from tasks.stage import StageError

CURVE = "step,tokens,train_loss,held_out_bpb,grad_norm,rate,bpb_en_code,bpb_zh_knowledge\n" \
        "2,256,5.0,3.0,0.7,1.0,2.5,4.0\n4,512,4.0,2.5,0.5,0.5,2.0,\n"
TABLE = {"baselines_bpb": {"bigram": 2.25, "xz": 2.5, "trigram": 2.125}, "by_kind": [
    {"by": "language", "name": "zh", "documents": 7, "bytes": 70, "held_out_bpb": 2.5, "held_out_bpb_stderr": 0.25,
     "trigram": 2.75}]}
SPEED = {"ranks": 2, "tokens_per_second_per_rank": 1234.4, "tflops_per_rank": 0.0255, "mfu": 0.256,
         "ceiling_tflops": 0.0999, "ceiling": "measured bf16 product, 1 threads", "data_wait": 0.011,
         "score_and_save_seconds": 3.0, "wall_seconds": 30.0, "peak_host_mib": 2048}


@pytest.fixture
def metrics(tmp_path):
    (tmp_path / "metrics/pretrain").mkdir(parents=True)
    (tmp_path / "metrics/pretrain/own.csv").write_text(CURVE)
    (tmp_path / "metrics/pretrain/own.json").write_text(json.dumps(TABLE))
    return tmp_path / "metrics"


def test_each_figure_shows_its_columns_and_the_bars_name_the_kinds(metrics):
    (run,) = training.runs(metrics)
    assert run["name"] == "Pretraining, own"
    curve, kinds, loss, norm, rate, bars = (one["figure"] for one in run["figures"])
    assert "bigram 2.25" in curve and "trigram 2.12" in curve and "xz 2.50" in curve
    assert "en code" in kinds and "zh knowledge" in kinds
    assert "loss, nats a token" in loss and "gradient norm" in norm and "share of the peak rates" in rate
    assert "zh (language, 7)" in bars and "held-out bits per byte" in bars


def test_a_curve_of_an_earlier_version_is_drawn_as_far_as_it_goes(metrics):
    (metrics / "pretrain/own.csv").write_text("step,tokens,train_loss,held_out_bpb\n2,256,5.0,3.0\n")
    (metrics / "pretrain/own.json").write_text(json.dumps({"baselines_bpb": TABLE["baselines_bpb"]}))
    assert len(training.runs(metrics)[0]["figures"]) == 2


def test_speed_is_shown_where_it_was_measured(metrics, tmp_path):
    none = training.speed(metrics, tmp_path)
    assert none["rows"][0] == ["ranks", "not measured here"] and {row[1] for row in none["rows"][1:]} == {""}
    assert {source for row in none["from"] for source in row} == {""}
    (tmp_path / "pretrain-own.json").write_text(json.dumps(SPEED))
    table = training.speed(metrics, tmp_path)
    assert table["head"] == ["speed", "own"]
    assert [row[1] for row in table["rows"]] == [
        "2", "1,234", "0.025", "0.100: measured bf16 product, 1 threads", "25.6%", "1.1%", "10.0%", "2,048", "none"]
    assert table["from"][1] == ["", "../.runtime/timing/pretrain-own.json"]
    (tmp_path / "pretrain-own.json").write_text(json.dumps(SPEED | {"peak_device_mib": 70_000}))
    assert training.speed(metrics, tmp_path)["rows"][-1][1] == "70,000"


def test_a_torn_timing_file_is_one_line(metrics, tmp_path):
    (tmp_path / "pretrain-own.json").write_text("{")
    with pytest.raises(StageError, match="pretrain-own.json"):
        training.speed(metrics, tmp_path)
