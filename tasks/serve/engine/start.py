"""An engine over a model directory, with the options that say how it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.serve.engine import backend as backends
from tasks.serve.engine.directory import ModelError, ModelFiles
from tasks.serve.engine.engine import Engine
from tasks.serve.engine.speculative import DraftModel, PromptLookup, Speculator
from tasks.serve.engine.text import Vocabulary
from tasks.serve.metrics import Metrics

NGRAM = "ngram"


@dataclass(frozen=True)
class Options:
    """kv, backend, tensor_parallel: see backend.load. speculate: "ngram", a draft model's directory, or None."""

    kv: str = "fp16"
    backend: str | None = None
    tensor_parallel: int = 1
    speculate: str | None = None


def start(files: ModelFiles, vocabulary: Vocabulary, metrics: Metrics, options: Options, *, threads: int,
          slots: int, queue: int) -> Engine:
    """A running engine. Raises ModelError where the model, or the draft model, cannot be served as asked."""
    backend = backends.load(files, threads=threads, slots=slots, kv=options.kv, backend=options.backend,
                            tensor_parallel=options.tensor_parallel)
    try:
        return Engine(backend, vocabulary, files.stop_ids, slots=slots, queue=queue, metrics=metrics,
                      speculator=speculator(backend, options, threads, slots))
    except ModelError:
        backend.close()
        raise


def speculator(backend: backends.Backend, options: Options, threads: int, slots: int) -> Speculator | None:
    """What guesses ahead for `backend`."""
    if options.speculate in (None, NGRAM):
        return PromptLookup(backend.context) if options.speculate else None
    draft = backends.load(backends.read_files(Path(options.speculate)), threads=threads, slots=slots)
    return DraftModel(draft, backend)
