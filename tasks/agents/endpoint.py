"""POST /v1/agent: a task for the agent's loop, its events as they happen; what the chat page's tools switch uses.

The loop runs in a thread of its own and speaks to the server's own chat endpoint, as any client. Its events come as
server-sent events; before a call with effects it asks (`{"event": "ask", "run", "tool", "arguments"}`), and waits for
`POST /v1/agent/RUN {"allow": true}`; no answer in the time of the run is a no. Who closes the connection stops the run.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field

from tasks.agents import loop, memory
from tasks.agents.tools import Action
from tasks.serve.errors import ApiError
from tasks.serve.schemas import Body

RUNS = 8                # at once; more are told to come back
PICTURE = 2_000_000     # bytes of a picture that is sent
TURN = 256              # tokens of a model's turn


class Said(Body):
    """A turn of the conversation: what came before, and last the user's task."""

    role: Literal["user", "assistant"]
    content: Annotated[str, Field(max_length=100_000)]


class AgentBody(Body):
    """A task: `messages` end with it; the budgets are the user's own, up to the server's."""

    messages: Annotated[list[Said], Field(min_length=1, max_length=200)]
    model: str | None = None
    steps: Annotated[int, Field(ge=1, le=30)] = 6
    tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    seconds: Annotated[float, Field(gt=0, le=3600)] = 120


class AllowBody(Body):
    """A person's word on the call that a run asks about."""

    allow: bool


@dataclass
class Running:
    """One run: its state, and the question to the person that it waits on."""

    state: loop.Run = field(default_factory=loop.Run)
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    answered: threading.Event = field(default_factory=threading.Event)
    waits: bool = False
    allow: bool = False


class Agents:
    """The runs of one server: `tools` makes the actions when they are first wanted, `client` an OpenAI client of the
    server itself, `strategy` how a model (by its name) is spoken to; pictures lie in `workspace`."""

    def __init__(self, tools: Callable[[], list[Action]], client: Callable[[], Any],
                 strategy: Callable[[str | None], loop.Strategy], workspace: Path) -> None:
        self.tools, self.client, self.strategy, self.workspace = tools, client, strategy, workspace
        self.lock, self.made = threading.Lock(), None
        self.running: dict[str, Running] = {}

    def actions(self) -> list[Action]:
        """The tools, made once; a search index takes seconds."""
        with self.lock:
            if self.made is None:
                self.made = self.tools()
            return self.made

    def work(self, body: AgentBody, run: Running, tell: Callable[[dict[str, Any]], None]) -> None:
        """Carry out a run; every event is told, the last one is its end, whatever happens."""
        state, deadline = run.state, time.monotonic() + body.seconds
        state.listen = lambda event: tell(self.shown(event))

        def approve(tool: str, arguments: str) -> bool:
            run.answered.clear()
            run.waits, run.allow = True, False
            tell({"event": "ask", "run": run.id, "tool": tool, "arguments": arguments})
            run.answered.wait(max(0.0, deadline - time.monotonic()))
            run.waits = False
            tell({"event": "allowed" if run.allow else "denied", "tool": tool})
            return run.allow and not state.reason

        try:
            client, (*before, task), strategy = self.client(), body.messages, self.strategy(body.model)
            *opening, question = strategy.opening(task.content)
            state.messages = [*opening, *(said.model_dump() for said in before), question]
            state.said = "\n".join(said.content for said in body.messages if said.role == "user")
            # an earlier answer may repeat what a page said: for the policy it is text from outside
            state.outputs = [said.content for said in before if said.role == "assistant"]
            model = body.model or "default"
            budget = loop.Budget(body.steps, body.tokens, body.seconds, TURN, memory.room(client, model, TURN))
            loop.run(client, model, task.content, self.actions(), strategy, budget, state=state, approve=approve)
        except Exception as error:   # tools that cannot be made, such as a sandbox that is missing
            state.end(f"the agent failed: {' '.join(str(error).split())[:300] or type(error).__name__}")
        finally:
            self.running.pop(run.id, None)

    def shown(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event with its picture as a data URI in place of a file's name."""
        name = event.get("picture")
        if name is None:
            return event
        with contextlib.suppress(OSError):
            data = (self.workspace / Path(name).name).read_bytes()
            if len(data) <= PICTURE:
                return event | {"picture": f"data:image/png;base64,{base64.b64encode(data).decode()}"}
        return {key: value for key, value in event.items() if key != "picture"}

    async def stream(self, body: AgentBody, run: Running) -> AsyncIterator[str]:
        """The events of a run as server-sent events; leaving early stops it."""
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        here = asyncio.get_running_loop()

        def tell(event: dict[str, Any]) -> None:
            with contextlib.suppress(RuntimeError):     # the server has ended
                here.call_soon_threadsafe(heard.put_nowait, event)

        threading.Thread(target=self.work, args=(body, run, tell), name="agent", daemon=True).start()
        try:
            while True:
                event = await heard.get()
                yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
                if event["event"] == "end":
                    spent = {"event": "spent", "tokens": run.state.tokens, "steps": run.state.steps}
                    yield f"data: {json.dumps(spent)}\n\n"
                    yield "data: [DONE]\n\n"
                    return
        finally:
            run.state.end("stopped")
            run.answered.set()


def routes(app: FastAPI, agents: Agents) -> None:
    """Add the endpoints to the server's application, and tell the page of them."""
    app.state.agent = True

    @app.get("/v1/agent")
    async def tools() -> JSONResponse:
        made = await asyncio.to_thread(agents.actions)
        return JSONResponse({"object": "agent", "tools": [
            {"name": action.name, "description": action.schema["function"]["description"], "scope": action.scope}
            for action in made]})

    @app.post("/v1/agent")
    async def agent(body: AgentBody) -> StreamingResponse:
        if body.messages[-1].role != "user":
            raise ApiError(400, "messages: the last one is the user's task", param="messages")
        if len(agents.running) >= RUNS:
            raise ApiError(429, f"{RUNS} agents are at work", code="rate_limit_exceeded", retry_after=5)
        run = Running()
        agents.running[run.id] = run
        return StreamingResponse(agents.stream(body, run), media_type="text/event-stream",
                                 headers={"cache-control": "no-store"})

    @app.post("/v1/agent/{run_id}")
    async def allow(run_id: str, body: AllowBody) -> JSONResponse:
        run = agents.running.get(run_id)
        if run is None or not run.waits:
            raise ApiError(404, "no run of this name waits for a word", code="no_run")
        run.allow = body.allow
        run.answered.set()
        return JSONResponse({"object": "agent.allow", "allow": body.allow})
