"""Rehearsal: passages of the pretraining corpus among the conversations, so that a base does not forget its text.

Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal": a few steps on what was learned before keep it.
"""

from __future__ import annotations

import random
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tasks.data import documents
from tasks.finetune.masking import Example

PASSAGE = "passage"


def passages(corpus: Path, n: int, tokens: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> list[Example]:
    """`n` passages of at most `tokens` tokens, every one learned; long documents give more of them than short ones."""
    texts = [document.text for shard in documents.shards(corpus) for document in documents.read(shard) if document.text]
    draw = random.Random(f"rehearsal {seed}")
    reach = 8 * tokens  # characters that hold the tokens of any text worth training on
    cut = []
    for text in draw.choices(texts, weights=map(len, texts), k=n) if texts else []:
        begin = draw.randrange(max(1, len(text) - reach))
        ids = tokenizer(text[begin:begin + reach], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = [tokenizer.bos_token_id, *ids[:tokens]]
        cut.append(Example(PASSAGE, ids, [0] + [1] * (len(ids) - 1)))
    return cut
