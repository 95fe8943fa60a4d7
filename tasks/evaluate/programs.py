"""Programs that a model writes, run against tests: HumanEval's form, pass@k (Chen et al. 2021, arXiv:2107.03374).

A problem is a line with `task_id`, `prompt` (the beginning of a function), `entry_point`, `canonical_solution` and
`test` (it defines `check(candidate)`), as in HumanEval.jsonl. Each problem is asked `samples` times, at a temperature,
every sample with its own seed; a sample passes where prompt, answer and test run to their end in a sandbox.
problems.jsonl is a small set of our own, simpler than HumanEval so that small models leave zero. It runs in the
restricted interpreter, which is everywhere (tasks/sandbox.py); a user's sets run whole CPython shut in by
bubblewrap (tasks/jail.py). Where the sandbox is missing nothing is run and the reason is said: no program runs
outside one.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import Field, field_validator

from tasks import params
from tasks.evaluate import statistics
from tasks.evaluate.statistics import Z95, Estimate
from tasks.stage import StageError

Item = dict[str, Any]
PROBLEMS = Path(__file__).with_name("problems.jsonl")
FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
STOPS = ["\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\n```"]   # HumanEval's, and two more
SECONDS = 3.0       # of processor time; HumanEval's three are of the clock, which a busy machine takes away
EMPTY = "\n    pass"
PATIENCE = 60.0     # seconds of the clock: a guard
STARTED, PASSED = "the program starts", "every check passed"
KILLED = (137, 152)     # statuses of SIGKILL and SIGXCPU, which end a program at its limit
TRIES = 6           # of a sandbox that does not start: the machine may be out of processes for a moment


class CodeParams(params.Section):
    """How the code sets are asked."""

    problems: int = Field(ge=2, description="of the built-in set, by the hash of their id")
    samples: int = Field(ge=1, le=200, description="programs written for each problem, n of pass@k")
    k: list[int] = Field(min_length=1, description="the k of pass@k")
    temperature: float = Field(gt=0, le=2)
    tokens: int = Field(ge=8, le=2048, description="of a program at most; a custom set says its own")
    seed: int = Field(ge=0)

    @field_validator("k")
    @classmethod
    def positive(cls, value: list[int]) -> list[int]:
        """Raises ValueError for a k below 1."""
        if min(value) < 1:
            raise ValueError(f"{value}: k is a number of samples, 1 at least")
        return value


def problem(line: Item) -> Item:
    """A line as a problem. The line's end after the prompt is left to the model: tokens join it with the indentation
    that follows, and a prompt that ends in it is no text a model was trained on (as bigcode's harness does). Raises
    KeyError, TypeError or ValueError where it is none."""
    task_id, prompt, entry_point, solution, test = (line[field] for field in FIELDS)
    for field in FIELDS:
        if not isinstance(line[field], str) or not line[field]:
            raise ValueError(f"{field} {line[field]!r} where a text should be")
    if "def check(" not in test:
        raise ValueError("test defines no check(candidate)")
    given = prompt.rstrip()
    return {"id": task_id, "prompt": given, "entry_point": entry_point, "target": prompt[len(given):] + solution,
            "test": test, "language": line.get("language", "en")}


def repeated(problems: Sequence[Item], samples: int, seed: int) -> list[Item]:
    """Every problem `samples` times, each with the seed of its sampling and `document`, its problem."""
    return [one | {"id": f"{one['id']}#{n}", "document": one["id"], "seed": int.from_bytes(
        hashlib.sha256(f"{seed} {one['id']} {n}".encode()).digest()[:4])} for one in problems for n in range(samples)]


class Execution:
    """A sandbox that says of each program why it fails. `whole`: CPython in the jail, else the restricted interpreter.
    Raises StageError where there is no such sandbox."""

    def __init__(self, whole: bool) -> None:
        from tasks.jail import Jail
        from tasks.sandbox import Sandbox, SandboxUnavailable

        self.whole = whole
        self.known: dict[str, str] = {}         # program -> why it fails
        try:
            self.jail = Jail(seconds=PATIENCE) if whole else None
            self.sandbox = None if whole else Sandbox(seconds=SECONDS).__enter__()
        except SandboxUnavailable as error:
            raise StageError(f"code is not scored: {error}; or remove the pass@k sets (evaluate.custom, evaluate.code)"
                             ) from None

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.sandbox is not None:
            self.sandbox.__exit__(kind, error, trace)

    def failure(self, item: Item, answer: str) -> str:
        """Why `answer` does not solve the item, one line; empty where it does."""
        program = f"{item['prompt']}{answer}\n\n{item['test']}\n\ncheck({item['entry_point']})\nprint({PASSED!r})\n"
        if program not in self.known:       # low temperatures write the same again and again
            self.known[program] = self.run(program)
        return self.known[program]

    def run(self, program: str) -> str:
        """Why a program does not come to its last line."""
        from tasks.sandbox import SandboxError

        try:
            lines = (self.jailed(program) if self.whole else self.sandbox.run(program).printed).strip().splitlines()
        except SandboxError as error:
            return " ".join(str(error).split())[:200]
        if lines[-1:] == [PASSED]:
            return ""
        return lines[-1][:200] if lines else "it ended before its checks"

    def jailed(self, program: str) -> str:
        """What a program printed in the jail. Raises SandboxError, and StageError where the jail does not start."""
        from tasks.sandbox import SandboxError

        limit = f"resource.setrlimit(resource.RLIMIT_CPU, ({int(SECONDS)}, {int(SECONDS)}))"
        for attempt in range(TRIES):
            ended = self.jail.run(f"import resource\n{limit}\nprint({STARTED!r}, flush=True)\n{program}")
            before, started, printed = ended.output.partition(f"{STARTED}\n")
            if started and not before:
                if ended.status in KILLED:
                    raise SandboxError(f"stopped after {SECONDS:g} s of processor time")
                return printed
            time.sleep(0.1 * 2**attempt)
        raise StageError(f"the sandbox does not start: {ended.output.strip()[-200:] or ended.status}; a program that "
                         "was never run is no failure of the model: run again")


@dataclass(frozen=True)
class Asked:
    """How a code set is asked: the k of pass@k, the tokens of a program, what ends it, and where it is run."""

    k: Sequence[int]
    tokens: int
    until: Sequence[str]
    execution: Execution


def task(asked: Asked, temperature: float) -> dict[str, Any]:
    """The set's lm-eval task, but for its name and data."""
    def judge(document: Item, results: list[str]) -> dict[str, int]:
        # no method: lm-eval copies what it is given, and the sandbox cannot be copied
        return {"passed": int(not asked.execution.failure(document, results[0]))}

    return {"dataset_path": "json", "test_split": "test", "doc_to_text": "prompt", "doc_to_target": "target",
            "num_fewshot": 0, "target_delimiter": "", "output_type": "generate_until",
            "process_results": judge,
            "generation_kwargs": {"do_sample": True, "temperature": temperature, "until": list(asked.until),
                                  "max_gen_toks": asked.tokens},
            "metric_list": [{"metric": "passed", "aggregation": "mean", "higher_is_better": True}]}


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k samples passes, from n of which c did: 1 - C(n-c, k) / C(n, k)
    (Chen et al. 2021, eq. 1). Raises ValueError where k is over n."""
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} cannot be told from {n} samples of which {c} passed")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def estimate(samples: Sequence[Item], k: int) -> Estimate:
    """pass@k of lm-eval's samples: the mean over problems, its standard error between problems, and Wilson's interval
    with as many items as there are problems, which is wider than samples of one problem need and never of no width."""
    passed: dict[str, list[int]] = {}
    for sample in samples:
        passed.setdefault(sample["doc"]["document"], []).append(int(sample["passed"]))
    values = [pass_at_k(len(one), sum(one), k) for one in passed.values()]
    m, p = len(values), math.fsum(values) / len(values)
    error = math.sqrt(math.fsum((value - p) ** 2 for value in values) / (m - 1) / m) if m > 1 else 0.0
    centre = (p + Z95**2 / (2 * m)) / (1 + Z95**2 / m)
    half = Z95 / (1 + Z95**2 / m) * math.sqrt(p * (1 - p) / m + Z95**2 / (4 * m * m))
    return Estimate(p, error, 0.0 if p == 0 else centre - half, 1.0 if p == 1 else centre + half, m)


def scored(samples: Sequence[Item], asked: Asked) -> dict[str, Any]:
    """pass@k -> estimate and what needs no model: an empty body and one that returns its first argument. `canonical`:
    the share of the set's own solutions that pass, 1 where the sandbox runs all that the tests need; `failures`: the
    commonest reasons, by the kind of error. Each sample gets its `reason`."""
    problems = list({sample["doc"]["document"]: sample["doc"] for sample in samples}.values())
    execution = asked.execution

    def share(answer: Callable[[Item], str]) -> float:
        return round(sum(not execution.failure(item, answer(item)) for item in problems) / len(problems), 6)

    beside = {"empty_body": share(lambda item: EMPTY), "first_argument": share(first_argument)}
    reasons: dict[str, int] = {}
    for sample in samples:
        sample["reason"] = execution.failure(sample["doc"], sample["filtered_resps"][0])
        if sample["reason"]:
            kind = sample["reason"].split(":")[0]
            reasons[kind] = reasons.get(kind, 0) + 1
    common = {"baselines": beside, "canonical": share(lambda item: item["target"]), "clusters": len(problems),
              "samples": len(samples), "failures": dict(sorted(reasons.items(), key=lambda one: (-one[1], one[0]))[:8])}
    found = {f"pass@{k}": estimate(samples, k) for k in asked.k}
    return {name: one.as_dict() | common | {"detectable": round(statistics.detectable_by(one), 6)}
            for name, one in found.items()}


def first_argument(item: Item) -> str:
    """A body that returns the function's first argument, an empty one where it takes none."""
    try:
        found = next(node for node in ast.walk(ast.parse(item["prompt"] + "\n    pass"))
                     if isinstance(node, ast.FunctionDef) and node.name == item["entry_point"])
    except (SyntaxError, StopIteration):
        return EMPTY
    return f"\n    return {found.args.args[0].arg}" if found.args.args else EMPTY


def built_in() -> list[Item]:
    """The problems of problems.jsonl."""
    return [problem(json.loads(line)) for line in PROBLEMS.read_text(encoding="utf-8").splitlines()]
