"""A served model's answers to the open questions that the judge compares.

    python -m tasks.evaluate.respond models/T/int4 data/responses/T.jsonl

At temperature 0 through the project's own server, one question at a time, so the answers are the same every time.
"""

from __future__ import annotations

import json

import openai

from tasks import params, progress, stage
from tasks.evaluate.judging import questions
from tasks.serve import client
from tasks.stage import Input, Output, StageError

TOKENS = 48


def respond(model: Input, responses: Output, *, seed: int, runtime: params.Runtime) -> None:
    """Write {"id", "language", "question", "answer"} of every question asked. Raises StageError without a server."""
    rows = []
    try:
        with client.running(model, threads=runtime.threads, slots=1) as url:
            server = openai.OpenAI(base_url=url, api_key="none", max_retries=2)
            for one in progress.track(questions.read("asked"), what=f"questions to {model.parent.name}"):
                made = server.chat.completions.create(
                    model="default", messages=[{"role": "user", "content": one.question}], temperature=0, seed=seed,
                    max_tokens=TOKENS)
                rows.append({"id": one.id, "language": one.language, "question": one.question,
                             "answer": made.choices[0].message.content or ""})
    except (client.ServerError, openai.OpenAIError) as error:
        raise StageError(f"{model} cannot be asked: {stage.one_line(error)}") from None
    responses.write_text("".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows),
                         encoding="utf-8")


if __name__ == "__main__":
    stage.run(respond)
