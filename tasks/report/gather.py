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
    ("safety", "acc"): "decent over harmful",
    ("cloze", "acc"): "cloze, held-out documents",
    ("recall", "acc"): "key-value recall",
    ("needle", "acc"): "needle in long text",
    ("multi_needle", "acc"): "one of several needles",
    ("tracing", "acc"): "variable tracing",
    ("tools", "right_tool"): "tool calls, right tool",
    ("tools", "exact_match"): "tool calls, exact",
    ("tools_grammar", "right_tool"): "tool calls under grammar, right tool",
    ("tools_grammar", "exact_match"): "tool calls under grammar, exact",
    ("arithmetic", "exact_match"): "three-digit arithmetic, no tools",
    ("code", "pass@1"): "small programs, pass@1",
}
NGRAMS, UNTRAINED = ("bigram", "trigram"), ("untrained",)     # baselines that have columns of their own


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


def rows_of(models: dict[str, dict[str, Any]]) -> dict[tuple[str, str], str]:
    """(task, metric) -> label of every row: SCORES first, then what else was scored (sets of the user's own)."""
    found = {(task, metric): None for model in models.values() for task, of in model["scores"].items() for metric in of}
    known = {key: label for key, label in SCORES.items() if key in found}
    named = {task for task, _ in SCORES}
    return known | {key: f"{key[0].replace('_', ' ')}, {key[1]}" for key in found if key[0] not in named}


def best(baselines: dict[str, float], names: Iterable[str], lower: bool) -> tuple[str, float] | None:
    """(name, value) of the best of `names` among `baselines`."""
    found = [(name, baselines[name]) for name in names if name in baselines]
    return min(found, key=lambda item: item[1] if lower else -item[1]) if found else None


def scores(models: dict[str, dict[str, Any]]) -> Table:
    """One row a score, one column a model, then what the best trivial answerer gets on the same items, the best n-gram
    model of the training text, and an untrained model: the latter two for each model where they differ."""
    rows, sources = [], []
    for (task, metric), label in rows_of(models).items():
        found = {name: model["scores"].get(task, {}).get(metric) for name, model in models.items()}
        lower = metric == "bits_per_byte"
        row = [f"{label}, n={next(cell['n'] for cell in found.values() if cell)}",
               *(estimate(cell) if cell else "" for cell in found.values())]
        source = ["", *(f"evaluate/{model}.json scores.{task}.{metric}" for model in found)]
        for names in (None, NGRAMS, UNTRAINED):
            cells: dict[str, tuple[str, str]] = {}     # what is shown -> its model, the baseline's name
            for model, cell in found.items():
                given = cell["baselines"] if cell else {}
                one = best(given, names or (name for name in given if name not in NGRAMS + UNTRAINED), lower)
                if one:
                    text = f"{one[1]:.3f}" if one[1] >= 0.001 or one[1] == 0 else f"{one[1]:.1e}"
                    text += f" ({one[0].replace('_', ' ')})" if names != UNTRAINED else ""
                    cells.setdefault(text, (model, one[0]))
            kept = list(cells)[:1] if names is None else list(cells)
            row.append("; ".join(text if len(kept) == 1 else f"{text} {cells[text][0]}" for text in kept))
            source.append("".join(f"evaluate/{model}.json scores.{task}.{metric}.baselines.{name}"
                                  for model, name in [cells[text] for text in kept[:1]]))
        rows.append(row)
        sources.append(source)
    head = ["score", *models, "trivial", "n-gram", "untrained"]
    shown = [at for at, name in enumerate(head) if at < len(head) - 2 or any(row[at] for row in rows)]
    return {"head": [head[at] for at in shown], "rows": [[row[at] for at in shown] for row in rows],
            "from": [[source[at] for at in shown] for source in sources]}


def power(models: dict[str, dict[str, Any]]) -> Table:
    """One row a score, one column a model: the smallest difference to another model, independent in its errors, that
    the items show with 80 % power; models that are right on the same items show less."""
    rows, sources = [], []
    for (task, metric), label in rows_of(models).items():
        found = {name: model["scores"].get(task, {}).get(metric, {}) for name, model in models.items()}
        if any("detectable" in cell for cell in found.values()):
            rows.append([label.removesuffix(" ↓"), *(f"{cell['detectable']:.3f}" if "detectable" in cell else ""
                                                     for cell in found.values())])
            sources.append(["", *(f"evaluate/{model}.json scores.{task}.{metric}.detectable"
                                  if "detectable" in cell else "" for model, cell in found.items())])
    return {"head": ["score", *models], "rows": rows, "from": sources}


def contamination(models: dict[str, dict[str, Any]]) -> Table:
    """One row a model and set: how many items the training text overlaps, the scores of either side, and those of
    items whose min-k % lies above every held-out document's."""
    rows, sources = [], []
    for model, found in models.items():
        for task, one in found.get("contamination", {}).get("tasks", {}).items():
            likely = (f"{one['likely']} of {one['min_k_tested']}" if one.get("min_k_tested") else "")
            rows.append([f"{model}: {task.replace('_', ' ')}", f"{one['dirty']} of {one['tested']}",
                         *(estimate(one[side]) if one.get(side) else "" for side in ("score_clean", "score_dirty")),
                         likely, *(estimate(one[side]) if likely and one.get(side) else ""
                                   for side in ("score_not_likely", "score_likely"))])
            inside = f"evaluate/{model}.json contamination.tasks.{task}."
            sources.append(["", inside + "dirty", inside + "score_clean", inside + "score_dirty",
                            *([inside + "likely", inside + "score_not_likely", inside + "score_likely"] if likely
                              else [""] * 3)])
    return {"head": ["model: set", "dirty", "clean score", "dirty score", "likely by min-k", "others", "likely"],
            "rows": rows, "from": sources}


def membership(models: dict[str, dict[str, Any]]) -> Table:
    """One row a model: how well min-k % tells its training text from held-out documents (0.5: not at all)."""
    found = {name: model["contamination"]["membership"] for name, model in models.items()
             if "membership" in model.get("contamination", {})}
    return {"head": ["model", "min-k: area under the curve", "95 %", "texts"],
            "rows": [[name, estimate(one), f"{one['low']:.3f} to {one['high']:.3f}",
                      f"{one['training']} read, {one['held_out']} held out"] for name, one in found.items()],
            "from": [["", *[f"evaluate/{name}.json contamination.membership"] * 3] for name in found]}


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
    for track, found in folder(metrics / "reward").items():
        one = found["after"]
        rows.append([f"reward model {track}", number(found["pairs"]),
                     f"pairs ranked right {one['accuracy']:.3f} ({one['low']:.3f} to {one['high']:.3f}), chance 0.5", ""])
        sources.append(["", f"reward/{track}.json pairs", f"reward/{track}.json after.accuracy", ""])
    for track, found in folder(metrics / "grpo").items():
        before, after, paired = found["before"]["all"], found["after"]["all"], found["paired"]
        rows.append([f"grpo {track}", number(found["outputs"]),
                     f"outputs wholly right {before['right']:.3f} → {after['right']:.3f} ({paired['gained']} gained, "
                     f"{paired['lost']} lost, p = {paired['p']:.2g}); form {before['valid']:.3f} → {after['valid']:.3f}",
                     f"{found['merge_error']:.1e} (limit {found['limits']['merge_error']:.0e})"])
        sources.append(["", *(f"grpo/{track}.json {key}" for key in ("outputs", "after.all.right", "merge_error"))])
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
    """One row a track and family of tasks, the whole first: pass rates with tools, with tools under free decoding and
    without, the difference that tools make, the floor, and, of the whole, calls, tokens a run and injections."""
    rows, sources = [], []
    for track, found in folder(metrics / "agents").items():
        for family, one in {"all tasks": found, **found["families"]}.items():
            difference, whole = one["difference"], one is found
            free = estimate(one["unconstrained"]) if "unconstrained" in one else ""
            injected = found.get("injection")
            rows.append([f"{track}: {family.replace('_', ' ')}, n={difference['n']}", estimate(one["with_tools"]), free,
                         estimate(one["without_tools"]), f"{difference['value']:+.3f} ± {difference['stderr']:.3f}",
                         f"{one['random_call']:.4f}" if "random_call" in one else "",
                         f"{found['calls'].get('valid', found['calls']['done'])} of {found['calls']['made']}"
                         if whole else "",
                         f"{found['tokens']['with_tools']:.0f}" if whole and "tokens" in found else "",
                         f"{injected['executed']} of {injected['tried']} tried" if whole and injected else ""])
            inside = "" if whole else f"families.{family}."
            sources.append(["", *(f"agents/{track}.json {inside}{key}" if key in one else "" for key in (
                "with_tools", "unconstrained", "without_tools", "difference", "random_call", "calls", "tokens",
                "injection"))])
    return {"head": ["track: tasks", "with tools", "free decoding", "without", "paired difference", "random valid call",
                     "valid calls", "tokens a run", "injected calls made"],
            "rows": rows, "from": sources}
