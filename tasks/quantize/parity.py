"""Whether what another runtime makes of an exported model is what the dequantized torch model computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, logging

from tasks.stage import StageError, one_line

Reader = Callable[[np.ndarray], torch.Tensor]  # a text's tokens int64 [n] to log-probabilities [n, vocabulary]


class Limits(Protocol):
    """The least share of positions with the same most likely token, and the largest mean KL, nats a token."""

    min_top1: float
    max_kl: float


def held_out_tokens(path: Path, tokenizer: Tokenizer, documents: int, length: int) -> list[np.ndarray]:
    """The first tokens of held-out documents, int64 [<= length] each, at least two tokens long."""
    texts: list[np.ndarray] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise StageError(f"{path} holds a line that is no document: {one_line(error)}") from None
            tokens = tokenizer.encode(text, add_special_tokens=False).ids[:length]
            if len(tokens) > 1:
                texts.append(np.array(tokens, np.int64))
            if len(texts) == documents:
                break
    if not texts:
        raise StageError(f"{path} holds no document of two tokens: the gate has nothing to read")
    return texts


@torch.inference_mode()
def log_probabilities(model: torch.nn.Module, tokens: np.ndarray) -> torch.Tensor:
    """Float32 [n, vocabulary] after each of int64 tokens [n], by a transformers model."""
    return model(torch.from_numpy(tokens)[None], use_cache=False).logits[0].float().log_softmax(-1)


def compare(run: Reader, expected: list[torch.Tensor], texts: list[np.ndarray]) -> dict[str, float]:
    """Top-1 agreement, mean KL(expected || found) and the found loss, nats a token, over `texts`."""
    positions = same = 0
    divergence, losses = 0.0, 0.0
    for tokens, reference in zip(texts, expected, strict=True):
        found = run(tokens)
        positions += len(tokens)
        same += int((reference.argmax(-1) == found.argmax(-1)).sum())
        divergence += float((reference.exp() * (reference - found)).sum())
        losses += surprise(found, tokens)
    return {"top1": round(same / positions, 6), "kl": round(divergence / positions, 7),
            "loss": round(losses / (positions - len(texts)), 6)}


def surprise(scores: torch.Tensor, tokens: np.ndarray) -> float:
    """Nats by which log-probabilities [n, vocabulary] missed the tokens int64 [n] that followed, summed."""
    return -float(scores[:-1].gather(1, torch.from_numpy(tokens[1:, None])).sum())


def loss(expected: list[torch.Tensor], texts: list[np.ndarray]) -> float:
    """Mean loss of log-probabilities, nats a predicted token."""
    total = sum(surprise(scores, tokens) for scores, tokens in zip(expected, texts, strict=True))
    return round(total / sum(len(tokens) - 1 for tokens in texts), 6)


def judge(what: str, scores: dict[str, float], limits: Limits, section: str) -> None:
    """Raise StageError with figure and limit where `what` computes something else than torch; `section` sets them."""
    if not (scores["top1"] >= limits.min_top1 and scores["kl"] <= limits.max_kl):  # so that NaN fails too
        raise StageError(
            f"{what} and torch differ: top-1 {scores['top1']:.4f} (at least {limits.min_top1}), KL {scores['kl']:.5f} "
            f"(at most {limits.max_kl}): it computes something else, or {section}.min_top1 / {section}.max_kl is too "
            f"tight for this model")


def compressed_reader(directory: Path) -> Reader:
    """Log-probabilities by transformers and compressed-tensors, weights dequantized while they load.

    Left packed they do not load: compressed-tensors 0.20 makes room for zero points that are not packed, its own too.
    """
    return transformers_reader(directory, quantization_config=CompressedTensorsConfig(dequantize=True))


def transformers_reader(directory: Path, **how: Any) -> Reader:
    """Log-probabilities by transformers' own loader of `directory`. Raises StageError where it does not load."""
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True, **how)
    except Exception as error:
        raise StageError(f"transformers does not load the export {directory.name}: {one_line(error)[:300]}"
                         ) from None
    return lambda tokens: log_probabilities(model.eval(), tokens)
