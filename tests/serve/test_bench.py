"""The serve_bench stage on the tiny model: its counts repeat, and its gates fail."""

import json

import pytest

from tasks.serve import bench
from tasks.stage import StageError
from tests.serve.tiny import RUNTIME

SMALL = bench.ServeBenchParams(prompts=4, prompt_characters=30, max_tokens=8, streams=[3], documents=2,
                               tokens=32, min_top1=0.8, max_kl=0.05)


def test_counts_repeat_and_hold_no_seconds(tiny, tmp_path, monkeypatch):
    timing = {}
    monkeypatch.setattr(bench.stage, "write_timing", lambda name, value: timing.update({name: value}))
    for name in ("a.json", "b.json"):
        bench.serve_bench(tiny / "int4", tiny / "held_out.jsonl", tmp_path / name, serve_bench=SMALL, seed=1,
                          runtime=RUNTIME)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["requests"] == found["completed"] == 8 and found["tokens"] == 64
    assert found["parity"] == found["compared"] == 4 and found["calls_valid"] == found["calls"] == 8
    assert found["errors_right"] == found["errors"] == 8
    (seconds,) = timing.values()
    assert seconds["rounds"]["1"]["tokens_per_second"] > 0 and seconds["rss_bytes"] > 10 ** 7


def test_prompts_are_held_out_text_chosen_by_seed(tiny):
    found = bench.prompts(tiny / "held_out.jsonl", SMALL, 1)
    assert found == bench.prompts(tiny / "held_out.jsonl", SMALL, 1)
    assert found != bench.prompts(tiny / "held_out.jsonl", SMALL, 2)
    texts = [json.loads(line)["text"] for line in (tiny / "held_out.jsonl").open()]
    assert all(any(piece in text for text in texts) for piece in found)


def test_a_leak_between_requests_fails_the_stage():
    good = {"completed": 8, "requests": 8, "parity": 4, "compared": 4, "calls_valid": 2, "calls": 2,
            "errors_right": 1, "errors": 1}
    bench.check(good)
    with pytest.raises(StageError, match="greedy parity: 3 of 4"):
        bench.check(good | {"parity": 3})


def test_a_broken_model_or_no_text_is_one_line(tiny, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(StageError, match="no document"):
        bench.serve_bench(tiny / "int4", tmp_path / "empty.jsonl", tmp_path / "m", serve_bench=SMALL, seed=1,
                          runtime=RUNTIME)
    with pytest.raises(StageError, match="no readable int4 model"):
        bench.serve_bench(tmp_path, tiny / "held_out.jsonl", tmp_path / "m", serve_bench=SMALL, seed=1,
                          runtime=RUNTIME)


def test_what_serves_is_held_to_torch(tiny, tmp_path):
    for limits, shown in (({"max_kl": 1e-12}, "KL"), ({"min_top1": 1.0, "max_kl": 1e-9}, "top-1")):
        with pytest.raises(StageError, match=shown):
            bench.beside_torch(tiny / "int4", tiny / "held_out.jsonl", SMALL.model_copy(update=limits), RUNTIME)
    scores = bench.beside_torch(tiny / "int4", tiny / "held_out.jsonl", SMALL, RUNTIME)
    assert 0 < scores["kl"] < 0.05 and scores["backend"] == "CpuBackend"
