"""What a run shows in the Prefect UI: the retention table, the data's picture, the loss curves, the score table.

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
from tasks.report import gather, picture
from tasks.report.card import markdown
from tasks.stage import StageError


def publish(workspace: Path) -> list[str]:
    """Create the artifacts that the metrics of `workspace` allow, inside a flow run; their keys."""
    shown = []
    for key, make in (("retention", retention), ("data-picture", data_picture), ("loss-curve", curves),
                      ("scores", scores)):
        try:
            page = make(workspace / "metrics")
        except (OSError, ValueError, LookupError, TypeError, StageError) as error:  # a broken file breaks no run
            page = f"{key}: the metrics files cannot be read ({type(error).__name__}: {error})"
        if page:
            create_markdown_artifact(markdown=page, key=key, description=f"from metrics/ of {workspace.name}")
            shown.append(key)
    return shown


def retention(metrics: Path) -> str:
    """Documents read, kept, dropped by reason and failed, and what is left in percent of the start, a row a data stage;
    empty without such metrics."""
    rows = []
    for row in picture.funnel(metrics):
        dropped = [(reason, count) for reason, count, _ in row["dropped"] if reason != "failed"]
        left = ("-" if row[key] is None else f"{row[key]:.1f}%" for key in ("of_documents", "of_characters"))
        rows.append([row["stage"], f"{row['read']:,}", f"{row['documents']:,}",
                     f"{sum(count for _, count in dropped):,}", f"{row['failed']:,}", *left,
                     ", ".join(f"{reason} {count:,}" for reason, count in dropped) or "-"])
    head = ["stage", "read", "kept", "dropped", "failed", "% of documents", "% of characters", "reasons"]
    return markdown({"head": head, "rows": rows}) if rows else ""


def data_picture(metrics: Path) -> str:
    """The text before and after as one figure of small multiples, then the sources, the mixture and what was masked;
    empty until the picture stage has run."""
    if not (metrics / "picture.json").exists():
        return ""
    made = gather.load(metrics / "picture.json")
    image = base64.b64encode(multiples(picture.panels(made, gather.load(metrics / "value.json")))).decode()
    tables = {"Sources": picture.sources(made), "Mixture": picture.mixture(metrics),
              "Personal data masked": picture.masked(metrics)}
    return f"![length, language, domain and scores, before and after](data:image/png;base64,{image})\n" + "".join(
        f"\n## {name}\n\n{markdown(table)}" for name, table in tables.items())


def multiples(panels: list[picture.Panel], columns: int = 3) -> bytes:
    """A PNG of the report's small charts, with one legend."""
    from matplotlib.figure import Figure

    from tasks.report import figures

    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axes in zip(panels, grid):
        figures.draw(axes, panel)
        axes.set_title(f"{panel['title']}, % of {panel['unit']}", fontsize=10)
    for axes in grid:
        axes.set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110)
    return sink.getvalue()


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
