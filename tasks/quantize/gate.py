"""What rounding to 4 bits costs, measured on held-out text, and the limits it must keep.

Perplexity says how much worse the text is predicted, agreement how often the int4 model's most likely token is the
full-precision model's, `top1_kept` how much of the full model's next-token accuracy is left, KL how far the
distributions are apart. Round-to-nearest stands beside AWQ, so that what the search gains shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from tasks import progress
from tasks.quantize.settings import GateParams
from tasks.stage import StageError

BATCH = 2  # windows at once: logits of 2 x 256 x 49,152 floats are 100 MB


def compare(full: LlamaForCausalLM, candidates: dict[str, LlamaForCausalLM],
            windows: torch.Tensor) -> dict[str, dict[str, float]]:
    """Scores of `full` and of each candidate against it over int64 windows [W, T]; KL in nats a token."""
    totals = {name: torch.zeros(4, dtype=torch.float64) for name in ("full", *candidates)}
    with torch.inference_mode():
        for batch in progress.track(windows.split(BATCH), what="quantization gate", unit="batch"):
            targets = batch[:, 1:, None]
            reference = next_token(full, batch)
            probable, best = reference.exp(), reference.argmax(-1, keepdim=True)
            for name, total in totals.items():
                scores = reference if name == "full" else next_token(candidates[name], batch)
                choice = scores.argmax(-1, keepdim=True)
                total += torch.stack([
                    -scores.gather(-1, targets).sum(dtype=torch.float64), (choice == targets).sum().double(),
                    (choice == best).sum().double(),
                    torch.linalg.vecdot(probable, reference - scores).sum(dtype=torch.float64)])
    positions = windows[:, 1:].numel()
    means = {name: (total / positions).tolist() for name, total in totals.items()}
    return {name: summary(mean, means["full"]) for name, mean in means.items()}


def next_token(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Float32 log-probabilities [B, T-1, V] of each following token."""
    return torch.log_softmax(model(batch, use_cache=False).logits[:, :-1].float(), dim=-1)


def summary(mean: list[float], full: list[float]) -> dict[str, float]:
    """Readable scores of (loss, accuracy, agreement, KL) means beside the full model's."""
    perplexity, reference = (float(torch.tensor(loss, dtype=torch.float64).exp()) for loss in (mean[0], full[0]))
    values = {"perplexity": perplexity, "perplexity_ratio": perplexity / reference, "top1": mean[1],
              "top1_kept": mean[1] / full[1] if full[1] else 0.0, "agreement": mean[2], "kl": mean[3]}
    return {name: round(value, 6) for name, value in values.items()}


def judge(name: str, scores: dict[str, float], gate: GateParams) -> None:
    """Raise StageError naming figure, limit and remedy where the model called `name` ("int4") keeps too little."""
    if not scores["perplexity_ratio"] <= gate.max_perplexity_ratio:  # so that NaN fails too
        raise StageError(f"{name} perplexity is {scores['perplexity_ratio']:.4f} times the full model's, above "
                         f"quantize.gate.max_perplexity_ratio = {gate.max_perplexity_ratio}: calibrate on more "
                         "windows, use a smaller group, or accept it by raising the limit")
    if not scores["agreement"] >= gate.min_agreement:
        raise StageError(f"the {name} model agrees with the full one on {scores['agreement']:.4f} of the tokens, below "
                         f"quantize.gate.min_agreement = {gate.min_agreement}: calibrate on more windows, use a "
                         "smaller group, or accept it by lowering the limit")


def report(scores: dict[str, dict[str, float]], windows: torch.Tensor, quantized: Path,
           gate: GateParams) -> dict[str, Any]:
    """What the metrics file says: `compare`'s scores over `windows`, the directory's bytes, the limits."""
    return {**scores, "bytes": sum(file.stat().st_size for file in sorted(quantized.iterdir())),
            "positions": windows[:, 1:].numel(),
            "limits": {"perplexity_ratio": gate.max_perplexity_ratio, "agreement": gate.min_agreement}}
