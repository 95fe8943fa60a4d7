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
    sites = gather.load(metrics / "crawl.json")
    pages, kinds = sum(one["pages"] for one in sites.values()), len(gather.load(metrics / "sources.json"))
    return f"""# Data card

The text that the models are trained on, made by Catena from the sources below, as a datasheet after Gebru et al. (2018);
`dvc.lock` holds the hash of everything that went in. {mixed['documents']:,} documents, {mixed['characters']:,} characters; {mixed['characters_trained']:,}
characters with its repeats, about {mixed['tokens_estimate']:,} tokens.

## Motivation

To train a small language model from pages to agent where every byte can be traced. Made by whoever ran the chain; paid by
nobody the chain knows of.

## Composition

Documents and characters as extracted, and as they stand in the corpus, each once. An instance is one page or text with its
address, source, licence, language, scores and what was cut from it. It is not a sample of the web but all of the sources that
the rules below let through. The licence is the source's own; nothing here changes it.

{markdown(tables["sources"])}
{markdown(tables["mixture"])}
## Collection

{kinds} pinned packages, sites and files (version and sha256 in `params.yaml`); {pages:,} pages were crawled from {len(sites)}
sites by the chain's own crawler, which heeds robots.txt, delays and size limits. No people were asked or paid, and none
is a subject by design.

## Cleaning and labelling

What was removed, and why; the removed documents are kept in `data/rejected`, the raw pages in `data/crawl`.

{markdown(tables["retention"])}
{markdown(removed)}
**Personal data** is found by form and check digits and replaced by the name of its class; names of people and postal
addresses are not looked for, and what was in no known form is still there.

{markdown(tables["masked"])}
**Evaluation.** Documents held out for evaluation are no part of it. Of {clean["training_characters"]:,} characters of the others
{clean["contaminated_fraction"]:.2%} were too like an evaluation item (limit {clean["limit"]:.0%}):
{clean["characters_cut"]:,} of them were cut out of {clean["documents_cut"]:,} documents that stayed, the rest left as
whole documents.
{clean["overlapping_after"]} overlaps are left.

{markdown(tables["directions"])}
**Classifiers** that judged it were trained from weakly labelled text: what their labels miss, they miss.

{markdown(tables["classifiers"])}
## Uses

Pretraining and tuning of the models beside it. Not for: learning facts about people, or as evaluation of anything, since
models have read it.

## Distribution

DVC keeps it and pushes it where its remote is; whoever passes it on passes on each source's licence and its duties.

## Maintenance

A new snapshot of a source costs its changed records (`params.yaml`, `sources.corpora`); where two snapshots have nearly the
same page, the newer stays. To have a page removed: take it from its source or add its domain to `safety.domains`, and run
again; models trained before keep what they read.

## Known limits

It is as wide as its sources and no wider. Language, domain and value are judged by rules and small linear models, wrong
as often as the table above tells, and stricter with what is unlike the texts they learned from. No person has read it
whole.
"""
