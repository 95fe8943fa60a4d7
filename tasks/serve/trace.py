"""POST /v1/trace: which training documents hold the longest spans of an answer, where the server has their index."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import Field

from tasks.data.trace import Index, TraceError
from tasks.serve import documents
from tasks.serve.errors import ApiError
from tasks.serve.schemas import Body

LONGEST = 65_536    # characters of a text: a fraction of a second


class TraceBody(Body):
    text: Annotated[str, Field(max_length=LONGEST)]


class Tracer:
    """The index in a folder, opened again when another has taken its place. One text at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises TraceError where there is no index."""
        self.folder, self.lock = folder, asyncio.Lock()
        self.seen, self.index = self.stamp(), Index(folder)

    def stamp(self) -> tuple[int, int]:
        """What differs between an index and the next one. Raises TraceError where there is none."""
        try:
            told = (self.folder / "index.json").stat()
        except OSError:
            raise TraceError(f"no index of the training documents in {self.folder}: ./run makes it") from None
        return told.st_ino, told.st_mtime_ns

    def answer(self, text: str) -> dict[str, Any]:
        """The spans of `text` as the endpoint gives them; characters count as code points."""
        if (stamp := self.stamp()) != self.seen:
            self.index, self.seen = Index(self.folder), stamp
        return {"object": "trace", "documents": self.index.documents, **dataclasses.asdict(self.index.trace(text))}


def routes(app: FastAPI, tracer: Tracer | None) -> None:
    """Add the endpoint to `app`; without a tracer it says how to get one."""

    @app.post("/v1/trace", **documents.told(documents.TraceObject, 400, 401, 404, 413, 503))
    async def trace(body: TraceBody) -> JSONResponse:
        if tracer is None:
            raise ApiError(404, "this server has no index of training documents: start it by ./run serve once ./run "
                                "has made data/index, or with --trace data/index", code="no_index")
        try:
            async with tracer.lock:
                return JSONResponse(await asyncio.to_thread(tracer.answer, body.text))
        except TraceError as error:
            raise ApiError(503, str(error), code="no_index") from None
