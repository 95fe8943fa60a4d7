"""The judge's end of the line: any OpenAI endpoint, asked each thing once, whatever happens to this process.

Every reply is on the disk before it is used, in `answers.jsonl` of a folder that belongs to one judge (its address
and name or, for a local model, the digest of its files). A request's key covers its whole body, so a change of a
prompt asks for that prompt alone. Endpoints differ in what they accept: where one refuses a request's form (400, 404,
422), the next plainer form is tried; what it refuses in every form has the reply `unsupported`, which is not kept.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from tasks import progress
from tasks.evaluate import kept
from tasks.stage import StageError

RETRIES = 5          # of the client, with growing pauses: no connection, time-outs, 408, 409, 429, 5xx
ENOUGH = 8           # requests refused in every form, and none taken: the path is asked no more
REFUSED = (openai.BadRequestError, openai.NotFoundError, openai.UnprocessableEntityError)
Reply = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One question to the endpoint: `chat` or `completions`, and the body's forms from the richest to the plainest."""

    path: str
    forms: tuple[dict[str, Any], ...]

    @property
    def key(self) -> str:
        """What the reply is kept under."""
        asked = json.dumps([self.path, self.forms[0]], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(asked.encode()).hexdigest()


class Endpoint:
    """A judge by its address. `asked` counts requests sent, `known` those that `folder` had a reply to."""

    def __init__(self, client: openai.OpenAI, model: str, folder: Path, *, workers: int = 1) -> None:
        self.client, self.model, self.workers = client.with_options(max_retries=RETRIES), model, workers
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "answers.jsonl"
        self.kept = kept.read(self.path)
        self.asked, self.known = 0, 0
        self.plainer: dict[str, int] = {}
        self.refusal, self.refused = "", Counter()
        self.guard = threading.Lock()

    def replies(self, requests: Sequence[Request], what: str) -> list[Reply]:
        """The reply to each request, from the folder or from the endpoint; equal requests are asked once.

        Raises StageError in one line where the endpoint does not answer after RETRIES more tries, or refuses the key.
        """
        missing = {request.key: request for request in requests if request.key not in self.kept}
        self.known += len(requests) - len(missing)
        if missing:
            with ThreadPoolExecutor(self.workers) as pool:
                jobs = [pool.submit(self.ask, request) for request in missing.values()]
                try:
                    for job in progress.track(jobs, what=what, unit="answer"):
                        job.result()
                except openai.OpenAIError as error:
                    pool.shutdown(cancel_futures=True)
                    raise StageError(self.told(error)) from None
        return [self.kept[request.key] for request in requests]

    def ask(self, request: Request) -> None:
        """Send one request, in the richest form that the endpoint takes, and keep the reply.

        A form that was refused is passed over from then on if a plainer one is taken, or if the path is not there; a
        refusal of every form may lie in this request (too long a prompt), so it is remembered after ENOUGH alone.
        """
        send, reply = self.chat if request.path == "chat" else self.completions, None
        for at in range(self.plainer.get(request.path, 0), len(request.forms)):
            try:
                reply = send(request.forms[at])
            except REFUSED as error:
                self.refusal = " ".join(str(error).split())[:200]
                if isinstance(error, openai.NotFoundError) and request.path == "completions":
                    self.plainer[request.path] = len(request.forms)
                continue
            self.plainer[request.path] = at
            break
        if reply is None:
            self.kept[request.key] = {"unsupported": True}
            with self.guard:
                self.refused[request.path] += 1
                if self.refused[request.path] >= ENOUGH and request.path not in self.plainer:
                    self.plainer[request.path] = len(request.forms)
            return
        with self.guard:
            kept.append(self.path, [(request.key, reply)])
            self.kept[request.key] = reply
            self.asked += 1

    def chat(self, body: dict[str, Any]) -> Reply:
        """{"text", "tokens": [[token, {token: log-probability of the likeliest}]]} of a chat completion."""
        choices = self.client.chat.completions.create(model=self.model, **body).choices
        if not choices:
            return {"text": "", "tokens": []}
        told = getattr(choices[0].logprobs, "content", None) or []
        return {"text": choices[0].message.content or "",
                "tokens": [[one.token, {top.token: top.logprob for top in reversed(one.top_logprobs)}]
                           for one in told]}

    def completions(self, body: dict[str, Any]) -> Reply:
        """{"prompt": [[offset in characters, log-probability or None]]} of an echoed prompt."""
        made = self.client.completions.create(model=self.model, **body).choices
        told = made[0].logprobs if made else None
        if told is None or not told.token_logprobs or not told.text_offset:
            return {"unsupported": True}
        whole = len(body["prompt"])
        return {"prompt": [[at, value] for at, value in zip(told.text_offset, told.token_logprobs) if at < whole]}

    def told(self, error: openai.OpenAIError) -> str:
        """A failure in one line, with the remedy; never with the key."""
        where = f"the judge {self.model!r} at {self.client.base_url}"
        kept = "what was answered is kept; run again to go on"
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            return f"{where} refuses the key (HTTP {error.status_code}): set the variable named by --key; {kept}"
        if isinstance(error, openai.APITimeoutError):
            return f"{where} did not answer in {self.client.timeout} s, {RETRIES + 1} times; {kept}"
        if isinstance(error, openai.APIConnectionError):
            return f"{where} cannot be reached, tried {RETRIES + 1} times: check --url; {kept}"
        said = " ".join(str(error).split())[:200]
        return f"{where} failed ({said}); {kept}"


def folder(base: Path, *identity: str) -> Path:
    """Where the replies of one judge lie."""
    return base / hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]

