"""One evaluation over several copies of a model: processes of this machine, or actors of a Ray cluster.

Each copy takes one run of the sorted requests. Values do not depend on company, so they are those of one copy alone.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from tasks import stage
from tasks.params import Runtime, limit_threads

ROOT = Path(__file__).resolve().parents[2]
_model: LM | None = None


class Worker:
    """A copy of the model in a Ray actor."""

    def __init__(self, make: Callable[[], LM], threads: int, folder: str) -> None:
        os.chdir(folder)        # another node's worker starts in Ray's own; paths of the stage are relative
        limit_threads(threads)
        self.lm = make()

    def ask(self, kind: str, requests: list[Instance]) -> list[Any]:
        """The answers to `requests`."""
        return getattr(self.lm, kind)(requests)


class ShardedLM(LM):
    """`runtime.evaluators` copies of what `make` builds (it is pickled), where `runtime.executor` says. Raises
    StageError where Ray is wanted and absent, or a copy dies."""

    def __init__(self, make: Callable[[], LM], runtime: Runtime) -> None:
        super().__init__()
        self.count = runtime.evaluators
        threads = max(1, runtime.threads // self.count)
        self.map = (on_ray if runtime.executor == "ray" else on_processes)(make, self.count, threads)

    def loglikelihood(self, requests: list[Instance], **kwargs: Any) -> list[tuple[float, bool]]:
        return self.ask("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list[Instance], **kwargs: Any) -> list[float]:
        return self.ask("loglikelihood_rolling", requests)

    def token_logprobs(self, requests: list[Instance]) -> list[list[float]]:
        return self.ask("token_logprobs", requests)

    def generate_until(self, requests: list[Instance], **kwargs: Any) -> list[str]:
        return self.ask("generate_until", requests)

    def ask(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        """The answer of each request; each copy takes neighbours in the order of prompts and continuations."""
        order = sorted(range(len(requests)),
                       key=lambda at: [part for part in requests[at].args if isinstance(part, str)])
        cuts = [len(order) * n // self.count for n in range(self.count + 1)]
        parts = [order[low:high] for low, high in zip(cuts, cuts[1:]) if low < high]
        answers: list[Any] = [None] * len(requests)
        for part, found in zip(parts, self.map(kind, [[requests[at] for at in part] for part in parts])):
            for at, answer in zip(part, found, strict=True):
                answers[at] = answer
        return answers


def on_processes(make: Callable[[], LM], count: int, threads: int) -> Callable[[str, list[list[Instance]]], list[Any]]:
    """Ask `count` processes that live as long as this one."""
    pools = [ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), become, (make, threads))
             for _ in range(count)]

    def ask(kind: str, parts: list[list[Instance]]) -> list[Any]:
        try:
            return [done.result() for done in [pool.submit(answer, kind, part) for pool, part in zip(pools, parts)]]
        except BrokenProcessPool:
            raise stage.StageError(f"a process of {count} that evaluate was killed, most likely for want of memory: "
                                   "lower runtime.evaluators and run again; what was answered is kept") from None

    return ask


def become(make: Callable[[], LM], threads: int) -> None:
    """In a worker process: build its copy."""
    global _model
    stage.die_with_parent()
    limit_threads(threads)
    _model = make()


def answer(kind: str, requests: list[Instance]) -> list[Any]:
    """In a worker process: the answers of its copy."""
    return getattr(_model, kind)(requests)


def on_ray(make: Callable[[], LM], count: int, threads: int) -> Callable[[str, list[list[Instance]]], list[Any]]:
    """Ask `count` actors of the Ray cluster of RAY_ADDRESS, or of one started here; the repository and the model must
    be shared between its nodes."""
    try:
        import ray
    except ImportError:
        raise stage.StageError("runtime.executor is ray but Ray is not installed: pip install ray, or set local"
                               ) from None
    if not ray.is_initialized():
        ray.init(runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}, log_to_driver=False)
    if count * threads > (cpus := int(ray.cluster_resources().get("CPU", 0))):
        raise stage.StageError(f"runtime.evaluators {count} of {threads} threads each would wait for ever on a Ray cluster "
                               f"of {cpus} CPUs: lower runtime.evaluators or add nodes")
    actors = [ray.remote(Worker).options(num_cpus=threads).remote(make, threads, os.getcwd()) for _ in range(count)]

    def ask(kind: str, parts: list[list[Instance]]) -> list[Any]:
        try:
            return ray.get([actor.ask.remote(kind, part) for actor, part in zip(actors, parts)])
        except ray.exceptions.RayError as error:
            raise stage.StageError(f"a Ray worker failed: {stage.one_line(error)[:300]}; what was answered is kept"
                                   ) from None

    return ask
