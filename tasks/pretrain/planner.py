"""Will it fit, and how long will it take? Memory and time of fine-tuning a Llama on a described machine.

    python -m tasks.pretrain.planner models/smollm2/chat
    python -m tasks.pretrain.planner 7b --memory 8 --flops 40e12 --bf16 --flash --sequence 512 --batch 1

For full training, LoRA and QLoRA, at each ZeRO stage (with several devices) and with and without recomputing
activations: the bytes of weights, gradients, optimizer, activations, logits and what passes, the peak, the seconds, and
what is recommended and why. The bytes are footprint.py's, with their sources; `python -m benchmarks.planner` compares
them with measured peaks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks import stage
from tasks.pretrain import footprint
from tasks.pretrain.footprint import Method, Shape
from tasks.stage import StageError

GIB = 2**30
NAMED = {  # published shapes, to ask about without the model
    "135m": Shape(576, 1536, 30, 9, 3, 64, 49152, True),        # SmolLM2-135M
    "1b": Shape(2048, 8192, 16, 32, 8, 64, 128256, True),       # Llama-3.2-1B
    "7b": Shape(4096, 11008, 32, 32, 32, 128, 32000, False),    # Llama-2-7B
    "8b": Shape(4096, 14336, 32, 32, 8, 128, 128256, False),    # Llama-3.1-8B
    "70b": Shape(8192, 28672, 80, 64, 8, 128, 128256, False),   # Llama-3.1-70B
}


@dataclass(frozen=True)
class Machine:
    """Devices alike. memory: bytes of one; flops: those it sustains in training, a second; network: bytes a second
    between devices; host_memory, host_link: of the host and to it, for offload; baseline: bytes that the framework
    holds before any model; passes: weights a second that it brings from 4 bits to 16; single: how much longer a
    product in fp32 takes; and what a machine without much bandwidth feels, in seconds: kept, of a byte that the forward
    pass keeps; update, of a weight that AdamW moves; adapting, of a step for each layer with adapters."""

    memory: float
    flops: float
    devices: int = 1
    network: float = 25e9
    host_memory: float = 0.0
    host_link: float = 16e9
    baseline: float = 0.8 * GIB
    passes: float = 50e9
    single: float = 1.0
    kept: float = 0.0
    update: float = 0.0
    adapting: float = 0.0


# two cores of a Zen 4 server. baseline: of one tuning process of flows/adapt.py, its measured peak less what is counted
# here (benchmarks/planner.py, with fewer imports, has 0.54). Times: CPU seconds of one thread fitted over the twelve
# cases of benchmarks/planner.py, which they give back within 16 %; GAIN: what a second thread makes of them
GAIN = 1.7
LAPTOP = Machine(memory=8 * GIB, flops=1.05e11 * GAIN, host_memory=8 * GIB, baseline=0.77 * GIB, passes=1.26e8 * GAIN,
                 single=1.58, kept=2.4e-9 / GAIN, update=6.4e-9 / GAIN, adapting=0.092 / GAIN)


@dataclass(frozen=True)
class Plan:
    """What one method takes: `parts` in bytes on a device, their height `peak`, `host` bytes of offload, `flops` and
    `seconds` of the whole run, whether it fits, and why in words."""

    method: Method
    parts: dict[str, float]
    peak: float
    host: float
    flops: float
    seconds: float
    fits: bool
    reason: str


def plan(config: Shape | dict[str, Any] | Path, machine: Machine, method: Method, tokens: int = 0) -> Plan:
    """Memory and time of training `tokens` tokens by `method` on `machine`.

    `config` is a shape, a Hugging Face config, or a model directory. Raises StageError for one that is none, or for a
    method that contradicts itself.
    """
    shape = Shape.of(config) if isinstance(config, dict) else config
    shape = shape if isinstance(shape, Shape) else Shape.read(shape)
    check(method, machine)
    kept = footprint.states(shape, method, machine.devices)
    host = kept.pop("host", 0.0)
    held, scores = footprint.activations(shape, method), footprint.logits(shape, method)
    copied = footprint.copies(shape, method)
    # heights of a step: the loss, where all activations stand and, freed only then, the last step's gradients; the loss
    # turning back; the head's gradient, while the activations still stand; the optimizer's step
    standing = method.precision == "bf16"  # gradients: allocated once and kept, as DeepSpeed does
    head = shape.table * (2 if standing else 4) if method.kind == "full" else 0
    passing = method.tokens * footprint.layer_passing(shape, method)
    zero = dict.fromkeys(("gradients", "activations", "logits", "passing"), 0.0)
    last = kept["gradients"]
    heights = [zero | {"activations": held, "logits": scores * 2 / 3, "gradients": last, "passing": copied},
               zero | {"activations": held, "logits": scores, "passing": copied},
               zero | {"activations": held, "passing": copied + head + passing},
               zero | {"gradients": kept["gradients"], "passing": float(head)}]
    if standing:
        heights = [height | {"gradients": kept["gradients"]} for height in heights]
    parts = {"weights": kept["weights"], "optimizer": kept["optimizer"], "baseline": machine.baseline,
             **max(heights, key=lambda height: sum(height.values()))}
    peak = sum(parts.values())
    work = flops_per_token(shape, method) * tokens
    seconds = work / (machine.flops * machine.devices) * (machine.single if method.precision == "fp32" else 1.0)
    seconds += moved(shape, method, machine, tokens)
    fits = peak <= machine.memory and host <= machine.host_memory
    return Plan(method, parts, peak, host, work, seconds, fits, explain(parts, peak, host, machine, fits))


def check(method: Method, machine: Machine) -> None:
    """Raise StageError where `method` cannot be run at all."""
    if not 0 <= method.zero <= 3:
        raise StageError(f"zero = {method.zero}: the stages are 0, 1, 2 and 3")
    if method.sequence < 1 or method.batch < 1 or not 0 < method.learned <= 1 or method.rank < 1:
        raise StageError("sequence, batch and rank are at least 1, learned is above 0 and at most 1")
    if unknown := sorted(set(method.targets) - set(footprint.TARGETS)):
        raise StageError(f"targets: no linear layer {unknown[0]!r}: there are {', '.join(footprint.TARGETS)}")
    if machine.devices < 1 or machine.memory <= 0 or machine.flops <= 0:
        raise StageError("a machine has at least one device, with memory and FLOP/s above 0")
    if method.kind == "qlora" and method.zero == 3:
        raise StageError("qlora with ZeRO 3: 4-bit weights are not divided; use ZeRO 2 at most")


def flops_per_token(shape: Shape, method: Method) -> float:
    """Operations a token: 2 a weight forward, 2 for the gradient of what it reads, 2 for its own where it learns
    (PaLM's appendix B, Chowdhery et al. 2022), attention's products, and the forward pass again if recomputed."""
    weights = shape.matrices
    head = shape.table * method.learned
    attention = 4 * shape.layers * shape.heads * shape.head_dim * method.sequence
    own = (weights + head if method.kind == "full" else 0) + (
        3 * footprint.adapters(shape, method) if method.kind != "full" else 0)
    again = 2 * weights + attention if method.checkpointing else 0
    return 4 * (weights + head) + 2 * own + 3 * attention + again


def moved(shape: Shape, method: Method, machine: Machine, tokens: int) -> float:
    """Seconds of moving bytes: gradients and weights between devices (ZeRO paper, section 7: 2 elements a weight, 3
    in stage 3), optimizer to and from the host, 4-bit weights to 16 bits and back out, what is kept for the backward
    pass (twice where it is recomputed), the update itself."""
    steps = tokens / (method.tokens * machine.devices)
    width = 2 if method.precision == "bf16" else 4
    learning = footprint.trained(shape, method)
    written = shape.layers * footprint.layer_activations(shape, method) * (2 if method.checkpointing else 1)
    written += method.learned * shape.vocabulary * footprint.LOGIT_BYTES
    seconds = steps * method.tokens * written * machine.kept
    if method.optimizer == "adamw":
        seconds += steps * learning * machine.update
    if method.kind != "full":
        seconds += steps * shape.layers * machine.adapting
    if machine.devices > 1:
        volume = 2 * learning + (shape.parameters if method.zero == 3 else 0)
        seconds += steps * volume * width * (machine.devices - 1) / machine.devices / machine.network
    if method.offload:
        seconds += steps * 2 * learning * width / machine.host_link
    if method.kind == "qlora":
        seconds += steps * shape.matrices * (3 if method.checkpointing else 2) / machine.passes
    return seconds


def explain(parts: dict[str, float], peak: float, host: float, machine: Machine, fits: bool) -> str:
    """Why a plan fits or not, in one line."""
    largest = sorted(parts, key=parts.get, reverse=True)[:2]
    said = f"{size(peak)} of {size(machine.memory)}, most of it " + " and ".join(
        f"{name} ({size(parts[name])})" for name in largest)
    if fits:
        return said
    if peak > machine.memory:
        return f"{said}: {size(peak - machine.memory)} too much"
    return f"{said}; offload needs {size(host)} of the host's {size(machine.host_memory)}"


def size(count: float) -> str:
    """Bytes in words: 512 MiB, 13.5 GiB."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def methods(base: Method, machine: Machine) -> Iterator[Method]:
    """Every way to try, what changes the most weights first: full, LoRA, QLoRA; each plainly, recomputing activations,
    at higher ZeRO stages where there are several devices, with the optimizer on the host where that has memory."""
    for kind in ("full", "lora", "qlora"):
        stages = [base.zero] if machine.devices == 1 else range(3 if kind == "qlora" else 4)
        for checkpointing in (False, True):
            for zero in stages:
                yield replace(base, kind=kind, zero=zero, checkpointing=checkpointing, offload=False)
        if kind == "full" and machine.host_memory and base.precision == "bf16":
            yield replace(base, kind=kind, zero=max(stages), checkpointing=True, offload=True)


def compare(config: Shape | dict[str, Any] | Path, machine: Machine, base: Method, tokens: int) -> list[Plan]:
    """A plan for each of `methods`."""
    return [plan(config, machine, method, tokens) for method in methods(base, machine)]


def recommend(plans: list[Plan], limit: float | None = None) -> list[Plan]:
    """Those that fit (and end within `limit` seconds), best first: full before LoRA before QLoRA, the quickest of
    each. Empty where none does."""
    kinds = ("full", "lora", "qlora")
    fitting = [made for made in plans if made.fits and (limit is None or made.seconds <= limit)]
    best = []
    for kind in kinds:
        own = [made for made in fitting if made.method.kind == kind]
        if own:
            best.append(min(own, key=lambda made: (made.seconds, made.peak)))
    return best


def label(method: Method) -> str:
    """A method in a few words."""
    words = [method.kind]
    words += [f"ZeRO {method.zero}"] if method.zero else []
    words += ["recompute"] if method.checkpointing else []
    words += ["offload"] if method.offload else []
    return ", ".join(words)


def advice(plans: list[Plan], limit: float | None) -> str:
    """The recommendation in plain words, or the smallest plan and what it lacks."""
    best = recommend(plans, limit)
    if not best:
        fitting = [made for made in plans if made.fits]
        if fitting:
            quick = min(fitting, key=lambda made: made.seconds)
            return (f"Nothing ends in time: the quickest that fits, {label(quick.method)}, takes {quick.seconds:.0f} s "
                    f"of {limit:.0f} s. Train on fewer tokens, or allow more time.")
        least = min(plans, key=lambda made: made.peak)
        return (f"Nothing fits. The smallest is {label(least.method)}: {least.reason}. Take shorter sequences, a "
                "smaller batch or model, or more memory.")
    chosen, refused = best[0], [made for made in plans if made.method.kind == "full" and made is not best[0]]
    said = f"Take {label(chosen.method)}: {chosen.reason}"
    said += f", {chosen.seconds / 60:.1f} minutes." if chosen.seconds else "."
    if chosen.method.kind != "full" and refused:
        nearest = min(refused, key=lambda made: made.peak)
        why = "too slow" if nearest.fits else nearest.reason
        said += f" Full training does not do: {label(nearest.method)}: {why}."
    return said


def this_machine() -> Machine:
    """Memory free here and the constants of LAPTOP."""
    import psutil

    free = float(psutil.virtual_memory().available)
    return replace(LAPTOP, memory=free, host_memory=free)


def table(plans: list[Plan]) -> str:
    """The plans as text, a row each, sizes in GiB."""
    names = list(plans[0].parts)
    lines = [f"{'method':28s}" + "".join(f"{name:>12s}" for name in names) + f"{'peak':>9s}{'host':>9s}{'minutes':>9s}"]
    for made in plans:
        lines.append(f"{label(made.method):28s}" + "".join(f"{made.parts[name] / GIB:12.2f}" for name in names)
                     + f"{made.peak / GIB:9.2f}{made.host / GIB:9.2f}{made.seconds / 60:9.1f}"
                     + ("" if made.fits else "  does not fit"))
    return "\n".join(lines)


def main() -> int:
    """The command line. Exit codes: 0 something fits, 1 nothing does, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m tasks.pretrain.planner", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=f"a model directory, its config.json, or one of {', '.join(NAMED)}")
    parser.add_argument("--memory", type=float, metavar="GiB", help="of one device (default: what is free here)")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--flops", type=float, help="FLOP/s one device sustains (default: two cores, 1.8e11)")
    parser.add_argument("--network", type=float, default=25e9, help="bytes a second between devices (default 25e9)")
    parser.add_argument("--host-memory", type=float, default=0, metavar="GiB", help="for offload (default: none)")
    parser.add_argument("--sequence", type=int, default=512, help="tokens (default 512)")
    parser.add_argument("--batch", type=int, default=1, help="sequences a device takes at once (default 1)")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of the whole run (default 1000000)")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters (default 16)")
    parser.add_argument("--minutes", type=float, help="that the run may take")
    parser.add_argument("--bf16", action="store_true", help="bf16 weights, fp32 masters (DeepSpeed on a GPU); default: "
                        "fp32 weights, bf16 products (this project on a CPU)")
    parser.add_argument("--flash", action="store_true", help="attention that does not hold the n x n weights")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    given = parser.parse_args()
    here = this_machine()
    gpu = Machine(memory=here.memory, flops=here.flops) if given.bf16 else here
    machine = replace(gpu, memory=given.memory * GIB if given.memory is not None else gpu.memory, devices=given.devices,
                      flops=given.flops if given.flops is not None else gpu.flops, network=given.network,
                      host_memory=given.host_memory * GIB)
    base = Method("full", given.sequence, given.batch, "bf16" if given.bf16 else "autocast", rank=given.rank,
                  attention="flash" if given.flash else "products")
    limit = given.minutes * 60 if given.minutes else None
    try:
        shape = NAMED.get(given.model.lower()) or Shape.read(Path(given.model))
        plans = compare(shape, machine, base, given.tokens)
    except StageError as error:
        return stage.fail(2, str(error))
    if given.json:
        print(json.dumps({"shape": asdict(shape), "machine": asdict(machine), "plans": [asdict(p) for p in plans],
                          "advice": advice(plans, limit)}))
    else:
        print(f"{shape.parameters / 1e6:,.1f} M weights; {given.batch} x {given.sequence} tokens at once a device; "
              f"sizes in GiB\n{table(plans)}\n{advice(plans, limit)}")
    return 0 if recommend(plans, limit) else 1


if __name__ == "__main__":
    sys.exit(main())
