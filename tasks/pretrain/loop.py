"""The training loop of one rank: from packed tokens to a `from_pretrained` directory, resumed where it was killed."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel

from tasks import memory, params, stage
from tasks.model import ModelParams
from tasks.pretrain import batches, domains, figures, fused, model as models, optimizer, parallel, scoring, ulysses
from tasks.pretrain import tensor, universal, watchman
from tasks.pretrain.best import Best
from tasks.pretrain.board import Board
from tasks.pretrain.checkpoint import Checkpoints
from tasks.pretrain.saving import Saver
from tasks.pretrain.settings import PretrainParams
from tasks.progress import track
from tasks.stage import StageError
from tasks.tokenizer import directory, shards

READ_LOSS_EVERY = 20  # steps; reading the loss waits for a GPU
COLUMNS = ("step", "tokens", "train_loss", "held_out_bpb", "grad_norm", "rate")  # of the curve, then the domains'


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
        models.check(job.model, built.config, self.settings.sequence)
        self.model = built.to(self.device).train()
        self.stock_attention = built.config._attn_implementation
        if self.device == "cpu" and isinstance(built, models.FAMILIES):
            models.use_products(built)
        if self.settings.recompute:
            built.gradient_checkpointing_enable({"use_reentrant": False})
        # of the whole model, before DeepSpeed gives each rank its part
        self.counted = {"parameters": models.parameters(built),
                        "bytes": models.bytes_of(built, self.settings.sequence)}
        self.flops = models.flops_per_token(built, self.settings.sequence)
        self.split = self.settings.sequence_parallel  # ranks that share a sequence
        self.shared = self.split * self.settings.tensor_parallel  # ranks that take the same share of a batch
        # ZeRO 3 gathers weights as modules are called; Ulysses has its own way around attention, AutoTP its own layers
        if self.settings.zero_stage < 3 and self.shared == 1 and fused.fits(self.model):
            fused.install(self.model)
        self.held_out = shards.open_stream(job.packed, "held_out")
        self.windows = scoring.windows(self.held_out, self.settings.sequence)
        self.sample = self.windows.every(self.settings.score_tokens)
        sizes = self.held_out.index[:, 1]
        self.points = domains.Points(self.windows, self.sample, sizes, shards.kinds(job.packed, "held_out", len(sizes)))
        train = shards.open_stream(job.packed, "train")
        self.tokens = batches.Windows(train.tokens, self.settings.sequence, job.seed,
                                      train.starts() if self.settings.within_documents else None)
        config = parallel.config(self.settings.batch, world, self.settings.clip, self.settings.precision,
                                 self.settings.zero_stage, self.settings.micro_batch, self.settings.offload,
                                 self.shared)
        more, parts = tensor.begin(self.model, self.settings.tensor_parallel, world)
        groups = parts or ulysses.begin(self.model, self.split, world, self.settings.sequence,
                               config["train_micro_batch_size_per_gpu"])
        self.engine = parallel.engine(self.model, self.optimizer(), config | more, groups)
        self.checkpoints = Checkpoints(job.resume)
        self.saver = Saver(self.checkpoints, self.engine, rank, world)
        self.watched = watchman.Losses(self.settings.watch.spike)
        self.pace, self.journal = watchman.Pace(), watchman.Journal(job.resume)
        self.lock = self.checkpoints.claim() if rank == 0 else None
        self.rows: list[dict[str, float]] = []
        self.norms: list[float] = []  # of the gradients, at the looks since the last point of the curve
        self.best, self.board = Best(self.settings.patience), Board(job.name, rank)
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
        self.speed = figures.Speed()
        with track(total=steps * size, what=f"pretrain {self.job.name}", unit="tok") as bar:
            bar.disable = self.rank > 0
            bar.update(first * size)
            self.board.begin(step := first)
            while step < steps and not self.best.out:
                done = step + 1
                marks = [done % self.settings.score_steps == 0, done % self.settings.checkpoint_steps == 0]
                looked = any(marks) or done % READ_LOSS_EVERY == 0 or done == steps
                self.losses[self.filled] = self.step(step, timed=looked)
                self.filled += 1
                guard.beat(done)
                bar.update(size)
                if looked:
                    if fault := self.look(done):
                        self.board.begin(step := self.roll_back(fault, done))
                        bar.update(step * size - bar.n)
                        continue
                    self.board.look(done, float(self.losses[self.filled - 1]), self.norm,
                                    self.settings.rate_at(step), size, bar)
                with self.speed.apart():
                    if marks[0] or done == steps:
                        self.score(done)
                    if marks[1] or done == steps or self.best.out:
                        self.save(done)
                guard.beat(done)
                step = done
        self.settle()
        guard.ended.set()
        self.done = step
        self.board.close()
        return {"resumed_at_step": first, "waited_for_saving": self.saver.waited} | self.speed.table(
            (step - first) * size, self.flops, self.world, self.device, self.settings.precision)

    def step(self, step: int, timed: bool) -> torch.Tensor:
        """One optimizer step; returns the mean loss of this rank's share of the batch, nats a token. A `timed` one
        waits for the device between its parts, so that each rank's own seconds can be told apart."""
        clock = [self.clock(timed)]
        inputs, targets = self.tokens.feed(step + self.journal.skipped(step), self.rank // self.shared,
                                           self.world // self.shared, self.settings.batch)
        inputs, targets = ulysses.part({name: torch.from_numpy(one).to(self.device) for name, one in inputs.items()},
                                       torch.from_numpy(targets).to(self.device), self.rank, self.split)
        clock.append(self.clock(timed))
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["peak"] * self.settings.rate_at(step)
        forward, losses, micro = 0.0, [], self.engine.train_micro_batch_size_per_gpu()
        for at in range(0, len(targets), micro):
            began = self.clock(timed)
            loss = fused.loss(self.engine, {name: one[at:at + micro] for name, one in inputs.items()},
                              targets[at:at + micro])
            forward += self.clock(timed) - began
            self.engine.backward(loss / self.split)  # DeepSpeed adds up the gradients of a sequence's ranks
            ended = timed and at + micro >= len(targets)
            if ended and self.settings.zero_stage == 0:
                self.norm = figures.gradient_norm(self.engine)
            self.engine.step()  # DeepSpeed's own steps once all parts are added up
            if ended and self.settings.zero_stage > 0:
                self.norm = figures.gradient_norm(self.engine)
            losses.append(loss.detach())
        self.seconds = [clock[1] - clock[0], forward, self.clock(timed) - clock[0]]
        return sum(losses) / len(losses)

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
        seconds = torch.stack(every).cpu().numpy()
        self.speed.sample(seconds)
        self.norms.append(self.norm)
        for line in self.pace.look(seconds):
            self.alert(f"{line} (step {done})")
        fault = self.watched.look(first, new.cpu().numpy())
        if fault is None and not math.isfinite(self.norm):
            fault = watchman.Incident(done, "not finite", f"gradient norm {self.norm}")
        return fault

    def roll_back(self, fault: watchman.Incident, done: int) -> int:
        """Load the last checkpoint and skip the batches since: the step to go on from. Raises StageError where there
        is none, or the run has gone back often enough, so that no broken weights are ever saved."""
        what = f"the training loss {'is not finite' if fault.kind == 'not finite' else 'spiked'} by step {fault.step}"
        remedy = "lower pretrain.matrix_rate or pretrain.rate"
        if len(self.journal.incidents) >= self.settings.watch.rollbacks:
            raise StageError(f"{what} ({fault.found}), {len(self.journal.incidents)} rollbacks are behind it "
                             f"(watch.rollbacks): {remedy}; the last checkpoint is from before")
        self.settle()
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
        count, cut = len(windows.owner), self.settings.tensor_parallel  # ranks that share the matrices score together
        sharers = self.world // cut
        mine = np.arange(self.rank // cut, count + -count % sharers, sharers) % count
        share = scoring.Windows(windows.inputs[mine], windows.targets[mine], windows.owner[mine])
        found = torch.from_numpy(scoring.nats(self.engine.module, share, max(1, 8192 // self.settings.sequence),
                                              self.device, self.settings.precision == "bf16")).to(self.device)
        parts = [torch.zeros_like(found) for _ in range(self.world)]
        dist.all_gather(parts, found)
        return torch.stack(parts[::cut], 1).flatten()[:count].cpu().numpy()

    def score(self, step: int) -> None:
        """Add a point to the curve: means since the last one (loss, gradient norm), and the sample's bits per byte."""
        mean = float(self.gather_losses().mean())
        self.filled = 0
        bits = self.points.bits(self.nats(self.sample))
        self.rows.append({
            "step": step, "tokens": step * self.settings.batch * self.settings.sequence, "train_loss": round(mean, 5),
            "held_out_bpb": bits["held_out_bpb"], "grad_norm": float(f"{np.mean(self.norms):.5g}"),
            "rate": round(self.settings.rate_at(step - 1), 6)} | bits)
        self.norms = []
        self.best.look(step, bits["held_out_bpb"], self.engine.module)
        self.board.add(step, {f"held_out/{name.removeprefix('held_out_')}": value for name, value in bits.items()})

    def resume(self) -> int:
        """Load the newest whole checkpoint; returns the step to go on from, 0 where there is none."""
        found = self.checkpoints.latest(lambda line: print(line, flush=True) if self.rank == 0 else None)
        self.looked = found[1]["step"] if found else 0
        if found is None:
            return 0
        folder, progress = found
        moved = progress["ranks"] != self.world
        if moved and self.settings.zero_stage:
            loaded = universal.load(self.engine, folder, self.settings.optimizer, self.rank)
        else:
            loaded = self.engine.load_checkpoint(str(folder.parent), tag=folder.name)[0] is not None
        if not loaded:
            raise StageError(f"checkpoint {folder} cannot be read by DeepSpeed: remove it and run again")
        self.rows, self.norms = progress["rows"], progress["norms"]
        self.best.load(folder, progress["best"])
        self.filled = len(progress["losses"])
        self.watched.past.clear()
        self.watched.past.extend(progress["past"])
        self.watched.highest = progress["highest"]
        self.losses[:self.filled] = torch.tensor(progress["losses"], device=self.device)
        if self.rank == 0:
            others = f", which {progress['ranks']} ranks wrote: on {self.world} with the same batches" if moved else ""
            print(f"resumed at step {progress['step']} from {folder}{others}", flush=True)
        return progress["step"]

    def save(self, step: int) -> None:
        """Begin the checkpoint of `step`; it is written while the training goes on."""
        losses = self.gather_losses().tolist()
        self.saver.save(step, lambda folder: {
            "step": step, "rows": [*self.rows], "losses": losses, "norms": [*self.norms],
            "best": self.best.save(folder), "past": list(self.watched.past), "highest": self.watched.highest,
            "ranks": self.world})

    def settle(self) -> None:
        """Wait until the checkpoint under way is sealed, as all ranks then see it."""
        self.saver.wait()
        dist.barrier()

    def export(self, timing: dict[str, Any]) -> None:
        """Score all held-out documents; rank 0 writes model, tokenizer, curve and result. Where the run watched for
        its best point, its weights are those."""
        self.best.restore(self.engine.module)
        per_window = self.nats(self.windows)
        weights = self.engine._zero3_consolidated_16bit_state_dict() if self.settings.zero_stage == 3 else None
        if self.settings.tensor_parallel > 1:
            weights = tensor.whole(self.engine)
        if self.rank:
            return
        job, model = self.job, self.engine.module
        tokens = self.done * self.settings.batch * self.settings.sequence
        model.set_attn_implementation(self.stock_attention)
        model.save_pretrained(job.directory, state_dict=weights)
        self.tokenizer.save_pretrained(job.directory)
        with job.curve.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, [*COLUMNS, *list(self.points.parts)[1:]], lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)
        per_document = np.bincount(self.windows.owner, per_window, minlength=len(self.held_out.index))
        stage.write_json(job.result, {
            "nats": per_document.tolist(), "steps": self.done, "tokens": tokens,
            "kept_step": self.best.step or self.done, "ranks": self.world,
            "flops": self.flops * tokens, "highest_z": round(self.watched.highest, 2),
            "incidents": [asdict(one) for one in self.journal.incidents], "timing": timing} | self.counted)


def run(job: Job) -> None:
    """Train, score and export as this process's rank."""
    with parallel.ranks(job.runtime) as (rank, world):
        this = Run(job, rank, world)
        this.export(this.train())
        dist.barrier()
