"""What a run shows in the Prefect UI: the retention table, the loss curves, the score table.

Made from the metrics files that are there when the run ends, so a failed run shows what it has. The UI draws
markdown tables and `data:` images; a curve is a PNG, which every browser draws.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

RETENTION = ("extract", "filter", "dedup", "decontaminate")


def publish(workspace: Path) -> list[str]:
    """Create the artifacts that the metrics of `workspace` allow, inside a flow run; their keys."""
    pages = {
        "retention": retention(workspace / "metrics"),
        "loss-curve": curves(workspace / "metrics"),
        "scores": scores(workspace / "metrics" / "evaluate"),
    }
    shown = [key for key, page in pages.items() if page]
    for key in shown:
        create_markdown_artifact(markdown=pages[key], key=key, description=f"from metrics/ of {workspace.name}")
    return shown


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A markdown table; `|` in a cell is escaped."""
    escaped = [[str(cell).replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def load(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def retention(metrics: Path) -> str:
    """Documents read, kept, dropped by reason and failed, a row a data stage; empty without such metrics."""
    rows = []
    for name in RETENTION:
        found = load(metrics / f"{name}.json")
        if not found or "read" not in found:
            continue
        dropped = found.get("dropped") or {}
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items(), key=lambda d: -d[1]))
        rows.append([name, found["read"], found.get("kept", ""), sum(dropped.values()), found.get("failed", ""),
                     reasons or "-"])
    return table(["stage", "read", "kept", "dropped", "failed", "reasons"], rows) if rows else ""


def curves(metrics: Path) -> str:
    """Training loss and held-out bits per byte over tokens, a figure a track; empty without curves."""
    pages = []
    for path in sorted(metrics.glob("pretrain/*.csv")):
        with path.open(encoding="utf-8", newline="") as rows:
            points = list(csv.DictReader(rows))
        series = {name: [(float(p["tokens"]), float(p[name])) for p in points if p.get("tokens") and p.get(name)]
                  for name in ("train_loss", "held_out_bpb")}
        if any(series.values()):
            image = base64.b64encode(png(path.stem, series)).decode()
            pages.append(f"## {path.stem}\n\n![loss curve of {path.stem}](data:image/png;base64,{image})\n")
    return "\n".join(pages)


def png(title: str, series: dict[str, list[tuple[float, float]]]) -> bytes:
    """A PNG line chart of name -> (tokens, value) points, a panel a series."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(series)), series.items()):
        axes.plot(*zip(*points), linewidth=1.6) if points else None
        axes.set_title(f"{title}: {name.replace('_', ' ')}", fontsize=10)
        axes.set_xlabel("tokens")
        axes.grid(alpha=0.3)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110)
    return sink.getvalue()


def scores(evaluated: Path) -> str:
    """A row a task, a column a model, value ± standard error; empty without evaluations."""
    models = {path.stem: load(path) or {} for path in sorted(evaluated.glob("*.json"))}
    found = {name: values.get("scores") or values.get("tasks") or {} for name, values in models.items()}
    tasks = sorted({task for values in found.values() for task in values})
    if not tasks:
        return ""
    rows = [[task, *(cell(found[name].get(task)) for name in models)] for task in tasks]
    return table(["task", *models], rows)


def cell(score: Any) -> str:
    """One score as text."""
    if isinstance(score, dict):
        value, error = score.get("value"), score.get("stderr")
        if value is None:
            return "-"
        return f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")
    return f"{score:.3f}" if isinstance(score, (int, float)) else "-"
