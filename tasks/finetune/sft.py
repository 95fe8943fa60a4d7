"""Supervised fine-tuning: a pretrained model learns to converse, to call tools and to copy their results.

`python -m tasks.finetune.sft models/T/base data/corpus models/T/sft metrics/sft/T.json metrics/sft/T.csv --track T`

Conversations are made from the corpus and the exercises (conversations.py) or read from files of one's own (given.py),
the assistant's tokens are learned (masking.py) by what `method` says (method.py), adapters as a rule, in a loop that
resumes (training.py), and adapters are merged into a plain `from_pretrained` directory whose logits are those of the
adapted model.
"""

from __future__ import annotations

import atexit
import collections
import csv
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import chat, params, stage
from tasks.finetune import environment
from tasks.finetune.settings import SftParams
from tasks.pretrain.checkpoint import fingerprint
from tasks.stage import Input, Output, StageError

if TYPE_CHECKING:
    from tasks.finetune.conversations import Conversation


def sft(base: Input, corpus: Input, model: Output, metrics: Output, curve: Output, *,
        sft: SftParams, seed: int, runtime: params.Runtime) -> None:
    """Fine-tune `base` into the model directory `model`; metrics and the loss curve (step, loss) beside it.

    Raises StageError: unusable base, no conversation that fits, loss not finite, merge parity above its limit.
    """
    started = time.monotonic()
    environment.prepare(runtime, environment.LONG_SPIN)
    from tasks.finetune import checkpoint, masking, method, rehearsal, training
    from tasks.pretrain.best import Best

    config = checkpoint.config(base)
    tokenizer = checkpoint.load_tokenizer(base, config.vocab_size)
    if sft.length > config.max_position_embeddings:
        raise StageError(f"sft.length = {sft.length} is beyond the model's {config.max_position_embeddings} "
                         "positions")
    made, data = mixed(corpus, sft, seed)
    encoded = [masking.encode(each, tokenizer) for each in made]
    examples, overlong = masking.fitting(encoded, sft.length)
    for kind, counts in data.items():
        counts["overlong"] = sum(example.kind == kind and len(example.ids) > sft.length for example in encoded)
    if len(examples) <= sft.checked:
        raise StageError(f"{len(examples)} of {len(made)} conversations have at most {sft.length} tokens, "
                         f"{sft.checked} of them are kept to check: ask for more or a longer sft.length")
    checked, learned = examples[:sft.checked], examples[sft.checked:]
    learned += rehearsal.passages(corpus, sft.rehearsal.passages, sft.rehearsal.tokens, tokenizer, seed)
    # a model pretrained on documents alone never saw the chat tokens, whose rows it cannot do without; and a word
    # behind a space and the same word in quotes are strangers to it, which copying into a call must first make kin
    rows = {"all": range(config.vocab_size), "none": [],
            "chat": tokenizer.convert_tokens_to_ids([chat.START, chat.END])}[sft.embeddings]
    adapted = method.prepared(base, sft.method, sft.lora, list(rows), False, seed)
    if sft.method == "full" and sft.embeddings != "all":
        if sft.embeddings == "chat":
            raise StageError("sft.embeddings = chat goes with adapters: sft.method = full trains all rows, or none")
        adapted.get_input_embeddings().requires_grad_(False)
    before = training.checked_loss(adapted, checked, tokenizer.pad_token_id)
    resume = resume_folder("sft", [base, corpus], sft, seed, runtime)
    best = Best(sft.training.patience or None)
    points = list(training.train(adapted, learned, sft.training, tokenizer.pad_token_id, seed, resume, checked, best))
    write_curve(curve, points)
    after = training.checked_loss(adapted, checked, tokenizer.pad_token_id)
    probe, _ = masking.batch(checked[:4], tokenizer.pad_token_id)
    merged, moved = method.merged(adapted, base, sft.method, sft.lora, probe)
    if sft.method == "qlora":  # what is written stands on other weights than those it was trained on
        moved["loss_merged"] = training.checked_loss(merged, checked, tokenizer.pad_token_id)
    checkpoint.save(merged, tokenizer, model)
    stage.write_json(metrics, {
        "conversations": dict(sorted(collections.Counter(each.kind for each in made).items())),
        "passages": sft.rehearsal.passages, "overlong": overlong, "steps": len(points),
        "tokens": sum(len(each.ids) for each in learned),
        "learned_tokens": sum(sum(each.learned) for each in learned),
        "method": sft.method, "data": data, "loss_before": before, "loss_after": after, **moved,
        **training.ending(best, len(points)),
        "merge_error_limit": sft.lora.max_merge_error,
    })
    atexit.register(stage.remove, resume)  # once the stage has published what it made
    stage.write_timing(f"sft-{curve_name(base)}", {"seconds": round(time.monotonic() - started, 1)})


def mixed(corpus: Path, sft: SftParams, seed: int) -> tuple[list[Conversation], dict[str, dict[str, Any]]]:
    """(the conversations made here and those of `sft.data` among them, drills behind all; counts of each file)."""
    from tasks.finetune import given
    from tasks.finetune.conversations import DRILL, conversations

    made = conversations(corpus, sft.conversations, seed)
    own, counts = given.read_all(sft.data, seed)
    if not own:
        return made, counts
    others = [each for each in made if each.kind != DRILL] + own
    random.Random(f"data {seed}").shuffle(others)
    return others + [each for each in made if each.kind == DRILL], counts


def resume_folder(name: str, inputs: list[Path], section: params.Section, seed: int, runtime: params.Runtime) -> Path:
    """Where a run of stage `name` keeps what it needs to resume: keyed by everything that changes its result."""
    files = sorted(file for path in inputs for file in ([path] if path.is_file() else path.rglob("*"))
                   if file.is_file())
    values = {"params": section.model_dump(), "seed": seed, "threads": runtime.threads}
    return Path(".resume") / name / fingerprint(values, files)


def curve_name(base: Path) -> str:
    """The track a model directory models/TRACK/... belongs to, for the name of its timing."""
    return base.parent.name or base.name


def write_curve(path: Path, points: list[tuple[int, int, float]]) -> None:
    """The loss curve as csv: step, loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("step", "loss"))
        writer.writerows((step, f"{loss:.6f}") for step, _, loss in points)


if __name__ == "__main__":
    stage.run(sft)
