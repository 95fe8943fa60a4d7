"""Two processes that share one model answer as one does."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from tasks.serve.engine import backend as backends
from tasks.serve.engine.directory import ModelError
from tasks.serve.engine.engine import Busy, Engine
from tasks.serve.engine.parallel import TensorParallel
from tasks.serve.engine.request import Request
from tasks.serve.engine.sampler import Sampling
from tasks.serve.engine.text import Vocabulary
from tasks.serve.metrics import Metrics
from tests.serve import test_adapters
from tests.serve.driven import Driven


def test_two_ranks_give_the_tokens_and_embeddings_of_one(tiny, tmp_path):
    files = backends.read_files(tiny / "chat")
    test_adapters.write(tiny / "chat", tmp_path / "adapter", 3, r=4, lora_alpha=8, target_modules=test_adapters.ALL)
    chance = np.random.default_rng(6)
    requests = [Request(tuple(map(int, chance.integers(4, 270, n))), 12, Sampling(temperature=0), ignore_eos=True,
                        adapter=name) for n, name in ((3, None), (40, "a"), (290, None), (40, None))]
    requests.append(Request(tuple(range(9, 60)), 0, embed=True))
    answers = []
    for ranks in (1, 2):
        backend = backends.load(files, threads=2, slots=4, tensor_parallel=ranks, backend="torch")
        engine = Driven(backend, Vocabulary(tiny / "chat"))
        engine.add_adapter("a", tmp_path / "adapter")
        answers.append(engine.run(requests))
        if ranks == 2:
            assert isinstance(backend, TensorParallel)
            assert backend.own.kv_heads == 1 and backend.own.linears[0]["down_proj"][0].shape == (128, 96)
            follower, = backend.followers
            assert follower.poll() is None
        backend.close()
    assert [tokens for _, tokens in answers[0]] == [tokens for _, tokens in answers[1]]
    np.testing.assert_allclose(answers[0][-1][0].embedding, answers[1][-1][0].embedding, atol=1e-5)
    assert follower.wait(10) == 0


def test_a_lost_rank_stops_the_engine_and_keeps_nobody_waiting(tiny, capsys):
    backend = backends.load(backends.read_files(tiny / "chat"), threads=2, slots=2, tensor_parallel=2)
    engine = Engine(backend, Vocabulary(tiny / "chat"), frozenset(), slots=2, queue=2, metrics=Metrics())
    heard, ended = [], threading.Event()

    def listen(delta):
        heard.append(delta)
        if len(heard) == 1:
            backend.followers[0].kill()
        if delta.finish:
            ended.set()

    engine.submit([Request((5, 6, 7), 400, Sampling(temperature=0), ignore_eos=True)], [listen])
    assert ended.wait(30) and heard[-1].finish == "error" and "a tensor-parallel rank is gone" in heard[-1].error
    engine.thread.join(10)
    assert not engine.alive()
    with pytest.raises(Busy):
        engine.submit([Request((5,), 1)], [listen])
    engine.close()


def test_more_ranks_than_heads_and_other_backends_are_refused(tiny):
    files = backends.read_files(tiny / "chat")
    with pytest.raises(ModelError, match="2 key-value heads: at most so many tensor-parallel ranks, not 3"):
        backends.load(files, threads=2, slots=1, tensor_parallel=3)
    with pytest.raises(ModelError, match="needs the torch backend, not ort"):
        backends.load(files, threads=2, slots=1, tensor_parallel=2, backend="ort")


def test_a_follower_ends_when_its_server_is_gone(tiny, tmp_path):
    follower = subprocess.Popen([sys.executable, "-m", "tasks.serve.engine.parallel", str(tiny / "chat"),
                                 str(tmp_path / "meet"), "1", "2", "1", "1", "fp16"], stdin=subprocess.PIPE)
    follower.stdin.close()
    assert follower.wait(60) == 1
