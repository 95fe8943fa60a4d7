"""Claim: our engine decodes and reads prompts faster than llama.cpp and OpenVINO GenAI on the same model and cores.

    python -m benchmarks.engine [ENGINE ...] [--rounds 7] [--threads 2] [--columns NAME ...]

ENGINE is KIND:PATH, for a peer KIND:PATH@PYTHON with its environment's interpreter; the first is compared with the
others. KIND: catena (what the server would pick), catena-cpu, catena-ort, catena-torch, llama.cpp (a .gguf file),
openvino (a directory). Default: catena:models/smollm2/int4 alone. For example

    python -m benchmarks.engine catena:models/smollm2/int4 llama.cpp:PEERS/q4_0.gguf@PEERS/llama/bin/python
        openvino:PEERS/openvino@PEERS/openvino-venv/bin/python

Each engine is loaded once in a process of its own and stopped (SIGSTOP) but for its turn, so that it takes no core.
Every round measures every column with every engine, one after the other, in an order that turns round by round;
ratios are of neighbouring measurements, shown as median (least - most). Engines that spin fall to a tenth of their
rate beside other work, so a turn during which other processes took more than QUIET of a core is taken again, at most
TRIES times; the table says what was left. On a machine that never is quiet, `--threads 1` and the ratios by CPU
seconds still tell: one thread waits for no other. The last line is one JSON document.

The peers' environments (4-bit weights of one model; PEERS is any directory; wheels from PyPI only). llama.cpp, built
for this machine from the tree inside llama-cpp-python's source archive, about ten minutes on two cores:

    python -m venv PEERS/llama; PEERS/llama/bin/pip install cmake ninja numpy
    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36; tar xzf llama_cpp_python-0.3.36.tar.gz
    cmake -G Ninja -S llama_cpp_python-0.3.36/vendor/llama.cpp -B PEERS/llama/build -DCMAKE_BUILD_TYPE=Release \\
      -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \\
      -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
    ninja -C PEERS/llama/build llama-bench llama-batched-bench llama-quantize llama-server
    CMAKE_ARGS=-DLLAMA_BUILD=OFF PEERS/llama/bin/pip install ./llama_cpp_python-0.3.36.tar.gz
    mkdir -p PEERS/llama/lib/python3.11/site-packages/llama_cpp/lib
    cp -P PEERS/llama/build/bin/*.so* PEERS/llama/lib/python3.11/site-packages/llama_cpp/lib/
    PEERS/llama/build/bin/llama-quantize --allow-requantize data/packages/smollm2/.../*.Q4_1.gguf PEERS/q4_0.gguf Q4_0

OpenVINO GenAI (optimum-intel converts; the language model's head becomes int8, as ours):

    python -m venv PEERS/openvino-venv
    PEERS/openvino-venv/bin/pip install openvino-genai==2026.4.* "optimum-intel[openvino]==2.2.*" "torch==2.13.*"
    PEERS/openvino-venv/bin/pip uninstall torchvision   # where it does not fit the CPU build of torch
    PEERS/openvino-venv/bin/optimum-cli export openvino --model models/smollm2/chat --task text-generation-with-past \\
      --weight-format int4 --group-size 64 --ratio 1.0 PEERS/openvino

OpenVINO Model Server is in neither PyPI, npm nor Debian, so GenAI stands for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engines import ENGINES

COLUMNS: dict[str, dict[str, Any]] = {
    "batch 1": {"task": "decode", "batch": 1, "context": 128, "tokens": 32},
    "batch 8": {"task": "decode", "batch": 8, "context": 128, "tokens": 16},
    "batch 32": {"task": "decode", "batch": 32, "context": 128, "tokens": 12},
    "prefill 512": {"task": "prefill", "tokens": 512},
    "batch 8 at 1000": {"task": "decode", "batch": 8, "context": 1000, "tokens": 12},
}
QUIET, TRIES = 0.15, 4
PLACES = ((0, 1, 1024), (128, 32, 256), (1000, 8, 1040))


class EngineError(RuntimeError):
    """An engine cannot be measured; one line with its name and the reason."""


@dataclass(frozen=True)
class Spec:
    """KIND:PATH[@PYTHON] of the command line."""

    kind: str
    path: Path
    python: str

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.path}"


def parse(text: str) -> Spec:
    """The Spec that `text` writes. Raises argparse.ArgumentTypeError with what is wrong and what is known."""
    kind, found, rest = text.partition(":")
    path, _, python = rest.partition("@")
    if not found or kind not in ENGINES:
        raise argparse.ArgumentTypeError(f"{text!r} is no ENGINE: KIND:PATH[@PYTHON] with KIND one of "
                                         f"{', '.join(sorted(ENGINES))}")
    if not Path(path).exists():
        raise argparse.ArgumentTypeError(f"{text!r}: {path or 'the path'} is not there")
    if python and not os.access(python, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r}: {python} is no interpreter that can be run")
    return Spec(kind, Path(path), python or sys.executable)


class Engine:
    """A loaded engine in a child process that runs only inside `ask`."""

    def __init__(self, spec: Spec, threads: int, places: tuple[tuple[int, int, int], ...]) -> None:
        self.spec = spec
        command = [spec.python, str(Path(__file__).with_name("engines.py")), spec.kind, str(spec.path),
                   "--threads", str(threads)]
        for place in places:
            command += ["--place", *map(str, place)]
        # OMP_WAIT_POLICY: a peer alone on its cores is fastest as it comes; ours brings its own threads
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)
        self.loaded = self.answer()
        self.process.send_signal(signal.SIGSTOP)

    def answer(self) -> dict[str, float]:
        line = self.process.stdout.readline()
        if not line:
            raise EngineError(f"{self.spec.name} ended with code {self.process.wait()}: its own words are above")
        return json.loads(line)

    def ask(self, task: dict[str, Any]) -> dict[str, float]:
        """Carry out one task of benchmarks/engines.py; its seconds, tokens and memory. Raises EngineError."""
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
            return self.answer()
        except BrokenPipeError:
            raise EngineError(f"{self.spec.name} ended with code {self.process.wait()}: its own words are above"
                              ) from None
        finally:
            self.process.send_signal(signal.SIGSTOP)


@contextlib.contextmanager
def loaded(specs: list[Spec], threads: int, places: tuple[tuple[int, int, int], ...] = PLACES
           ) -> Iterator[list[Engine]]:
    """The engines, loaded one after the other; ended afterwards. Raises EngineError where one does not load."""
    engines: list[Engine] = []
    try:
        for spec in specs:
            engines.append(Engine(spec, threads, places))
        yield engines
    finally:
        for engine in engines:
            engine.process.kill()
            engine.process.wait()


def busy_seconds() -> float:
    """CPU seconds that all processes and the machine's host have taken since it started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def quiet(engine: Engine, task: dict[str, Any]) -> dict[str, float]:
    """`ask`, again while others disturb it; `others` is the cores that they took beside the answer given."""
    best: dict[str, float] = {}
    for attempt in range(TRIES):
        before, began = busy_seconds(), time.perf_counter()
        answer = engine.ask(task | ({"turn": task["turn"] + attempt} if "turn" in task else {}))
        answer["others"] = max(0.0, busy_seconds() - before - answer["all_cpu_seconds"]) / (
            time.perf_counter() - began)
        best = min(best or answer, answer, key=lambda one: one["others"])
        if best["others"] <= QUIET:
            break
    return best


def measure(engines: list[Engine], columns: list[str], rounds: int) -> dict[str, list[list[dict[str, float]]]]:
    """column -> round -> engine (in the order of `engines`) -> its answer. One round before these warms up."""
    found: dict[str, list[list[dict[str, float]]]] = {name: [] for name in columns}
    for turn in range(rounds + 1):
        for name in columns:
            row: list[dict[str, float]] = [{}] * len(engines)
            for index in range(len(engines)):
                which = (index + turn) % len(engines)
                task = COLUMNS[name] | ({"turn": 1 + turn * TRIES} if COLUMNS[name]["task"] == "prefill" else {})
                row[which] = quiet(engines[which], task) if turn else engines[which].ask(task)
            if turn:
                found[name].append(row)
            print(f"round {turn}, {name}: " + ", ".join(f"{one['tokens'] / one['seconds']:.0f}" for one in row),
                      file=sys.stderr, flush=True)
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def compare(rows: list[list[dict[str, float]]]) -> list[dict[str, Any]]:
    """For each engine: tokens a second and a CPU second (`rate`, `cpu_rate`), and the first engine's rate to its own
    round by round (`ratio`); `cpu_ratio` is the same by CPU seconds, which other work disturbs less; `others` is the
    cores that it took."""
    out = []
    for index in range(len(rows[0])):
        own = [row[index] for row in rows]
        out.append({
            "rate": spread([one["tokens"] / one["seconds"] for one in own]),
            "cpu_rate": spread([one["tokens"] / one["cpu_seconds"] for one in own]),
            "ratio": spread([one["seconds"] / row[0]["seconds"] for one, row in zip(own, rows)]),
            "others": spread([one["others"] for one in own]),
            "cpu_ratio": spread([one["cpu_seconds"] / row[0]["cpu_seconds"] for one, row in zip(own, rows)])})
    return out


def written(value: dict[str, float], digits: int) -> str:
    return f"{value['median']:.{digits}f} ({value['least']:.{digits}f} - {value['most']:.{digits}f})"


def main() -> None:
    """The command line. Exit codes: 0 measured, 1 an engine failed, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", type=parse, nargs="*", metavar="ENGINE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--columns", nargs="+", choices=list(COLUMNS), default=list(COLUMNS))
    given = parser.parse_args()
    if given.rounds < 1 or given.threads < 1:
        parser.error("--rounds and --threads must be 1 or more")
    try:
        specs = given.engines or [parse("catena:models/smollm2/int4")]
    except argparse.ArgumentTypeError as error:
        parser.error(f"{error} (dvc repro makes it)")
    try:
        with loaded(specs, given.threads) as engines:
            found = {name: compare(rows) for name, rows in measure(engines, given.columns, given.rounds).items()}
            memory = [engine.ask({"task": "prefill", "tokens": 1, "turn": 0})["rss_bytes"] for engine in engines]
            load = [engine.loaded for engine in engines]
    except EngineError as error:
        sys.exit(f"error: {error}")
    print(f"tokens/s, tokens/CPU s, and {specs[0].name} to the engine by each; {given.threads} threads, "
          f"median (least - most) of {given.rounds} rounds")
    for index, spec in enumerate(specs):
        print(f"\n{spec.name}: loaded in {load[index]['load_seconds']:.2f} s, {load[index]['rss_bytes'] / 1e6:.0f} MB, "
              f"{memory[index] / 1e6:.0f} MB with every context filled")
        for name, row in found.items():
            ratios = f"{written(row[index]['ratio'], 2):>22} {written(row[index]['cpu_ratio'], 2):>22}"
            print(f"  {name:16} {written(row[index]['rate'], 0):>24} {written(row[index]['cpu_rate'], 0):>24} "
                  f"{ratios if index else ''}".rstrip())
    print(f"\ncores that other processes took beside a turn, at most: "
          f"{max(one['others']['most'] for row in found.values() for one in row):.2f}")
    print(json.dumps({"machine": platform.processor() or platform.machine(), "threads": given.threads,
                      "rounds": given.rounds, "engines": [spec.name for spec in specs], "load": load,
                      "rss_bytes": memory, "columns": found}))


if __name__ == "__main__":
    main()
