"""The server: OpenAI's and Anthropic's APIs over one or more model directories.

    ./run serve [TRACK] [OPTIONS]
    python -m tasks.serve.api models/smollm2/int4 [NAME=DIR ...] [--adapter NAME=DIR] [--port 8000] [--threads 2]
        [--trace data/index]

The `model` field of a request names the model (the directory's last two parts, or NAME); the first one answers where
none is named. A directory given as a symbolic link is watched: when it points elsewhere, the new model takes over
without a request being dropped, once it has been verified and has answered a probe. Address, key, threads and slots
come from params.yaml's `runtime`; an option overrides. It prints one line when it is ready. SIGTERM ends it
gracefully: no new connections, running answers are finished (for DRAIN seconds at most).
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from tasks import params, stage
from tasks.data.trace import TraceError
from tasks.serve.app import application
from tasks.serve.engine.backend import BACKENDS, KV
from tasks.serve.engine.directory import ModelError
from tasks.serve.engine.start import Options
from tasks.serve.registry import Registry
from tasks.serve.trace import Tracer

DRAIN = 30
Extend = Callable[[FastAPI, str, str | None], None]     # (application, its own base URL, its key)
HAND_BACK = 0.0005  # seconds; the engine's thread waits this long at most for the event loop's bytecode


class Server(uvicorn.Server):
    """uvicorn that says in one line when it is ready, and where."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self.line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.line, flush=True)


def serve(models: dict[str, Path], adapters: dict[str, Path], runtime: params.Runtime, port: int, threads: int,
          slots: int, options: Options, index: Path | None = None, extend: Extend | None = None) -> None:
    """Load the models and serve them until SIGTERM or Ctrl-C; `extend` adds endpoints to the application. Raises
    ModelError, TraceError where there is no `index`, or OSError where the port is taken."""
    tracer = Tracer(index) if index else None
    family = socket.AF_INET6 if ":" in runtime.host else socket.AF_INET
    with socket.create_server((runtime.host, port), family=family) as listening:
        registry = Registry(models, adapters, threads=threads, slots=slots, options=options)
        sys.setswitchinterval(HAND_BACK)
        address = f"http://{f'[{runtime.host}]' if family == socket.AF_INET6 else runtime.host}"
        url = f"{address}:{listening.getsockname()[1]}/v1"
        app = application(registry, runtime.api_key, tracer)
        if extend:
            extend(app, url, runtime.api_key)
        config = uvicorn.Config(app, log_level="warning", access_log=False,
                                timeout_graceful_shutdown=DRAIN)
        context = registry.find().service.context
        names = ", ".join(target.name for target in registry.targets())
        Server(config, f"ready: {url} serves {names} ({context} tokens of context, {slots} slots)"
               ).run(sockets=[listening])


def named(given: list[str], what: str) -> dict[str, Path]:
    """NAME=DIR, or DIR named by its last two parts, by name. Raises ModelError for a name given twice."""
    found: dict[str, Path] = {}
    for text in given:
        name, _, directory = text.rpartition("=")
        path = Path(directory)
        name = name or "/".join(path.absolute().parts[-2:])
        if name in found:
            raise ModelError(f"two {what}s named {name!r}: give them as NAME=DIR")
        found[name] = path
    return found


def options(program: str, description: str | None) -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog=program, description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+", help="[NAME=]directory of an exported (or from_pretrained) model")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=DIR",
                        help="a peft LoRA directory, served under NAME beside its base")
    parser.add_argument("--port", type=int, help="0 takes a free one")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--slots", type=int, help="sequences decoded together")
    parser.add_argument("--kv", choices=KV, default="fp16", help="how keys and values are kept")
    parser.add_argument("--backend", choices=BACKENDS, help="force one, in place of the best there is")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="RANKS", help="processes that share the model")
    parser.add_argument("--speculate", metavar="ngram|DIR", help="guess ahead: from the text itself, or by a draft model")
    parser.add_argument("--trace", type=Path, metavar="DIR",
                        help="index of the training documents (data/index): the chat page tells an answer's sources")
    parser.add_argument("--private", action="store_true",
                        help="for the process that starts it alone: loopback, no key, ends when that process ends")
    return parser


def run(given: argparse.Namespace, extend: Extend | None = None) -> None:
    """Serve as the command line says. Exit codes: 0 ended on request, 1 could not serve, 2 bad params or arguments."""
    if given.private:
        stage.die_with_parent()
    try:
        runtime = params.runtime()
    except params.ParamsError as error:
        sys.exit(stage.fail(2, str(error)))
    if given.private:
        runtime = runtime.model_copy(update={"host": "127.0.0.1", "api_key": None})
    threads, slots = given.threads or runtime.threads, given.slots or runtime.slots
    port = runtime.port if given.port is None else given.port
    params.limit_threads(threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn drains, then raises the signal again
    try:
        models, adapters = named(given.model, "model"), named(given.adapter, "adapter")
        both = models.keys() & adapters.keys()
        if both:
            raise ModelError(f"an adapter is named {sorted(both)[0]!r} like a model: give it as NAME=DIR")
        chosen = Options(given.kv, given.backend, given.tensor_parallel, given.speculate)
        serve(models, adapters, runtime, port, threads, slots, chosen, given.trace, extend)
    except (ModelError, TraceError) as error:
        sys.exit(stage.fail(1, str(error)))
    except OSError as error:
        sys.exit(stage.fail(1, f"cannot listen on {runtime.host}:{port}: {error.strerror}: choose another --port"))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    run(options("python -m tasks.serve.api", __doc__).parse_args())
