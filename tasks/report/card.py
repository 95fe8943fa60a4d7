"""The model card (Mitchell et al., 2019, section by section, cut to what is known): a pure function of the metrics
files."""

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
    """The whole card as markdown. Raises StageError where a metrics file is missing or torn."""
    clean = gather.load(metrics / "decontaminate.json")
    held_out = gather.load(metrics / "evalsets.json")
    mixed = gather.load(metrics / "mixture.json")
    languages = ", ".join(f"{name} {one['share_after']:.0%}" for name, one in sorted(
        mixed["language"].items(), key=lambda item: (-item[1]["share_after"], item[0])))
    whole = {"head": tables["agents"]["head"],
             "rows": [row for row in tables["agents"]["rows"] if ": all tasks" in row[0]]}
    return f"""# Model card

Made by Catena from its metrics files, after Mitchell et al. (2019); `dvc.lock` beside them holds the hash of everything
that went in, `./run why MODEL` draws it. The data has [a card of its own](DATA_CARD.md).

## Model details

`scratch`: a Llama-architecture decoder pretrained here on the corpus below, tuned by LoRA on conversations and tool
calls made from that corpus, aligned by DPO, quantized to int4 by AWQ. `smollm2`: SmolLM2-135M-Instruct (Apache-2.0),
dequantized from the 4-bit weights its package carries (so its scores are not the published model's), quantized again by
AWQ. Every directory is read by `from_pretrained`; the int4 ones are in AutoAWQ's layout, with ONNX, compressed-tensors and
GGUF exports beside them.

{markdown(tables["training"])}
{markdown(tables["tuning"])}
## Intended use

Trying a whole chain end to end, and as the start of a model of one's own. **Out of scope:** facts, advice, decisions about
people, text shown unread. `scratch` is far too small to be relied on; neither model was trained to refuse anything.

## Factors

The text trained on, by language: {languages}. Scores by group of items (language, kind) stand in `metrics/evaluate/`; other
languages, spoken or informal text, and groups of people were not measured.

## Metrics

Value ± one standard error over items; Wilson's intervals of shares and every answer are kept (`metrics/evaluate/`,
`data/answers/`). The last column is what the best trivial answerer gets on the same items: a score not above it says nothing.

{markdown(tables["scores"])}
{markdown(whole)}
## Evaluation data

Made by the chain before training: {held_out["held_out_documents"]} documents held out by hash and items drawn from them,
and exercises whose arguments no training exercise has. They are of the training text's own kind.

## Training data

{mixed["all"]["all"]["documents"]:,} documents, {mixed["all"]["all"]["characters"]:,} characters. Of
{clean["training_characters"]:,} characters {clean["contaminated_fraction"]:.2%} overlapped the evaluation sets (limit
{clean["limit"]:.0%}) and were cut; {clean["overlapping_after"]} overlaps are left.

## Quantization and serving

{markdown(tables["quantization"])}
## Ethical considerations

Personal data was masked where its form is known, and toxic and adult pages dropped by rules and small classifiers: both
miss some. The models may repeat what they read, and follow instructions found in text: the agents' safety rests on policy
(allow-listed tools, bounded arguments, a sandbox), not on the model. Nobody's consent was asked beyond the sources' licences.

## Caveats and recommendations

Sets of items are small, so intervals are wide: compare models on the same items (`./run diff`). One run of each model;
what another seed would give was not measured. Weights are the same bytes from run to run on one machine only.
"""
