"""Give a task to an agent on a model just made; every call and result is printed as it happens.

    ./run agent "How many kilometres are 26.2 miles?"
    ./run agent smollm2 "Which table has the most rows?" --database data.db --strategy planner

Tools: calculator, unit conversion, search over the corpus, a subset of Python; --programs adds whole Python shut in
by bubblewrap, --workspace files and plots, --database SQL, --allow-host web pages, --mcp the tools of MCP servers,
--openapi operations of HTTP services. A call with effects (writing a file, whatever another's tool does) asks first;
without a terminal it is made only while no text from outside has been read. --save keeps the run at every event;
--resume goes on with it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai

from flows import toolset
from tasks import params
from tasks.agents import loop, memory, planner, rewoo
from tasks.agents.react import ReAct
from tasks.sandbox import SandboxUnavailable
from tasks.agents.smoke import AgentsParams
from tasks.agents.text import TextClient
from tasks.agents.tools import Action, ActionError
from tasks.serve import client


def main() -> int:
    """The command line. Exit codes: 0 answered, 1 no answer or nothing to ask, 2 bad arguments."""
    given = arguments()
    try:
        settings = params.load()
        track = given.track or best_track(settings["served"])
        if track not in settings["served"]:
            raise AgentFailed(f"no track {track!r}: served here are {', '.join(settings['served'])}")
        how = AgentsParams.model_validate(settings["tracks"][track]["agents"])
        state = resumed(given.resume, given.strategy) if given.resume else loop.Run()
        state.listen = listener(given.save, state)
        with ExitStack() as held:
            actions = toolset.with_remote(toolset.local(given, held), given, held)
            url = given.url or held.enter_context(
                client.running(Path("models") / track / "int4", threads=params.runtime().threads, slots=1))
            server = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
            run = ask(server, given, how, actions, state)
    except (AgentFailed, ActionError, SandboxUnavailable, client.ServerError, params.ParamsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if run.answer is None:
        print(f"no answer: {run.reason}", file=sys.stderr)
        return 1
    print(run.answer)
    return 0


class AgentFailed(RuntimeError):
    """Nothing can be asked; the message is one line."""


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="./run agent", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="[TRACK] TASK", help="the task in one argument; before it a track, "
                        "if not the one whose agent scored best")
    parser.add_argument("--strategy", choices=("react", "text", "rewoo", "planner"), default="react",
                        help="react: tool calling (default); text: ReAct as text; rewoo: plan, work, solve; planner: "
                        "parts")
    toolset.local_arguments(parser)
    toolset.remote_arguments(parser)
    parser.add_argument("--steps", type=int, default=6, help="turns of the model (default 6)")
    parser.add_argument("--tokens", type=int, default=20_000, help="prompt and answer tokens in all (default 20000)")
    parser.add_argument("--seconds", type=float, default=120, help="wall time (default 120)")
    parser.add_argument("--url", help="another OpenAI server, such as http://127.0.0.1:8000/v1 (key: OPENAI_API_KEY)")
    parser.add_argument("--model", default="default", help="its model (default: the server's)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the run here, at every event")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with a kept run; give the same task")
    given = parser.parse_args()
    *before, given.task = given.words
    if len(before) > 1:
        parser.error("the task is one argument: put it in quotes")
    given.track = before[0] if before else None
    if given.steps < 1 or given.tokens < 1 or given.seconds <= 0:
        parser.error("--steps, --tokens and --seconds are above 0")
    return given


def best_track(served: list[str]) -> str:
    """The served track whose agent passed most of its smoke tests; the first one before any was run."""
    def passed(track: str) -> float:
        try:
            metrics = json.loads(Path(f"metrics/agents/{track}.json").read_text(encoding="utf-8"))
            return metrics["with_tools"]["value"]
        except (OSError, ValueError, KeyError, TypeError):
            return -1.0
    return max(served, key=passed)


def ask(server: openai.OpenAI, given: argparse.Namespace, how: AgentsParams, actions: list[Action],
        state: loop.Run) -> loop.Run:
    """One run of the strategy asked for."""
    budget = loop.Budget(given.steps, given.tokens, given.seconds, how.turn,
                         memory.room(server, given.model, how.turn))
    strategy = ReAct(how.system, how.examples, "auto" if given.strategy == "text" else how.first)
    approve = approved if sys.stdin.isatty() else None
    if given.strategy == "rewoo":
        return rewoo.run(server, given.model, given.task, actions, how.system, budget, state=state, approve=approve)
    if given.strategy == "planner":
        return planner.run(server, given.model, given.task, actions, strategy, budget, state=state, approve=approve)
    speaker: Any = TextClient(server) if given.strategy == "text" else server
    return loop.run(speaker, given.model, given.task, actions, strategy, budget, state=state, approve=approve)


def listener(save: Path | None, state: loop.Run) -> loop.Listener:
    """Prints each event on stderr, and keeps the run where asked."""
    def hear(event: dict[str, Any]) -> None:
        kind, rest = event["event"], {key: value for key, value in event.items() if key != "event"}
        text = " ".join(str(value) for value in rest.values() if value is not None)
        print(f"{kind:>8}  {text[:300]}", file=sys.stderr, flush=True)
        if save:
            partial = save.with_name(f".{save.name}.partial")
            partial.write_text(json.dumps(state.saved(), ensure_ascii=False), encoding="utf-8")
            os.replace(partial, save)
    return hear


def resumed(path: Path, strategy: str) -> loop.Run:
    """A kept run, open again. Raises AgentFailed where the file holds none, or one of another strategy."""
    try:
        run = loop.Run(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AgentFailed(f"{path} holds no kept run ({' '.join(str(error).split())[:120]})") from None
    if run.reason == "answered":
        raise AgentFailed(f"{path}: that run has answered already: {str(run.answer)[:200]}")
    kept = ("rewoo",) if "steps" in run.plan else ("planner",) if run.plan else ("react", "text")
    if (run.plan or run.messages) and strategy not in kept:
        raise AgentFailed(f"{path}: that run is one of --strategy {kept[0]}, not of {strategy}")
    run.reason = ""
    return run


def approved(tool: str, called_with: str) -> bool:
    """A person's word on one call."""
    print(f"allow {tool}({called_with[:400]})? [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False


if __name__ == "__main__":
    sys.exit(main())
