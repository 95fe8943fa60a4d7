"""Whether what another runtime makes of an exported model is what the dequantized torch model computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from tasks.stage import StageError, one_line


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


def compare(run: Callable[[np.ndarray], torch.Tensor], expected: list[torch.Tensor],
            texts: list[np.ndarray]) -> dict[str, float]:
    """Top-1 agreement, mean KL(expected || found) and the found loss, nats a token, over `texts`.

    `run` takes one text's tokens int64 [n] to its log-probabilities [n, vocabulary], as `expected` holds them.
    """
    positions = same = 0
    divergence = loss = 0.0
    for tokens, reference in zip(texts, expected, strict=True):
        found = run(tokens)
        positions += len(tokens)
        same += int((reference.argmax(-1) == found.argmax(-1)).sum())
        divergence += float((reference.exp() * (reference - found)).sum())
        loss -= float(found[:-1].gather(1, torch.from_numpy(tokens[1:, None])).sum())
    return {"top1": round(same / positions, 6), "kl": round(divergence / positions, 7),
            "loss": round(loss / (positions - len(texts)), 6)}
