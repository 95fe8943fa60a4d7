"""An engine started with options."""

import pytest

from tasks.serve.engine import backend as backends
from tasks.serve.engine.directory import ModelError
from tasks.serve.engine.speculative import DraftModel, PromptLookup
from tasks.serve.engine.start import Options, start
from tasks.serve.engine.text import Vocabulary
from tasks.serve.metrics import Metrics


def started(directory, **options):
    return start(backends.read_files(directory), Vocabulary(directory), Metrics(), Options(**options), threads=1,
                 slots=2, queue=2)


def test_options_reach_backend_and_speculator(tiny, monkeypatch):
    engine = started(tiny / "int4", backend="torch", kv="int8", speculate="ngram")
    assert engine.backend.kv == "int8" and isinstance(engine.speculator, PromptLookup)
    engine.close()
    monkeypatch.setenv("CATENA_BACKEND", "torch")
    engine = started(tiny / "int4", speculate=str(tiny / "chat"))
    assert isinstance(engine.speculator, DraftModel) and engine.speculator.backend is not engine.backend
    engine.close()
    engine = started(tiny / "onnx", backend="ort")
    assert engine.speculator is None and not engine.scheduler.paged
    engine.close()


def test_what_cannot_start_is_refused(tiny, tmp_path):
    with pytest.raises(ModelError, match="speculative decoding needs a paged backend"):
        started(tiny / "onnx", speculate="ngram")
    with pytest.raises(ModelError, match="is no model directory"):
        started(tiny / "int4", backend="torch", speculate=str(tmp_path))
