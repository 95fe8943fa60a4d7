"""The simulation against closed forms: sums along paths, Daly's expectation, machines counted; seeds and bad input."""

import math
import random
import statistics

import networkx
import pytest

from flows.scale import simulation
from flows.scale.simulation import Gang, Work

HOUR = 3600.0


def gang(**other):
    return Gang(**({"interval": 600.0, "write": 30.0, "between": 4 * HOUR, "restart": 300.0, "repair": 0.0, "spares": 9}
                   | other))


def made(seed, count=30):
    """Works of a random acyclic graph, and the graph with each work's seconds on the edges out of it."""
    draws, works = random.Random(seed), []
    drawn = networkx.DiGraph()
    for n in range(count):
        parents = tuple(f"w{p}" for p in range(n) if draws.random() < 0.15)
        works.append(Work(f"w{n}", draws.uniform(0, 100), parents))
        drawn.add_node(f"w{n}")
    for work in works:
        drawn.add_edges_from((parent, work.name, {"weight": next(w.seconds for w in works if w.name == parent)})
                             for parent in work.parents)
    return works, drawn


@pytest.mark.parametrize("seed", range(5))
def test_without_failures_time_is_the_longest_path_or_the_sum(seed):
    works, drawn = made(seed)
    for work in works:  # an end that every work leads to, so that the last one's seconds count
        drawn.add_edge(work.name, "end", weight=work.seconds)
    longest = networkx.dag_longest_path_length(drawn, weight="weight")
    assert simulation.run(works, {"one": 30}, 0).seconds == pytest.approx(longest, rel=1e-12)
    assert simulation.run(works[::-1], {"one": 30}, 0).seconds == pytest.approx(longest, rel=1e-12)
    assert simulation.run(works, {"one": 1}, 0).seconds == pytest.approx(sum(w.seconds for w in works), rel=1e-12)


@pytest.mark.parametrize("about", [gang(), gang(between=1 * HOUR), gang(between=0.5 * HOUR, restart=900.0),
                                   gang(interval=60.0, write=60.0), gang(interval=5400.0)])
def test_the_mean_is_dalys_within_the_error_of_the_simulation(about):
    work = Work("train", 90 * about.interval, gang=about)
    took = [simulation.run([work], {"one": 1}, seed).seconds for seed in range(150)]
    error = statistics.stdev(took) / math.sqrt(len(took))
    assert abs(statistics.fmean(took) - simulation.daly(work.seconds, about)) < 4 * error
    assert error < 0.05 * statistics.fmean(took)


def test_what_was_lost_waited_and_written_makes_up_the_time():
    work = Work("train", 50 * 600.0, gang=gang(between=HOUR))
    found = simulation.run([work], {"one": 1}, 3)
    whole = work.seconds + found.lost["train"] + found.waited["train"] + found.written["train"]
    assert found.seconds == pytest.approx(whole, rel=1e-12) and found.interruptions["train"] > 0
    assert found.written["train"] == pytest.approx(50 * 30.0)
    calm = Work("train", 50 * 600.0, gang=gang(between=math.inf))
    assert simulation.run([calm], {"one": 1}, 3).seconds == 50 * 630.0 == simulation.daly(calm.seconds, calm.gang)


def test_without_a_spare_the_gang_waits_for_the_repair():
    none = gang(between=HOUR, restart=0.0, repair=5000.0, spares=0)
    found = simulation.run([Work("train", 30 * 600.0, gang=none)], {"one": 1}, 1)
    assert found.interruptions["train"] >= 3
    assert found.waited["train"] == pytest.approx(5000.0 * found.interruptions["train"])
    ready = gang(between=HOUR, restart=0.0, repair=5000.0, spares=50)
    assert simulation.run([Work("train", 30 * 600.0, gang=ready)], {"one": 1}, 1).waited["train"] == 0


@pytest.mark.parametrize(("write", "between"), [(1.0, 49 * HOUR), (30.0, 4 * HOUR), (120.0, HOUR)])
def test_the_best_interval_is_the_least_of_dalys_times(write, between):
    best = simulation.best_interval(write, between)
    assert best == pytest.approx(math.sqrt(2 * write * between), rel=0.15)  # Young's, to first order

    def time(interval):
        return simulation.daly(1e6, gang(interval=interval, write=write, between=between))

    tried = [time(best * 1.01 ** n) for n in range(-60, 61)]
    assert time(best) <= min(tried) * (1 + 1e-4)
    assert simulation.best_interval(3 * between, between) == between


def test_a_seed_is_a_run_and_a_stage_more_changes_no_others_luck():
    works = [Work("a", 30 * 600.0, gang=gang(between=HOUR)), Work("b", 5000.0, losses=1e-2, redo=10.0)]
    pools = {"one": 9}
    assert simulation.run(works, pools, 7) == simulation.run(works, pools, 7)
    assert simulation.run(works, pools, 7).seconds != simulation.run(works, pools, 8).seconds
    more = simulation.run([Work("c", 5.0, gang=gang()), *works], pools, 7)
    assert {name: more.spans[name] for name in "ab"} == simulation.run(works, pools, 7).spans


def test_machines_are_not_used_twice():
    works = [Work(name, 10.0, width=6, pool="p") for name in "abc"] + [Work("d", 10.0, width=4, pool="p")]
    spans = simulation.run(works, {"p": 10}, 0).spans.values()
    for time in range(0, 40):
        used = sum(work.width for work, (begin, end) in zip(works, spans) if begin <= time < end)
        assert used <= 10
    lone = [Work("a", 10.0, alone=True), Work("b", 5.0), Work("c", 5.0)]
    found = simulation.run(lone, {"one": 2}, 0)
    assert found.seconds == 15.0 and found.spans["a"] == (0.0, 10.0)
    kept = simulation.run([Work("a", 1.0, out=5.0), Work("b", 2.0, ("a",), out=7.0)], {"one": 1}, 0)
    assert kept.stored == [(0.0, 0.0), (1.0, 5.0), (3.0, 12.0)]


@pytest.mark.parametrize("mean", [3.0, 200.0])
def test_workers_that_are_lost_cost_half_a_shard_each(mean):
    work = Work("w", 1000.0, losses=mean / 1000.0, redo=40.0)
    runs = [simulation.run([work], {"one": 1}, seed) for seed in range(300)]
    counts = [run.interruptions["w"] for run in runs]
    assert statistics.fmean(counts) == pytest.approx(mean, abs=4 * math.sqrt(mean / 300))
    assert statistics.fmean(run.lost["w"] for run in runs) == pytest.approx(mean * 20.0, rel=0.1)


@pytest.mark.parametrize(("works", "line"), [
    ([Work("a", 1.0, ("b",))], "a waits for b, which is no stage"),
    ([Work("a", 1.0, ("b",)), Work("b", 1.0, ("a",))], "wait for each other: a, b"),
    ([Work("a", 1.0), Work("a", 1.0)], "one name"),
    ([Work("a", 1.0, width=3)], "a wants 3 of one; there are 2"),
    ([Work("a", 1.0, width=0)], "a wants 0 of one"),
    ([Work("a", 1.0, pool="gpus")], "a wants 1 of gpus; there are 0"),
    ([Work("a", -1.0)], "a: -1.0 seconds"),
    ([Work("a", math.nan)], "a: nan seconds"),
    ([Work("a", 1.0, gang=gang(interval=0.0))], "no time between its checkpoints"),
])
def test_what_cannot_run_is_named(works, line):
    with pytest.raises(ValueError, match=line):
        simulation.run(works, {"one": 2}, 0)
