"""`./run simulate` against published runs, our own runs and arithmetic; what it refuses."""

import json
from pathlib import Path

import pytest
import yaml

from flows import graph, simulate, workspace
from flows.scale import assumptions, units, work
from tasks import params
from tasks.model import ModelParams

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "profiles/cluster.yaml"


@pytest.fixture(scope="module")
def cluster():
    """(stages, values, measured, assumed) of the committed profile."""
    values = workspace.overlay(params.load(ROOT / "params.yaml"), workspace.read_profile(PROFILE), "cluster")
    assumed = assumptions.values(assumptions.load()) | {"data_cores": 1024.0}
    return work.stages(ROOT, values), values, units.load(), assumed


def planned(cluster, **other):
    chain, values, found, assumed = cluster
    return work.plan(chain, values, found, assumed | other)


def seconds(plan):
    return {one.name: one.seconds for one in plan.works}


def test_a_shape_has_the_weights_and_flops_that_pretraining_counted():
    values, told = params.load(ROOT / "params.yaml"), json.loads((ROOT / "metrics/pretrain/scratch.json").read_text())
    shape = work.Shape(params.section(ModelParams, "model", values), values["tokenizer"]["vocab"])
    assert shape.parameters == told["parameters"]
    assert shape.flops(values["tracks"]["scratch"]["pretrain"]["sequence"]) * told["tokens"] == told["flops"]


def test_a_published_speed_comes_out():
    """torchtitan: Llama 3.1 8B, 8,192 tokens, H100, .39 of the peak: 6,667 tokens a second and GPU."""
    shape = work.Shape(ModelParams(base=None, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8,
                                   head_dim=128, positions=8192, rope_theta=5e5), 128_256)
    assert 0.39 * 9.89e14 / shape.flops(8192) == pytest.approx(6667, rel=0.03)


def test_interruptions_are_llama_3s():
    rate = assumptions.load()["interruptions_per_gpu_day"].value
    assert rate * 54 * 16384 == pytest.approx(419, rel=0.01)


def test_our_own_runs_are_foretold():
    """1x and 3x of the measured growth foretell the CPU time of 10x; a measurement that is off is seen to be."""
    found = units.load()
    rows = {row["stage"]: row for row in units.judged(found)}
    assert abs(rows["all"]["error"]) < 0.15 and max(abs(row["error"]) for row in rows.values()) < 0.4
    found["growth"]["10"]["stages"]["extract"]["cpu_seconds"] *= 3
    assert {row["stage"]: row for row in units.judged(found)}["extract"]["error"] < -0.5


def test_a_line_is_found_and_never_falls():
    assert units.through([(1.0, 5.0), (3.0, 9.0)]) == units.Line(3.0, 2.0)
    assert units.through([(1.0, 5.0), (3.0, 4.0)]) == units.Line(4.5, 0.0)
    assert units.through([(1.0, 1.0), (3.0, 5.0)]).fixed == 0.0


def test_the_default_chain_is_scheduled_as_it_was(cluster):
    """Two stages at once, each as long as measured: between the longest path or half the sum, and the sum."""
    chain = [stage for stage in graph.read(ROOT) if stage.name in cluster[2]["last_run"]]
    took = cluster[2]["last_run"]
    longest = {}
    for stage in chain:
        longest[stage.name] = took[stage.name] + max((longest.get(p, 0.0) for p in stage.parents), default=0.0)
    whole = simulate.default_run(chain, cluster[2])
    summed = sum(took[stage.name] for stage in chain)
    assert whole["stages"] == len(chain) == len(took)
    assert max(summed / 2, *longest.values()) <= whole["seconds"] < summed


def test_the_stages_are_dvcs_under_the_profile(cluster):
    names = set(seconds(planned(cluster)))
    assert {"crawl", "extract", "pretrain@scratch", "quantize@scratch", "report"} <= names
    assert not [name for name in names if "smollm2" in name]


def test_sizes_follow_the_tokens_asked_for(cluster):
    plan = planned(cluster)
    assert simulate.about(plan)["tokens"] == pytest.approx(1e12, rel=1e-5) and 6.5e9 < plan.shape.parameters < 7.5e9
    twice = planned(cluster, tokens_per_page=2 * cluster[3]["tokens_per_page"])
    assert twice.pages == pytest.approx(plan.pages / 2)
    trained = next(one for one in plan.works if one.gang)
    assert trained.seconds == pytest.approx(1e12 * plan.shape.flops(4096) / (1024 * 9.89e14 * 0.38), rel=1e-3)
    assert 1 / trained.gang.between == pytest.approx(419 / 54 / 86400 * 1024 / 16384, rel=0.01)


def test_twice_the_machines_halve_what_they_do_and_nothing_else(cluster):
    base, half = seconds(planned(cluster)), seconds(planned(cluster, crawl_workers=512.0))
    start = cluster[3]["start_seconds"]
    hashing = planned(cluster, crawl_workers=1e9, network_bytes_per_second=1e18)
    idle = seconds(hashing)["crawl"]  # what no worker takes part in
    assert half["crawl"] - idle == pytest.approx((base["crawl"] - idle) / 2, rel=0.02) and idle > start
    assert {name for name in base if base[name] != half[name]} == {"crawl"}
    cores = seconds(planned(cluster, data_cores=2048.0))
    assert cores["extract"] < 0.7 * base["extract"] and cores["crawl"] == base["crawl"]


def test_the_network_bounds_the_crawl(cluster):
    slow = planned(cluster, network_bytes_per_second=1e8)
    crawl = next(one for one in slow.works if one.name == "crawl")
    assert crawl.seconds == pytest.approx(crawl.out / 1e8)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """The repository as working directory, few runs, a folder for what is written."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(simulate, "RUNS", 6)
    monkeypatch.setattr(simulate, "FEW", 1)
    return tmp_path


def test_the_command_prints_draws_and_repeats_itself(here, capsys):
    assert simulate.main(["cluster", "--out", str(here / "a")]) == 0
    said = capsys.readouterr().out
    found = json.loads((here / "a/simulate-cluster.json").read_bytes())
    assert simulate.simulated(PROFILE, [], 0) == found
    assert (here / "a/simulate-cluster.png").read_bytes().startswith(b"\x89PNG")
    dollars, days = found["totals"]["dollars"], found["totals"]["days"]
    assert dollars["all"] == pytest.approx(dollars["gpus"] + dollars["cores"] + dollars["storage"])
    assert days["low"] <= days["median"] <= days["high"]
    assert f"{days['median']:.1f} days" in said and "Daly" in said and "TOO LARGE" not in said
    assert found["doubled"]["crawl_workers"]["days"] < days["median"] < found["as_it_stands"]["days"]
    found["plan"]["memory"]["pack"] = 9e12
    assert "pack 9.00 TOO LARGE" in simulate.text(found)


@pytest.mark.parametrize(("arguments", "line"), [
    (["nope"], "no profile nope (known: "),
    (["cluster", "--set", "gpuss=3"], "--set gpuss=3: NAME=VALUE with NAME one of"),
    (["cluster", "--set", "gpus=many"], "--set gpus=many: 'many' is not a number above zero"),
    (["cluster", "--set", "mfu=-1"], "--set mfu=-1: '-1' is not a number above zero"),
    (["cluster", "--set", "mfu=nan"], "is not a number above zero"), (["cluster", "--set", "gpus"], "NAME=VALUE"),
    (["cluster", "--set", "data_cores=0"], "--set data_cores=0: '0' is not a number above zero"),
    (["cluster", "--set", "gpus=0.2"], "error: gpus = 0.2: at least 1"),
])
def test_bad_input_is_one_line(here, capsys, arguments, line):
    assert simulate.main([*arguments, "--out", str(here)]) == 2
    said = capsys.readouterr().err
    assert "error: " in said and line in said and not list(here.iterdir())


def test_a_profile_that_trains_nothing_is_refused(here, capsys):
    (here / "none.yaml").write_text("trained: []\nserved: []\npackaged: !instead {}\n")
    assert simulate.main([str(here / "none.yaml"), "--out", str(here / "out")]) == 2
    assert "trained: []" in capsys.readouterr().err


def test_torn_figures_and_assumptions_are_named(tmp_path):
    for content in ("", "{", "{}", '{"growth": {}}', "[]"):
        (tmp_path / "units.json").write_text(content)
        with pytest.raises(params.ParamsError, match=r"units\.json holds no measured figures .*benchmarks\.units"):
            units.load(tmp_path / "units.json")
    good = yaml.safe_load(assumptions.FILE.read_text())
    for change, line in (({"low": 9e9}, "gpus"), ({"value": "x"}, r"gpus\.value = 'x'"),
                         ({"sauce": 1}, r"gpus\.sauce")):
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(good | {"gpus": good["gpus"] | change}))
        with pytest.raises(params.ParamsError, match=line):
            assumptions.load(tmp_path / "a.yaml")
