"""Held-out bits per byte: how many bits the model spends on each byte of text it never trained on.

Every token of a document but its separator is predicted once, from the tokens before it in the same document, at
most `sequence` of them and, past the first window, at least `sequence` / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tasks.tokenizer.shards import Stream

IGNORED = -100
LN2 = float(np.log(2))


@dataclass(frozen=True)
class Windows:
    """`inputs` and `targets` int64 [windows, sequence], targets IGNORED if not scored; `owner` [windows]: document."""

    inputs: np.ndarray
    targets: np.ndarray
    owner: np.ndarray

    def every(self, tokens: int) -> Windows:
        """Evenly spaced windows that score about `tokens` tokens; all of them where there are fewer."""
        step = max(1, int((self.targets != IGNORED).sum()) // tokens)
        return Windows(self.inputs[::step], self.targets[::step], self.owner[::step])


def windows(stream: Stream, sequence: int) -> Windows:
    """Overlapping windows that score each predictable token of `stream` exactly once."""
    stride = sequence // 2
    inputs, targets, owner = [], [], []
    for number, tokens in enumerate(stream.documents()):
        scored = 1
        for start in range(0, max(1, len(tokens) - 1 - stride), stride):
            piece = tokens[start:start + sequence + 1].astype(np.int64)
            row = np.full(sequence, IGNORED, dtype=np.int64)
            row[scored - start - 1:len(piece) - 1] = piece[scored - start:]
            scored = start + len(piece)
            inputs.append(np.pad(piece[:-1], (0, sequence - len(piece) + 1)))
            targets.append(row)
            owner.append(number)
    return Windows(np.array(inputs), np.array(targets), np.array(owner))


@torch.no_grad()
def nats(model: nn.Module, batch: Windows, size: int, device: str, bf16: bool) -> np.ndarray:
    """float64 [windows]: negative log-likelihood of each window's targets in nats, `size` windows at a time."""
    training, found = model.training, []
    model.eval()
    for first in range(0, len(batch.inputs), size):
        inputs = torch.from_numpy(batch.inputs[first:first + size]).to(device)
        targets = torch.from_numpy(batch.targets[first:first + size]).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            logits = model(input_ids=inputs, use_cache=False).logits
        losses = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none",
                                             ignore_index=IGNORED)
        found.append(losses.view(inputs.shape).double().sum(1).cpu().numpy())
    model.train(training)
    return np.concatenate(found)


def bits_per_byte(nats: np.ndarray, size: np.ndarray) -> tuple[float, float]:
    """(bits per byte over all documents, its standard error) from nats [documents] and UTF-8 bytes [documents].

    The error is that of a ratio of sums over documents, drawn independently (Cochran, Sampling Techniques, 6.3).
    """
    ratio = float(nats.sum() / LN2 / size.sum())
    if len(nats) < 2:
        return ratio, 0.0
    residual = nats / LN2 - ratio * size
    return ratio, float((residual.var(ddof=1) * len(nats)) ** 0.5 / size.sum())
