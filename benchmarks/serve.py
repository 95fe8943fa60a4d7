"""Claim: through HTTP our server keeps at least 90 % of its engine's rate, and is faster than other OpenAI servers.

    python -m benchmarks.serve [SERVER ...] [--rounds 3] [--grid 8x128x64 ...] [--rates 0.5 1 2] [--seconds 30]

SERVER is a model directory (our server is started on it) or the URL of a running OpenAI server, whose memory is read
too where it listens on this machine. Default: models/smollm2/int4. All servers take turns, cell by cell, and the first
is compared with the others. For example, against llama.cpp's (benchmarks/engine.py says how it is built):

    llama-server -m q4_0.gguf --port 8080 -t 2 -np 32 -c 32768 &
    python -m benchmarks.serve models/smollm2/int4 http://127.0.0.1:8080/v1 --plot docs/serve.png

Static: each --grid cell BATCHxINPUTxOUTPUT is that many requests at once, of so many random token ids, each answered
with so many tokens. Dynamic: for each of --rates, Poisson arrivals for --seconds with ShareGPT-like lengths (seeded:
tasks/serve/load.py). A static cell is also given to the engine of our first model directory without a server, in the
same turn: `of engine` is the share of its rate that a user sees. The client runs beside the server on the same cores;
`client` is the share of one core that it took. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import engine as engines
from tasks.serve import client, load

GRID = ("1x128x64", "8x128x64", "32x128x64", "8x512x64")
SHOWN = ("ttft_p50", "ttft_p99", "tpot_p50", "itl_p50", "itl_p90", "itl_p99")


@dataclass
class Server:
    """A server under load: its base URL, its process where it is ours to see, and the directory it was started on."""

    name: str
    url: str
    process: psutil.Process | None
    directory: Path | None = None
    cells: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def memory(self) -> int:
        """Resident bytes, its children's too; 0 where it is not known."""
        if self.process is None:
            return 0
        return sum(one.memory_info().rss for one in (self.process, *self.process.children(recursive=True)))


def cell(text: str) -> tuple[int, int, int]:
    """(batch, input tokens, output tokens) of BATCHxINPUTxOUTPUT. Raises argparse.ArgumentTypeError."""
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    values = tuple(map(int, found.groups())) if found else (0,)
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no BATCHxINPUTxOUTPUT of numbers from 1, as 8x128x64")
    return values


def positive(text: str) -> float:
    """A number above 0. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def target(text: str) -> str:
    """A URL or model directory as it was given. Raises argparse.ArgumentTypeError where it is neither."""
    if not text.startswith("http://") and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a model directory nor an http:// address")
    return text


def listening(url: str) -> psutil.Process | None:
    """The process of this machine that listens at `url`, if it can be seen."""
    place = urllib.parse.urlsplit(url)
    if place.hostname not in ("127.0.0.1", "localhost", "::1"):
        return None
    with contextlib.suppress(psutil.Error):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == (place.port or 80) and one.pid:
                return psutil.Process(one.pid)
    return None


def answering(url: str, key: str | None) -> None:
    """Raise client.ServerError where no OpenAI server answers at `url`."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"} if key
                                     else {})
    try:
        direct.open(request, timeout=10).close()
    except (urllib.error.URLError, OSError) as error:
        raise client.ServerError(f"no OpenAI server answers at {url}/models: {error}: is it running, and does the "
                                 "address end in /v1?") from None


@contextlib.contextmanager
def started(targets: list[str], threads: int, slots: int, key: str | None) -> Iterator[list[Server]]:
    """The servers of the command line, ours started; ended afterwards. Raises ServerError."""
    with contextlib.ExitStack() as stack:
        servers = []
        for name in targets:
            if name.startswith("http://"):
                answering(name, key)
                servers.append(Server(name, name, listening(name)))
            else:
                process, url = stack.enter_context(client.process(Path(name), threads=threads, slots=slots))
                servers.append(Server(name, url, process, Path(name)))
        yield servers


def turn(server: Server, name: str, plan: list[load.Planned], key: str | None) -> dict[str, float]:
    """Carry out `plan` on `server` and keep its summary under `name`."""
    measured = asyncio.run(load.run(server.url, plan, key=key))
    found = load.summary(measured) | {"rss_bytes": server.memory()}
    if found["errors"]:
        first = next(answer.error for answer in measured.answers if answer.error)
        print(f"{server.name}, {name}: {found['errors']} of {found['requests']} failed, the first: {first}",
              file=sys.stderr)
    server.cells.setdefault(name, []).append(found)
    return found


def static(servers: list[Server], grid: list[tuple[int, int, int]], rounds: int, engine: engines.Engine | None,
           key: str | None) -> None:
    """Every cell on every server in turn, the engine of the first beside it; a first short round warms up."""
    for server in servers:
        asyncio.run(load.run(server.url, load.static_plan(4, 64, 4, 0), key=key))
    for number in range(rounds):
        for sizes in grid:
            name = "x".join(map(str, sizes))
            plan = load.static_plan(*sizes, seed=1 + number)
            for server in servers if number % 2 == 0 else servers[::-1]:
                found = turn(server, name, plan, key)
                if engine is not None and server.directory == engine.spec.path:
                    own = engine.ask({"task": "serve", "batch": sizes[0], "inputs": sizes[1], "outputs": sizes[2],
                                      "turn": 1 + number})
                    found["of_engine"] = found["tokens_per_second"] * own["seconds"] / own["tokens"]
                print(f"round {number + 1}, {name}, {server.name}: {found['tokens_per_second']:.0f} tokens/s",
                      file=sys.stderr)


def dynamic(servers: list[Server], rates: list[float], seconds: float, key: str | None) -> None:
    """Each rate on each server, one after the other."""
    for rate in rates:
        for server in servers:
            turn(server, f"{rate:g}/s", load.dynamic_plan(rate, seconds, seed=1), key)


def table(servers: list[Server]) -> dict[str, dict[str, dict[str, float]]]:
    """Print the medians over rounds by cell and server; returns them by server and cell."""
    out: dict[str, dict[str, dict[str, float]]] = {server.name: {} for server in servers}
    print(f"{'':12}{'tokens/s':>9}{'of engine':>10}{'to it':>7}" + "".join(f"{name:>10}" for name in SHOWN)
          + f"{'errors':>8}{'client':>8}{'MB':>7}   times in ms; `to it`: the first server's rate to this one's")
    for server in servers:
        print(server.name)
        for name, rounds in server.cells.items():
            row = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            row["errors"] = sum(one["errors"] for one in rounds)
            ratios = [first["tokens_per_second"] / one["tokens_per_second"]
                      for first, one in zip(servers[0].cells[name], rounds) if one["tokens_per_second"]]
            row["first_to_this"] = statistics.median(ratios) if ratios else 0.0
            out[server.name][name] = row
            share = f"{row['of_engine']:10.2f}" if "of_engine" in row else " " * 10
            print(f"  {name:10}{row['tokens_per_second']:9.1f}{share}{row['first_to_this']:7.2f}"
                  + "".join(f"{1000 * row[key]:10.1f}" for key in SHOWN)
                  + f"{row['errors']:8.0f}{row['client_share']:8.2f}{row['rss_bytes'] / 1e6:7.0f}")
    return out


def draw(found: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Static throughput by cell; dynamic throughput and latencies by rate: one PNG."""
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), constrained_layout=True)
    for index, (server, cells) in enumerate(found.items()):
        grid = {name: row for name, row in cells.items() if "x" in name}
        rates = {float(name[:-2]): row for name, row in cells.items() if name.endswith("/s")}
        places = [place + 0.8 * index / len(found) for place in range(len(grid))]
        axes[0, 0].bar(places, [row["tokens_per_second"] for row in grid.values()], 0.8 / len(found), label=server)
        axes[0, 0].set_xticks(range(len(grid)), list(grid))
        axes[0, 1].plot(list(rates), [row["tokens_per_second"] for row in rates.values()], "o-", label=server)
        for axis, measure in ((axes[1, 0], "ttft"), (axes[1, 1], "itl")):
            for part, style in (("p50", "o-"), ("p90", "s--"), ("p99", "^:")):
                axis.plot(list(rates), [1000 * row[f"{measure}_{part}"] for row in rates.values()], style,
                          color=f"C{index}", label=f"{server} {part}")
    for axis, title, across, up in (
            (axes[0, 0], "static", "streams x input x output tokens", "tokens/s"),
            (axes[0, 1], "Poisson arrivals", "requests/s", "tokens/s"),
            (axes[1, 0], "time to first token", "requests/s", "ms"),
            (axes[1, 1], "between tokens", "requests/s", "ms")):
        axis.set(title=title, xlabel=across, ylabel=up)
        axis.set_ylim(bottom=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """The command line. Exit codes: 0 measured, 1 a server failed, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", type=target, nargs="*", metavar="SERVER")
    parser.add_argument("--grid", type=cell, nargs="*", default=[cell(text) for text in GRID])
    parser.add_argument("--rates", type=positive, nargs="*", default=[0.5, 1.0, 2.0], help="requests a second")
    parser.add_argument("--seconds", type=positive, default=30.0, help="of arrivals at each rate")
    parser.add_argument("--rounds", type=int, default=3, help="of the static grid")
    parser.add_argument("--threads", type=int, default=2, help="of our server")
    parser.add_argument("--api-key", help="bearer token of servers that ask for one")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    given = parser.parse_args()
    targets = given.servers or ["models/smollm2/int4"]
    if given.rounds < 1 or given.threads < 1:
        parser.error("--rounds and --threads must be 1 or more")
    if not given.servers and not Path(targets[0]).is_dir():
        parser.error(f"{targets[0]} is not there (dvc repro makes it); name a model directory or a URL")
    slots = max([32, *(batch for batch, _, _ in given.grid)])
    try:
        with started(targets, given.threads, slots, given.api_key) as servers, contextlib.ExitStack() as stack:
            own = next((server.directory for server in servers if server.directory), None)
            engine = None
            if own and given.grid:
                places = {inputs: (inputs, max(batch for batch, size, _ in given.grid if size == inputs),
                                   inputs + max(outputs for _, size, outputs in given.grid if size == inputs))
                          for _, inputs, _ in given.grid}
                (engine,) = stack.enter_context(engines.loaded(
                    [engines.Spec("catena", own, sys.executable)], given.threads, tuple(places.values())))
            static(servers, given.grid, given.rounds, engine, given.api_key)
            dynamic(servers, given.rates, given.seconds, given.api_key)
    except (client.ServerError, engines.EngineError) as error:
        sys.exit(f"error: {error}")
    found = table(servers)
    if given.plot:
        draw(found, given.plot)
    out: dict[str, Any] = {"threads": given.threads, "slots": slots, "rounds": given.rounds,
                           "seconds": given.seconds, "servers": found}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
