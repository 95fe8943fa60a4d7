"""A length phase: train an earlier phase's base on, at another length, on a selection of the text.

    python -m tasks.pretrain.phase models/scratch/base data/phases/long/packed models/tokenizer models/long/base \\
        metrics/phases/long/pretrain.json metrics/phases/long/pretrain.csv --track long

Short texts first, then long ones under a higher rotary base, then the best of the text: each phase is a stage, and its
metrics hold what its base scored on the same held-out windows before (`base_held_out_bpb`), as it came.
"""

from __future__ import annotations

import json

from tasks import params, stage
from tasks.model import Extension, ModelParams
from tasks.pretrain import trainer
from tasks.pretrain.settings import PretrainParams
from tasks.stage import Input, Output
from tasks.tokenizer import shards


def phase(base: Input, packed: Input, tokenizer: Input, directory: Output, metrics: Output, curve: Output, *,
          extend: Extension, pretrain: PretrainParams, model: ModelParams, seed: int, runtime: params.Runtime) -> None:
    """Write what `trainer.pretrain` writes, trained from `base` with its context extended. Raises StageError as that
    does, and where `extend` has fewer positions than the base."""
    shape = model.model_copy(update={"base": str(base), "extend": extend})
    trainer.pretrain(packed, tokenizer, directory, metrics, curve, pretrain=pretrain, model=shape, seed=seed,
                     runtime=runtime)
    told = json.loads(metrics.read_text(encoding="utf-8"))
    from tasks.pretrain import model as models, scoring  # once the environment is set, which torch reads as it loads

    held_out = shards.open_stream(packed, "held_out")
    windows = scoring.windows(held_out, pretrain.sequence)
    nats = scoring.nats(models.load(base).to(runtime.device), windows, max(1, 8192 // pretrain.sequence),
                        runtime.device, pretrain.precision == "bf16")
    bits, _ = scoring.bits_per_byte(nats, held_out.index[:, 1].sum(keepdims=True))
    stage.write_json(metrics, told | {"base_held_out_bpb": round(bits, 5)})


if __name__ == "__main__":
    stage.run(phase)
