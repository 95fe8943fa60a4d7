"""Early stopping of fine-tuning, against a run that trains to its end and is measured from outside after every step."""

import pytest
import torch

from tasks import params
from tasks.finetune import method, training
from tasks.finetune.conversations import DRILL
from tasks.finetune.masking import Example
from tasks.finetune.settings import LoraParams, TrainingParams
from tasks.pretrain.best import Best

LORA = LoraParams(rank=4, alpha=8.0, targets=["q_proj", "v_proj", "down_proj"], max_merge_error=0.001)
VALUES = {"epochs": 24, "batch": 4, "drill_batch": 2, "matrix_rate": 0.3, "learning_rate": 0.02, "warmup": 0.0,
          "clip": 1.0, "precision": "fp32", "keep_every": 1, "patience": 2, "score_every": 3}


def answers(shift):
    """Eight questions, their answers alike in form; what is answered hangs on `shift`. Two shifts contradict each
    other, so that learning the answers of one first teaches the form of the other's, then what is wrong there."""
    rows = [[40 + n, 50 + n, 4, 5, 20 + (n + shift) % 8, 20 + (3 * n + shift) % 8, 6][:7 - n % 2] for n in range(8)]
    return [Example("xy"[n % 2], row, [0, 0] + [1] * (len(row) - 2)) for n, row in enumerate(rows)]


LEARNED, CHECKED = answers(0), answers(4)


def trained(base, kind, folder, stop=None, examples=LEARNED, best=None, look=None, **changed):
    """(losses, best, weights) of a run, broken off after `stop` steps; `look` sees the model after every step."""
    given = TrainingParams(**VALUES | changed)
    model = method.prepared(base, kind, LORA, [], False, 0)
    best = best or Best(given.patience or None)
    losses = []
    for step, _, loss in training.train(model, examples, given, 3, 7, folder, CHECKED, best):
        losses.append(loss)
        if look:
            look(model)
        if step + 1 == stop:
            break
    return losses, best, learning(model)


def learning(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["full", "lora", "qlora"])
def test_it_stops_when_the_held_out_loss_rises_and_keeps_the_best_step(base, tmp_path, kind):
    scores, weights = [], []

    def look(model):
        with torch.no_grad():
            scores.append(training.loss_of(model, CHECKED, 3).item())
        weights.append(learning(model))

    whole, unwatched, _ = trained(base, kind, tmp_path / "whole", look=look, patience=0)
    points = scores[2::3]
    ends = next(n for n in range(1, len(points)) if n > points.index(min(points[:n])) + 2)
    kept = 3 * (points.index(min(points[:ends])) + 1)
    assert 3 < kept and 3 * ends < len(whole), "the case: the held-out loss falls, then rises"
    losses, best, ended = trained(base, kind, tmp_path / "cut")
    assert training.ending(best, len(losses)) == {"kept_step": kept, "stopped_at": kept + 6}
    assert losses == whole[:kept + 6]  # what is measured in between moves no training
    assert same(ended, weights[kept - 1]) and not same(ended, weights[len(losses) - 1])
    assert best.score == pytest.approx(scores[kept - 1], abs=2e-6)
    assert len(best.weights) == len(ended)  # the adapters' alone, where there are any
    assert training.ending(unwatched, len(whole)) == {}


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_broken_off_anywhere_it_ends_in_the_same_bytes(base, tmp_path, kind):
    """Before the best point, between it and the end, and where patience has run out but the run has not ended."""
    whole, best, weights = trained(base, kind, tmp_path / "whole")
    for stop in (2, best.step + 1, len(whole)):
        trained(base, kind, tmp_path / f"{stop}", stop)
        losses, again, resumed = trained(base, kind, tmp_path / f"{stop}")
        assert losses == whole and same(resumed, weights)
        assert (again.step, again.score, again.out) == (best.step, best.score, True)


def test_while_the_loss_falls_patience_changes_nothing(base, tmp_path):
    falling = {"examples": CHECKED, "epochs": 4}  # what is held out is learned
    losses, best, weights = trained(base, "lora", tmp_path / "a", **falling)
    unwatched, _, plain = trained(base, "lora", tmp_path / "b", patience=0, **falling)
    assert training.ending(best, len(losses)) == {"kept_step": len(losses), "stopped_at": None}
    assert losses == unwatched and same(weights, plain)


def test_drills_are_over_before_a_gain_is_due(base, tmp_path):
    class Listening(Best):
        seen: list[int] = []

        def look(self, step, score, model):
            self.seen.append(step)
            super().look(step, score, model)

    drills = [Example(DRILL, [200, 201, 202], [0, 1, 1])] * 10  # five steps
    trained(base, "lora", tmp_path, best=(best := Listening(99)), examples=LEARNED + drills, epochs=2, score_every=2)
    assert best.seen == [6, 8, 9]


@pytest.mark.parametrize(("change", "line"), [
    ({"patience": -1}, "patience = -1: input should be greater than or equal to 0"),
    ({"patience": 2.5}, "patience = 2.5: input should be a valid integer"),
    ({"patience": None}, "patience = None: input should be a valid integer"),
    ({"score_every": 0}, "score_every = 0: input should be greater than or equal to 1")])
def test_bad_values_are_one_line(change, line):
    with pytest.raises(params.ParamsError) as error:
        params.section(TrainingParams, "sft.training", {"sft": {"training": VALUES | change}})
    assert f"sft.training.{line}" in str(error.value) and "\n" not in str(error.value)
