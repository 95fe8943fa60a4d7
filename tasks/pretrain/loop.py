"""The training loop of one rank: from packed tokens to a `from_pretrained` directory, resumed where it was killed."""

from __future__ import annotations

import csv
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel
from torch import nn

from tasks import memory, params, stage
from tasks.model import ModelParams
from tasks.pretrain import batches, model as models, optimizer, parallel, scoring, watchman
from tasks.pretrain.checkpoint import Checkpoints
from tasks.pretrain.settings import PretrainParams
from tasks.progress import track
from tasks.stage import StageError
from tasks.tokenizer import directory, shards

READ_LOSS_EVERY = 20  # steps; reading the loss waits for a GPU


class Job(BaseModel):
    """All a rank needs to know, as JSON for ranks that a launcher starts."""

    packed: Path
    tokenizer: Path
    directory: Path
    curve: Path
    result: Path
    resume: Path
    name: str
    pretrain: PretrainParams
    model: ModelParams
    seed: int
    runtime: params.Runtime


class Run:
    """One rank's state: the engine, the batches, the held-out windows and the points of the curve."""

    def __init__(self, job: Job, rank: int, world: int):
        memory.keep_freed()
        self.job, self.settings, self.rank, self.world = job, job.pretrain, rank, world
        self.device = job.runtime.device if job.runtime.device == "cpu" else f"cuda:{torch.cuda.current_device()}"
        self.tokenizer = directory.load(job.tokenizer)
        built = models.build(job.model, self.tokenizer, job.seed)
        if self.settings.sequence > built.config.max_position_embeddings:
            raise StageError(f"pretrain.sequence = {self.settings.sequence} is above the model's "
                             f"{built.config.max_position_embeddings} positions (model.positions)")
        self.model = built.to(self.device).train()
        self.stock_attention = built.config._attn_implementation
        if self.device == "cpu" and isinstance(built, models.LlamaForCausalLM):
            models.use_products(built)
        self.held_out = shards.open_stream(job.packed, "held_out")
        self.windows = scoring.windows(self.held_out, self.settings.sequence)
        self.sample = self.windows.every(self.settings.score_tokens)
        train = shards.open_stream(job.packed, "train")
        self.tokens = batches.Windows(train.tokens, self.settings.sequence, job.seed)
        self.engine = parallel.engine(
            self.model, self.optimizer(), parallel.config(self.settings.batch, world, self.settings.clip,
                                                          self.settings.precision, self.settings.zero_stage))
        self.checkpoints = Checkpoints(job.resume)
        self.watched = watchman.Losses(self.settings.watch.spike)
        self.pace, self.journal = watchman.Pace(), watchman.Journal(job.resume)
        self.lock = self.checkpoints.claim() if rank == 0 else None
        self.rows: list[dict[str, float]] = []
        # of the steps since the last point of the curve; in one block, since small tensors that outlive a step would
        # lie between the large ones it frees and keep that memory from being used again (10 MB a step)
        self.losses, self.filled = torch.zeros(self.settings.score_steps, device=self.device), 0

    def optimizer(self) -> torch.optim.Optimizer:
        """Muon and AdamW. ZeRO cuts matrices into flat pieces, which only DeepSpeed's own Muon can put together."""
        groups = optimizer.groups(self.model, self.settings)
        if self.settings.zero_stage == 0:
            return optimizer.MuonAdamW(groups, self.settings.momentum)
        if self.settings.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.settings.rate, betas=optimizer.BETAS, eps=optimizer.EPS)
        from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

        halves = {True: {"momentum": self.settings.momentum}, False: {"betas": optimizer.BETAS, "eps": optimizer.EPS}}
        return MuonWithAuxAdam([group | {"lr": group["peak"]} | halves[group["use_muon"]] for group in groups])

    def train(self) -> dict[str, Any]:
        """All remaining steps; returns how the run went, in tokens and seconds."""
        steps, size = self.settings.steps(), self.settings.batch * self.settings.sequence
        first = self.resume()
        guard = watchman.Stall(self.job.runtime.stall, self.alert)
        guard.start()
        began, cpu = time.monotonic(), time.process_time()
        with track(total=steps * size, what=f"pretrain {self.job.name}", unit="tok") as bar:
            bar.disable = self.rank > 0
            bar.update(first * size)
            step = first
            while step < steps:
                done = step + 1
                marks = [done % self.settings.score_steps == 0, done % self.settings.checkpoint_steps == 0]
                looked = any(marks) or done % READ_LOSS_EVERY == 0 or done == steps
                self.losses[self.filled] = self.step(step, timed=looked)
                self.filled += 1
                guard.beat(done)
                bar.update(size)
                if looked:
                    if fault := self.look(done):
                        step = self.roll_back(fault, done)
                        bar.update(step * size - bar.n)
                        continue
                    bar.set_postfix(loss=f"{float(self.losses[self.filled - 1]):.3f}", refresh=False)
                if marks[0] or done == steps:
                    self.score(done)
                if marks[1] or done == steps:
                    self.save(done)
                guard.beat(done)
                step = done
        guard.ended.set()
        trained = (steps - first) * size
        wall, cpu = time.monotonic() - began, time.process_time() - cpu
        return {"tokens_trained_here": trained, "wall_seconds": wall, "cpu_seconds": cpu,
                "tokens_per_second": trained / wall, "tokens_per_cpu_second": trained / cpu if cpu else 0.0,
                "resumed_at_step": first}

    def step(self, step: int, timed: bool) -> torch.Tensor:
        """One optimizer step; returns the mean loss of this rank's share of the batch, nats a token. A `timed` one
        waits for the device between its parts, so that each rank's own seconds can be told apart."""
        clock = [self.clock(timed)]
        batch = self.tokens.batch(step + self.journal.skipped(step), self.rank, self.world, self.settings.batch)
        share = torch.from_numpy(batch).to(self.device)
        clock.append(self.clock(timed))
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["peak"] * self.settings.rate_at(step)
        logits = self.engine(input_ids=share[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), share[:, 1:].flatten())
        clock.append(self.clock(timed))
        self.engine.backward(loss)
        self.engine.step()
        clock.append(self.clock(timed))
        self.seconds = [clock[1] - clock[0], clock[2] - clock[1], clock[3] - clock[0]]
        return loss.detach()

    def clock(self, wait: bool) -> float:
        """Seconds; after all that the device was given, where `wait`."""
        if wait and self.device != "cpu":
            torch.cuda.synchronize()
        return time.monotonic()

    def look(self, done: int) -> watchman.Incident | None:
        """What the watchman says of the losses since his last look, which all ranks see as means over all."""
        new = self.losses[self.filled - (done - self.looked):self.filled].clone()
        seconds = torch.tensor(self.seconds, device=self.device)
        every = [torch.zeros_like(seconds) for _ in range(self.world)]
        if self.world > 1:
            dist.all_reduce(new.div_(self.world))
            dist.all_gather(every, seconds)
        else:
            every = [seconds]
        first, self.looked = self.looked + 1, done
        for line in self.pace.look(torch.stack(every).cpu().numpy()):
            self.alert(f"{line} (step {done})")
        return self.watched.look(first, new.cpu().numpy())

    def roll_back(self, fault: watchman.Incident, done: int) -> int:
        """Load the last checkpoint and skip the batches since: the step to go on from. Raises StageError where there
        is none, or the run has gone back often enough, so that no broken weights are ever saved."""
        what = f"the training loss {'is not finite' if fault.kind == 'not finite' else 'spiked'} by step {fault.step}"
        remedy = "lower pretrain.matrix_rate or pretrain.rate"
        if len(self.journal.incidents) >= self.settings.watch.rollbacks:
            raise StageError(f"{what} ({fault.found}), {len(self.journal.incidents)} rollbacks are behind it "
                             f"(watch.rollbacks): {remedy}; the last checkpoint is from before")
        found = self.checkpoints.latest(lambda line: None)
        if found is None:
            raise StageError(f"{what} ({fault.found}), before the first checkpoint: {remedy}")
        back = found[1]["step"]
        incident = replace(fault, back_to=back, skipped=done - back)
        self.journal.add(incident, write=self.rank == 0)
        self.alert(f"step {fault.step}: {fault.kind}, {fault.found}; back to step {back}, "
                   f"{incident.skipped} batches skipped")
        return self.resume()

    def alert(self, line: str) -> None:
        """One rank tells it where people look."""
        if self.rank == 0:
            watchman.alert(self.job.runtime.alert, f"{self.job.name}: {line}", {"track": self.job.name})

    def gather_losses(self) -> torch.Tensor:
        """float32 [steps since the last point]: losses as means over all ranks, in place of this rank's own."""
        losses = self.losses[:self.filled]
        if self.world > 1:
            dist.all_reduce(losses.div_(self.world))
        return losses

    def nats(self, windows: scoring.Windows) -> np.ndarray:
        """float64 [windows]: the nats of each window; the ranks share the work evenly."""
        count = len(windows.owner)
        mine = np.arange(self.rank, count + -count % self.world, self.world) % count
        share = scoring.Windows(windows.inputs[mine], windows.targets[mine], windows.owner[mine])
        found = torch.from_numpy(scoring.nats(self.engine.module, share, max(1, 8192 // self.settings.sequence),
                                              self.device, self.settings.precision == "bf16")).to(self.device)
        parts = [torch.zeros_like(found) for _ in range(self.world)]
        dist.all_gather(parts, found)
        return torch.stack(parts, 1).flatten()[:count].cpu().numpy()

    def score(self, step: int) -> None:
        """Add a point to the curve: the mean training loss since the last one, and the sample's bits per byte."""
        mean = float(self.gather_losses().mean())
        self.filled = 0
        scored = (self.sample.targets != scoring.IGNORED).sum()
        predicted = (self.windows.targets != scoring.IGNORED).sum()
        bits_per_token = self.nats(self.sample).sum() / scoring.LN2 / scored
        self.rows.append({
            "step": step, "tokens": step * self.settings.batch * self.settings.sequence, "train_loss": round(mean, 5),
            "held_out_bpb": round(float(bits_per_token * predicted / self.held_out.index[:, 1].sum()), 5)})

    def resume(self) -> int:
        """Load the newest whole checkpoint; returns the step to go on from, 0 where there is none."""
        found = self.checkpoints.latest(lambda line: print(line, flush=True) if self.rank == 0 else None)
        self.looked = found[1]["step"] if found else 0
        if found is None:
            return 0
        folder, progress = found
        loaded, _ = self.engine.load_checkpoint(str(folder.parent), tag=folder.name)
        if loaded is None:
            raise StageError(f"checkpoint {folder} cannot be read by DeepSpeed: remove it and run again")
        self.rows = progress["rows"]
        self.filled = len(progress["losses"])
        self.watched.past.clear()
        self.watched.past.extend(progress["past"])
        self.watched.highest = progress["highest"]
        self.losses[:self.filled] = torch.tensor(progress["losses"], device=self.device)
        if self.rank == 0:
            print(f"resumed at step {progress['step']} from {folder}", flush=True)
        return progress["step"]

    def save(self, step: int) -> None:
        """Write the checkpoint of `step`; all ranks write their part, rank 0 seals it."""
        losses = self.gather_losses().tolist()
        partial = self.checkpoints.path(step)
        if self.rank == 0:
            stage.remove(partial)
        dist.barrier()
        self.engine.save_checkpoint(str(partial.parent), tag=partial.name, save_latest=False)
        dist.barrier()
        if self.rank == 0:
            self.checkpoints.seal(step, {"step": step, "rows": self.rows, "losses": losses,
                                         "past": list(self.watched.past), "highest": self.watched.highest})
        dist.barrier()

    def export(self, timing: dict[str, Any]) -> None:
        """Score all held-out documents; rank 0 writes model, tokenizer, curve and result."""
        per_window = self.nats(self.windows)
        weights = self.engine._zero3_consolidated_16bit_state_dict() if self.settings.zero_stage == 3 else None
        if self.rank:
            return
        job, model = self.job, self.engine.module
        model.set_attn_implementation(self.stock_attention)
        model.save_pretrained(job.directory, state_dict=weights)
        self.tokenizer.save_pretrained(job.directory)
        with job.curve.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, ["step", "tokens", "train_loss", "held_out_bpb"], lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)
        per_document = np.bincount(self.windows.owner, per_window, minlength=len(self.held_out.index))
        stage.write_json(job.result, {
            "nats": per_document.tolist(), "parameters": models.parameters(model), "steps": self.settings.steps(),
            "tokens": self.settings.steps() * self.settings.batch * self.settings.sequence, "ranks": self.world,
            "flops": models.flops_per_token(model, self.settings.sequence) * self.settings.steps()
            * self.settings.batch * self.settings.sequence, "highest_z": round(self.watched.highest, 2),
            "incidents": [asdict(one) for one in self.journal.incidents], "timing": timing})


def run(job: Job) -> None:
    """Train, score and export as this process's rank."""
    with parallel.ranks(job.runtime) as (rank, world):
        this = Run(job, rank, world)
        this.export(this.train())
        dist.barrier()
