"""Serve models by OpenAI's and Anthropic's APIs, with the chat page and an agent beside them (./run serve).

    python -m flows.host scratch=models/scratch/int4 [--workspace DIR] [--database FILE] [--allow-host HOST]

The options of the server are those of tasks/serve/api.py. The agent is the loop of `./run agent`: the chat page's
tools switch gives it tasks, shows its steps, and asks before it writes or sends anything. What it may use is set here:
calculator, units, the corpus, a subset of Python; files and plots of --workspace (without it a directory that is gone
with the server), SQL over --database, pages of --allow-host, --programs, tools of --mcp and --openapi.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from flows import toolset
from tasks import params
from tasks.agents.endpoint import Agents, routes
from tasks.agents.react import ReAct
from tasks.agents.smoke import AgentsParams
from tasks.agents.tools import Action
from tasks.serve import api

PLAIN = ReAct("You have tools: use them where they help, and answer.", False, "auto")


def main() -> None:
    """The command line; exit codes are the server's."""
    parser = api.options("./run serve", __doc__)
    toolset.local_arguments(parser)
    toolset.remote_arguments(parser)
    given = parser.parse_args()
    with ExitStack() as held:
        if given.workspace is None:
            given.workspace = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="catena-workspace-")))

        def tools() -> list[Action]:
            return toolset.with_remote(toolset.local(given, held), given, held)

        def extend(app: FastAPI, url: str, key: str | None) -> None:
            def client() -> Any:
                import openai

                return openai.OpenAI(base_url=url, api_key=key or "none", max_retries=2)

            routes(app, Agents(tools, client, spoken, given.workspace))

        api.run(given, extend)


def spoken(name: str | None) -> ReAct:
    """How a model is spoken to: as its track's smoke tests do, where it is one; the model itself decides on calls."""
    try:
        how = AgentsParams.model_validate(params.load()["tracks"][(name or "").split("/")[0]]["agents"])
    except (params.ParamsError, KeyError, TypeError, ValueError):
        return PLAIN
    return ReAct(how.system, how.examples, "auto")


if __name__ == "__main__":
    sys.exit(main())
