"""What a size of `model.size` means: the rules that set a run's null values, and what the run will come to.

    ./run size [SIZE] [--tokens N]          (python -m tasks.pretrain.scaling)

The law and the rules were fitted by benchmarks/scaling.py to runs of this chain's own trainer on its default corpus,
0.3 to 3.1 million weights and 0.1 to 2.6 million tokens (benchmarks/scaling.json, notebooks/scaling.ipynb). Beyond
them they are extrapolated: a profile of another scale gives its own values.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tasks import dial, params, stage
from tasks.model import ModelParams
from tasks.pretrain.settings import PretrainParams

SHOWN = (1, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True)
class Law:
    """Held-out bits per byte at `weights` and `tokens`: floor + by_weights / weights^alpha + by_tokens / tokens^beta
    (Hoffmann et al. 2022, arXiv:2203.15556, equation 2)."""

    floor: float
    by_weights: float
    alpha: float
    by_tokens: float
    beta: float

    def bits(self, weights: Any, tokens: Any) -> Any:
        """Bits per byte; numbers or arrays."""
        return self.floor + self.by_weights * weights**-self.alpha + self.by_tokens * tokens**-self.beta


# as fitted (benchmarks/scaling.json; tests/benchmarks/test_scaling_fit.py holds them to it)
LAW = Law(floor=1.3243, by_weights=1.1092e+06, alpha=1.2331, by_tokens=35.066, beta=0.2793)
ERROR = 0.0469                                   # the worst, of a size or a budget that was left out of the fit
SECONDS_PER_TOKEN, SECONDS_PER_FLOP = 9.7e-06, 1.253e-11
CORPUS = 3_522_061                                # training tokens of the default corpus, packed
WEIGHTS, TOKENS = 3.2e6, 2.6e6                    # the most that the law was fitted to


def weights(shape: ModelParams, vocabulary: int) -> int:
    """Weights of a Llama of `shape` whose head is tied to its embedding."""
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    layer = attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
    return vocabulary * shape.hidden + shape.layers * layer + shape.hidden


def flops(shape: ModelParams, vocabulary: int, sequence: int) -> int:
    """Floating-point operations of training on a token, as tasks/pretrain/model.py counts them."""
    return 6 * weights(shape, vocabulary) + 12 * shape.layers * shape.heads * shape.head_dim * sequence


TOKENS_PER_WEIGHT = 4   # what ten minutes of a core give size 4; more paid wherever it was measured
# the best of those tried is no power of the weights (scaling.json, rules). The default run keeps its own rate of 0.005,
# and the law is that rate's: 0.02 did better by 0.03 to 0.15 bits per byte, 0.04 by more but in short runs alone
BATCH, MATRIX_RATE, RATE = 4, 0.02, 0.02
RULES: dict[str, Callable[[int], Any]] = {  # name -> its value at so many weights
    "tokens": lambda size: TOKENS_PER_WEIGHT * size,
    "batch": lambda size: BATCH,
    "matrix_rate": lambda size: MATRIX_RATE,
    "rate": lambda size: RATE,
}


def settle(run: PretrainParams, shape: ModelParams, vocabulary: int) -> PretrainParams:
    """`run` with its null values set by the rules for a model of `shape`.

    Raises ParamsError where tokens are null and `model.base` brings the weights: that rule is for models from scratch.
    """
    lacking = [name for name in RULES if getattr(run, name) is None]
    if "tokens" in lacking and shape.base is not None:
        raise params.ParamsError(f"pretrain.tokens = null, and model.base = {shape.base}: the rule is for models from "
                                 "scratch; give a number")
    size = weights(shape, vocabulary)
    return run.model_copy(update={name: RULES[name](size) for name in lacking})


@dataclass(frozen=True)
class Meaning:
    """What a run of a size comes to on this chain's default corpus and one core of the machine it was measured on."""

    shape: ModelParams
    run: PretrainParams
    weights: int
    flops: int
    bits: float
    cpu_seconds: float


def meaning(shape: ModelParams, run: PretrainParams, vocabulary: int) -> Meaning:
    """The settled `run` of a model of `shape`, and what the law and the pace foretell of it."""
    run = settle(run, shape, vocabulary)
    each = flops(shape, vocabulary, run.sequence)
    tokens = run.steps() * run.batch * run.sequence
    return Meaning(shape, run, weights(shape, vocabulary), each * tokens, LAW.bits(weights(shape, vocabulary), tokens),
                   (SECONDS_PER_TOKEN + SECONDS_PER_FLOP * each) * tokens)


def table(rows: list[Meaning]) -> str:
    """A line a run."""
    lines = [f"{'size':>4}{'layers':>7}{'width':>6}{'heads':>6}{'kv':>3}{'inner':>6}{'weights':>9}{'tokens':>8}"
             f"{'batch':>6}{'steps':>7}{'matrices':>10}{'others':>8}{'TFLOP':>8}{'CPU min':>9}{'bpb':>7}"]
    for row in rows:
        one, run = row.shape, row.run
        lines.append(
            f"{one.size or '-':>4}{one.layers:7}{one.hidden:6}{one.heads:6}{one.kv_heads:3}{one.intermediate:6}"
            f"{row.weights / 1e6:8.2f}M{run.tokens / 1e6:7.1f}M{run.batch:6}{run.steps():7}{run.matrix_rate:10.4f}"
            f"{run.rate:8.4f}{row.flops / 1e12:8.1f}{row.cpu_seconds / 60:9.1f}"
            f"{'~' * (row.weights > WEIGHTS or run.tokens > TOKENS) + format(row.bits, '.3f'):>7}")
    return "\n".join(lines)


def main() -> int:
    """The command line. Exit codes: 0, and 2 for bad arguments or params."""
    parser = argparse.ArgumentParser(prog="./run size", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", help=f"layers (default: a table of {', '.join(map(str, SHOWN))})")
    parser.add_argument("--tokens", type=int, help="of the run (default: by the rule)")
    given = parser.parse_args()
    try:
        values = params.load()
        run = params.section(PretrainParams, "tracks.scratch.pretrain", values)
        vocabulary = values["tokenizer"]["vocab"]
        free = dict.fromkeys(RULES) | ({"tokens": given.tokens} if given.tokens is not None else {})
        run = params.section(PretrainParams, "pretrain", {"pretrain": run.model_dump() | free})
        sizes = [given.size if not given.size.lstrip("-").isdigit() else int(given.size)] if given.size else list(SHOWN)
        common = dict.fromkeys(dial.shape(1)) | {"base": None, "positions": values["model"]["positions"],
                                                 "rope_theta": values["model"]["rope_theta"]}
        rows = [meaning(params.section(ModelParams, "model", {"model": common | {"size": size}}), run, vocabulary)
                for size in sizes]
        own = params.section(ModelParams, "model", values)
        if given.size is None and own.base is None:
            rows.append(meaning(own, params.section(PretrainParams, "tracks.scratch.pretrain", values), vocabulary))
    except params.ParamsError as error:
        return stage.fail(2, str(error))
    print(table(rows))
    if given.size is None and own.base is None:
        print("The last line is params.yaml's own run.")
    print(f"bpb: held-out bits per byte on the default corpus, foretold to {ERROR:.1%} (the worst left out of the "
          f"fit); ~ beyond the {WEIGHTS / 1e6:.1f}M weights or {TOKENS / 1e6:.1f}M tokens of the fit: a guess.\n"
          f"The default corpus has {CORPUS / 1e6:.1f}M tokens; more than four passes of a corpus teach little "
          "(Muennighoff et al. 2023).\n"
          "CPU min: one core of the machine it was measured on.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
