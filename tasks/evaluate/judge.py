"""A pinned local model as judge of the served models' open answers: first what it is worth, then what it says.

    python -m tasks.evaluate.judge models/smollm2/int4 data/responses data/verdicts.jsonl metrics/judge.json

The judge is tried on pairs whose better answer is known; it ranks, by language, only where a method of asking agrees
with them above chance (tasks/evaluate/judging). `./run judge` asks any other OpenAI endpoint the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
from pydantic import Field

from tasks import params, stage
from tasks.evaluate.judging import questions, sitting
from tasks.evaluate.judging.endpoint import Endpoint, folder
from tasks.serve import client, digest
from tasks.stage import Input, Output, StageError

KEPT = Path(".resume/judge")
REPEATS = 4          # few: a model served here at temperature 0 says the same again


class JudgeParams(params.Section):
    """Who judges in the chain."""

    model: str = Field(min_length=1, description="directory of the judge, served on loopback for as long as it judges")


def judge(model: Input, responses: Input, verdicts: Output, metrics: Output, *, judge: JudgeParams, seed: int,
          runtime: params.Runtime) -> None:
    """Calibrate the judge and let it rank; write its verdicts, a line each, and the figures.

    Raises StageError where there is nothing to compare or the judge cannot be asked.
    """
    contestants = read(responses)
    identity = digest.digest(model)
    own = [name for name in contestants if f"models/{name}/" in f"{judge.model}/"]
    try:
        with client.running(model, threads=runtime.threads, slots=1) as url:
            server = openai.OpenAI(base_url=url, api_key="none")
            found, rows = sit(Endpoint(server, "default", folder(KEPT, identity)), contestants, seed, own)
    except client.ServerError as error:
        raise StageError(str(error)) from None
    found["judge"] = {"model": judge.model, "digest": identity, "own": own}
    verdicts.write_text("".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows),
                        encoding="utf-8")
    stage.write_json(metrics, found)


def sit(endpoint: Endpoint, contestants: sitting.Contestants, seed: int,
        own: Sequence[str] = (), repeats: int = REPEATS) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """({"calibration", "ranking"}, one row a verdict) of a judge on the contestants and the anchors; `own`: those that
    answered by the judge's own weights; `repeats`: pairs of a language asked all over."""
    asked = questions.read("asked")
    found = sitting.calibrate(endpoint, questions.calibration(questions.read("calibration"), seed), seed,
                              repeats)
    table, rows = sitting.rank(endpoint, found, asked, {**contestants, **sitting.anchors(asked, seed)}, seed, own)
    return {"calibration": found, "ranking": table}, rows


def read(responses: Path) -> dict[str, dict[str, str]]:
    """name -> question id -> answer, of the files in a folder. Raises StageError naming the line that is none."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(responses.glob("*.jsonl")):
        rows = found[path.stem] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                rows[str(row["id"])] = str(row["answer"])
            except (ValueError, KeyError, TypeError):
                raise StageError(f'{path}:{number} is no {{"id", "answer"}}: make it again with dvc repro') from None
    if not found:
        raise StageError(f"{responses} holds no answers (*.jsonl): the stages respond make them, ./run repro judge")
    return found


if __name__ == "__main__":
    stage.run(judge)
