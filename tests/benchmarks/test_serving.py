"""The engine, server and soak benchmarks: their statistics by hand, real engines on the tiny model, bad arguments."""

import argparse
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from benchmarks import engine, engines, serve, soak
from tests.serve import tiny as making


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return making.write_all(tmp_path_factory.mktemp("tiny"))


def command(module: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=120)


def one(seconds: float, tokens: int = 10) -> dict[str, float]:
    return {"seconds": seconds, "cpu_seconds": 2 * seconds, "tokens": tokens, "others": 0.0}


def test_ratios_are_of_neighbours():
    first, other = engine.compare([[one(1.0), one(2.0)], [one(10.0), one(30.0)], [one(1.0), one(1.0)]])
    assert first["rate"] == {"median": 10.0, "least": 1.0, "most": 10.0}
    assert first["ratio"] == {"median": 1.0, "least": 1.0, "most": 1.0}
    assert other["ratio"] == {"median": 2.0, "least": 1.0, "most": 3.0} == other["cpu_ratio"]


def test_real_engines_take_turns(tiny, monkeypatch):
    monkeypatch.setattr(engine, "COLUMNS", {
        "decode": {"task": "decode", "batch": 2, "context": 20, "tokens": 4},
        "prefill": {"task": "prefill", "tokens": 9}})
    monkeypatch.setattr(engines, "TOKENS", range(10, 300))
    specs = [engine.parse(f"catena:{tiny / 'onnx'}")] * 2
    with engine.loaded(specs, 1, ((0, 1, 64), (20, 2, 64))) as pair:
        found = {name: engine.compare(rows) for name, rows in engine.measure(pair, ["decode", "prefill"], 1).items()}
        stopped = [one.process.poll() is None for one in pair]
    assert stopped == [True, True] and all(one.process.poll() is not None for one in pair)
    assert all(row["rate"]["median"] > 0 for rows in found.values() for row in rows)


def test_a_decode_starts_again_where_it_started(tiny, monkeypatch):
    monkeypatch.setattr(engines, "TOKENS", range(10, 300))
    ours = engines.Catena(str(tiny / "chat"), argparse.Namespace(threads=1, place=[(0, 1, 64), (12, 2, 32)]), None)
    steps = []
    step = ours.step
    monkeypatch.setattr(ours, "step", lambda place, entries: steps.append((entries, step(place, entries)))
                        or steps[-1][1])
    ours.decode(2, 12, 3)
    ours.decode(2, 12, 3)
    assert len(steps) == 2 + 3 + 3 and steps[5:] == steps[2:5]  # two prompts, then the same three steps twice
    (_, (following,)), *_ = steps
    whole = ours.step(0, [(0, engines.prompt(12, 12_000), 0)])  # the first prompt, in other memory
    assert whole == [following]


@pytest.mark.parametrize(("module", "arguments", "said"), (
    ("benchmarks.engine", ("gpt:x",), "catena-cpu"), ("benchmarks.engine", ("catena:absent",), "absent is not there"),
    ("benchmarks.engine", (f"catena:tests@{__file__}",), "no interpreter"),
    ("benchmarks.engine", ("catena:tests", "--rounds", "0"), "--rounds"),
    ("benchmarks.serve", ("absent",), "neither a model directory nor"),
    ("benchmarks.serve", ("tests", "--grid", "8x0x3"), "BATCHxINPUTxOUTPUT"),
    ("benchmarks.serve", ("tests", "--rates", "nan"), "no number above 0"),
    ("benchmarks.soak", ("absent",), "no model directory"),
    ("benchmarks.soak", ("tests", "--minutes", "0"), "--minutes")))
def test_bad_arguments_are_one_line(module, arguments, said):
    done = command(module, *arguments)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_what_does_not_serve_is_one_line():
    done = command("benchmarks.serve", "http://127.0.0.1:9/v1")
    assert done.returncode == 1 and "no OpenAI server answers" in done.stderr and "Traceback" not in done.stderr
    done = command("benchmarks.engine", "catena:tests")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: catena:tests ended")


def test_a_table_and_a_plot(tmp_path, capsys):
    row = {key: 0.5 for key in (*serve.SHOWN, "ttft_p90", "client_share")} | {
        "errors": 0, "rss_bytes": 10 ** 8}
    ours = serve.Server("ours", "", None, cells={"8x2x2": [row | {"tokens_per_second": 30.0, "of_engine": 0.9}] * 2,
                                                 "1/s": [row | {"tokens_per_second": 20.0}]})
    theirs = serve.Server("theirs", "", None, cells={"8x2x2": [row | {"tokens_per_second": 10.0},
                                                               row | {"tokens_per_second": 20.0}],
                                                     "1/s": [row | {"tokens_per_second": 20.0}]})
    found = serve.table([ours, theirs])
    assert found["theirs"]["8x2x2"]["first_to_this"] == pytest.approx((3 + 1.5) / 2)
    assert "0.90" in capsys.readouterr().out
    serve.draw(found, tmp_path / "deep" / "plot.png")
    assert (tmp_path / "deep" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_growth_is_seen_through_noise():
    noise = np.random.default_rng(1).normal(0, 1e5, 3600)
    flat = soak.growth(list(2e8 + noise))
    assert flat["least"] < 0 < flat["most"]
    leak = soak.growth(list(2e8 + noise + 1000 * np.arange(3600)))  # 1 kB a second
    assert leak["least"] > 3.4e6 and leak["slope"] == pytest.approx(3.6e6, rel=0.02)
    warm = soak.growth(list(2e8 + noise + np.minimum(np.arange(3600), 800) * 1e5))  # a cache that fills, then rests
    assert warm["least"] < 0 < warm["most"]


def test_a_soak_judges_what_is_left():
    soaked = soak.Soak("", None, False, samples=[{"rss_bytes": 2e8}] * 200, answered=Counter(chat=3))
    end = {"kv_cache_usage_perc": 0.0, "num_requests_running": 0.0, "num_requests_waiting": 0.0, "idle_cpu": 0.0}
    assert all(row["good"] for row in soak.judged(soaked, 1.0, end, 3e8).values())
    for name, changed in (("kv_cache_usage_perc", end | {"kv_cache_usage_perc": 0.01}),
                          ("idle_cpu", end | {"idle_cpu": 0.5}),
                          ("requests_left", end | {"num_requests_running": 1.0})):
        assert [key for key, row in soak.judged(soaked, 1.0, changed, 3e8).items() if not row["good"]] == [name]
    assert not soak.judged(soaked, 3.0, end, 1e8)["load_seconds"]["good"]
    assert not soak.judged(soaked, 3.0, end, 1e8)["rss_bytes"]["good"]


def test_a_short_soak_on_the_real_server(tiny):
    done = command("benchmarks.soak", str(tiny / "onnx"), "--minutes", "0.1", "--clients", "3", "--threads", "1")
    found = json.loads(done.stdout.splitlines()[-1])
    assert sum(found["answers"].values()) >= 3 and found["claims"]["kv_cache_usage_perc"]["value"] == 0
    # its prompts have ids that this vocabulary of 400 lacks: refusals where none was due are faults, and fail the run
    assert done.returncode == 1 and not found["claims"]["faults"]["good"]
    assert all("outside the vocabulary of 400" in fault for fault in found["faults"])
    # 2 sides x 2 layers x 2 key-value heads x 32 x fp16, 512 positions, 8 slots
    assert found["claims"]["rss_bytes"]["limit"] == (tiny / "onnx/model.onnx").stat().st_size + 512 * 512 * 8 + 2e8


def test_a_soak_of_no_model_is_one_line(tmp_path):
    done = command("benchmarks.soak", str(tmp_path))
    assert done.returncode == 1 and "config.json is missing" in done.stderr and "Traceback" not in done.stderr
