"""Figures of a run against values worked by hand and TensorBoard's own reader; the best point and its patience."""

import time

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tasks.pretrain import ceiling, domains, figures, scoring
from tasks.pretrain.best import Best
from tasks.pretrain.board import Board
from tasks.progress import track
from tasks.stage import StageError
from tasks.tokenizer import shards

KINDS = [{"language": "en", "domain": "code", "source": "a"}, {"language": "zh", "domain": "knowledge", "source": "b"},
         {"language": "en", "domain": "code", "source": "b"}]
SIZES = np.array([10, 20, 30])
LN2 = float(np.log(2))


def windows(owner, scored):
    """Windows of four places, the first so many of each scored."""
    targets = np.where(np.arange(4)[None] < np.array(scored)[:, None], 1, scoring.IGNORED)
    return scoring.Windows(np.ones((len(owner), 4), dtype=np.int64), targets, np.array(owner))


def test_a_point_scales_each_domains_sample_to_its_own_text():
    whole, sample = windows([0, 0, 1, 2, 2], [4, 2, 4, 4, 4]), windows([0, 1, 2], [4, 4, 4])
    bits = domains.Points(whole, sample, SIZES, KINDS).bits(np.array([8.0, 12.0, 16.0]) * LN2)
    # en code: 24 bits on 8 sampled tokens, 14 tokens on 40 bytes; zh: 12 on 4, 4 on 20; all: 36 on 12, 18 on 60
    assert bits == pytest.approx({"held_out_bpb": 0.9, "bpb_en_code": 1.05, "bpb_zh_knowledge": 0.6})


def test_a_domain_without_a_sampled_window_has_no_column():
    bits = domains.Points(windows([0, 1], [4, 4]), windows([0], [4]), SIZES[:2], KINDS[:2]).bits(np.array([4 * LN2]))
    assert set(bits) == {"held_out_bpb", "bpb_en_code"}


def test_the_table_has_a_row_a_kind_by_hand():
    rows = domains.table({"held_out_bpb": np.array([20, 30, 60]) * LN2, "bigram": np.array([30, 60, 90]) * LN2}, SIZES,
                         KINDS)
    columns = ("by", "name", "documents", "bytes", "held_out_bpb", "bigram")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("language", "en", 2, 40, 2.0, 3.0), ("language", "zh", 1, 20, 1.5, 3.0),
        ("domain", "code", 2, 40, 2.0, 3.0), ("domain", "knowledge", 1, 20, 1.5, 3.0),
        ("source", "a", 1, 10, 2.0, 3.0), ("source", "b", 2, 50, 1.8, 3.0)]
    # source b: residuals 30 - 36 and 60 - 54, variance 72, times 2, its root over 50 bytes
    assert rows[5]["held_out_bpb_stderr"] == 0.24 and rows[1]["held_out_bpb_stderr"] == 0


@pytest.mark.parametrize("broken", [None, "", "{}\n{}\n{}\n", "no json\n"])
def test_kinds_of_other_documents_are_refused(tmp_path, broken):
    shards.write_kinds(tmp_path, "held_out", KINDS)
    assert shards.kinds(tmp_path, "held_out", 3) == KINDS
    path = tmp_path / "held_out.about.jsonl"
    path.unlink() if broken is None else path.write_text(broken)
    with pytest.raises(StageError, match=r"held_out.about.jsonl .* pack again"):
        shards.kinds(tmp_path, "held_out", 3)


class Engine:
    """What is asked of DeepSpeed's engine."""

    def __init__(self, zero, module):
        self.zero, self.module = zero, module

    def zero_optimization(self):
        return self.zero

    def autotp_size(self):
        return 0

    def get_global_grad_norm(self):
        return 7.0


def test_the_gradient_norm_is_that_of_all_parameters_together():
    layer = nn.Linear(1, 2)
    layer.weight.grad, layer.bias.grad = torch.tensor([[3.0], [0.0]]), torch.tensor([0.0, -4.0])
    assert figures.gradient_norm(Engine(False, layer)) == 5.0
    assert figures.gradient_norm(Engine(True, layer)) == 7.0


def test_speed_is_of_the_seconds_of_training_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(figures.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ceiling, "of", lambda device, precision: (4e9, f"{device} {precision}"))
    speed = figures.Speed()
    with speed.apart():
        now[0] += 2
    speed.sample(np.array([[1.0, 2.0, 4.0], [3.0, 2.0, 4.0]]))
    speed.sample(np.array([[0.0, 2.0, 4.0], [0.0, 2.0, 4.0]]))
    now[0] += 8
    found = speed.table(800, 10_000_000, 1, "cpu", "bf16")  # 800 tokens in 10 seconds, 2 of them aside
    assert found["tokens_per_second"] == 80 and found["tokens_per_second_per_rank"] == 100
    assert found["tflops_per_rank"] == pytest.approx(0.001) and found["mfu"] == 0.25
    assert found["ceiling"] == "cpu bf16" and found["data_wait"] == 0.25 and found["score_and_save_seconds"] == 2
    assert found["peak_host_mib"] > 50 and "peak_device_mib" not in found


@pytest.mark.parametrize(("name", "precision", "peak"), [
    ("NVIDIA H200", "bf16", 989.4e12), ("NVIDIA H100 80GB HBM3", "bf16", 989.4e12),
    ("NVIDIA H100 PCIe", "bf16", 756.4e12), ("NVIDIA A100-SXM4-80GB", "fp32", 19.5e12), ("NVIDIA L4", "bf16", 121e12), ("NVIDIA L40S", "bf16", 362.1e12),
    ("NVIDIA A10G", "bf16", None), ("A card of ours", "fp32", None)])
def test_published_peaks_go_by_whole_words_of_the_name(name, precision, peak):
    assert ceiling.published(name, precision) == peak


def test_a_measured_ceiling_is_two_operations_a_multiplication(monkeypatch):
    plain = torch.mm
    monkeypatch.setattr(ceiling.torch, "mm", lambda *given, **named: (time.sleep(0.02), plain(*given, **named)))
    found = ceiling.measured("cpu", "fp32", size=64, seconds=0.1)
    assert 0 < found <= 2 * 64**3 / 0.02
    rate, source = ceiling.of("cpu", "fp32")
    assert rate > 0 and source == f"measured fp32 product, {torch.get_num_threads()} threads"


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_what_a_killed_run_and_its_successor_wrote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bar = track(total=8, what="t")
    killed = Board("t", 0)
    killed.begin(0)
    for step in (1, 2, 3, 4):
        killed.look(step, 5.0 - step, step / 2, 1.0, 128, bar)
    killed.writer.flush()  # and no close: it was killed
    other = Board("t", 0)
    other.begin(2)
    other.look(3, 9.0, 9.5, 0.5, 128, bar)
    other.add(4, {"held_out/bpb": 2.5})
    other.close()
    found = read(tmp_path / ".runtime/tensorboard/t")
    assert found["train/loss"] == [(1, 4.0), (2, 3.0), (3, 9.0)] and found["train/grad_norm"][-1] == (3, 9.5)
    assert found["held_out/bpb"] == [(4, 2.5)] and len(found["speed/tokens_per_second"]) == 3
    assert "grad=9.500, loss=9.000" in str(bar)
    fresh = Board("t", 0)
    fresh.begin(0)
    fresh.add(1, {"train/loss": 1.0})
    fresh.close()
    assert read(tmp_path / ".runtime/tensorboard/t") == {"train/loss": [(1, 1.0)]}


def test_other_ranks_write_no_events(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board = Board("t", 1)
    board.begin(0)
    board.look(1, 1.0, 1.0, 1.0, 1, track(total=1, what="t"))
    board.close()
    assert not (tmp_path / ".runtime").exists()


def line(value):
    """A model of one weight."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_the_best_point_is_kept_and_patience_counts_points_without_gain(tmp_path):
    best, resumed = Best(2), Best(2)
    for step, score in ((10, 3.0), (20, 2.0), (30, 2.0)):  # an equal score is no gain
        best.look(step, score, line(step))
        assert not best.out
    resumed.look(5, 0.0, line(5))
    resumed.load(tmp_path, best.save(tmp_path))  # killed here
    for one in (best, resumed):
        one.look(40, 2.5, line(40))
        assert one.out and (one.step, one.score) == (20, 2.0)
        one.restore(model := line(40))
        assert model.weight.item() == 20


def test_without_patience_nothing_is_kept_nor_changed(tmp_path):
    best = Best(None)
    best.look(10, 1.0, line(10))
    assert not best.weights and best.save(tmp_path) == {} and list(tmp_path.iterdir()) == []
    best.restore(model := line(30))
    assert model.weight.item() == 30 and not best.out
