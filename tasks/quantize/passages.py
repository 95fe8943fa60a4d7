"""Windows of real text as token ids: for calibration from the corpus, for the gate from the held-out documents."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tasks import chat
from tasks.data import documents
from tasks.finetune import checkpoint
from tasks.quantize.settings import QuantizeParams
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


def prepared(directory: Path, corpus: Path, held_out: Path, quantize: QuantizeParams,
             seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, torch.Tensor, torch.Tensor]:
    """What a quantization begins with: model and tokenizer of `directory`, windows of the corpus to calibrate on and
    of held-out text for the gate. Raises StageError where they do not fit each other."""
    model = checkpoint.load_model(directory)
    tokenizer = checkpoint.load_tokenizer(directory, model.config.vocab_size)
    if quantize.length > model.config.max_position_embeddings:
        raise StageError(f"quantize.length = {quantize.length} is beyond the model's "
                         f"{model.config.max_position_embeddings} positions")
    calibration, text = (
        windows(shards, tokenizer, count, quantize.length, quantize.languages, seed) for shards, count in
        ((documents.shards(corpus), quantize.windows), ([held_out], quantize.gate.windows)))
    return model, tokenizer, calibration, text
