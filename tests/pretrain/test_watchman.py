"""The watchman: what he takes for a fault, what he leaves alone, and what a run does about each fault put into it."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from tasks.pretrain import watchman
from tests.pretrain.test_trainer import ROOT, clean, finish, packed, produced, workspace  # noqa: F401


def falling(count, seed=0):
    """Losses of a healthy run: a decaying curve with noise of heavy tails."""
    draw = np.random.default_rng(seed)
    return 3 + 5 * np.exp(-np.arange(count) / 60) + draw.laplace(0, 0.1, count)


def test_a_healthy_run_is_left_alone():
    assert all(watchman.Losses(12.0).look(1, falling(4000, seed)) is None for seed in range(5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_loss_that_is_not_finite_is_named(bad):
    losses = falling(20)
    losses[[7, 12]] = bad
    fault = watchman.Losses(12.0).look(101, losses)
    assert (fault.step, fault.kind) == (108, "not finite")


def test_a_spike_is_told_by_deviations_of_the_recent_past():
    judge, losses = watchman.Losses(12.0), falling(600)
    assert judge.look(1, losses) is None
    recent = np.asarray(judge.past)
    spread = 1.4826 * np.median(np.abs(recent - np.median(recent)))
    assert judge.look(601, np.array([np.median(recent) + 11.9 * spread])) is None
    judge.past.clear()
    judge.past.extend(recent)
    fault = judge.look(602, np.array([np.median(recent) + 12.2 * spread]))
    assert (fault.step, fault.kind) == (602, "spike") and "12.2 deviations" in fault.found


def test_one_look_or_many_judge_alike():
    losses = falling(600)
    losses[550] = 9
    whole, pieces = watchman.Losses(12.0), watchman.Losses(12.0)
    found = [pieces.look(first + 1, losses[first:first + 20]) for first in range(0, 560, 20)]
    assert [one for one in found if one] == [whole.look(1, losses)]


def test_a_slow_rank_and_late_data_are_told_once_and_only_when_they_last():
    pace, even = watchman.Pace(), np.array([[0.01, 1.0, 3.0]] * 4)
    slow = even.copy()
    slow[2, 1] = 1.6
    assert [pace.look(row) for row in (slow, slow, even, slow, slow)] == [[]] * 5
    assert pace.look(slow) == ["slow rank 2: its forward pass takes 1.600 s, the others' 1.000"]
    assert pace.look(slow) == []
    late = np.array([[1.0, 1.0, 3.0]])
    assert [pace.look(late) for _ in range(4)] == [[], [], ["late data at rank 0: 1.000 of 3.000 s of a step wait for "
                                                            "it"], []]


def test_skips_are_kept_by_step_and_survive_the_process(tmp_path):
    journal = watchman.Journal(tmp_path / "run")
    journal.add(watchman.Incident(17, "spike", "loss 9", back_to=12, skipped=6), write=True)
    journal.add(watchman.Incident(25, "spike", "loss 8", back_to=24, skipped=4), write=True)
    again = watchman.Journal(tmp_path / "run")
    assert again.incidents == journal.incidents
    assert [again.skipped(step) for step in (0, 11, 12, 23, 24, 99)] == [0, 0, 6, 6, 10, 10]


FAULT = """
import os, sys, time
import torch
import runpy
from tasks.pretrain import loop

real = loop.Run.step

def step(self, at, timed):
    batch = at + self.journal.skipped(at)
    loss = real(self, at, timed)
    if {condition}:
        {fault}
    return loss

loop.Run.step = step
runpy.run_module("tasks.pretrain.trainer", run_name="__main__", alter_sys=True)
"""
POISONED = "[p.data.fill_(float('nan')) for p in self.engine.module.parameters()]; loss = loss * float('nan')"


def faulty(folder, packed, condition, fault):  # noqa: F811
    """A run in which `fault` is done wherever `condition` holds, `at` being the step and `batch` the data's place."""
    done = subprocess.run(
        [sys.executable, "-c", FAULT.format(condition=condition, fault=fault), packed / "packed", packed / "tokenizer",
         "models/t/base", "metrics/t.json", "metrics/t.csv", "--track", "t"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, capture_output=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def webhook():
    """A loopback server and what it was sent."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()


def test_broken_weights_send_the_run_back_and_it_ends_well(packed, tmp_path, webhook):  # noqa: F811
    url, got = webhook
    folder = workspace(tmp_path / "w", runtime={"alert": url})
    code, said = faulty(folder, packed, "batch == 32", POISONED)
    assert code == 0, said
    metrics = json.loads((folder / "metrics/t.json").read_text())
    assert metrics["incidents"] == [{"step": 33, "kind": "not finite", "found": "loss nan", "back_to": 30, "skipped": 6}]
    assert np.isfinite(metrics["held_out_bpb"]) and metrics["tokens"] == 60 * 128
    line = "t: step 33: not finite, loss nan; back to step 30, 6 batches skipped"
    assert f"watchman: {line}" in said and got == [{"text": line, "track": "t"}]


def test_a_fault_that_stays_stops_the_run_and_keeps_the_checkpoint(packed, tmp_path):  # noqa: F811
    folder = workspace(tmp_path / "w", runtime={"alert": "http://127.0.0.1:9/"})
    code, said = faulty(folder, packed, "at == 32", POISONED)
    assert code == 1 and "2 rollbacks are behind it (watch.rollbacks)" in said
    assert said.count("back to step 30") == 2 and "runtime.alert = http://127.0.0.1:9/ did not take this" in said
    assert not (folder / "models/t/base").exists()
    assert list(folder.glob(".resume/pretrain-t/*/step-000000030"))


def test_a_fault_before_the_first_checkpoint_stops_the_run(packed, tmp_path):  # noqa: F811
    folder = workspace(tmp_path / "w")
    code, said = faulty(folder, packed, "at == 2", POISONED)
    assert code == 1 and "error: the training loss is not finite by step 3 (loss nan), before the first checkpoint" in said
    assert not list(folder.glob(".resume/*/*/step-*"))


def test_a_step_that_does_not_end_ends_the_process_and_the_next_run_goes_on(clean, packed, tmp_path):  # noqa: F811
    folder = workspace(tmp_path / "w", runtime={"stall": 10})
    code, said = faulty(folder, packed, "at == 13", "time.sleep(3600)")
    assert code == 1 and "error: training stalled after step 13 (runtime.stall = 10 s)" in said
    assert "in step" in said  # the stack says where
    code, said = finish(folder, packed)
    assert code == 0 and "resumed at step 12" in said
    assert {k: v for k, v in produced(folder).items() if "/." not in k} == produced(clean)
