"""The engine over both backends: against transformers, against itself alone, under shortage and cancellation."""

import threading
import time

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from tasks.quantize import formats
from tasks.serve.engine import backend as backends
from tasks.serve.engine.blocks import Blocks
from tasks.serve.engine.engine import Busy, Engine
from tasks.serve.engine.request import Request
from tasks.serve.engine.sampler import Sampling
from tasks.serve.engine.text import Vocabulary
from tasks.serve.metrics import Metrics

GREEDY = Sampling(temperature=0)


def start(directory, *, slots=4, queue=32, kind=None):
    files = backends.read_files(directory)
    kind = kind or ("ort" if directory.name == "onnx" else "torch")
    backend = backends.load(files, threads=1, slots=slots, backend=kind)
    return Engine(backend, Vocabulary(directory), files.stop_ids, slots=slots, queue=queue, metrics=Metrics())


@pytest.fixture(scope="module", params=["ort", "torch", "cpu"])
def engine(request, tiny):
    if request.param == "cpu":
        pytest.importorskip("tasks.serve.engine.backend_cpu", reason="no CPU kernels in this checkout")
    engine = start(tiny / ("onnx" if request.param == "ort" else "int4"), kind=request.param)
    yield engine
    engine.close()


class Heard:
    """Deltas of one sequence."""

    def __init__(self):
        self.deltas, self.done = [], threading.Event()

    def __call__(self, delta):
        self.deltas.append(delta)
        if delta.finish:
            self.done.set()

    @property
    def tokens(self):
        return [token for delta in self.deltas for token in delta.tokens]

    @property
    def text(self):
        return "".join(delta.text for delta in self.deltas)

    @property
    def finish(self):
        return self.deltas[-1].finish


def run(engine, requests):
    heard = [Heard() for _ in requests]
    engine.submit(requests, heard)
    for each in heard:
        assert each.done.wait(60)
    return heard


def prompts(count, longest, seed=0):
    chance = np.random.default_rng(seed)
    return [tuple(map(int, chance.integers(4, 270, chance.integers(1, longest)))) for _ in range(count)]


def test_the_same_greedy_tokens_alone_and_in_any_company(engine):
    requests = [Request(p, 24, GREEDY, ignore_eos=True) for p in prompts(9, 300)]
    alone = [run(engine, [request])[0].tokens for request in requests]
    assert len({tuple(tokens) for tokens in alone}) == len(alone)  # the model does depend on its prompt
    assert [h.tokens for h in run(engine, requests)] == alone
    assert [h.tokens for h in run(engine, requests[::-1])] == alone[::-1]
    assert [h.tokens for h in run(engine, requests[3:6])] == alone[3:6]


def test_ort_rows_keep_their_bits_in_any_company(tiny):
    """Below the tokens: the very logits of a decode, alone and beside others, wherever its slot lies."""
    backend = backends.load(backends.read_files(tiny / "onnx"), threads=1, slots=5)
    texts = [np.array(p, np.int64) for p in prompts(5, 40, seed=3)]
    table = np.arange(5, dtype=np.int32)[:, None]
    for i, text in enumerate(texts):
        backend.step(text, np.arange(len(text)), np.zeros(len(text), np.int64), table[i:i + 1],
                     np.array([len(text) - 1]))
    def decode(members):
        tokens = np.array([7 + i for i in members])
        at = np.array([len(texts[i]) for i in members])
        return backend.step(tokens, at, np.arange(len(members)), table[list(members)], np.arange(len(members)))
    alone = np.concatenate([decode([i]) for i in range(5)])
    for members in ([0, 1], [0, 2, 4], [1, 3], [0, 1, 2, 3, 4], [4, 1, 0]):
        assert (decode(members) == alone[members]).all(), members


def test_torch_backend_is_transformers(tiny):
    engine = start(tiny / "chat")
    model = LlamaForCausalLM.from_pretrained(tiny / "chat")
    wanted = prompts(6, 60, seed=1)
    heard = run(engine, [Request(p, 12, GREEDY, ignore_eos=True) for p in wanted])
    engine.close()
    for prompt, got in zip(wanted, heard):
        expected = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False,
                                  max_new_tokens=12, eos_token_id=None, pad_token_id=3)[0, len(prompt):].tolist()
        assert got.tokens == expected


def test_prompt_logprobs_are_the_models(engine, tiny):
    """Across prefill chunks; ONNX Runtime and the kernels within the cost of their int8 activations."""
    prompt = prompts(1, 400, seed=11)[0] * 3
    prompt = prompt[:400]
    heard = run(engine, [Request(prompt, 1, GREEDY, logprobs=2, prompt_logprobs=True)])[0]
    told = [entry for delta in heard.deltas for entry in delta.prompt_logprobs]
    assert [entry.token for entry in told] == list(prompt[1:])
    with torch.no_grad():
        rows = formats.load_dequantized(tiny / "int4")(torch.tensor([prompt])).logits[0].log_softmax(-1)
    expected = rows[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].numpy()
    found = np.array([entry.logprob for entry in told])
    exact = type(engine.backend).__name__ == "TorchBackend"
    assert np.abs(found - expected).mean() < (1e-4 if exact else 0.05 * expected.std())
    assert all(entry.top[0][1] >= entry.top[1][1] >= -40 and len(entry.top) == 2 for entry in told)


def test_preemption_computes_again_and_changes_nothing(tiny):
    engine = start(tiny / "int4")
    requests = [Request(p, 60, GREEDY, ignore_eos=True) for p in prompts(4, 30, seed=5)]
    expected = [run(engine, [request])[0].tokens for request in requests]
    engine.close()
    engine = start(tiny / "int4")
    engine.scheduler.blocks = Blocks(10, 16)  # 160 tokens for four sequences of up to 90
    heard = run(engine, requests)
    preempted = engine.metrics.preemptions._value.get()
    engine.close()
    assert preempted > 0
    assert [h.tokens for h in heard] == expected


def test_copies_of_a_prompt_share_its_blocks(tiny):
    engine = start(tiny / "int4", slots=4)
    prompt = prompts(1, 300, seed=9)[0] * 2
    requests = [Request(prompt, 8, Sampling(temperature=1.0, seed=seed), ignore_eos=True) for seed in range(4)]
    heard = [Heard() for _ in requests]
    sequences = engine.submit(requests, heard)
    for each in heard:
        assert each.done.wait(60)
    engine.close()
    shared = (len(prompt) - 1) // 16 * 16
    assert [each.cached_tokens for each in sequences] == [0, shared, shared, shared] and shared > 64
    assert engine.metrics.prefix_queries._value.get() == 4 * len(prompt)
    assert engine.metrics.prefix_hits._value.get() == 3 * shared
    assert engine.scheduler.blocks.usage == 0


def test_cancel_frees_the_slot_at_once(engine):
    first, second = Heard(), Heard()
    long = Request(prompts(1, 20)[0], 400, GREEDY, ignore_eos=True)
    sequences = engine.submit([long], [first])
    while not first.tokens:
        time.sleep(0.001)
    engine.cancel(sequences)
    assert first.done.wait(60) and first.finish == "abort" and len(first.tokens) < 400
    engine.submit([Request((5, 6), 2, GREEDY, ignore_eos=True)], [second])
    assert second.done.wait(60)
    assert engine.scheduler.blocks.usage == 0 and engine.open == 0


def test_a_full_queue_is_busy_and_takes_nothing(tiny):
    engine = start(tiny / "onnx", slots=1, queue=2)
    requests = [Request((5, 6, 7), 200, GREEDY, ignore_eos=True)] * 4
    with pytest.raises(Busy):
        engine.submit(requests, [Heard() for _ in requests])
    assert engine.open == 0
    heard = run(engine, requests[:3])
    assert [h.finish for h in heard] == ["length"] * 3
    engine.close()
    with pytest.raises(Busy):
        engine.submit(requests[:1], [Heard()])


def test_seeds_repeat_and_differ(engine):
    def drawn(seed):
        return run(engine, [Request((5, 6, 7), 12, Sampling(temperature=1.0, seed=seed), ignore_eos=True)])[0].tokens
    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(4)}) == 4


def test_stop_ids_end_and_ignore_eos_goes_on(engine):
    free = run(engine, [Request((9, 10, 11), 30, GREEDY, ignore_eos=True)])[0].tokens
    biased = Sampling(temperature=0, logit_bias={2: 100.0})
    heard = run(engine, [Request((9, 10, 11), 30, biased), Request((9, 10, 11), 5, biased, ignore_eos=True)])
    assert heard[0].tokens == [2] and heard[0].finish == "stop" and heard[0].text == ""
    assert heard[1].tokens == [2] * 5 and heard[1].finish == "length"
    assert len(free) == 30


def test_a_stop_string_across_tokens(engine):
    words = engine.vocabulary
    text = run(engine, [Request((9, 10, 11), 40, GREEDY, ignore_eos=True)])[0].text
    stop = text[7:10]
    heard = run(engine, [Request((9, 10, 11), 40, GREEDY, stop=(stop,), ignore_eos=True)])[0]
    assert heard.text == text[:text.index(stop)] and heard.finish == "stop"
    assert len(words.encode(stop, special=False)) >= 1


def test_max_tokens_and_the_context_are_lengths(engine):
    assert run(engine, [Request((9,), 3, GREEDY, ignore_eos=True)])[0].finish == "length"
    full = tuple([9] * (engine.backend.context - 4))
    heard = run(engine, [Request(full, 4, GREEDY, ignore_eos=True)])[0]
    assert len(heard.tokens) == 4 and heard.finish == "length"
    assert run(engine, [Request((9, 8), 0, GREEDY, logprobs=1, prompt_logprobs=True)])[0].tokens == []


def test_a_fault_in_a_step_is_told_and_the_engine_lives(tiny, capsys):
    engine = start(tiny / "int4")
    whole, prompt = engine.backend.step, tuple(range(5, 70))
    expected = run(engine, [Request(prompt, 2, GREEDY, ignore_eos=True)])[0].tokens
    engine.close()
    engine = start(tiny / "int4")
    whole, engine.backend.step = engine.backend.step, lambda *_: 1 / 0
    assert run(engine, [Request(prompt, 2, GREEDY)])[0].deltas[-1].error.startswith("ZeroDivisionError")
    assert engine.scheduler.blocks.usage == 0 and not engine.scheduler.blocks.published  # nothing to reuse of it
    engine.backend.step = whole
    assert run(engine, [Request(prompt, 2, GREEDY, ignore_eos=True)])[0].tokens == expected
    assert engine.scheduler.blocks.usage == 0 and engine.open == 0
    engine.close()


def test_a_fault_of_one_request_is_its_own(engine, capsys):
    """A listener that raises, a grammar that does not compile: the others in the batch do not notice."""
    request = Request((9, 10, 11), 12, GREEDY, ignore_eos=True)
    alone = run(engine, [request])[0].tokens
    good, bad = Heard(), Heard()

    def raising(delta):
        bad(delta)
        raise OSError("the client is gone")

    torn = Heard()
    engine.submit([request, request, Request((5,), 4, GREEDY, grammar="start: (")], [raising, good, torn])
    assert good.done.wait(30) and good.tokens == alone
    assert bad.done.wait(30) and len(bad.tokens) == 1 and "OSError: the client is gone" in bad.deltas[-1].error
    assert torn.done.wait(30) and torn.finish == "error"
    assert engine.alive() and engine.open == 0 and engine.scheduler.blocks.usage == 0


def test_close_aborts_what_runs_and_takes_nothing_new(tiny):
    engine = start(tiny / "int4", slots=1)
    heard = [Heard(), Heard()]
    engine.submit([Request((5, 6), 500, GREEDY, ignore_eos=True)] * 2, heard)
    engine.close()
    assert [each.finish for each in heard] == ["abort"] * 2 and engine.open == 0 and not engine.alive()
    with pytest.raises(Busy):
        engine.submit([Request((5,), 1)], [Heard()])


def test_an_engine_that_breaks_tells_everyone(tiny, capsys):
    engine = start(tiny / "int4", slots=1)
    engine.scheduler.plan = lambda: 1 / 0
    heard = run(engine, [Request((5, 6), 4, GREEDY)] * 2)
    assert all("the engine has stopped: ZeroDivisionError" in each.deltas[-1].error for each in heard)
    engine.thread.join(10)
    assert not engine.alive() and engine.open == 0


def test_what_never_fits_into_memory_is_refused_at_once(tiny):
    engine = start(tiny / "int4")
    engine.scheduler.blocks = Blocks(2, 16)
    assert "40 tokens need 3 blocks" in run(engine, [Request((5,) * 20, 20, GREEDY)])[0].deltas[-1].error
    assert run(engine, [Request((5,) * 20, 12, GREEDY, ignore_eos=True)])[0].finish == "length"
    engine.close()
