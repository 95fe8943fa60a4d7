"""Claim: this chain's int4 keeps more of the model than round-to-nearest, AWQ or GPTQ alone, at one size and speed.

    python -m benchmarks.quantize [models/smollm2] [--corpus data/corpus] [--evalsets data/evalsets] [--track smollm2]
        [--prose FILE] [--items 40] [--plot docs/quantize.png]

Every method quantizes the same model on the same windows of the training corpus; held-out text only scores. Rows: the
full model, round-to-nearest, AWQ's searches alone, GPTQ's compensation alone, both (the chain's), SmoothQuant W8A8, and
the full model with its keys and values in int8 and int4. Columns: the gate's (perplexity and its ratio, KL, agreement,
whether the track's limits hold), perplexity ratio on --prose (JSON lines with `text`), cloze and word-swap accuracy,
bytes on disk, and tokens/s of one stream where the engine's CPU kernels can run the directory (run it alone on the
machine for that). The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from tasks import params, stage
from tasks.quantize.settings import QuantizeParams

TOKENS = 64  # decoded to measure speed, after a prompt of one block
KV = {"kv int8": 8, "kv int4": 4}


def candidates(quantize: QuantizeParams) -> dict[str, QuantizeParams]:
    """The int4 methods as settings of one quantizer."""
    plain = quantize.model_copy(update={"scales": 1, "clips": 1, "damping": None})
    return {"nearest": plain, "awq alone": quantize.model_copy(update={"damping": None}),
            "gptq alone": quantize.model_copy(update={"scales": 1, "clips": 1}), "awq + gptq": quantize}


def made(name: str, full: Any, calibration: Any, quantize: QuantizeParams, directory: Path) -> Any:
    """The model that method `name` makes of `full`, its files in `directory` where it has any of its own."""
    from tasks.quantize import compressed, formats, kv, layers, smooth

    model = copy.deepcopy(full)
    if name in KV:
        return kv.rounded_cache(model, KV[name])
    if name == "smoothquant":
        compressed.write_w8a8(smooth.w8a8(model, calibration, quantize.scales), directory)
        return model
    formats.write(layers.int4(model, calibration, candidates(quantize)[name]), directory)
    return formats.load_dequantized(directory)


def task_scores(directory: Path, kv: str, threads: int, evalsets: Path, items: int) -> dict[str, float]:
    """Accuracy of a directory, as the engine serves it, on `items` cloze questions and word-swap pairs."""
    from tasks.evaluate import harness, items as reading
    from tasks.evaluate.model import EngineLM

    shapes = {"cloze": reading.choice, "pairs": reading.pair}
    tables = {name: reading.sample(reading.read(evalsets / f"{name}.jsonl", shape), items)
              for name, shape in shapes.items()}
    lm = EngineLM(directory, window=512, batch=1, threads=threads, kv=kv.removeprefix("kv "))
    samples = harness.run_tasks(lm, tables)
    lm.close()
    return {name: sum(sample["acc"] for sample in found) / len(found) for name, found in samples.items()}


def decode_rate(directory: Path, threads: int, kv: str) -> float | str:
    """Tokens a second of one stream in the engine's CPU backend, or why it has none."""
    import numpy as np
    from tasks.serve.engine import backend
    from tasks.serve.engine.directory import ModelError

    try:
        model = backend.load(backend.read_files(directory), threads=threads, slots=1, kv=kv.removeprefix("kv "),
                             backend="cpu")
    except ModelError as error:
        return stage.one_line(error)
    blocks = np.arange(model.blocks, dtype=np.int32)[None]

    def following(tokens: np.ndarray, first: int) -> np.ndarray:
        return model.step(tokens.astype(np.int64), np.arange(first, first + len(tokens)),
                          np.zeros(len(tokens), np.int64), blocks, np.array([len(tokens) - 1])).argmax(-1)

    token = following(np.arange(16), 0)
    started = time.perf_counter()
    for position in range(16, 16 + TOKENS):
        token = following(token, position)
    return TOKENS / (time.perf_counter() - started)


def size(directory: Path) -> int:
    """Bytes of the weights."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def prose_windows(path: Path, tokenizer: Any, count: int, length: int) -> Any:
    """int64 [count, length] of the texts of JSON lines, parted by the document mark."""
    import torch
    from tasks import chat

    stream: list[int] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        stream += [tokenizer.convert_tokens_to_ids(chat.BOS),
                   *tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"]]
        if len(stream) >= count * length:
            break
    return torch.tensor(stream[:count * length]).view(count, length)


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Perplexity ratio against size, and against speed where there is one."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [("size", "weights, MB", lambda row: row["bytes"] / 1e6)]
    if any(isinstance(row["tokens_per_second"], float) for row in rows.values()):
        panels.append(("speed", "tokens/s, one stream", lambda row: row["tokens_per_second"]))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 4.2), squeeze=False, sharey=True)
    for axis, (_, label, across) in zip(axes[0], panels, strict=True):
        shown = {name: row for name, row in rows.items() if isinstance(across(row), float)}
        ahead = -1.0
        for name, row in sorted(shown.items(), key=lambda one: one[1]["perplexity_ratio"]):
            above = 9 if row["perplexity_ratio"] - ahead < 0.02 else 0  # two names would lie on each other
            ahead = row["perplexity_ratio"]
            axis.plot(across(row), ahead, "o")
            axis.annotate(name, (across(row), ahead), textcoords="offset points", xytext=(7, above), va="center",
                          fontsize=8)
        axis.set_xlabel(label)
        axis.margins(0.2)
        axis.set_xlim(0, 1.35 * max(map(across, shown.values())))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("perplexity / full model's (held-out)")
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def measured(full: Any, tokenizer: Any, calibration: Any, texts: dict[str, Any], quantize: QuantizeParams,
             folder: Path, given: argparse.Namespace, threads: int) -> dict[str, dict[str, Any]]:
    """The row of every method; directories lie under `folder`."""
    from tasks.quantize import gate

    models, rows = {"full": full}, {"full": {"cpu_seconds": 0.0}}
    for name in (*candidates(quantize), "smoothquant", *KV):
        started = time.process_time()
        (folder / name).mkdir()
        models[name] = made(name, full, calibration, quantize, folder / name)
        rows[name] = {"cpu_seconds": round(time.process_time() - started, 1)}
    others = {name: model for name, model in models.items() if name != "full"}
    scores = {text: gate.compare(full, others, windows) for text, windows in texts.items()}
    for name, row in rows.items():
        row |= scores["held_out"][name]
        row["passes"] = passes(row, quantize)
        if "prose" in scores:
            row |= {f"prose_{key}": scores["prose"][name][key] for key in ("perplexity", "kl", "agreement")}
            row["prose_ratio"] = scores["prose"][name]["perplexity_ratio"]
        own = name not in ("full", *KV)
        row["bytes"] = size(folder / name if own else given.model / "chat")
        if own:
            for file in given.model.joinpath("chat").iterdir():
                if file.name not in ("model.safetensors", "config.json"):
                    shutil.copyfile(file, folder / name / file.name)
        directory = folder / name if own else given.model / "chat"
        row |= task_scores(directory, name if name in KV else "fp32", threads, given.evalsets, given.items)
        row["tokens_per_second"] = decode_rate(directory, threads, name if name in KV else "fp16")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("models/smollm2"), help="holds chat/")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--evalsets", type=Path, default=Path("data/evalsets"))
    parser.add_argument("--track", default="smollm2", help="whose quantize section of params.yaml")
    parser.add_argument("--prose", type=Path, help="a second text to score on, JSON lines")
    parser.add_argument("--items", type=int, default=40, help="questions of each task")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    values, runtime = params.load(), params.runtime()
    quantize = params.section(QuantizeParams, f"tracks.{given.track}.quantize", values)
    from tasks.finetune import environment
    environment.prepare(runtime, environment.SHORT_SPIN)
    from tasks.data import documents
    from tasks.finetune import checkpoint
    from tasks.quantize import passages

    chat = given.model / "chat"
    full = checkpoint.load_model(chat)
    tokenizer = checkpoint.load_tokenizer(chat, full.config.vocab_size)
    seed = values["seed"]
    calibration = passages.windows(documents.shards(given.corpus), tokenizer, quantize.windows, quantize.length,
                                   quantize.languages, seed)
    texts = {"held_out": passages.windows([given.evalsets / "held_out.jsonl"], tokenizer, quantize.gate.windows,
                                          quantize.length, quantize.languages, seed)}
    if given.prose:
        texts["prose"] = prose_windows(given.prose, tokenizer, quantize.gate.windows, quantize.length)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(full, tokenizer, calibration, texts, quantize, Path(folder), given, runtime.threads)
    print(f"{'method':12} {'perplexity':>10} {'ratio':>6} {'KL':>7} {'agree':>6} {'gate':>5} {'prose':>6} {'cloze':>6} "
          f"{'pairs':>6} {'MB':>6} {'CPU s':>6} tokens/s")
    for name, row in rows.items():
        speed = row["tokens_per_second"]
        print(f"{name:12} {row['perplexity']:10.3f} {row['perplexity_ratio']:6.3f} {row['kl']:7.4f} "
              f"{row['agreement']:6.3f} {'ok' if row['passes'] else 'fails':>5} {row.get('prose_ratio', 0):6.3f} "
              f"{row['cloze']:6.3f} {row['pairs']:6.3f} {row['bytes'] / 1e6:6.1f} {row['cpu_seconds']:6.1f} "
              f"{speed if isinstance(speed, str) else f'{speed:.0f}'}")
    if given.plot:
        draw(rows, given.plot)
    print(json.dumps({"model": str(given.model), "group": quantize.group, "windows": quantize.windows, "rows": rows}))


def passes(row: dict[str, Any], quantize: QuantizeParams) -> bool:
    """Whether the track's gate would let the method through."""
    from tasks.quantize import gate

    try:
        gate.judge("int4", row, quantize.gate)
    except stage.StageError:
        return False
    return True


if __name__ == "__main__":
    main()
