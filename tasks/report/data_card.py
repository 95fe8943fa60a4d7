"""The data card (after Gebru et al., Datasheets for Datasets, 2018, cut to what is known): a pure function of the
metrics files."""

from __future__ import annotations

from pathlib import Path

from tasks.report import gather, picture
from tasks.report.card import markdown
from tasks.report.gather import Table


def text(metrics: Path, tables: dict[str, Table]) -> str:
    """The whole card as markdown. Raises StageError where a metrics file is missing or torn."""
    mixed = gather.load(metrics / "mixture.json")["all"]["all"]
    clean = gather.load(metrics / "decontaminate.json")
    stages = picture.funnel(metrics)
    rows = [[row["stage"], reason.replace("_", " "), f"{count:,}", picture.share(count, stages[0]["read"])]
            for row in stages for reason, count, _ in row["dropped"]]
    removed = {"head": ["stage", "reason", "documents", "of all read"], "rows": rows}
    return f"""# Data card

The text that the models are trained on, made by Catena from the sources below; `dvc.lock` holds the hash of everything
that went in. {mixed['documents']:,} documents, {mixed['characters']:,} characters; {mixed['characters_trained']:,}
characters with its repeats, about {mixed['tokens_estimate']:,} tokens.

## Sources

Documents and characters as extracted, and as they stand in the corpus, each once. The licence is the source's own;
nothing here changes it.

{markdown(tables["sources"])}
## Mixture

{markdown(tables["mixture"])}
## What was removed, and why

{markdown(tables["retention"])}
{markdown(removed)}
## Personal data

Found by form and check digits and replaced by the name of its class; names of people and postal addresses are not
looked for, and what was in no known form is still there.

{markdown(tables["masked"])}
## Evaluation

Documents held out for evaluation are no part of it. Of {clean["training_characters"]:,} characters of the others
{clean["contaminated_fraction"]:.2%} were too like an evaluation item (limit {clean["limit"]:.0%}):
{clean["characters_cut"]:,} of them were cut out of {clean["documents_cut"]:,} documents that stayed, the rest left as
whole documents.
{clean["overlapping_after"]} overlaps are left.

{markdown(tables["directions"])}
## Classifiers that judged it

Trained from weakly labelled text: what their labels miss, they miss.

{markdown(tables["classifiers"])}
## Known limits

It is as wide as its sources and no wider. Language, domain and value are judged by rules and small linear models, wrong
as often as the table above tells, and stricter with what is unlike the texts they learned from. No person has read it
whole.
"""
