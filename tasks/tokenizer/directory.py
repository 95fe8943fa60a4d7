"""A tokenizer directory as the later links read it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tasks import stage
from tasks.stage import StageError
from tasks.tokenizer import shards


def load(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `path`. Raises StageError where there is none that has a document separator (bos)."""
    try:
        made = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # the Rust reader raises bare Exception for a malformed tokenizer.json
        raise StageError(f"{path} is not a tokenizer directory: {stage.one_line(error)}") from None
    if made.bos_token_id is None:
        raise StageError(f"{path}: the tokenizer has no bos token to open documents with")
    return made


def fingerprint(path: Path) -> str:
    """sha256 of tokenizer.json: ties a packed stream to the tokenizer that made it."""
    return shards.digest(path / "tokenizer.json")
