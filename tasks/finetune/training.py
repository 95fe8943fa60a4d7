"""The supervised loop: adapters learn the assistant's tokens by Muon (tasks/pretrain/optimizer.py; docs/LOG.md
has its loss beside AdamW's), all else by AdamW, and a killed run ends in the same bytes.

It is our own and short, where trl's SFTTrainer would do, for two reasons: batches are indexed by (seed, step) alone,
so a resumed run sees what an undisturbed one would have seen; and what is kept to resume is the adapters and their
optimizer, megabytes, written aside, sealed by checksums and forgotten when the run is done.
"""

from __future__ import annotations

import collections
import hashlib
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional

from tasks import progress
from tasks.finetune import masking, noise, packing
from tasks.finetune.conversations import DRILL
from tasks.finetune.masking import Example
from tasks.finetune.method import plain
from tasks.finetune.rehearsal import PASSAGE
from tasks.finetune.settings import TrainingParams
from tasks.pretrain.best import Best
from tasks.pretrain.checkpoint import Checkpoints
from tasks.pretrain.optimizer import MuonAdamW
from tasks.stage import StageError

MOMENTUM = 0.95  # Muon's
POOL = 16  # batches whose conversations are sorted by length together: less padding, order still random


def batches(examples: list[Example], training: TrainingParams, seed: int) -> list[list[Example]]:
    """Every step's conversations, in order: the drills once, then every epoch of all else. Half of the passages
    stand among the drills, in batches of their own."""
    passages = [example for example in examples if example.kind == PASSAGE]
    drills = [example for example in examples if example.kind == DRILL] + passages[::2]
    rest = [example for example in examples if example.kind not in (DRILL, PASSAGE)] + passages[1::2]
    order = grouped if training.packed else shuffled
    steps = order(drills, training.drill_batch, f"{seed} drills")
    for epoch in range(training.epochs):
        steps += order(rest, training.batch, f"{seed} {epoch}")
    return steps


def shuffled(examples: list[Example], size: int, key: str) -> list[list[Example]]:
    """Batches of `size` in an order fixed by `key`, lengths alike within a batch."""
    draw = random.Random(key)
    order = draw.sample(examples, len(examples))
    steps = []
    for at in range(0, len(order), POOL * size):
        pool = sorted(order[at:at + POOL * size], key=lambda example: len(example.ids))
        cut = [pool[at:at + size] for at in range(0, len(pool), size)]
        draw.shuffle(cut)
        steps += cut
    return steps


def grouped(examples: list[Example], size: int, key: str) -> list[list[Example]]:
    """Batches of `size` in an order fixed by `key`, those with one head beside each other: packed, they share it."""
    groups: dict[tuple[int, ...], list[Example]] = {}
    for at, example in enumerate(examples):
        groups.setdefault(tuple(example.ids[:example.head]) or (-1, at), []).append(example)
    order = [each for group in random.Random(key).sample([*groups.values()], len(groups)) for each in group]
    return [order[at:at + size] for at in range(0, len(order), size)]


def rate(step: int, steps: int, training: TrainingParams) -> float:
    """Factor on the learning rates at `step` (from 0): linear warm-up, then cosine down to a tenth."""
    warm = training.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, steps - warm)
    return 0.55 + 0.45 * math.cos(math.pi * done)


def noise_key(seed: int, step: int) -> int:
    """What the noise of a step is drawn from."""
    return int.from_bytes(hashlib.sha256(f"noise {seed} {step}".encode()).digest()[:8], "big") >> 1


def optimizer_of(model: torch.nn.Module, training: TrainingParams) -> MuonAdamW:
    """Muon for the adapters' matrices, AdamW for all else: embedding rows, DoRA's lengths, every weight of `full`."""
    adapters, rows = [], []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            (adapters if "lora_" in name and weight.ndim == 2 else rows).append(weight)
    return MuonAdamW([
        {"params": adapters, "use_muon": True, "peak": training.matrix_rate, "weight_decay": 0.0},
        {"params": rows, "use_muon": False, "peak": training.learning_rate, "weight_decay": 0.0},
    ], momentum=MOMENTUM)


def loss_of(model: torch.nn.Module, examples: list[Example], pad: int, packed: bool = False,
            alpha: float | None = None, key: int = 0, decision: float = 1.0) -> torch.Tensor:
    """Mean cross-entropy (nats) of the learned tokens of a batch; the head runs on these positions alone.

    `packed`: one row without padding (packing.py) in place of a padded one each; `alpha`: NEFTune's noise, by `key`;
    `decision`: the weight of the first token of each answer in the mean, where the others have 1.
    """
    llama = plain(model)
    row = packing.pack(examples) if packed else None
    ids, labels = (row.ids, row.labels) if row else masking.batch(examples, pad)
    embeddings = llama.model.embed_tokens(ids)
    if alpha is not None:
        sizes = torch.tensor([len(example.ids) for example in examples], dtype=torch.float32)
        lengths = row.lengths.float() if row else sizes[:, None].expand(ids.shape)
        embeddings = noise.noisy(embeddings, lengths, alpha, key)
    hidden = (packing.hidden(llama, embeddings, row) if row else
              llama.model(inputs_embeds=embeddings, attention_mask=None, use_cache=False).last_hidden_state)[:, :-1]
    learned = labels[:, 1:] != -100
    logits = llama.lm_head(hidden[learned]).float()
    if decision == 1:
        return functional.cross_entropy(logits, labels[:, 1:][learned])
    weights = torch.where(labels[:, :-1] == -100, decision, 1.0)[learned]
    return (functional.cross_entropy(logits, labels[:, 1:][learned], reduction="none") * weights).sum() / weights.sum()


def checked_loss(model: torch.nn.Module, examples: list[Example], pad: int) -> dict[str, float]:
    """Mean loss (nats a learned token) by kind of conversation, over examples that are not trained on."""
    model.eval()
    losses = {}
    with torch.inference_mode():
        for kind in sorted({example.kind for example in examples}):
            losses[kind] = round(loss_of(model, [e for e in examples if e.kind == kind], pad).item(), 6)
    return losses


def score(model: torch.nn.Module, examples: list[Example], pad: int) -> float:
    """Mean loss (nats a learned token) over all of `examples`: what a held-out point is judged by."""
    learned: collections.Counter[str] = collections.Counter()
    for example in examples:
        learned[example.kind] += sum(example.learned[1:])
    losses = checked_loss(model, examples, pad)
    return sum(losses[kind] * count for kind, count in learned.items()) / learned.total()


def ending(best: Best, steps: int) -> dict[str, int | None]:
    """For the metrics of a run of `steps` that watched for its best point: whose weights it kept, and the step at which
    patience ended it, None where it went to its end. Nothing of a run that did not watch."""
    return {"kept_step": best.step, "stopped_at": steps if best.out else None} if best.patience else {}


def train(model: torch.nn.Module, examples: list[Example], training: TrainingParams, pad: int, seed: int,
          resume: Path, checked: list[Example], best: Best) -> Iterator[tuple[int, int, float]]:
    """Train `model` in place; yields (step, steps, loss) after every step, those of an earlier, killed run first.

    Where `best` has patience, `checked`, which is not trained on, is scored every `training.score_every` steps and at
    the end; the run may end early, and `model` ends with the weights of its best point.
    Resumes from the newest whole checkpoint under `resume`. Raises StageError where the loss is not finite.
    """
    steps = batches(examples, training, seed)
    # drills come first and are none of the kinds held out: while they last, no gain is due
    kinds = {example.kind for example in checked}
    first = next((at for at, batch in enumerate(steps) if any(example.kind in kinds for example in batch)), 0)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    learning = torch.nn.ParameterList(trained.values())  # all that a best point need keep
    optimizer = optimizer_of(model, training)
    checkpoints = Checkpoints(resume)
    losses: list[float] = []
    if found := checkpoints.latest(lambda line: print(line, file=sys.stderr)):
        folder, kept = found
        state = torch.load(folder / "state.pt", weights_only=True)
        model.load_state_dict(state["weights"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        losses = kept["losses"]
        best.load(folder, kept["best"])
        print(f"resuming after step {len(losses)} of {len(steps)}", file=sys.stderr)
        for step, loss in enumerate(losses):
            yield step, len(steps), loss
    model.train()
    stock = plain(model).config._attn_implementation
    packing.use(plain(model))  # rows are padded on the right alone, so causal attention needs no other mask
    bar = progress.track(total=len(steps), what="sft", unit="step")
    bar.update(len(losses))
    for step in range(len(losses), len(steps)):
        if best.out:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate(step, len(steps), training)
        with torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bf16"):
            loss = loss_of(model, steps[step], pad, training.packed, training.neftune_alpha, noise_key(seed, step),
                           training.decision)
        if not torch.isfinite(loss):
            raise StageError(f"the loss is {loss.item()} at step {step}: lower the learning rates "
                             f"({training.matrix_rate}, {training.learning_rate})")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), training.clip)
        optimizer.step()
        losses.append(loss.item())
        bar.update()
        done = step + 1
        if best.patience and (done == len(steps) or done > first and done % training.score_every == 0):
            best.look(done, score(model, checked, pad), learning)
            model.train()
        if done % training.keep_every == 0 and done < len(steps):
            partial = checkpoints.path(done)
            partial.mkdir(parents=True, exist_ok=True)
            torch.save({"weights": {name: weight.detach() for name, weight in trained.items()},
                        "optimizer": optimizer.state_dict()}, partial / "state.pt")
            checkpoints.seal(done, {"losses": losses, "best": best.save(partial)})
        yield step, len(steps), losses[-1]
    best.restore(learning)
    plain(model).set_attn_implementation(stock)
    bar.close()
