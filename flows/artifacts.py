"""What a run shows in the Prefect UI: the retention table, the loss curves, the score table.

Made from the metrics files that are there when the run ends, so a failed run shows what it has. The UI draws
markdown tables and `data:` images; a curve is a PNG, which every browser draws.
"""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from tasks import params
from tasks.report import gather
from tasks.report.card import markdown
from tasks.stage import StageError


def publish(workspace: Path) -> list[str]:
    """Create the artifacts that the metrics of `workspace` allow, inside a flow run; their keys."""
    shown = []
    for key, make in (("retention", retention), ("loss-curve", curves), ("scores", scores)):
        try:
            page = make(workspace / "metrics")
        except (OSError, ValueError, LookupError, TypeError, StageError) as error:  # a broken file breaks no run
            page = f"{key}: the metrics files cannot be read ({type(error).__name__}: {error})"
        if page:
            create_markdown_artifact(markdown=page, key=key, description=f"from metrics/ of {workspace.name}")
            shown.append(key)
    return shown


def retention(metrics: Path) -> str:
    """Documents read, kept, dropped by reason and failed, a row a data stage; empty without such metrics."""
    rows = []
    for name in gather.DATA_STAGES:
        if not (metrics / f"{name}.json").exists():
            continue
        found = gather.load(metrics / f"{name}.json")
        reasons = sorted(found["dropped"].items(), key=lambda item: (-item[1], item[0]))
        rows.append([name, *(f"{found[key]:,}" for key in ("read", "kept")), f"{sum(found['dropped'].values()):,}",
                     f"{found['failed']:,}", ", ".join(f"{reason} {count:,}" for reason, count in reasons) or "-"])
    head = ["stage", "read", "kept", "dropped", "failed", "reasons"]
    return markdown({"head": head, "rows": rows}) if rows else ""


def curves(metrics: Path) -> str:
    """Training loss and held-out bits per byte over tokens, a figure a track; empty without curves."""
    pages = []
    for path in sorted(metrics.glob("pretrain/*.csv")):
        columns = gather.curve(path)
        series = {name: [point for point in zip(columns["tokens"], columns[name]) if not math.isnan(point[1])]
                  for name in ("train_loss", "held_out_bpb") if name in columns}
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


def scores(metrics: Path) -> str:
    """The report's score table, of the models evaluated so far in the order of `models`; empty without any."""
    made = gather.scores(gather.evaluated(metrics, params.load(metrics.parent / params.PARAMS)["models"]))
    return markdown(made) if made["rows"] else ""
