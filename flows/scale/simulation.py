"""A discrete-event simulation of a chain: stages that wait for their parents and for machines, and what breaks.

A stage asks its pool for its width (cores, processes, GPUs) when its parents have ended, holds it for its seconds, and
gives it back. Interruptions of a gang of GPUs come as a Poisson process: what was done since the last checkpoint is
lost, a spare node takes the broken one's place, or the gang waits for the repair, and the restart may be interrupted too
(Daly 2006, "A higher order estimate of the optimum checkpoint interval", section 2). Interruptions of independent
workers cost each the half shard that it was in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import simpy


@dataclass(frozen=True)
class Gang:
    """Work that stands still as soon as one of its machines does."""

    interval: float      # seconds of work between checkpoints
    write: float         # seconds a checkpoint takes, during which no work is done
    between: float       # mean seconds between interruptions of the whole gang; inf for none
    restart: float       # seconds from an interruption to work again, with a spare at hand
    repair: float        # seconds until a broken node is a spare again
    spares: int          # nodes that stand by


@dataclass(frozen=True)
class Work:
    """One stage: what it needs and what it leaves."""

    name: str
    seconds: float                   # on `width` of its pool, uninterrupted and without checkpoints
    parents: tuple[str, ...] = ()
    pool: str = "one"
    width: int = 1
    out: float = 0.0                 # bytes kept from its end on
    gang: Gang | None = None
    losses: float = 0.0              # interruptions a second of independent workers, all of them together
    redo: float = 0.0                # seconds of the whole that an interruption of theirs costs at most
    alone: bool = False              # nothing of its pool runs beside it


@dataclass
class Run:
    """What happened in one simulated run; seconds from its start."""

    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    stored: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])
    interruptions: dict[str, int] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)      # work done and done again
    waited: dict[str, float] = field(default_factory=dict)    # for restarts and repairs
    written: dict[str, float] = field(default_factory=dict)   # checkpoints

    @property
    def seconds(self) -> float:
        """From the start to the end of the last stage."""
        return max((end for _, end in self.spans.values()), default=0.0)


def run(works: Sequence[Work], pools: Mapping[str, int], seed: int) -> Run:
    """One run of `works` on `pools` (name -> how many); the same seed gives the same run.

    Raises ValueError for a parent, a pool or a width that is not there, and for a circle.
    """
    check(works, pools)
    env, found = simpy.Environment(), Run()
    machines = {name: simpy.Container(env, capacity=size, init=size) for name, size in pools.items()}
    ended: dict[str, simpy.Process] = {}
    waiting = list(works)
    while waiting:  # parents before children
        for work in [one for one in waiting if all(parent in ended for parent in one.parents)]:
            draws = random.Random(f"{seed} {work.name}")  # each stage its own: one more stage changes no other's luck
            ended[work.name] = env.process(
                stage(env, work, [ended[parent] for parent in work.parents], machines[work.pool], draws, found))
            waiting.remove(work)
    env.run(env.all_of(list(ended.values())))
    return found


def check(works: Sequence[Work], pools: Mapping[str, int]) -> None:
    """Raise ValueError where `works` cannot run on `pools`."""
    names = {work.name for work in works}
    if len(names) < len(works):
        raise ValueError("two stages have one name")
    done: set[str] = set()
    for work in works:
        if missing := set(work.parents) - names:
            raise ValueError(f"{work.name} waits for {', '.join(sorted(missing))}, which is no stage")
        if work.pool not in pools or not 1 <= work.width <= pools[work.pool]:
            raise ValueError(f"{work.name} wants {work.width} of {work.pool}; there are {pools.get(work.pool, 0)}")
        if not 0 <= work.seconds < math.inf or (work.gang and not work.gang.interval > 0):
            raise ValueError(f"{work.name}: {work.seconds} seconds, or no time between its checkpoints")
    while ready := [work.name for work in works if work.name not in done and done.issuperset(work.parents)]:
        done.update(ready)
    if done != names:
        raise ValueError(f"stages wait for each other: {', '.join(sorted(names - done))}")


def stage(env: simpy.Environment, work: Work, parents: list[simpy.Process], machines: simpy.Container,
          draws: random.Random, found: Run) -> Generator[simpy.Event, None, None]:
    """The life of one stage."""
    yield env.all_of(parents)
    width = machines.capacity if work.alone else work.width
    yield machines.get(width)
    begun = env.now
    if work.gang:
        yield from together(env, work.name, work.seconds, work.gang, draws, found)
    else:
        again = sum(draws.random() for _ in range(poisson(work.losses * work.seconds, draws, found, work.name)))
        found.lost[work.name] = again * work.redo
        yield env.timeout(work.seconds + again * work.redo)
    yield machines.put(width)
    found.spans[work.name] = (begun, env.now)
    found.stored.append((env.now, found.stored[-1][1] + work.out))


def together(env: simpy.Environment, name: str, seconds: float, gang: Gang, draws: random.Random,
             found: Run) -> Generator[simpy.Event, None, None]:
    """`seconds` of work in segments, each ended by a checkpoint; memory-less interruptions are drawn anew for each."""
    spares = simpy.Container(env, init=gang.spares)
    found.interruptions[name], found.lost[name] = 0, 0.0
    found.waited[name] = found.written[name] = done = 0.0
    while done < seconds:
        segment = min(gang.interval, seconds - done)
        until = interrupted_after(gang, draws)
        if until >= segment + gang.write:
            yield env.timeout(segment + gang.write)
            done += segment
            found.written[name] += gang.write
            continue
        yield env.timeout(until)
        found.lost[name] += until
        stopped = env.now
        while True:  # until a restart goes through
            found.interruptions[name] += 1
            env.process(repaired(env, gang.repair, spares))
            yield spares.get(1)
            until = interrupted_after(gang, draws)
            yield env.timeout(min(until, gang.restart))
            if until >= gang.restart:
                break
        found.waited[name] += env.now - stopped


def interrupted_after(gang: Gang, draws: random.Random) -> float:
    """Seconds until the next interruption: exponential, inf where there is none."""
    return math.inf if math.isinf(gang.between) else draws.expovariate(1 / gang.between)


def repaired(env: simpy.Environment, seconds: float, spares: simpy.Container) -> Generator[simpy.Event, None, None]:
    """A broken node comes back as a spare."""
    yield env.timeout(seconds)
    yield spares.put(1)


def poisson(mean: float, draws: random.Random, found: Run, name: str) -> int:
    """A draw of the Poisson distribution, noted as `name`'s interruptions; the normal one's for large means."""
    if mean > 50:
        count = max(0, round(draws.gauss(mean, math.sqrt(mean))))
    else:
        count, at = 0, draws.expovariate(1.0)
        while at < mean:
            count, at = count + 1, at + draws.expovariate(1.0)
    found.interruptions[name] = count
    return count


def daly(seconds: float, gang: Gang) -> float:
    """Expected seconds of `seconds` of work with checkpoints after each interval, a spare always at hand: Daly (2006),
    equation 13: M exp(R/M) (exp((tau + delta)/M) - 1) T/tau."""
    segments = seconds / gang.interval
    if math.isinf(gang.between):
        return seconds + segments * gang.write
    return (gang.between * math.exp(gang.restart / gang.between)
            * math.expm1((gang.interval + gang.write) / gang.between) * segments)


def best_interval(write: float, between: float) -> float:
    """Seconds of work between checkpoints that make the run shortest: Daly's (2006, equation 37), whose first term is
    Young's sqrt(2 delta M); for writes longer than twice the time between interruptions, that time."""
    if write >= 2 * between:
        return between
    ratio = write / (2 * between)
    return math.sqrt(2 * write * between) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - write
