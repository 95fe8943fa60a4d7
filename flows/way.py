"""The nodes of the way from a task set to a served model, each a recorded decision (flows/adapt.py walks it)."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows import making, trial
from flows.decisions import Decisions, Node
from flows.taskset import TaskSet, TaskSetError
from tasks.evaluate import statistics
from tasks.pretrain import planner
from tasks.pretrain.footprint import Method, Shape
from tasks.serve.digest import digest as digest_of

LARGE = 0.2     # a gap of the pass rate above which more than adapters may be moved
LOST = 0.1      # pass rate that rounding to 4 bits may cost, as far as the trial can tell
SMOKE = 3       # questions of the smoke test
CODE = ("flows/way.py", "flows/taskset.py", "flows/trial.py", "flows/making.py", "tasks/finetune/tune.py",
        "tasks/finetune/training.py", "tasks/finetune/method.py", "tasks/finetune/lora.py", "tasks/finetune/packing.py",
        "tasks/quantize/awq.py", "tasks/pretrain/best.py", "tasks/pretrain/planner.py", "tasks/pretrain/footprint.py")


class NotReached(RuntimeError):
    """No way to the target was found; the message says where it ended and why."""


@dataclass
class Way:
    """What the nodes of one way share."""

    given: TaskSet
    folder: Path
    record: Decisions
    conversations: Path
    code: str
    found: dict[str, dict[str, list[Any]]]  # what was said: (candidate or model) -> outcomes

    def asked(self, model: Path, held_out: bool, tools: bool, what: str) -> list[trial.Outcome]:
        """The outcomes of `model` on a half of the items, asked once."""
        items = self.given.part(held_out)
        key = f"{digest(model)} {held_out} {tools}"
        if key not in self.found:
            self.found[key] = trial.ask(model, self.given, items, tools, what)
        return self.found[key]


def candidate(name: str) -> Path:
    """The model directory of a track or a path. Raises TaskSetError where there is none."""
    for place in (Path("models") / name / "chat", Path("models") / name / "sft", Path(name)):
        if (place / "config.json").is_file():
            return place
    tracks = sorted(path.parent.name for path in Path("models").glob("*/chat"))
    raise TaskSetError(f"candidates: {name!r} is neither a track (made here: "
                       f"{', '.join(tracks) or 'none; ./run makes them'}) nor a model directory with a config.json")


def questions(given: TaskSet, held_out: bool) -> list[Any]:
    """A half of the items as plain values."""
    return [item.model_dump() for item in given.part(held_out)]


def code_digest() -> str:
    """Of the code that decides and makes: another version decides anew."""
    texts = [(making.ROOT / path).read_bytes() for path in CODE]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


def rate(outcomes: list[trial.Outcome]) -> statistics.Estimate:
    """The pass rate."""
    return statistics.proportion([int(outcome.passed) for outcome in outcomes])


def difference(one: list[trial.Outcome], other: list[trial.Outcome]) -> statistics.Estimate:
    """Of two pass rates on the same items."""
    return statistics.paired_difference([int(o.passed) for o in one], [int(o.passed) for o in other])


def choose(way: Way, places: dict[str, Path]) -> Node:
    """The candidate to go on with: the best, with its tools or without; among those that the items cannot tell from
    it, the smallest that some method can tune within the budget (one that needs no tuning is always within it)."""
    given = way.given
    tools = given.metric == "call"  # without its tools a call cannot be asked for

    def make() -> Node:
        bare = {name: way.asked(place, False, tools, name) for name, place in places.items()}
        outcomes, using = bare, {}
        if given.tools and not tools and len(places) > 1:
            using = {name: way.asked(place, False, True, f"{name}, with tools") for name, place in places.items()}
            outcomes = {name: max(found, using[name], key=lambda one: rate(one).value) for name, found in bare.items()}
        rates = {name: rate(found).as_dict() for name, found in outcomes.items()}
        best = max(rates, key=lambda name: rates[name]["value"])
        sizes = {name: Shape.read(place).parameters for name, place in places.items()}
        plans = {name: plans_of(way, place) for name, place in places.items()}
        able = [name for name in places if rates[name]["value"] >= given.target
                or planner.recommend(plans[name], given.budget.minutes * 60)]
        if not able:
            least = min((p for made in plans.values() for p in made), key=lambda p: p.peak)
            raise TaskSetError(f"budget: no method fits {given.budget.memory_gib} GiB and {given.budget.minutes} "
                               f"minutes for any candidate; the smallest need is {planner.label(least.method)} with "
                               f"{planner.size(least.peak)} and {least.seconds / 60:.1f} minutes: raise the budget")
        leader = max(able, key=lambda name: rates[name]["value"])
        equal = [name for name in able if difference(outcomes[leader], outcomes[name]).low <= 0]
        name = min(equal, key=lambda one: sizes[one])
        reason = f"scores {rates[name]['value']:.3f}" + (" with its tools" if outcomes[name] is not bare[name] else "")
        if name != leader:
            reason += f", not told apart from {leader} ({rates[leader]['value']:.3f}) by these items, and is smaller"
        if best not in able:
            quickest = min(plans[best], key=lambda p: p.seconds)
            reason += (f"; {best} scores {rates[best]['value']:.3f} but no method tunes it within the budget (least "
                       f"time {quickest.seconds / 60:.1f} minutes, least memory "
                       f"{planner.size(min(p.peak for p in plans[best]))})")
        return {"choice": name, "reason": reason, "numbers": {
            **{one: rate(found).as_dict() for one, found in bare.items()}, "weights": sizes, "tools": tools,
            **({"with tools": {one: rate(found).as_dict()["value"] for one, found in using.items()}} if using else {})}}

    return way.record.node("candidate", {
        "models": {name: digest(place) for name, place in places.items()}, "items": questions(given, False),
        "system": given.system, "metric": given.metric, "target": given.target, "budget": given.budget.model_dump(),
        "tools": given.tools, "code": way.code, "training": file_digest(way.conversations)}, make)


def gap(way: Way, chosen: Node) -> Node:
    """Whether the chosen candidate is at the target already, near it, or far from it."""
    score, target = chosen["numbers"][chosen["choice"]], way.given.target

    def make() -> Node:
        missing = round(target - score["value"], 6)
        size = "none" if missing <= 0 else "large" if missing > LARGE else "small"
        why = {"none": "it is there without tuning", "small": f"at most {LARGE}: adapters first, which move less",
               "large": f"above {LARGE}: the method that moves most goes first"}[size]
        return {"choice": size, "reason": f"{score['value']:.3f} of {target}: {why}",
                "numbers": {"score": score, "target": target, "gap": missing}}

    return way.record.node("gap", {"score": score, "target": target}, make)


def plans_of(way: Way, place: Path) -> list[planner.Plan]:
    """The planner's answers for tuning the model in `place` on the training data."""
    from tasks.finetune import checkpoint, masking
    from tasks.finetune.tune import read

    tokenizer = checkpoint.load_tokenizer(place)
    examples = [masking.encode(each, tokenizer) for each in read(way.conversations)]
    tokens = [len(example.ids) for example in examples]
    longest = max(tokens)
    learned = max(0.05, min(1.0, sum(sum(e.learned) for e in examples) / sum(tokens)))
    width = Shape.read(place).hidden
    batch = making.settings(Method("full", longest, making.BATCH), width, len(examples)).training.batch
    limit = way.given.budget.memory_gib * planner.GIB
    machine = replace(planner.LAPTOP, memory=limit, host_memory=0)
    base = Method("full", longest, batch, rank=making.RANK, learned=learned)
    return [planner.plan(place, machine, replace(method, optimizer="adamw" if method.kind == "full" else "muon"),
                         sum(tokens) * making.EPOCHS) for method in planner.methods(base, machine)]


def with_tools(way: Way, base: Path) -> Node:
    """Whether tools are used: measured on the choosing half, with and without."""
    given = way.given

    def make() -> Node:
        if not given.tools:
            return {"choice": "without", "reason": "the task set names no tools"}
        if given.metric == "call":
            return {"choice": "with", "reason": "the task is to call them: each item's right answer is a call"}
        agent_file(way).unlink(missing_ok=True)
        without, using = (way.asked(base, False, tools, f"{'with' if tools else 'without'} tools")
                          for tools in (False, True))
        gained = difference(using, without)
        calls = any(m.get("tool_calls") for c in way.conversations.read_text(encoding="utf-8").splitlines()
                    for m in json.loads(c)["messages"])
        helps = gained.low > 0
        kept = 0 if calls or not helps else agent_data(way, using)
        why = "the paired interval excludes no gain" if helps else "the paired interval does not exclude no gain"
        return {"choice": "with" if helps else "without",
                "reason": f"{why}" + (f"; {kept} runs that ended right are learned as agent data" if kept else ""),
                "numbers": {"with": rate(using).as_dict(), "without": rate(without).as_dict(),
                            "difference": gained.as_dict(), "agent conversations": kept}}

    return way.record.node("tools", {"model": digest(base), "items": questions(given, False), "tools": given.tools,
                                     "system": given.system, "metric": given.metric, "code": way.code,
                                     "training": file_digest(way.conversations)}, make)


def agent_file(way: Way) -> Path:
    """Where the agent's own right runs lie."""
    return way.folder / "agent.jsonl"


def agent_data(way: Way, runs: list[trial.Outcome]) -> int:
    """Put the runs that ended right (Zelikman et al. 2022, STaR) in place of the bare answers; how many there were."""
    with ExitStack() as held:
        schemas = [action.schema for action in trial.allowed(way.given, held)]
    good = [run.messages for run in runs if run.passed]
    agent_file(way).write_text("".join(
        json.dumps({"messages": messages, "tools": schemas}, ensure_ascii=False) + "\n" for messages in good),
        encoding="utf-8")
    return len(good)


def tuned(way: Way, base: Path, tools: bool) -> Path:
    """Tune by each method that fits until the trial passes. Raises NotReached with every reason."""
    given = way.given
    if tools and agent_file(way).exists() and agent_file(way).stat().st_size:
        way.conversations = agent_file(way)
    data = file_digest(way.conversations)
    size = next(entry["choice"] for entry in way.record.entries if entry["node"] == "gap")
    plans = plans_of(way, base)
    fitting = planner.recommend(plans, given.budget.minutes * 60)
    if size == "small":
        fitting.sort(key=lambda made: made.method.kind == "full")

    def weigh() -> Node:
        if not fitting:
            raise TaskSetError(f"budget: {planner.advice(plans, given.budget.minutes * 60)}")
        order = ", then ".join(planner.label(made.method) for made in fitting)
        return {"choice": fitting[0].method.kind, "reason":
                f"{order}: " + planner.advice(plans, given.budget.minutes * 60),
                "numbers": {planner.label(made.method): {"peak GiB": made.peak / planner.GIB,
                                                         "minutes": made.seconds / 60} for made in plans}}

    way.record.node("method", {"model": digest(base), "data": data, "budget": given.budget.model_dump(), "gap": size,
                               "code": way.code}, weigh)
    width = Shape.read(base).hidden
    lines = len(way.conversations.read_text(encoding="utf-8").splitlines())
    refusals = []
    for number, made in enumerate(fitting, 1):
        name, values = f"tuned-{made.method.kind}", making.settings(made.method, width, lines, given.patience)
        inputs = {"model": digest(base), "data": data, "tune": values.model_dump(), "code": way.code}

        def teach() -> Node:
            try:
                got = making.tuned(base, way.conversations, way.folder, name, values)
            except making.MakingError as error:
                return {"choice": "failed", "reason": str(error)}
            return {"choice": name, "reason": f"{got['steps']} steps over {got['tokens']} tokens in {got['seconds']} s",
                    "artifact": name, "numbers": {
                        "loss before": got["loss_before"], "loss after": got["loss_after"],
                        "peak GiB, predicted": made.peak / planner.GIB, "peak GiB, measured":
                        got["peak_bytes"] / planner.GIB, "minutes, predicted": made.seconds / 60,
                        "minutes, measured": got["seconds"] / 60}}

        entry = way.record.node(f"tune {number}", inputs, teach)
        if entry["choice"] == "failed":
            refusals.append(f"{made.method.kind}: {entry['reason']}")
            continue
        verdict = tried(way, number, base, way.folder / name, tools)
        if verdict["choice"] == "passed":
            return way.folder / name
        refusals.append(f"{made.method.kind}: {verdict['reason']}")
    raise NotReached("the trial was not passed; " + "; ".join(refusals) + ". More or other training data, a larger "
                     "candidate or budget, or a lower target is the way on")


def enough(way: Way, base: Path, measured: Node) -> bool:
    """Whether tools alone reach the target: where they do on the choosing half, the trial is asked of the untuned
    model, with them and without; failed, tuning goes on from there."""
    if measured["choice"] != "with" or way.given.metric == "call":
        return False
    if measured["numbers"]["with"]["value"] < way.given.target:
        return False
    return tried(way, 0, base, base, True, False)["choice"] == "passed"


def tried(way: Way, number: int, base: Path, model: Path, tools: bool, before_tools: bool | None = None) -> Node:
    """The trial: the held-out half, paired with the untuned model (with tools as now, or as `before_tools` says).
    Passed: at the target, and surely better."""
    def make() -> Node:
        now = way.asked(model, True, tools, "trial" if model == base else "trial, tuned")
        before = way.asked(base, True, tools if before_tools is None else before_tools, "trial, untuned")
        score, gained = rate(now), difference(now, before)
        faults = []
        if score.value < way.given.target:
            missed = next(i.question for i, o in zip(way.given.part(True), now) if not o.passed)
            faults.append(f"{score.value:.3f} is below the target {way.given.target} (missed, for one: "
                          f"{missed[:60]!r})")
        if gained.low <= 0:
            faults.append(f"the paired interval of the gain, {gained.low:.3f} to {gained.high:.3f}, includes none")
        return {"choice": "failed" if faults else "passed", "reason": "; ".join(faults) or
                f"{score.value:.3f} on items never learned, {gained.value:+.3f} to the untuned model" +
                (" without tools: nothing is tuned" if model == base else ""),
                "numbers": {"tuned": score.as_dict(), "untuned": rate(before).as_dict(), "gain": gained.as_dict()}}

    return way.record.node(f"trial {number}", trial_inputs(way, {"model": digest(model), "base": digest(base)}, tools),
                           make)


def trial_inputs(way: Way, models: dict[str, str], tools: bool) -> dict[str, Any]:
    """What a score on the held-out half depends on."""
    return {**models, "items": questions(way.given, True), "tools": tools and way.given.tools,
            "system": way.given.system, "metric": way.given.metric, "target": way.given.target, "code": way.code}


def compress(way: Way, model: Path, tools: bool) -> Path:
    """The int4 of `model` where it keeps what the trial can tell, else `model` itself."""
    def make() -> Node:
        whole = way.asked(model, True, tools, "trial, whole")
        try:
            costs = making.quantized(model, way.conversations, way.folder)["awq"]
        except making.MakingError as error:
            return {"choice": "whole", "reason": f"int4 was refused, the whole model is served: {error}"}
        small = way.asked(way.folder / "int4", True, tools, "trial, int4")
        score, lost = rate(small), difference(small, whole)
        good = lost.value >= -LOST and score.value >= min(way.given.target, rate(whole).value)
        why = f"{score.value:.3f} in 4 bits, {lost.value:+.3f}"
        why += "" if good else f": the whole model is served, its {rate(whole).value:.3f}"
        return {"choice": "int4" if good else "whole", "reason": why, "artifact": "int4", "numbers": {
            "int4": score.as_dict(), "whole": rate(whole).as_dict(), "difference": lost.as_dict(),
            "perplexity ratio": costs["perplexity_ratio"]}}

    entry = way.record.node("quantize", trial_inputs(way, {"model": digest(model), "data": file_digest(
        way.conversations)}, tools), make)
    return way.folder / "int4" if entry["choice"] == "int4" else model


def deploy(way: Way, model: Path, tools: bool) -> Path:
    """Point .adapt/NAME/deployed at `model` in one step (a server of the link swaps), then ask it over HTTP."""
    link = way.folder / "deployed"

    def place() -> Node:
        partial = way.folder / ".deployed.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to(os.path.relpath(model, way.folder))
        os.replace(partial, link)
        return {"choice": model.name, "reason": f"served by: ./run adapt FILE --serve, or python -m tasks.serve.api "
                f"{way.given.name}={link}", "artifact": "deployed", "numbers": {
                    "MiB": sum(file.stat().st_size for file in model.iterdir()) / 2**20}}

    way.record.node("deploy", {"model": digest(model)}, place)

    def smoke() -> Node:
        known = way.asked(model, True, tools, "trial")
        right = [item for item, outcome in zip(way.given.part(True), known) if outcome.passed][:SMOKE]
        again = trial.ask(link, way.given, right, tools, "smoke test")
        passed = sum(outcome.passed for outcome in again)
        if passed < len(right) or not right:
            raise NotReached(f"smoke test: {passed} of {len(right)} questions answered as in the trial; {link} is not "
                             "what was tried")
        return {"choice": "passed", "reason": f"{passed} of {len(right)} answered over HTTP as in the trial",
                "numbers": {item.question[:60]: outcome.answer[:80] for item, outcome in zip(right, again)}}

    way.record.node("smoke", trial_inputs(way, {"model": digest(model)}, tools), smoke)
    way.record.finish()
    return link


def digest(model: Path) -> str:
    """The content of a model directory, read again only where it has changed."""
    newest = max(file.stat().st_mtime_ns for file in model.iterdir())
    return _digest(model.resolve(), newest)


@functools.cache
def _digest(model: Path, newest: int) -> str:
    return digest_of(model)


def file_digest(path: Path) -> str:
    """sha256 of a file, 16 digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
