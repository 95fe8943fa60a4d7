"""One page, a model card and a data card, made only from the metrics files and what the stages kept to show.

`python -m tasks.report.page metrics data/transcripts data/answers data/rejected data/picture report/scores.json
report/MODEL_CARD.md report/DATA_CARD.md` writes the scores and the cards, which are the stage's outputs, and beside
them report/index.html: it also shows seconds, the machine and every hash, so it is not an output (two machines make
two pages of one commit); report/rejects.html shows what the data stages dropped, report/answers.html every item and answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from tasks import stage
from tasks.report import answers as asked
from tasks.report import alignment, card, data_card, figures, forgetting, gather, judge, lineage, long_text
from tasks.report import picture, rejects, training
from tasks.stage import Input, Output

PAGE = Path("report/index.html")
TIMING = Path(".runtime/timing")
CAPTIONS = {"sft": "Loss of the assistant's tokens, a batch at a time.",
            "preference": "DPO loss with the anchor, and the reward margin of the right call over the faulty one.",
            "grpo": "Mean verified reward of the sampled outputs and the share that is wholly right, a step at a time."}
DRAWN = {"grpo": ("reward", "right")}  # columns of a curve, where not all
SHOWN = 4  # transcripts of a track, way and family on the page; all are in data/transcripts


def report(metrics: Input, transcripts: Input, answers: Input, rejected: Input, samples: Input, scores: Output,
           model_card: Output, data: Output, *, models: dict[str, str]) -> None:
    """Write the score tables as JSON, the model card, the data card, and the pages; columns in the order of `models`.

    Raises StageError where a metrics file, an answer or a sample is torn.
    """
    found = gather.evaluated(metrics, models)
    said = asked.read(answers, models)
    made = gather.load(metrics / "picture.json")
    tables = {"scores": gather.scores(found), "differences": asked.differences(models, said),
              "power": gather.power(found), "contaminated": gather.contamination(found),
              "membership": gather.membership(found), "retention": gather.retention(metrics),
              "alignment": alignment.table(models, said), "training": gather.training(metrics), "tuning": gather.tuning(metrics),
              "quantization": gather.quantization(metrics), "agents": gather.agents(metrics),
              "sources": picture.sources(made), "mixture": picture.mixture(metrics),
              "directions": picture.directions(metrics),
              "classifiers": picture.classifiers(metrics), "masked": picture.masked(metrics)}
    stage.write_json(scores, tables)
    model_card.write_text(card.text(metrics, tables), encoding="utf-8")
    data.write_text(data_card.text(metrics, tables), encoding="utf-8")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True)
    dropped = rejects.sampled(rejected)
    rejects.write(dropped, environment)
    asked.write(said, environment)
    page = environment.get_template("page.html.j2").render(
        tables, commit=lineage.commit(), tiles=tiles(metrics, found), curves=curves(metrics),
        pretrained=training.runs(metrics), training_speed=training.speed(metrics, TIMING),
        scores_figures=scored(found), long_text=long_text.maps(found), unread=long_text.unread(found),
        quantization_figure=ratios(metrics),
        forgotten=forgetting.forgotten(models, found), costs=alignment.costs(models, said),
        funnel=picture.funnel(metrics), panels=drawn(made, metrics), pairs=picture.pairs(rejected),
        samples=picture.samples(samples), agents_figure=passes(metrics), judge=judged(metrics),
        serving=gather.serving(metrics, TIMING),
        transcripts=shown(transcripts), rejects=dropped, machine=lineage.machine(),
        stages=lineage.stages(), seconds=stage_seconds())
    partial = PAGE.with_suffix(".partial")
    partial.parent.mkdir(exist_ok=True)
    partial.write_text(page, encoding="utf-8")
    partial.replace(PAGE)


def tiles(metrics: Path, models: dict[str, Any]) -> list[dict[str, str]]:
    """The few figures a reader wants first, each with its source as gather's tables have it."""
    left = gather.load(metrics / "decontaminate.json")
    out = [{"name": "characters of training text", "value": f"{left['characters_out'] / 1e6:.1f} M",
            "from": "decontaminate.json characters_out"}]
    for track, found in gather.folder(metrics / "pretrain").items():
        beside = found["baselines_bpb"]
        out.append({"name": f"{track}: held-out bits per byte (bigram {beside['bigram']:.2f}, "
                            f"xz {beside['xz']:.2f})", "value": f"{found['held_out_bpb']:.2f}",
                    "from": f"pretrain/{track}.json held_out_bpb"})
    for track, found in gather.folder(metrics / "quantize").items():
        out.append({"name": f"{track}: perplexity of int4 over full precision (limit "
                            f"{found['limits']['perplexity_ratio']})",
                    "value": f"{found['awq']['perplexity_ratio']:.3f}",
                    "from": f"quantize/{track}.json awq.perplexity_ratio"})
    for track, found in gather.folder(metrics / "agents").items():
        out.append({"name": f"{track}: tasks solved with tools (without: {found['without_tools']['value']:.0%})",
                    "value": f"{found['with_tools']['value']:.0%}", "from": f"agents/{track}.json with_tools"})
    if models:
        out.append({"name": "models scored", "value": str(len(models)), "from": "evaluate"})
    return out


def scored(models: dict[str, Any]) -> list[dict[str, Any]]:
    """A small figure a score, models in their order, the best trivial answerer as a line."""
    out = []
    for (task, metric), name in gather.rows_of(models).items():
        cells = {model: cell for model, found in models.items() if (cell := found["scores"].get(task, {}).get(metric))}
        if cells:
            lower = metric == "bits_per_byte"
            best = (min if lower else max)(next(iter(cells.values()))["baselines"].values())
            out.append({"name": name, "figure": figures.scored({model: cell["value"] for model, cell in cells.items()},
                                                               {model: cell["stderr"] for model, cell in cells.items()},
                                                               best)})
    return out


def ratios(metrics: Path) -> figures.Markup:
    """Perplexity over full precision's of both ways of rounding, every track's limit as the mark."""
    values, marks = {}, {}
    for track, found in gather.folder(metrics / "quantize").items():
        for key, label in (("nearest", "round to nearest"), ("awq", "AWQ")):
            values[f"{track}, {label}"] = found[key]["perplexity_ratio"]
        marks[f"{track}, AWQ"] = found["limits"]["perplexity_ratio"]
    return figures.bars(values, x="perplexity over full precision's", marks=marks)


def judged(metrics: Path) -> dict[str, Any] | None:
    """The judge's section, where a judge was asked."""
    return judge.section(gather.load(metrics / judge.FILE)) if (metrics / judge.FILE).exists() else None


def drawn(made: dict[str, Any], metrics: Path) -> list[dict[str, Any]]:
    """The small multiples of the data, each with its figure."""
    return [panel | {"figure": figures.beside(panel)}
            for panel in picture.panels(made, gather.load(metrics / "value.json"))]


def curves(metrics: Path) -> list[dict[str, Any]]:
    """A figure for each plots file of tuning: its losses."""
    out = []
    for name in CAPTIONS:
        for path in sorted((metrics / name).glob("*.csv")):
            curve = gather.curve(path)
            losses = {column: (curve["step"], values) for column, values in curve.items()
                      if column in DRAWN.get(name, curve) and column != "step"}
            out.append({"name": f"{name}, {path.stem}",
                        "figure": figures.lines(losses, x="step", y="reward" if name in DRAWN else "loss", height=2.0),
                        "caption": CAPTIONS[name]})
    return out


def passes(metrics: Path) -> figures.Markup:
    """Pass rates with and without tools of every track, a random valid call as the mark."""
    values, errors, marks = {}, {}, {}
    for track, found in gather.folder(metrics / "agents").items():
        for key, label in (("with_tools", "with tools"), ("unconstrained", "free decoding"),
                           ("without_tools", "without")):
            if key not in found:
                continue
            name = f"{track}, {label}"
            values[name], errors[name] = found[key]["value"], found[key]["stderr"]
        marks[f"{track}, with tools"] = found["random_call"]
    return figures.bars(values, x="share of tasks solved", errors=errors, marks=marks)


def shown(folder: Path) -> list[dict[str, Any]]:
    """The first transcripts of each track, way and family, as the page draws them."""
    out = []
    for path in sorted(folder.glob("*.jsonl")):
        count: dict[tuple[str, str], int] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            run = json.loads(line)
            key = run["way"], run["family"]
            count[key] = count.get(key, 0) + 1
            if count[key] <= SHOWN:
                turns = [(event["event"], spoken(event)) for event in run["events"]]
                out.append(run | {"track": path.stem, "turns": turns, "question": turns[0][1] if turns else run["id"]})
    return out


def spoken(event: dict[str, Any]) -> str:
    """What an event of a run says: its text, or its other values as JSON."""
    rest = {key: value for key, value in event.items() if key != "event"}
    return next(iter(rest.values())) if len(rest) == 1 and isinstance(next(iter(rest.values())), str) else json.dumps(
        rest, ensure_ascii=False)


def stage_seconds() -> list[tuple[str, float, int]]:
    """(stage, seconds, peak MiB) of every stage whose last run here was timed by the flow."""
    found = {path.stem.removeprefix("stage-"): gather.load(path) for path in sorted(TIMING.glob("stage-*.json"))}
    return [(name, one["seconds"], one["peak_mib"]) for name, one in found.items()]


if __name__ == "__main__":
    stage.run(report)
