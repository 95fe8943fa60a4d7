"""The gate that the exports and the server share: agreement, divergence and loss by hand, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tasks.quantize import parity
from tasks.stage import StageError

LIMITS = SimpleNamespace(min_top1=0.9, max_kl=0.01)
GOOD = {"top1": 0.95, "kl": 0.001}


def test_scores_by_hand():
    """Two positions of three tokens: same choice at one of them, KL of (1/2, 1/4, 1/4) from (1/4, 1/2, 1/4)."""
    one, other = (torch.tensor(row).log() for row in ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25]))
    tokens = np.array([0, 1])
    scores = parity.compare(lambda _: torch.stack([one, other]), [torch.stack([one, one])], [tokens])
    assert scores["top1"] == 0.5
    assert scores["kl"] == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2, abs=1e-6)
    assert scores["loss"] == parity.loss([torch.stack([one, other])], [tokens]) == pytest.approx(np.log(4), abs=1e-6)


@pytest.mark.parametrize("change, figure", [({"top1": 0.8}, r"top-1 0\.8000 \(at least 0\.9\)"),
                                            ({"kl": 0.5}, r"KL 0\.50000 \(at most 0\.01\)"),
                                            ({"kl": float("nan")}, "KL nan"), ({"top1": float("nan")}, "top-1 nan")])
def test_the_gate_names_who_what_and_the_keys(change, figure):
    parity.judge("the gguf export", GOOD, LIMITS, "export")
    with pytest.raises(StageError, match=f"the gguf export and torch differ: .*{figure}.*export.min_top1"):
        parity.judge("the gguf export", GOOD | change, LIMITS, "export")
