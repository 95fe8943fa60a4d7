"""The report's part on pretraining: how loss, gradient and rate went, which text it reads well, how fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.report import figures, gather

BASELINES = ("bigram", "xz", "trigram")  # drawn beside the curve
SMALL = 2.0  # inches high
ROWS = ("ranks", "tokens/s a rank", "TFLOPS a rank", "ceiling, TFLOPS", "MFU", "of a step, waiting for its batch",
        "of all, scoring and saving", "peak memory of a rank, MiB", "of its device, MiB")


def runs(metrics: Path) -> list[dict[str, Any]]:
    """Of each pretrained track, its name and figures with their captions."""
    out = []
    for track, found in gather.folder(metrics / "pretrain").items():
        curve = gather.curve(metrics / "pretrain" / f"{track}.csv")
        at = curve.get("tokens", [])

        def drawn(names: dict[str, str], y: str, height: float = SMALL, levels: dict[str, float] | None = None,
                  curve: dict[str, list[float]] = curve, at: list[float] = at) -> figures.Markup:
            series = {name: [(x, value) for x, value in zip(at, curve[key]) if value == value]
                      for key, name in names.items() if key in curve}
            return figures.lines({name: tuple(zip(*points)) for name, points in series.items() if points}, x="tokens",
                                 y=y, height=height, levels=levels)

        levels = {name.replace("_", " "): found["baselines_bpb"][name] for name in BASELINES}
        pictures = [(drawn({"held_out_bpb": "held-out"}, "bits per byte", 2.6, levels),
                     "Held-out bits per byte while training, on a sample of the held-out windows, and what counting "
                     "models and a compressor reach on the same text.")]
        kinds = {key: key.removeprefix("bpb_").replace("_", " ") for key in curve if key.startswith("bpb_")}
        if kinds:
            pictures.append((drawn(kinds, "bits per byte", 2.6), "The same by language and domain."))
        pictures.append((drawn({"train_loss": "loss"}, "loss, nats a token"),
                         "Training loss, the mean since the point before."))
        if "grad_norm" in curve:
            pictures += [(drawn({"grad_norm": "norm"}, "gradient norm"),
                          "Gradient norm before clipping, the mean of the steps looked at since the point before."),
                         (drawn({"rate": "rate"}, "share of the peak rates"), "The learning rates' schedule.")]
        if "by_kind" in found:
            rows = {f"{row['name']} ({row['by']}, {row['documents']})": row for row in found["by_kind"]}
            pictures.append((figures.bars(
                {name: row["held_out_bpb"] for name, row in rows.items()}, x="held-out bits per byte",
                errors={name: row["held_out_bpb_stderr"] for name, row in rows.items()},
                marks={name: row["trigram"] for name, row in rows.items()}),
                "The trained model by language, domain and source of the held-out documents (how many), with one "
                "standard error over documents; the mark is the token trigram's."))
        out.append({"name": f"Pretraining, {track}",
                    "figures": [{"figure": figure, "caption": caption} for figure, caption in pictures]})
    return out


def speed(metrics: Path, timing: Path) -> gather.Table:
    """One column a pretrained track: what its last run on this machine took; empty cells where none was timed here."""
    files = {track: timing / f"pretrain-{track}.json" for track in gather.folder(metrics / "pretrain")}
    found = {track: gather.load(file) if file.exists() else {} for track, file in files.items()}
    cells = {track: measured(one) if "mfu" in one else {"ranks": "not measured here"} for track, one in found.items()}
    return {"head": ["speed", *cells],
            "rows": [[name, *(of.get(name, "") for of in cells.values())] for name in ROWS],
            "from": [["", *(f"../.runtime/timing/{files[track].name}" if name in of and "mfu" in found[track] else ""
                            for track, of in cells.items())] for name in ROWS]}


def measured(one: dict[str, Any]) -> dict[str, str]:
    """The cells of one timed run, by ROWS."""
    return dict(zip(ROWS, (
        str(one["ranks"]), f"{one['tokens_per_second_per_rank']:,.0f}", f"{one['tflops_per_rank']:.3f}",
        f"{one['ceiling_tflops']:.3f}: {one['ceiling']}", f"{one['mfu']:.1%}", f"{one['data_wait']:.1%}",
        f"{one['score_and_save_seconds'] / one['wall_seconds']:.1%}", f"{one['peak_host_mib']:,}",
        f"{one['peak_device_mib']:,}" if "peak_device_mib" in one else "none")))
