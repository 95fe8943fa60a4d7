"""One engine, driven at its lowest public level: the child process of benchmarks/engine.py and benchmarks/serve.py.

    PYTHON benchmarks/engines.py KIND PATH --threads 2 --place 0 1 1024 --place 128 32 256

KIND is a key of ENGINES. It loads, prints {"load_seconds", "rss_bytes"}, then answers each JSON line of standard input,
a task, with a line {"seconds", "cpu_seconds", "all_cpu_seconds", "tokens", "rss_bytes"}: of the measured part, and
the third with what prepares it.

    {"task": "decode", "batch": 8, "context": 128, "tokens": 16}   greedy decode steps behind `context` tokens
    {"task": "prefill", "tokens": 512, "turn": 3}                  a prompt not seen before, to its first token
    {"task": "serve", "batch": 8, "inputs": 128, "outputs": 64, "turn": 3}   what a server does for such requests

It imports nothing of this repository but our own engine's backend, so that it runs in a peer's environment too. Every
engine gets the same seeded token ids, picks the likeliest token of each row and feeds it back. Peers are used as they
are fastest: llama.cpp through llama_decode with a batch of sequences (not its high-level sampler), OpenVINO GenAI
through its continuous batching with prompts held in its prefix cache, so that filling a context is not measured.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

TOKENS = range(300, 4000)


def prompt(length: int, seed: int) -> list[int]:
    """`length` seeded token ids, the same for every engine."""
    return random.Random(seed).choices(TOKENS, k=length)


class Stopwatch:
    """Wall and CPU seconds between two `with` borders."""

    def __enter__(self) -> Stopwatch:
        self.begun = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_) -> None:
        self.seconds = time.perf_counter() - self.begun[0]
        self.cpu_seconds = time.process_time() - self.begun[1]


class Stepped:
    """Tasks over an engine that computes one step at a time: `step(place, [(sequence, tokens, position)])`.

    A place is a set of sequences whose prompts have one length, named by it; step returns the likeliest next token of
    each entry.
    """

    def __init__(self) -> None:
        self.filled: dict[int, dict[int, int]] = {}  # place -> sequence -> its next token

    def fill(self, batch: int, context: int) -> dict[int, int]:
        """Prompts of `context` tokens in the first `batch` sequences of the place of that length, once."""
        held = self.filled.setdefault(context, {})
        for sequence in range(len(held), batch):
            held[sequence] = self.step(context, [(sequence, prompt(context, 1000 * context + sequence), 0)])[0]
        return held

    def decode(self, batch: int, context: int, tokens: int) -> Stopwatch:
        """`tokens` steps of `batch` sequences; the next call starts at `context` again and overwrites them."""
        held = self.fill(batch, context)
        following = [held[sequence] for sequence in range(batch)]
        self.rewind(context, batch)
        with Stopwatch() as watch:
            for position in range(context, context + tokens):
                following = self.step(context, [(sequence, [token], position)
                                                for sequence, token in enumerate(following)])
        return watch

    def prefill(self, tokens: int, turn: int) -> Stopwatch:
        """One prompt of `tokens` tokens in one step."""
        text = prompt(tokens, -turn)
        self.rewind(0, 1)
        with Stopwatch() as watch:
            self.step(0, [(0, text, 0)])
        return watch

    def serve(self, batch: int, inputs: int, outputs: int, turn: int) -> Stopwatch:
        """`batch` new prompts of `inputs` tokens read and `outputs` tokens of each decoded."""
        texts = [prompt(inputs, turn * batch + sequence) for sequence in range(batch)]
        self.filled.pop(inputs, None)
        self.rewind(inputs, batch, 0)
        with Stopwatch() as watch:
            following = [self.step(inputs, [(sequence, text, 0)])[0] for sequence, text in enumerate(texts)]
            for position in range(inputs, inputs + outputs - 1):
                following = self.step(inputs, [(sequence, [token], position)
                                               for sequence, token in enumerate(following)])
        return watch

    def rewind(self, place: int, batch: int, position: int | None = None) -> None:
        """Forget what the first `batch` sequences of `place` hold from `position` (default: its context) on."""


class Catena(Stepped):
    """Ours, by `Backend.step`. `backend` names one, or None for what `load` picks."""

    def __init__(self, path: str, given: argparse.Namespace, backend: str | None) -> None:
        super().__init__()
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from tasks.serve.engine import backend as backends

        forced = {} if backend is None else {"backend": backend}
        files = backends.read_files(Path(path))
        slots = (sum(sequences for _, sequences, _ in given.place) if (Path(path) / "model.onnx").is_file()
                 else 1 + sum(sequences * (room + 15) for _, sequences, room in given.place) // files.context)
        self.backend = backends.load(files, threads=given.threads, slots=slots, **forced)
        self.tables: dict[int, np.ndarray] = {}  # place -> int32 [sequences, blocks of a sequence]
        taken = 0
        for place, sequences, room in given.place:
            each = -(-room // self.backend.block_size)
            self.tables[place] = np.arange(taken, taken + sequences * each, dtype=np.int32).reshape(sequences, each)
            taken += sequences * each
        if taken > self.backend.blocks:
            raise ValueError(f"{taken} blocks are needed, {self.backend.blocks} were made")

    def step(self, place: int, entries: list[tuple[int, list[int], int]]) -> list[int]:
        tokens = np.array([token for _, text, _ in entries for token in text], np.int64)
        positions = np.concatenate([np.arange(start, start + len(text)) for _, text, start in entries])
        rows = np.repeat(np.arange(len(entries)), [len(text) for _, text, _ in entries])
        table = self.tables[place][[sequence for sequence, _, _ in entries]]
        last = np.cumsum([len(text) for _, text, _ in entries]) - 1
        return self.backend.step(tokens, positions, rows, table, last).argmax(1).tolist()


class LlamaCpp(Stepped):
    """llama.cpp by llama_decode: one context a place, with as many sequences as asked for."""

    def __init__(self, path: str, given: argparse.Namespace) -> None:
        super().__init__()
        import llama_cpp

        self.api, self.given = llama_cpp, given
        llama_cpp.llama_backend_init()
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, None)
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise ValueError(f"{path} is no model that llama.cpp loads")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.contexts: dict[int, object] = {}
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)

    def context(self, place: int):
        """The llama_context of `place`."""
        if place not in self.contexts:
            settings = self.api.llama_context_default_params()
            settings.n_seq_max, room = next(tuple(more) for name, *more in self.given.place if name == place)
            settings.n_ctx = settings.n_seq_max * room
            settings.n_batch = 2048
            settings.n_threads = settings.n_threads_batch = self.given.threads
            self.contexts[place] = self.api.llama_init_from_model(self.model, settings)
            if not self.contexts[place]:
                raise ValueError(f"llama.cpp makes no context of {settings.n_ctx} tokens")
        return self.contexts[place]

    def step(self, place: int, entries: list[tuple[int, list[int], int]]) -> list[int]:
        context, batch, rows, count = self.context(place), self.batch, [], 0
        for sequence, text, start in entries:
            for offset, token in enumerate(text):
                batch.token[count], batch.pos[count] = token, start + offset
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, sequence
                batch.logits[count] = offset == len(text) - 1
                count += 1
            rows.append(count - 1)
        batch.n_tokens = count
        if self.api.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        return [int(np.ctypeslib.as_array(self.api.llama_get_logits_ith(context, row), (self.vocabulary,)).argmax())
                for row in rows]

    def rewind(self, place: int, batch: int, position: int | None = None) -> None:
        memory = self.api.llama_get_memory(self.context(place))
        for sequence in range(batch):
            self.api.llama_memory_seq_rm(memory, sequence, place if position is None else position, -1)


class OpenVino:
    """OpenVINO GenAI's ContinuousBatchingPipeline, stepped by hand; it samples (greedily) itself."""

    def __init__(self, path: str, given: argparse.Namespace) -> None:
        import openvino
        import openvino_genai

        self.tensor, self.api = openvino.Tensor, openvino_genai
        settings = openvino_genai.SchedulerConfig()
        settings.cache_size = 2
        settings.max_num_batched_tokens = 2048
        settings.max_num_seqs = 256
        settings.enable_prefix_caching = True
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            path, settings, "CPU", {"INFERENCE_NUM_THREADS": given.threads})
        self.numbers = 0

    def ask(self, text: list[int], tokens: int):
        """The handle of a request for exactly `tokens` tokens after `text`; a handle let go drops its request."""
        wanted = self.api.GenerationConfig()
        wanted.max_new_tokens, wanted.ignore_eos, wanted.do_sample = tokens, True, False
        self.numbers += 1
        return self.pipeline.add_request(self.numbers, self.tensor(np.array([text], np.int64)), wanted)

    def drain(self) -> None:
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()

    def decode(self, batch: int, context: int, tokens: int) -> Stopwatch:
        """As Stepped.decode. The step that begins every sequence (from the prefix cache) is not measured."""
        texts = [prompt(context, 1000 * context + sequence) for sequence in range(batch)]
        held = [self.ask(text, 1) for text in texts]  # what the cache has lost, or never had
        self.drain()
        del held
        asked = [self.ask(text, tokens + 1) for text in texts]
        self.pipeline.step()
        if not all(one.can_read() for one in asked):
            raise RuntimeError(f"{batch} cached prompts of {context} tokens took more than one step")
        with Stopwatch() as watch:
            self.drain()
        check(asked, tokens + 1)
        return watch

    def prefill(self, tokens: int, turn: int) -> Stopwatch:
        held = self.ask(prompt(tokens, -turn), 1)
        with Stopwatch() as watch:
            self.drain()
        check([held], 1)
        return watch

    def serve(self, batch: int, inputs: int, outputs: int, turn: int) -> Stopwatch:
        held = [self.ask(prompt(inputs, turn * batch + sequence), outputs) for sequence in range(batch)]
        with Stopwatch() as watch:
            self.drain()
        check(held, outputs)
        return watch


def check(handles: list, tokens: int) -> None:
    """Raise RuntimeError where an OpenVINO request has not brought its `tokens` tokens."""
    for handle in handles:
        brought = sum(len(out.generated_ids) for out in handle.read_all())
        if brought != tokens:
            raise RuntimeError(f"a request brought {brought} of {tokens} tokens")


ENGINES = {
    "catena": lambda path, given: Catena(path, given, None),
    "catena-cpu": lambda path, given: Catena(path, given, "cpu"),
    "catena-ort": lambda path, given: Catena(path, given, "ort"),
    "catena-torch": lambda path, given: Catena(path, given, "torch"),
    "llama.cpp": LlamaCpp,
    "openvino": OpenVino,
}


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Load, then a line out for each line in, until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(ENGINES))
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--place", type=int, nargs=3, action="append", required=True,
                        metavar=("CONTEXT", "SEQUENCES", "ROOM"),
                        help="sequences with prompts of CONTEXT tokens, each with memory for ROOM; 0 is for prefill")
    given = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    said, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr  # libraries print; the answers' pipe is ours alone
    os.dup2(2, 1)
    begun = time.perf_counter()
    engine = ENGINES[given.kind](given.path, given)
    print(json.dumps({"load_seconds": time.perf_counter() - begun, "rss_bytes": resident()}), file=said, flush=True)
    for line in sys.stdin:
        task, before = json.loads(line), time.process_time()
        watch = getattr(engine, task.pop("task"))(**task)
        count = task.get("batch", 1) * task.get("outputs", task.get("tokens", 0))
        answer = {"seconds": watch.seconds, "cpu_seconds": watch.cpu_seconds, "tokens": count,
                  "all_cpu_seconds": time.process_time() - before, "rss_bytes": resident()}
        print(json.dumps(answer), file=said, flush=True)


if __name__ == "__main__":
    main()
