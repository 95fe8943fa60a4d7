"""The metrics files as tables: what the page, the model card and the README all print.

A table is {"head": [column names], "rows": [[first cell, ...]], "from": [source of the row, or one a cell]} of ready
strings, so that a number looks the same wherever it is read; a source is "FILE KEY", the file below metrics/ and the
dotted key in it. Nothing here computes a result; it only reads what the stages wrote.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.stage import StageError

Table = dict[str, list]

DATA_STAGES = ("extract", "filter", "dedup", "safety", "value", "decontaminate", "mixture")
SCORES = {  # task, metric -> what a reader calls it; arrows say which way is better
    ("held_out", "bits_per_byte"): "held-out bits per byte ↓",
    ("pairs", "acc"): "minimal pairs",
    ("cloze", "acc"): "cloze, held-out documents",
    ("recall", "acc"): "key-value recall",
    ("tools", "right_tool"): "tool calls, right tool",
    ("tools", "exact_match"): "tool calls, exact",
    ("tools_grammar", "right_tool"): "tool calls under grammar, right tool",
    ("tools_grammar", "exact_match"): "tool calls under grammar, exact",
    ("arithmetic", "exact_match"): "three-digit arithmetic, no tools",
}


def load(path: Path) -> dict[str, Any]:
    """A metrics file. Raises StageError where it is missing or no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"{path} is no readable metrics file ({error}): run the stage that writes it") from None
    if not isinstance(value, dict):
        raise StageError(f"{path} holds {type(value).__name__}, not a JSON object: run the stage that writes it")
    return value


def require(metrics: Path, *names: str) -> None:
    """Raises StageError naming the first of `names`, files or folders below `metrics`, that is not there or empty."""
    for name in names:
        path = metrics / name
        if not (path.is_file() or any(path.glob("*.json"))):
            raise StageError(f"{path} is not there: ./run makes it (or ./run repro {path.stem}), then start again")


def folder(path: Path) -> dict[str, dict[str, Any]]:
    """name -> metrics of every JSON file directly in `path`; empty where there is no such folder."""
    return {file.stem: load(file) for file in sorted(path.glob("*.json"))}


def evaluated(metrics: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The evaluation metrics of the models `names`, in that order; those without a file are left out."""
    found = folder(metrics / "evaluate")
    return {name: found[name] for name in names if name in found}


def curve(path: Path) -> dict[str, list[float]]:
    """A plots file as column -> numbers; an empty cell is NaN."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: [float(row[name] or "nan") for row in rows] for name in (rows[0] if rows else {})}


def number(value: float, digits: int = 3) -> str:
    """`value` with `digits` decimals; whole counts with separators."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def estimate(found: dict[str, Any]) -> str:
    """value ± standard error of an estimate."""
    return f"{found['value']:.3f} ± {found['stderr']:.3f}"


def scores(models: dict[str, dict[str, Any]]) -> Table:
    """One row a score, one column a model, last what the best trivial answerer gets on the same items."""
    rows, sources = [], []
    for (task, metric), label in SCORES.items():
        found = {name: model["scores"].get(task, {}).get(metric) for name, model in models.items()}
        if not any(found.values()):
            continue
        lower = metric == "bits_per_byte"
        trivial = [min(cell["baselines"].items(), key=lambda item: item[1] if lower else -item[1])
                   for cell in found.values() if cell]
        (_, beside), *_ = trivial
        name = trivial[0][0].replace("_", " ")
        shown = f"{beside:.3f} ({name})" if beside >= 0.001 or beside == 0 else f"{beside:.1e} ({name})"
        items = next(cell["n"] for cell in found.values() if cell)
        rows.append([f"{label}, n={items}", *(estimate(cell) if cell else "" for cell in found.values()), shown])
        files = [f"evaluate/{model}.json scores.{task}.{metric}" for model in found]
        named = next(file for file, cell in zip(files, found.values()) if cell)
        sources.append(["", *files, f"{named}.baselines.{trivial[0][0]}"])
    return {"head": ["score", *models, "trivial"], "rows": rows, "from": sources}


def retention(metrics: Path) -> Table:
    """One row a data stage: documents, the share of all read that is left, characters, the share of the extracted."""
    stages = {name: load(metrics / f"{name}.json") for name in DATA_STAGES}
    read, whole = stages["extract"]["read"], stages["extract"]["characters_out"]
    return {
        "head": ["stage", "read", "kept", "dropped", "failed", "of documents", "characters", "of extracted"],
        "rows": [[name, number(found["read"]), number(found["kept"]), number(sum(found["dropped"].values())),
                  number(found["failed"]), f"{found['kept'] / read:.1%}", number(found["characters_out"]),
                  f"{found['characters_out'] / whole:.1%}"] for name, found in stages.items()],
        "from": [["", *(f"{name}.json {key}" for key in (
            "read", "kept", "dropped", "failed", "kept", "characters_out", "characters_out"))] for name in stages],
    }


def training(metrics: Path) -> Table:
    """One row a pretrained track: size, tokens and held-out bits per byte beside every baseline's."""
    found = folder(metrics / "pretrain")
    names = sorted({name for table in found.values() for name in table["baselines_bpb"]})
    return {
        "head": ["track", "parameters", "tokens read", "held-out bpb", *(n.replace("_", " ") for n in names)],
        "rows": [[track, number(table["parameters"]), number(table["tokens"]),
                  f"{table['held_out_bpb']:.3f} ± {table['held_out_bpb_stderr']:.3f}",
                  *(number(table["baselines_bpb"][name]) for name in names)] for track, table in found.items()],
        "from": [["", *(f"pretrain/{track}.json {key}" for key in (
            "parameters", "tokens", "held_out_bpb", *(f"baselines_bpb.{name}" for name in names)))] for track in found],
    }


def tuning(metrics: Path) -> Table:
    """One row a tuning stage and track: what it learned from, what it changed on held-out examples, the merge's error."""
    rows, sources = [], []
    for track, found in folder(metrics / "sft").items():
        losses = (f"{kind} {before:.2f} → {found['loss_after'][kind]:.2f}"
                  for kind, before in found["loss_before"].items())
        rows.append([f"sft {track}", number(sum(found["conversations"].values())), f"loss: {', '.join(losses)}",
                     f"{found['merge_error']:.1e} (limit {found['merge_error_limit']:.0e})"])
        sources.append(["", *(f"sft/{track}.json {key}" for key in ("conversations", "loss_after", "merge_error"))])
    for track, found in folder(metrics / "preference").items():
        rows.append([f"preference {track}", number(found["pairs"]),
                     f"pairs ranked right {found['before']['accuracy']:.3f} → {found['after']['accuracy']:.3f}",
                     f"{found['merge_error']:.1e} (limit {found['limits']['merge_error']:.0e})"])
        sources.append(["", *(f"preference/{track}.json {key}" for key in ("pairs", "after.accuracy", "merge_error"))])
    return {"head": ["stage", "examples", "held-out, before → after", "largest logit change of the merge"],
            "rows": rows, "from": sources}


def quantization(metrics: Path) -> Table:
    """One row a track and rounding: perplexity, agreement with the full model, KL; then the export's parity."""
    rows, sources = [], []
    for track, found in folder(metrics / "quantize").items():
        for key, label in (("full", "full precision"), ("nearest", "int4, round to nearest"), ("awq", "int4, AWQ")):
            one, limits = found[key], found["limits"]
            gate = key == "awq"
            rows.append([f"{track}: {label}", number(one["perplexity"], 2),
                         f"{one['perplexity_ratio']:.3f}" + (f" (limit {limits['perplexity_ratio']})" if gate else ""),
                         f"{one['agreement']:.3f}" + (f" (limit {limits['agreement']})" if gate else ""),
                         f"{one['top1_kept']:.1%}", f"{one['kl']:.4f}"])
            sources.append(["", *(f"quantize/{track}.json {key}.{name}" for name in (
                "perplexity", "perplexity_ratio", "agreement", "top1_kept", "kl"))])
    for track, found in folder(metrics / "export").items():
        rows += [beside(f"{track}: {name} beside torch int4", one, found["limits"])
                 for name, one in {"ONNX": found, **found["others"]}.items()]
        sources += [f"export/{track}.json {key}" for key in (
            "top1", *(f"others.{name}.top1" for name in found["others"]))]
    for track, found in folder(metrics / "serve_bench").items():
        one = found["beside_torch"]
        rows.append(beside(f"{track}: served ({one['backend']}) beside torch int4", one, one["limits"]))
        sources.append(f"serve_bench/{track}.json beside_torch")
    return {"head": ["model", "perplexity", "ratio", "same top token", "top-1 accuracy kept", "KL, nats"], "rows": rows,
            "from": sources}


def beside(label: str, found: dict[str, Any], limits: dict[str, float]) -> list[str]:
    """The row of another runtime's agreement with torch."""
    return [label, "", "", f"{found['top1']:.3f} (limit {limits['top1']})", "", f"{found['kl']:.5f} (limit {limits['kl']})"]


def serving(metrics: Path, timing: Path) -> Table:
    """One row a track and number of streams: rates and latencies where they were measured here, and parity."""
    rows, sources = [], []
    for track, found in folder(metrics / "serve_bench").items():
        file = timing / f"serve_bench-{track}.json"
        measured = load(file) if file.exists() else {"rounds": {}}
        parity = f"{found['parity']} of {found['compared']}"
        for streams in map(str, found["streams"]):
            one = measured["rounds"].get(streams)
            rows.append([f"{track}, {streams} stream{'s' * (streams != '1')}",
                         *((f"{one['tokens_per_second']:.0f}", f"{one['ttft_p50'] * 1e3:.0f}",
                            f"{one['ttft_p90'] * 1e3:.0f}", f"{one['tpot_p50'] * 1e3:.1f}") if one
                           else ("not measured here", "", "", "")),
                         parity, f"{measured['rss_bytes'] / 2**20:.0f}" if one else "",
                         f"{measured['load_seconds']:.1f}" if one else ""])
            seconds = f"../.runtime/timing/{file.name} rounds.{streams}" if one else ""
            sources.append(["", *[seconds] * 4, f"serve_bench/{track}.json parity", seconds, seconds])
    return {"head": ["track", "tokens/s", "first token p50, ms", "p90, ms", "a token p50, ms",
                     "greedy texts equal to alone", "memory, MiB", "load, s"], "rows": rows, "from": sources}


def agents(metrics: Path) -> Table:
    """One row a track and family of tasks, the whole first: pass rates with and without tools, their difference."""
    rows, sources = [], []
    for track, found in folder(metrics / "agents").items():
        for family, one in {"all tasks": found, **found["families"]}.items():
            difference = one["difference"]
            rows.append([f"{track}: {family.replace('_', ' ')}, n={difference['n']}", estimate(one["with_tools"]),
                         estimate(one["without_tools"]), f"{difference['value']:+.3f} ± {difference['stderr']:.3f}",
                         f"{found['random_call']:.4f}" if one is found else "",
                         f"{found['calls']['done']} of {found['calls']['made']}" if one is found else ""])
            inside = "" if one is found else f"families.{family}."
            sources.append(["", *(f"agents/{track}.json {inside}{key}" if key in one else "" for key in (
                "with_tools", "without_tools", "difference", "random_call", "calls"))])
    return {"head": ["track: tasks", "with tools", "without", "paired difference", "random valid call", "calls that ran"],
            "rows": rows, "from": sources}
