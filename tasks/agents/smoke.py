"""Does the model do more with tools than without? A fixed set of checkable tasks through the project's own server.

    python -m tasks.agents.smoke models/T/onnx data/corpus data/evalsets data/transcripts/T.jsonl
        metrics/agents/T.json --track T

Arithmetic (calculator), small programs (python, sandboxed), facts of the corpus (search) and questions that need no
tool, each asked twice at temperature 0: with tools under constrained decoding, and plainly. Every event is kept in
the transcripts. Beside the pass rates stand the paired difference and what random valid calls would get.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

from openai import OpenAI
from pydantic import Field

from tasks import params, progress, stage
from tasks.agents import floor, loop
from tasks.agents.actions import python
from tasks.agents.actions.calculator import calculator
from tasks.agents.actions.search import Index, words
from tasks.agents.react import Plain, ReAct
from tasks.agents.sandbox import Sandbox, SandboxUnavailable
from tasks.agents.trials import Trial, passes, read_trials
from tasks.agents.tools import Action, ActionError
from tasks.evaluate import statistics
from tasks.serve import client
from tasks.stage import Input, Output, StageError


class AgentsParams(params.Section):
    """The tasks, how the agent is spoken to, and what one run may use."""

    arithmetic: int = Field(ge=1, description="three-digit sums, differences and products")
    python: int = Field(ge=0)
    lookup: int = Field(ge=0)
    system: str = Field(min_length=1, description="system turn with tools")
    plain_system: str = Field(min_length=1, description="system turn of the comparison without tools")
    examples: bool = Field(description="worked examples before the question, for a model not trained to call tools")
    first: str = Field(pattern="^(auto|required)$", description="whether the first step must be a call")
    calls: int = Field(ge=1, le=8, description="steps that may call tools; then an answer is asked for")
    turn: int = Field(ge=8, le=1024, description="tokens of one turn")
    seconds: float = Field(gt=0, description="wall time of one run, a guard: reaching it fails the run")


def agents(model: Input, corpus: Input, evalsets: Input, transcripts: Output, metrics: Output, *,
           agents: AgentsParams, seed: int, runtime: params.Runtime) -> None:
    """Run every task with and without tools; write the transcripts and the scores.

    Raises StageError where the server, the sandbox or the corpus cannot be had, or the server failed in a run.
    """
    trials = read_trials(evalsets, agents.model_dump(include={"arithmetic", "python", "lookup"}))
    started = time.perf_counter()
    with ExitStack() as open_things:
        try:
            index = Index(corpus)
            sandbox = open_things.enter_context(Sandbox())
            url = open_things.enter_context(client.running(model, threads=runtime.threads, slots=1))
        except (ActionError, SandboxUnavailable, client.ServerError) as error:
            raise StageError(str(error)) from None
        actions = [Action.of(function) for function in (calculator, index.action(), python.action(sandbox))]
        ready = time.perf_counter()
        server = OpenAI(base_url=url, api_key="none", max_retries=2)
        ways = {"with_tools": (actions, ReAct(agents.system, agents.examples, agents.first)),
                "without_tools": ([], Plain(agents.plain_system))}
        budget = loop.Budget(agents.calls + 1, 20_000, agents.seconds, agents.turn)
        runs = {way: [ask(server, trial, *how, budget, seed) for trial in progress.track(trials, what=way)]
                for way, how in ways.items()}
        vocabulary = sorted({word for text in index.texts[:2000] for word in words(text)})
        random_rate = floor.random_rate(trials, actions, passes, vocabulary, seed)
    broken = [run.reason for made in runs.values() for run in made
              if run.reason.startswith(("the server", "out of time"))]
    if broken:
        raise StageError(f"{len(broken)} of {2 * len(trials)} runs were cut off ({broken[0]}): run again on a "
                         "machine less busy, or raise agents.seconds")
    transcripts.write_text("".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n"
                                   for line in written(trials, runs)), encoding="utf-8")
    stage.write_json(metrics, scores(trials, runs) | {"random_call": round(random_rate, 6)})
    stage.write_timing(f"agents-{model.parent.name}", {"load_seconds": ready - started,
                                                       "run_seconds": time.perf_counter() - ready})


def ask(server: OpenAI, trial: Trial, actions: list[Action], strategy: loop.Strategy, budget: loop.Budget,
        seed: int) -> loop.Run:
    """One run of the loop on one task."""
    return loop.run(server, "default", trial.question, actions, strategy, budget, seed)


def scores(trials: list[Trial], runs: dict[str, list[loop.Run]]) -> dict[str, Any]:
    """Pass rates of both ways, overall and by family, their paired difference, and how the calls went."""
    passed = {way: [int(passes(trial, run.answer)) for trial, run in zip(trials, made)] for way, made in runs.items()}
    result: dict[str, Any] = compared(passed, range(len(trials)))
    result["families"] = {family: compared(passed, [at for at, t in enumerate(trials) if t.family == family])
                          for family in sorted({trial.family for trial in trials})}
    events = [event for run in runs["with_tools"] for event in run.events]
    made = [event["event"] for before, event in zip(events, events[1:]) if before["event"] == "call"]
    result["calls"] = {"made": len(made), "done": made.count("result"),
                       "tools": dict(Counter(event["tool"] for event in events if event["event"] == "call"))}
    result["ends"] = {way: dict(Counter(run.reason for run in of)) for way, of in runs.items()}
    return result


def compared(passed: dict[str, list[int]], places: Any) -> dict[str, Any]:
    """Both pass rates and their paired difference on the tasks at `places`, with its distance from 0 in errors."""
    one, other = ([passed[way][at] for at in places] for way in ("with_tools", "without_tools"))
    difference = statistics.paired_difference(one, other)
    return {"with_tools": statistics.proportion(one).as_dict(),
            "without_tools": statistics.proportion(other).as_dict(),
            "difference": difference.as_dict() | {"errors": round(difference.value / difference.stderr, 3)}}


def written(trials: list[Trial], runs: dict[str, list[loop.Run]]) -> list[dict[str, Any]]:
    """One transcript line a run."""
    return [{"id": trial.id, "family": trial.family, "way": way, "expected": trial.expected,
             "passed": passes(trial, run.answer), "answer": run.answer, "reason": run.reason, "tokens": run.tokens,
             "events": run.events}
            for way, made in runs.items() for trial, run in zip(trials, made)]


if __name__ == "__main__":
    stage.run(agents)
