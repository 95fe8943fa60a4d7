"""The watchman of a training run: losses that leave their path, steps that do not end, ranks and data that lag.

A loss that is not finite or far above its recent past sends the run back to its last checkpoint, and the batches since
then are skipped (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, section 5.1); nothing else is changed, so what a run
went through is its list of incidents. The others cost time, not weights: they are told, and a step that does not end
ends the process, so that whoever started it can start it again.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

PAST = 256        # losses that a new one is held against
LEAST = 64        # of them before anything counts as a spike: the first steps fall too fast
SCALE = 1.4826    # a normal distribution's deviation over its median absolute deviation
LOOKS = 3         # in a row before a rank counts as slow or the data as late
SLOW = 1.5        # times the median forward pass of the other ranks
LATE = 0.25       # of a step spent waiting for its batch
PATIENCE = 5.0    # seconds for the webhook


@dataclass(frozen=True)
class Incident:
    """What was seen at which step (1-based), where the run went back to, how many batches it skips from there on."""

    step: int
    kind: str
    found: str
    back_to: int = 0
    skipped: int = 0


class Losses:
    """Judges losses, nats a token, in the order of their steps. `spike`: robust z-score that is one."""

    def __init__(self, spike: float):
        self.spike, self.past, self.highest = spike, deque(maxlen=PAST), 0.0

    def look(self, first: int, losses: np.ndarray) -> Incident | None:
        """The first fault among float [n] losses of the steps from `first` (1-based) on; None adds them to the past."""
        for place, loss in enumerate(losses.tolist()):
            if not np.isfinite(loss):
                return Incident(first + place, "not finite", f"loss {loss}")
            if len(self.past) >= LEAST:
                middle = float(np.median(self.past))
                spread = SCALE * float(np.median(np.abs(np.asarray(self.past) - middle)))
                score = (loss - middle) / max(spread, 1e-3)
                if score > self.spike:
                    return Incident(first + place, "spike", f"loss {loss:.3f}, {score:.1f} deviations above the median "
                                                            f"of the last {len(self.past)} ({middle:.3f})")
                self.highest = max(self.highest, score)
            self.past.append(loss)
        return None


class Pace:
    """Judges the seconds of sampled steps: who holds the others up."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def look(self, seconds: np.ndarray) -> list[str]:
        """Findings that have held LOOKS times in a row, each told once; float [ranks, 3]: batch, forward, step."""
        batch, forward, step = seconds.T
        found = {}
        for rank in range(len(seconds)):
            others = np.delete(forward, rank)
            if len(others) and forward[rank] > SLOW * np.median(others):
                found[f"slow rank {rank}"] = f"its forward pass takes {forward[rank]:.3f} s, the others' " \
                                             f"{np.median(others):.3f}"
            if batch[rank] > LATE * step[rank]:
                found[f"late data at rank {rank}"] = f"{batch[rank]:.3f} of {step[rank]:.3f} s of a step wait for it"
        self.rows = {name: self.rows.get(name, 0) + 1 for name in found}
        return [f"{name}: {found[name]}" for name, count in self.rows.items() if count == LOOKS]


class Stall(threading.Thread):
    """Ends the process, every thread's stack printed, when no step has ended for `seconds`.

    Counted in its own naps: a process that was stopped, or a machine that slept, does not count as stalled.
    """

    def __init__(self, seconds: int, tell: Callable[[str], None]):
        super().__init__(daemon=True, name="watchman")
        self.seconds, self.tell, self.naps, self.step = seconds, tell, 0, 0
        self.ended = threading.Event()

    def beat(self, step: int) -> None:
        """A step has ended."""
        self.naps, self.step = 0, step

    def run(self) -> None:
        """Nap by the second until `ended`."""
        while not self.ended.wait(1.0):
            self.naps += 1
            if self.naps >= self.seconds:
                self.tell(f"stalled: no step has ended for {self.seconds} s after step {self.step}; stacks follow")
                faulthandler.dump_traceback(sys.stderr)
                print(f"error: training stalled after step {self.step} (runtime.stall = {self.seconds} s): run again "
                      "to go on from the last checkpoint", file=sys.stderr, flush=True)
                os._exit(1)


class Journal:
    """The incidents of a run, in `folder`, beside its checkpoints: a killed run goes on with the same skips."""

    def __init__(self, folder: Path):
        self.path = folder / "incidents.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self.incidents = [Incident(**json.loads(line)) for line in lines]

    def add(self, incident: Incident, write: bool) -> None:
        """Remember an incident, on disk too where `write`: one rank's task."""
        self.incidents.append(incident)
        if write:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(asdict(one)) + "\n" for one in self.incidents), encoding="utf-8")
            partial.replace(self.path)

    def skipped(self, step: int) -> int:
        """Batches that lie between `step` (0-based) and its own batch, were nothing skipped."""
        return sum(one.skipped for one in self.incidents if one.back_to <= step)


def alert(url: str | None, line: str, about: dict[str, Any]) -> None:
    """Say `line`, which the flow makes an event of, and POST it as JSON {"text": line, ...} where there is a `url`."""
    print(f"watchman: {line}", flush=True)
    if not url:
        return
    body = json.dumps({"text": line, **about}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except (urllib.error.URLError, OSError) as error:
        print(f"watchman: runtime.alert = {url} did not take this: {error}", flush=True)
