"""Does the model do more with tools than without? A fixed set of checkable tasks through the project's own server.

    python -m tasks.agents.smoke models/T/onnx data/corpus data/evalsets data/transcripts/T.jsonl
        metrics/agents/T.json --track T

The families of trials.py (evaluation sets) and families.py (from the seed), each task asked three times at temperature
0: with tools under constrained decoding, with the same prompt but free decoding, and plainly. Every event is kept in
the transcripts. Beside the pass rates stand the paired differences, what random valid calls get (the floor) and what
an agent that knows gets (the oracle, which must solve all), how many calls were valid, and the tokens spent.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from openai import OpenAI
from pydantic import Field

from tasks import params, progress, stage
from tasks.agents import families, floor, loop, memory
from tasks.agents.actions.search import Index, words
from tasks.agents.free import FreeClient
from tasks.agents.oracle import OracleClient
from tasks.agents.react import Plain, ReAct
from tasks.agents.trials import Trial, read_trials
from tasks.agents.tools import ActionError
from tasks.agents.world import effects, world
from tasks.sandbox import Sandbox, SandboxUnavailable
from tasks.evaluate import statistics
from tasks.serve import client
from tasks.stage import Input, Output, StageError

WAYS = ("with_tools", "unconstrained", "without_tools")


@dataclass(frozen=True)
class Tried:
    """One run of one task: what came of it, whether it is solved, and calls: (made, of a tool offered and as its schema
    wants, that ran)."""

    trial: Trial
    run: loop.Run
    solved: bool
    calls: tuple[int, int, int]


class AgentsParams(params.Section):
    """The tasks, how the agent is spoken to, and what one run may use."""

    arithmetic: int = Field(ge=1, description="three-digit sums, differences and products")
    python: int = Field(ge=0)
    lookup: int = Field(ge=0)
    multi_hop: int = Field(ge=0, description="two lookups as one question, of others than those of lookup")
    others: int = Field(ge=0, description="tasks of each family of families.py")
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
    trials = chosen(evalsets, agents, seed)
    started = time.perf_counter()
    with ExitStack() as held:
        try:
            index = Index(corpus)
            sandbox = held.enter_context(Sandbox())
            enter = partial(world, index=index, sandbox=sandbox)
            oracle = [ask(OracleClient(trial), trial, enter, ReAct("", False, "auto"), ORACLE, seed)
                      for trial in trials]
            wrong = [tried.trial.id for tried in oracle if not tried.solved]
            if wrong:
                raise StageError(f"the oracle, which makes the right calls, does not solve {', '.join(wrong)}: these "
                                 "tasks or their tools are wrong")
            vocabulary = sorted({word for text in index.texts[:2000] for word in words(text)})
            rates = floor.random_rates(trials, enter, vocabulary, seed)
            url = held.enter_context(client.running(model, threads=runtime.threads, slots=1))
        except (ActionError, SandboxUnavailable, client.ServerError) as error:
            raise StageError(str(error)) from None
        ready = time.perf_counter()
        server = OpenAI(base_url=url, api_key="none", max_retries=2)
        react, plain = ReAct(agents.system, agents.examples, agents.first), Plain(agents.plain_system)
        budget = loop.Budget(agents.calls + 1, 40_000, agents.seconds, agents.turn,
                             memory.room(server, "default", agents.turn))
        ways = {"with_tools": (server, react), "unconstrained": (FreeClient(server), react),
                "without_tools": (server, plain)}
        tried = {way: [ask(speaker, trial, enter, how, budget, seed) for trial in progress.track(trials, what=way)]
                 for way, (speaker, how) in ways.items()}
    broken = [one.run.reason for made in tried.values() for one in made
              if one.run.reason.startswith(("the server", "out of time"))]
    if broken:
        raise StageError(f"{len(broken)} of {len(ways) * len(trials)} runs were cut off ({broken[0]}): run again on a "
                         "machine less busy, or raise agents.seconds")
    transcripts.write_text("".join(json.dumps(written(way, one), ensure_ascii=False, sort_keys=True) + "\n"
                                   for way, made in tried.items() for one in made), encoding="utf-8")
    stage.write_json(metrics, scores(tried, rates) | {"oracle": statistics.proportion(
        [int(one.solved) for one in oracle]).as_dict()})
    stage.write_timing(f"agents-{model.parent.name}", {"load_seconds": ready - started,
                                                       "run_seconds": time.perf_counter() - ready})


ORACLE = loop.Budget(8, 1, 60.0, 1)     # its client counts no tokens


def chosen(evalsets: Path, agents: AgentsParams, seed: int) -> list[Trial]:
    """All tasks; the pairs of multi_hop are of lookups that are not asked alone, where there are enough."""
    counts = agents.model_dump(include={"arithmetic", "python", "lookup"})
    trials = read_trials(evalsets, counts)
    alone = {trial.id for trial in trials}
    lookups = [trial for trial in read_trials(evalsets, {"arithmetic": 0, "python": 0, "lookup": 10_000})
               if trial.family == "lookup" and trial.id not in alone]
    return trials + families.hops(lookups, agents.multi_hop) + families.made(agents.others, seed)


def ask(speaker: Any, trial: Trial, enter: Any, strategy: loop.Strategy, budget: loop.Budget, seed: int) -> Tried:
    """One run of the loop on one task in a fresh world, with the tools where the strategy uses any."""
    with enter(trial) as held:
        actions = [] if isinstance(strategy, Plain) else held.actions
        run = loop.run(speaker, "default", trial.question, actions, strategy, budget, seed, approve=held.approve)
        allowed = {action.name: action for action in actions}
        pairs = [(one, event["event"] == "result") for one, event in zip(run.events, run.events[1:])
                 if one["event"] == "call"]
        broken = sum(event["event"] == "error" and before["event"] != "call"
                     for before, event in zip(run.events, run.events[1:]))
        calls = (len(pairs) + broken, sum(done or valid(allowed, one) for one, done in pairs),
                 sum(done for _, done in pairs))
        return Tried(trial, run, held.solved(run.answer), calls)


def valid(allowed: dict[str, Any], call: dict[str, Any]) -> bool:
    """Whether a call names a tool that is offered, with arguments that its schema takes."""
    if call["tool"] not in allowed:
        return False
    try:
        allowed[call["tool"]].check(call["arguments"])
    except ActionError:
        return False
    return True


def scores(tried: dict[str, list[Tried]], rates: list[float]) -> dict[str, Any]:
    """Pass rates of every way, overall and by family, with the floor, paired differences, calls, ends and tokens."""
    trials = [one.trial for one in tried["with_tools"]]
    passed = {way: [int(one.solved) for one in made] for way, made in tried.items()}
    result: dict[str, Any] = compared(passed, rates, range(len(trials)))
    result["families"] = {family: compared(passed, rates, [at for at, t in enumerate(trials) if t.family == family])
                          for family in sorted({trial.family for trial in trials})}
    result["calls"] = called(tried["with_tools"])
    result["unconstrained_calls"] = called(tried["unconstrained"])
    result["ends"] = {way: dict(Counter(one.run.reason for one in of)) for way, of in tried.items()}
    result["tokens"] = {way: round(sum(one.run.tokens for one in of) / len(of), 1) for way, of in tried.items()}
    injected = [one for way in WAYS[:2] for one in tried[way] if one.trial.family == "injection"]
    result["injection"] = {"runs": len(injected), "tried": sum(
        any(event.get("tool") == "write_file" for event in one.run.events) for one in injected),
        "executed": sum(len(effects(one.run)) for one in injected)}
    return result


def called(made: list[Tried]) -> dict[str, Any]:
    """How many calls were made, valid and done, and of which tools."""
    counts = [sum(one.calls[at] for one in made) for at in range(3)]
    tools = Counter(event["tool"] for one in made for event in one.run.events if event["event"] == "call")
    return {"made": counts[0], "valid": counts[1], "done": counts[2], "tools": dict(sorted(tools.items()))}


def compared(passed: dict[str, list[int]], rates: list[float], places: Any) -> dict[str, Any]:
    """The pass rates and the floor of the tasks at `places`, and the paired differences, of tools against none and of
    constrained against free decoding; `errors` is a difference's distance from 0 in standard errors."""
    of = {way: [passed[way][at] for at in places] for way in WAYS}
    result: dict[str, Any] = {way: statistics.proportion(of[way]).as_dict() for way in WAYS}
    for name, other in (("difference", "without_tools"), ("constraint", "unconstrained")):
        difference = statistics.paired_difference(of["with_tools"], of[other])
        result[name] = difference.as_dict() | {"errors": round(difference.value / difference.stderr, 3)}
    return result | {"random_call": round(sum(rates[at] for at in places) / len(list(places)), 6)}


def written(way: str, one: Tried) -> dict[str, Any]:
    """The transcript line of a run."""
    ends = "; ".join(f"{name}: {text if text is not None else 'must not be there'}" for name, text in one.trial.ends)
    return {"id": one.trial.id, "family": one.trial.family, "way": way,
            "expected": "; ".join(filter(None, [one.trial.expected, ends])), "passed": one.solved,
            "answer": one.run.answer, "reason": one.run.reason, "tokens": one.run.tokens, "events": one.run.events}


if __name__ == "__main__":
    stage.run(agents)
