"""Windows of real text as token ids: for calibration from the corpus, for the gate from the held-out documents."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from tasks import chat
from tasks.data import documents
from tasks.stage import StageError

CHARACTERS_A_TOKEN = 6  # more than either language has, so that a passage rarely falls short of its window


def windows(shards: list[Path], tokenizer: PreTrainedTokenizerBase, count: int, length: int, languages: list[str],
            seed: int) -> torch.Tensor:
    """int64 [count, length]: passages drawn from documents of `languages`, two windows a document at the most,
    documents parted by `<|endoftext|>`.

    Raises StageError where the shards hold less text than that, naming how much there is.
    """
    texts = [document.text for shard in shards for document in documents.read(shard)
             if document.metadata.get("language") in languages]
    draw = random.Random(seed)
    draw.shuffle(texts)
    separator = tokenizer.convert_tokens_to_ids(chat.BOS)
    stream: list[int] = []
    for text in texts:
        room = 2 * length * CHARACTERS_A_TOKEN
        start = draw.randrange(max(1, len(text) - room))
        stream.append(separator)
        stream += tokenizer(text[start:start + room], add_special_tokens=False)["input_ids"][:2 * length]
        if len(stream) >= count * length:
            return torch.tensor(stream[:count * length]).view(count, length)
    raise StageError(f"{', '.join(map(str, shards[:2]))}...: {len(stream)} tokens of {'/'.join(languages)} text in "
                     f"{len(texts)} documents, {count * length} asked: ask for fewer windows or widen languages")
