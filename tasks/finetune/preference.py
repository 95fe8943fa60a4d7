"""Preference: direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290) on right and faulty calls.

    python -m tasks.finetune.preference models/T/sft models/T/chat metrics/preference/T.json
        metrics/preference/T.csv --track T

The loss and the loop are trl's DPOTrainer with a peft adapter, so the reference is the model without it. Accuracy and
margin are measured by our own summed log-probabilities on held-out arguments, before and after. It is short enough
that a killed run starts again and ends in the same bytes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import params, stage
from tasks.finetune import environment
from tasks.finetune.settings import PreferenceParams
from tasks.stage import Input, Output, StageError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

    from tasks.finetune.pairs import Pair

SHOWN = 32  # pairs scored at once


def preference(tuned: Input, model: Output, metrics: Output, curve: Output, *,
               preference: PreferenceParams, seed: int, runtime: params.Runtime) -> None:
    """Tune `tuned` by preference into the model directory `model`; metrics and the curve (step, loss, margin).

    Raises StageError: unusable input, no pair that fits, loss not finite, a gate missed.
    """
    started = time.monotonic()
    environment.prepare(runtime, environment.LONG_SPIN)
    from tasks.finetune import checkpoint, lora
    from tasks.finetune.pairs import pairs

    llama = checkpoint.load_model(tuned)
    tokenizer = checkpoint.load_tokenizer(tuned, llama.config.vocab_size)
    # seed + 1: other exercises than fine-tuning drew
    learned, overlong = fitting(pairs(preference.pairs, "train", seed + 1, preference.systems, tokenizer),
                                tokenizer, preference.length)
    checked, _ = fitting(pairs(preference.checked, "held_out", seed + 1, preference.systems, tokenizer),
                         tokenizer, preference.length)
    if not learned or not checked:
        raise StageError(f"no pair has at most preference.length = {preference.length} tokens: allow longer ones")
    before = ranked(llama, tokenizer, checked)
    adapted, rows = optimize(llama, tokenizer, learned, preference, seed)
    write_curve(curve, rows)
    probe = tokenizer([pair.prompt for pair in checked[:1]], return_tensors="pt", add_special_tokens=False)
    merged, error = lora.merge(adapted, probe["input_ids"], preference.lora.max_merge_error)
    after = ranked(merged, tokenizer, checked)
    checkpoint.save(merged, tokenizer, model)
    stage.write_json(metrics, {"pairs": len(learned), "held_out_pairs": len(checked), "overlong": overlong,
                               "steps": len(rows), "before": before, "after": after, "merge_error": error,
                               "limits": {"accuracy": preference.min_accuracy,
                                          "merge_error": preference.lora.max_merge_error}})
    stage.write_timing(f"preference-{tuned.parent.name}", {"seconds": round(time.monotonic() - started, 1)})
    if after["accuracy"] < preference.min_accuracy:
        raise StageError(f"{after['accuracy']:.3f} of the held-out pairs are ranked right, below "
                         f"preference.min_accuracy = {preference.min_accuracy}: train on more pairs, or lower the gate")


def fitting(made: list[Pair], tokenizer: PreTrainedTokenizerBase, length: int) -> tuple[list[Pair], int]:
    """(pairs of which both sides have at most `length` tokens, how many have more): left out whole, none is cut."""
    kept = [pair for pair in made if max(len(tokenizer(pair.prompt + end, add_special_tokens=False)["input_ids"])
                                         for end in (pair.chosen, pair.rejected)) <= length]
    return kept, len(made) - len(kept)


def optimize(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, learned: list[Pair],
             preference: PreferenceParams, seed: int) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    """(the adapted model, one row a step) of trl's DPO on `learned`. Raises StageError where the loss is not finite."""
    import tempfile

    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    from tasks.finetune import lora

    disable_progress_bars()
    rows = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in learned]
    with tempfile.TemporaryDirectory() as scratch:
        settings = DPOConfig(
            output_dir=scratch, per_device_train_batch_size=preference.batch, num_train_epochs=preference.epochs,
            learning_rate=preference.learning_rate, beta=preference.beta, max_length=preference.length,
            loss_type=["sigmoid", "sft"], loss_weights=[1.0, preference.anchor], lr_scheduler_type="linear",
            warmup_steps=0.1, logging_steps=1, save_strategy="no", report_to="none", seed=seed, data_seed=seed,
            use_cpu=True, bf16=False, activation_checkpointing=False, disable_tqdm=not sys.stderr.isatty(), dataloader_pin_memory=False,
        )
        trainer = DPOTrainer(model=llama, args=settings, train_dataset=Dataset.from_list(rows),
                             processing_class=tokenizer, peft_config=lora.configuration(llama, preference.lora))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    seen = [{"step": row["step"], "loss": row["loss"], "margin": row["rewards/margins"]}
            for row in trainer.state.log_history if "loss" in row]
    if not all(abs(row["loss"]) < float("inf") for row in seen):
        raise StageError(f"the DPO loss left the finite numbers: lower preference.learning_rate "
                         f"({preference.learning_rate})")
    return trainer.accelerator.unwrap_model(trainer.model), seen


def ranked(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, checked: list[Pair]) -> dict[str, object]:
    """Share of pairs whose chosen ending is more probable than the rejected, by fault and in all, and the mean margin
    of their log-probabilities (nats)."""
    margins: dict[str, list[float]] = {}
    for start in range(0, len(checked), SHOWN):
        part = checked[start:start + SHOWN]
        chosen = ending_scores(model, tokenizer, [(pair.prompt, pair.chosen) for pair in part])
        rejected = ending_scores(model, tokenizer, [(pair.prompt, pair.rejected) for pair in part])
        for pair, margin in zip(part, (chosen - rejected).tolist(), strict=True):
            margins.setdefault(pair.fault, []).append(margin)
    every = [margin for fault in margins.values() for margin in fault]
    return {"accuracy": share_right(every), "margin": round(sum(every) / len(every), 4),
            "by_fault": {fault: share_right(found) for fault, found in sorted(margins.items())}}


def share_right(margins: list[float]) -> float:
    """Share of margins above zero."""
    return round(sum(margin > 0 for margin in margins) / len(margins), 6)


def ending_scores(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase,
                  texts: list[tuple[str, str]]) -> torch.Tensor:
    """Summed log-probability (nats) of each ending after its prompt, float32 [len(texts)]."""
    import torch

    prompts = [len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt, _ in texts]
    whole = [tokenizer(prompt + ending, add_special_tokens=False)["input_ids"] for prompt, ending in texts]
    ids = torch.full((len(whole), max(map(len, whole))), tokenizer.pad_token_id)
    scored = torch.zeros_like(ids, dtype=torch.bool)
    for row, (tokens, first) in enumerate(zip(whole, prompts, strict=True)):
        ids[row, :len(tokens)] = torch.tensor(tokens)
        scored[row, first:len(tokens)] = True
    with torch.inference_mode():
        hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
        at = scored[:, 1:]
        scores = torch.log_softmax(model.lm_head(hidden[at]).float(), -1)
        picked = scores.gather(-1, ids[:, 1:][at][:, None])[:, 0]
    return torch.zeros(len(texts)).index_add_(0, at.nonzero()[:, 0], picked)


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """The curve as csv: step, loss, margin (mean reward margin of the batch, as trl defines it)."""
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("step", "loss", "margin"))
        writer.writerows((row["step"], f"{row['loss']:.6f}", f"{row['margin']:.6f}") for row in rows)


if __name__ == "__main__":
    stage.run(preference)
