"""The model card (Mitchell et al., 2019, cut to what is known): a pure function of the metrics files."""

from __future__ import annotations

from pathlib import Path

from tasks.report import gather


def markdown(table: gather.Table) -> str:
    """A table as GitHub markdown, numbers to the right."""
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"

    head = table["head"]
    return line(head) + line(["---", *["---:"] * (len(head) - 1)]) + "".join(line(row) for row in table["rows"])


def text(metrics: Path, tables: dict[str, gather.Table]) -> str:
    """The whole card as markdown."""
    corpora = gather.load(metrics / "sources.json")
    sources = {"head": ["source", "licence", "files", "bytes"],
               "rows": [[name, one["licence"], gather.number(one["files"]), gather.number(one["bytes"])]
                        for name, one in corpora.items()]}
    clean = gather.load(metrics / "decontaminate.json")
    held_out = gather.load(metrics / "evalsets.json")
    return f"""# Model card

Made by Catena from its metrics files; `dvc.lock` beside them holds the hash of everything that went in.

## Models

`scratch`: a Llama-architecture model pretrained here on the corpus below, tuned by LoRA on conversations and tool
calls made from that corpus, aligned by DPO, quantized to int4 by AWQ. `smollm2`: SmolLM2-135M-Instruct, dequantized from
the 4-bit weights its package carries (so its scores are not the published model's), quantized again by AWQ.

{markdown(tables["training"])}
{markdown(tables["tuning"])}
## Intended use

Trying a whole chain end to end, and as the start of a model of one's own. `scratch` is far too small to be relied on
for facts or advice; neither model was trained to refuse anything.

## Data

{markdown(sources)}
Of {clean["training_characters"]:,} characters of training text {clean["contaminated_fraction"]:.2%} overlapped the
evaluation sets (limit {clean["limit"]:.0%}) and were cut; {clean["overlapping_after"]} overlaps are left.
{held_out["held_out_documents"]} documents were held out by hash.

{markdown(tables["retention"])}
## Scores

Value ± one standard error; last what the best trivial answerer gets on the same items.

{markdown(tables["scores"])}
## Agents

{markdown(tables["agents"])}
## Quantization

{markdown(tables["quantization"])}"""
