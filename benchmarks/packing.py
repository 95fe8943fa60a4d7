"""What packing saves: CPU time of a fine-tuning step's forward and backward pass, a row a conversation against one row.

    python -m benchmarks.packing models/scratch/base data/corpus scratch [STEPS]

The same steps of the track's own conversations, interleaved, by process CPU time, so that other work on the machine
does not count. A table, and as the last line one JSON document.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(base: Path, corpus: Path, track: str, steps: int) -> None:
    """Measure `steps` steps spread over the track's run, each both ways."""
    from tasks import params
    from tasks.finetune import environment
    from tasks.finetune.settings import SftParams

    environment.prepare(params.runtime().model_copy(update={"threads": 1}), environment.SHORT_SPIN)
    import torch

    from tasks.finetune import checkpoint, masking, method, packing, training
    from tasks.finetune.conversations import conversations

    values = params.load()
    sft = params.section(SftParams, f"tracks.{track}.sft", values)
    tokenizer = checkpoint.load_tokenizer(base)
    made = conversations(corpus, sft.conversations, values["seed"])
    made = made[:400] + made[-400:]  # drills stand behind all else
    examples, _ = masking.fitting([masking.encode(each, tokenizer) for each in made], sft.length)
    every = training.batches(examples, sft.training, values["seed"])
    chosen = every[::max(1, len(every) // steps)][:steps]
    real = sum(len(example.ids) for step in every for example in step)
    room = sum(len(step) * max(len(example.ids) for example in step) for step in every)
    model = method.prepared(base, sft.method, sft.lora, [], False, 0)
    packing.use(method.plain(model))
    model.train()
    spent = {False: 0.0, True: 0.0}
    losses: dict[bool, list[float]] = {False: [], True: []}
    for number, step in enumerate([chosen[0], *chosen]):
        for packed in (False, True):
            begin = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=sft.training.precision == "bf16"):
                loss = training.loss_of(model, step, tokenizer.pad_token_id, packed)
            loss.backward()
            if number:  # the first warms up
                spent[packed] += time.process_time() - begin
                losses[packed].append(loss.item())
            model.zero_grad()
    tokens = sum(len(example.ids) for step in chosen for example in step)
    found = {"track": track, "steps": len(chosen), "tokens": tokens, "padding": round(1 - real / room, 4),
             "padded_us_per_token": round(spent[False] / tokens * 1e6, 1),
             "packed_us_per_token": round(spent[True] / tokens * 1e6, 1),
             "largest_loss_difference": max(abs(a - b) for a, b in zip(losses[False], losses[True], strict=True))}
    for name, value in found.items():
        print(f"{name:>26}  {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 12)
