"""Train the tokenizer: byte-level BPE on the training corpus, with the chat's special tokens and template inside.

    python -m tasks.tokenizer.train data/corpus models/tokenizer metrics/tokenizer.json

Every byte is in the alphabet, so any text round-trips and nothing is unknown. Digits are tokens of their own, as
numbers spelled digit by digit are what small models can copy. Two ends, two meanings: `<|endoftext|>` (bos) opens
every document of the packed stream, `<|im_end|>` (eos) ends a turn of chat. With `model.base` set its tokenizer is
taken instead, and the chat's tokens and template are added to it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tasks import chat, params, stage
from tasks.data import documents
from tasks.model import ModelParams
from tasks.progress import track
from tasks.stage import Input, Output, StageError


class TokenizerParams(params.Section):
    """How the vocabulary is learnt."""

    vocab: int = Field(ge=300, le=262_144, description="tokens, specials and the 256 bytes included")
    min_frequency: int = Field(ge=1, description="a pair seen less often is not merged")
    sample_characters: int = Field(ge=1000, description="characters to learn from, whole documents chosen by hash")


def train(corpus: Input, directory: Output, metrics: Output, *, tokenizer: TokenizerParams,
          model: ModelParams) -> None:
    """Write the tokenizer as a `from_pretrained` directory, and its bytes per token on the sampled documents."""
    base = model.base_directory()
    texts = sample(corpus, tokenizer.sample_characters)
    made = adopt(base) if base else learn(texts, tokenizer, model.positions)
    made.save_pretrained(directory)
    tokens = sum(len(encoded) for encoded in
                 made.backend_tokenizer.encode_batch_fast(texts[:200], add_special_tokens=False))
    stage.write_json(metrics, {
        "vocabulary": len(made), "base": model.base, "documents": len(texts),
        "characters": sum(map(len, texts)),
        "bytes_per_token": round(sum(len(text.encode()) for text in texts[:200]) / tokens, 4),
        "specials": {role: {"token": token, "id": made.convert_tokens_to_ids(token)} for role, token in
                     (("document", made.bos_token), ("turn_start", chat.START), ("turn_end", made.eos_token),
                      ("pad", made.pad_token))},
    })


def sample(corpus: Path, characters: int) -> list[str]:
    """Texts of whole documents, in the order of a hash of their ids, until they hold `characters`."""
    texts = {document.id: document.text for shard in track(documents.shards(corpus), what="read", unit="shard")
             for document in documents.read(shard) if document.text}
    if not texts:
        raise StageError(f"{corpus} holds no text: nothing to learn a vocabulary from")
    chosen, held = [], 0
    for name in sorted(texts, key=lambda name: hashlib.sha256(name.encode()).digest()):
        chosen.append(texts[name])
        held += len(texts[name])
        if held >= characters:
            break
    return chosen


def learn(texts: list[str], settings: TokenizerParams, positions: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) of exactly `settings.vocab` tokens.

    Raises StageError when the texts have too few repeated pairs to fill the vocabulary.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab, min_frequency=settings.min_frequency, special_tokens=list(chat.SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    backend.train_from_iterator(track(texts, what="learn vocabulary", unit="doc"), trainer, length=len(texts))
    if backend.get_vocab_size() != settings.vocab:
        raise StageError(f"the corpus fills {backend.get_vocab_size()} of tokenizer.vocab = {settings.vocab} tokens: "
                         "lower it, lower tokenizer.min_frequency, or read more text")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=chat.BOS, eos_token=chat.END, pad_token=chat.PAD,
        additional_special_tokens=[chat.START], chat_template=chat.TEMPLATE, model_max_length=positions,
        clean_up_tokenization_spaces=False)


def adopt(base: Path) -> PreTrainedTokenizerBase:
    """The base's own tokenizer, with what the chain needs added: turn marks, separator, padding and the one template.

    Raises StageError where the directory has no fast tokenizer.
    """
    if not (base / "tokenizer.json").is_file():
        raise StageError(f"model.base = {base}: no tokenizer.json there; save the base's fast tokenizer beside it")
    try:
        made = AutoTokenizer.from_pretrained(base, local_files_only=True)
    except Exception as error:  # the Rust reader raises bare Exception for a malformed tokenizer.json
        raise StageError(f"model.base = {base}: its tokenizer cannot be read: {stage.one_line(error)}") from None
    made.add_special_tokens({"additional_special_tokens": [chat.START, chat.END]},
                            replace_extra_special_tokens=False)
    if made.bos_token is None:
        made.add_special_tokens({"bos_token": chat.BOS})
    if made.pad_token is None:
        made.add_special_tokens({"pad_token": chat.PAD})
    made.eos_token = chat.END
    made.chat_template = chat.TEMPLATE
    return made


if __name__ == "__main__":
    stage.run(train)
