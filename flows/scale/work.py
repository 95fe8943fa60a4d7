"""The chain of a profile as simulated work: seconds, machines and bytes of every stage of its graph.

Stages and edges are DVC's own under the profile's values (flows/graph.py). What a stage takes comes from the figures
measured here (flows/scale/units.py), at the sizes that the profile's tokens ask of the web by the assumptions.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows import graph
from flows.scale.simulation import Gang, Work
from flows.scale.units import picture, units
from tasks import params
from tasks.model import ModelParams
from tasks.params import ParamsError
from tasks.pretrain import scaling
from tasks.pretrain.settings import PretrainParams

DAY, HOUR = 86400.0, 3600.0
ONE_PROCESS = ("evalsets", "tokenizer", "pack")  # they hold the corpus in one process
# stages behind pretraining, by the stage of the last run that tells their cost
LIKE = {"sft": "sft@scratch", "preference": "preference@scratch", "quantize": "quantize@smollm2",
        "export": "export@smollm2", "evaluate": "evaluate@smollm2-chat", "agents": "agents@smollm2",
        "serve_bench": "serve_bench@smollm2"}


@dataclass(frozen=True)
class Shape:
    """A Llama's size, its head tied to its embedding, as this chain builds it."""

    model: ModelParams
    vocabulary: int

    @property
    def parameters(self) -> int:
        """Weights, as metrics/pretrain counts them."""
        return scaling.weights(self.model, self.vocabulary)

    def flops(self, sequence: int) -> int:
        """Floating-point operations of training on a token: tasks/pretrain/model.py's count (PaLM, appendix B)."""
        return scaling.flops(self.model, self.vocabulary, sequence)


@dataclass(frozen=True)
class Plan:
    """A profile's chain, ready to be simulated."""

    works: list[Work]
    pools: dict[str, int]
    shape: Shape
    pretrain: PretrainParams
    tokens_per_second: float
    pages: float
    memory: dict[str, float]     # one-process stages -> bytes of the largest process


def stages(root: Path, values: Mapping[str, Any]) -> list[graph.Stage]:
    """The chain's graph under `values`, read by DVC in a directory of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / ".dvc").mkdir()
        (Path(temporary) / ".dvc/config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
        shutil.copy(root / "dvc.yaml", temporary)
        (Path(temporary) / "params.yaml").write_text(yaml.safe_dump(dict(values), allow_unicode=True), encoding="utf-8")
        return graph.read(Path(temporary))


def check(values: Mapping[str, Any], assumed: Mapping[str, float]) -> None:
    """Raise ParamsError where a profile trains no or several tracks, or a number of machines is below one."""
    for name in ("gpus", "gpus_per_node", "crawl_workers", "corpus_machines", "data_cores"):
        if assumed[name] < 1:
            raise ParamsError(f"{name} = {assumed[name]:g}: at least 1")
    tracks = values["trained"]
    if len(tracks) != 1:
        raise ParamsError(f"trained: {tracks}: one trained track is simulated; the profile must name one")


def plan(chain: list[graph.Stage], values: Mapping[str, Any], found: Mapping[str, Any],
         assumed: Mapping[str, float]) -> Plan:
    """The works of `chain` under a profile's `values`, both checked.

    Bytes, seconds and FLOPs are those of the tokens asked for: nothing is repeated (`mixture` may ask for less text).
    """
    [track] = values["trained"]
    pretrain = params.section(PretrainParams, f"tracks.{track}.pretrain", dict(values))
    shape = Shape(params.section(ModelParams, "model", dict(values)), int(values["tokenizer"]["vocab"]))
    pretrain = scaling.settle(pretrain, shape.model, shape.vocabulary)
    sample = values["tokenizer"]["sample_characters"] / 1e6
    maker = Maker(found, assumed, pretrain, shape, sample)
    return Plan([maker.work(stage) for stage in chain], maker.pools(), shape, pretrain, maker.tokens_per_second,
                maker.pages, {name: maker.one_process_bytes(name) for name in ("dedup", *ONE_PROCESS)})


class Maker:
    """Turns stages into works; one for a profile, its sizes reckoned once."""

    def __init__(self, found: Mapping[str, Any], assumed: Mapping[str, float], pretrain: PretrainParams, shape: Shape,
                 sample: float):
        self.found, self.assumed, self.pretrain, self.shape, self.sample = found, assumed, pretrain, shape, sample
        self.cores = round(assumed["data_cores"])
        self.units = units(found) | {"picture": picture(found)}
        tokens = pretrain.steps() * pretrain.batch * pretrain.sequence
        self.pages = tokens / assumed["tokens_per_page"]
        text = tokens * assumed["bytes_per_token"]
        html = self.pages * assumed["html_bytes_per_page"]
        extracted, filtered, deduped = (text * assumed[f"text_{name}"] for name in ("extracted", "filtered", "deduped"))
        self.documents = filtered / assumed["bytes_per_token"] / assumed["tokens_per_document"]  # that dedup compares
        large = found["growth"]["10"]
        self.size = {  # stage -> (bytes read, bytes written, its rejects among them)
            "crawl": (html, html * large["crawl_bytes"] / 1e6 / large["megabytes"]),
            "extract": (html, extracted), "filter": (extracted, extracted), "dedup": (filtered, filtered),
            "safety": (deduped, deduped), "value": (deduped, deduped), "evalsets": (text, 1e6),
            "decontaminate": (text, text), "mixture": (text, text), "picture": (extracted, 1e6),
            "tokenizer": (text, 1e6), "pack": (text, tokens * (2 if shape.vocabulary <= 1 << 16 else 4))}
        self.tokens_per_second = (assumed["gpus"] * assumed["gpu_flops"] * assumed["mfu"]
                                  / shape.flops(pretrain.sequence))

    def pools(self) -> dict[str, int]:
        """name -> machines."""
        return {"head": 64, "crawl": round(self.assumed["crawl_workers"]), "cores": self.cores,
                "corpus": round(self.assumed["corpus_machines"]), "gpus": round(self.assumed["gpus"])}

    def work(self, stage: graph.Stage) -> Work:
        """What `stage` needs."""
        kind = stage.name.partition("@")[0]
        if kind == "pretrain":
            return self.training(stage)
        if kind in LIKE:
            return self.tail(stage, kind)
        if kind == "crawl":
            return self.crawl(stage)
        if kind in ONE_PROCESS:
            return self.one_process(stage, kind)
        if kind in self.units:
            return self.data(stage, kind)
        return Work(stage.name, self.assumed["start_seconds"] + self.found["last_run"].get(stage.name, 0.0),
                    stage.parents, "head")

    def slower(self, cpu_seconds: float, kind: str) -> float:
        """Seconds of computing, or of moving the bytes where that is slower; then DVC's hashing of what was written."""
        read, written = self.size[kind]
        moving = (read * (kind != "crawl") + written) / self.assumed["storage_bytes_per_second"]
        hashing = written / self.found["md5_bytes_per_cpu_second"] / self.assumed["hash_threads"]
        speed = self.assumed["core_speed"]
        return self.assumed["start_seconds"] + max(cpu_seconds / speed, moving) + hashing / speed

    def crawl(self, stage: graph.Stage) -> Work:
        """As many processes as there are workers, each as fast as the one measured; or as the network allows."""
        workers, one = self.pools()["crawl"], self.found["crawl"]
        fetching = self.size["crawl"][1] / self.assumed["network_bytes_per_second"]
        seconds = max(self.slower(self.pages * one["cpu_seconds"] / one["pages"] / workers, "crawl"), fetching)
        return Work(stage.name, seconds, stage.parents, "crawl", workers, self.size["crawl"][1])

    def one_process(self, stage: graph.Stage, kind: str) -> Work:
        """A stage that holds the corpus in one process, as if it were divided among the corpus's machines."""
        machines, read = self.pools()["corpus"], self.size[kind][0] / 1e6
        if kind == "tokenizer":  # learns from a sample, but reads all, no faster than mixture does
            cpu = self.units[kind].cpu.at(min(read, self.sample)) + self.units["mixture"].cpu.slope * read / machines
        else:
            cpu = self.units[kind].cpu.at(read) / machines
        return Work(stage.name, self.slower(cpu, kind), stage.parents, "corpus", machines, self.size[kind][1])

    def data(self, stage: graph.Stage, kind: str) -> Work:
        """A stage over all cores; what dedup does in one process is divided among the corpus's machines."""
        unit, (read, written) = self.units[kind], self.size[kind]
        alone = unit.serial * self.documents if kind == "dedup" else 0.0
        parallel = max(0.0, unit.cpu.at(read / 1e6) - alone)
        seconds = self.slower(parallel / self.cores + alone / self.pools()["corpus"], kind)
        return Work(stage.name, seconds, stage.parents, "cores", self.cores, written,
                    losses=self.assumed["worker_failures_per_day"] / DAY * self.cores,
                    redo=min(seconds, self.assumed["shard_seconds"]) / self.cores)

    def training(self, stage: graph.Stage) -> Work:
        """Pretraining: all GPUs as a gang."""
        assumed, gpus = self.assumed, self.pools()["gpus"]
        step = self.pretrain.batch * self.pretrain.sequence / self.tokens_per_second
        rate = assumed["interruptions_per_gpu_day"] * gpus / DAY
        held = self.shape.parameters * assumed["checkpoint_bytes_per_parameter"]
        gang = Gang(interval=self.pretrain.checkpoint_steps * step, write=held / assumed["storage_bytes_per_second"],
                    between=1 / rate if rate else math.inf, restart=assumed["restart_seconds"],
                    repair=assumed["repair_hours"] * HOUR, spares=round(assumed["spare_nodes"]))
        return Work(stage.name, self.pretrain.steps() * step, stage.parents, "gpus", gpus,
                    self.shape.parameters * 4 + 2 * held, gang)

    def tail(self, stage: graph.Stage, kind: str) -> Work:
        """A stage behind pretraining, on one node: its seconds here, times the weights, over the machine's speed."""
        like, assumed = LIKE[kind], self.assumed
        here = self.found["training"]["flops"] / self.found["training"]["seconds"]
        node = min(round(assumed["gpus_per_node"]), self.pools()["gpus"])
        there = node * assumed["gpu_flops"] * assumed["tail_mfu"]
        weights = self.shape.parameters / self.found["parameters"][like.partition("@")[2].partition("-")[0]]
        seconds = assumed["start_seconds"] + self.found["last_run"][like] * weights * here / there
        out = self.shape.parameters * {"sft": 4.0, "preference": 4.0, "quantize": 0.6, "export": 1.8}.get(kind, 0.0)
        return Work(stage.name, seconds, stage.parents, "gpus", node, out, alone=stage.alone)

    def one_process_bytes(self, kind: str) -> float:
        """Memory of a process that holds its part of the corpus, or of its fingerprints."""
        return self.units[kind].memory.slope * self.size[kind][0] / 1e6 / self.pools()["corpus"] * 2**20

