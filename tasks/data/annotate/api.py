"""The annotation page and its JSON API, on loopback: FastAPI over one Annotation, for one annotator.

    GET  /api/state                 the task, its labels, who annotates, every item's state in order
    GET  /api/item?id=              one item in full, with this annotator's answer
    POST /api/answer                {"item", "label", "comment", "suggested"}: the state of the item and the progress
    POST /api/skip                  {"item", "comment", "suggested"}
    POST /api/undo                  {}: takes back this annotator's last event
    GET  /api/agreement?first=&second=
    GET  /api/disagreements?first=&second=
    POST /api/adjudicate            {"item", "label", "comment"}
    GET  /api/export                the jsonl of tasks/data/annotate/export.py

Errors are {"error": {"message", "field"}}: 404 an unknown item or annotator, 422 a bad field, 507 the disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from tasks.data.annotate import export
from tasks.data.annotate.annotation import Annotation, view
from tasks.data.annotate.guard import Guard, Refused
from tasks.data.annotate.labels import ADJUDICATED, PIPELINE
from tasks.data.annotate.store import Answer
from tasks.stage import StageError

PAGE = Path(__file__).parent / "page"
FILES = {"/": ("index.html", "text/html"), "/app.js": ("app.js", "text/javascript"),
         "/views.js": ("views.js", "text/javascript"), "/style.css": ("style.css", "text/css")}


def storable(text: str) -> str:
    """`text` where UTF-8 can hold it. Raises ValueError for an unpaired surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (an unpaired surrogate)") from None
    return text


Text = Annotated[str, AfterValidator(storable)]


class Skip(BaseModel):
    """The body of a skip."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item: Text = Field(max_length=500)
    comment: Text = Field(default="", max_length=4000)
    suggested: bool = False


class Labelled(Skip):
    """The body of an answer or an adjudication."""

    label: Text = Field(max_length=100)


class Nothing(BaseModel):
    """The body of an undo."""

    model_config = ConfigDict(extra="forbid", strict=True)


def application(annotation: Annotation, annotator: str, port: int) -> FastAPI:
    """The ASGI application for `annotator`, served at `port`."""
    app = FastAPI(title="Catena annotation", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, port=port)
    for kind, handler in ((Refused, refused), (RequestValidationError, invalid), (HTTPException, http_error),
                          (StageError, unusable), (OSError, unwritten)):
        app.add_exception_handler(kind, handler)
    own = annotation.log(annotator)

    def known(item: str) -> str:
        if item not in annotation.by_id:
            raise Refused(404, f"no item {item[:80]!r}", "item")
        return item

    def label(name: str) -> str:
        if name not in annotation.task.names:
            raise Refused(422, f"label {name!r} is none of {', '.join(annotation.task.names)}", "label")
        return name

    def two(first: str, second: str) -> tuple[str, str]:
        there = (*annotation.annotators(), PIPELINE)
        for field, name in (("first", first), ("second", second)):
            if name not in there:
                raise Refused(404, f"no annotator {name[:80]!r} (there are {', '.join(there)})", field)
        return first, second

    def progress() -> dict[str, Any]:
        answers = {item: answer for item, answer in own.answers().items() if item in annotation.by_id}
        return {"answered": sum(answer.label is not None for answer in answers.values()),
                "skipped": sum(answer.label is None for answer in answers.values()), "total": len(annotation.items),
                "notices": own.notices + annotation.log(ADJUDICATED).notices}

    def state_of(item: str) -> dict[str, Any]:
        answer = own.answers().get(item)
        return {"id": item, "answer": view(answer) if answer else None}

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        task, answers = annotation.task, own.answers()
        return {"task": task.name, "question": task.question, "annotator": annotator,
                "labels": [{"name": label.name, "meaning": label.meaning} for label in task.labels],
                "annotators": annotation.annotators(), "progress": progress(),
                "items": [{"id": item["id"], "answer": view(answers[item["id"]]) if item["id"] in answers else None}
                          for item in annotation.items]}

    @app.get("/api/item")
    def item(id: str) -> dict[str, Any]:
        return annotation.by_id[known(id)] | state_of(id)

    @app.post("/api/answer")
    def answer(body: Labelled) -> dict[str, Any]:
        own.append(Answer(known(body.item), label(body.label), body.comment, body.suggested))
        return state_of(body.item) | {"progress": progress()}

    @app.post("/api/skip")
    def skip(body: Skip) -> dict[str, Any]:
        own.append(Answer(known(body.item), None, body.comment, body.suggested))
        return state_of(body.item) | {"progress": progress()}

    @app.post("/api/undo")
    def undo(_: Nothing) -> dict[str, Any]:
        taken = own.undo()
        return (state_of(taken.item) if taken else {"id": None, "answer": None}) | {"progress": progress()}

    @app.get("/api/agreement")
    def agreement(first: str, second: str) -> dict[str, Any]:
        return annotation.agreement(*two(first, second))

    @app.get("/api/disagreements")
    def disagreements(first: str, second: str) -> dict[str, Any]:
        return {"items": annotation.disagreements(*two(first, second))}

    @app.post("/api/adjudicate")
    def adjudicate(body: Labelled) -> dict[str, Any]:
        decision = Answer(known(body.item), label(body.label), body.comment, body.suggested, annotator)
        annotation.log(ADJUDICATED).append(decision)
        return {"id": body.item, "adjudicated": view(decision)}

    @app.get("/api/export")
    def exported() -> Response:
        answers = {name: annotation.answers(name) for name in annotation.annotators()}
        rows, _ = export.export(annotation.task, annotation.items, answers, annotation.answers(ADJUDICATED))
        name = f"{annotation.task.name}.jsonl"
        return Response(export.lines(rows), media_type="application/jsonl",
                        headers={"Content-Disposition": f'attachment; filename="{name}"'})

    for path, (name, kind) in FILES.items():
        app.add_api_route(path, page(name, kind), methods=["GET"])
    return app


def page(name: str, kind: str) -> Any:
    """An endpoint that sends a file of the page."""
    def send() -> FileResponse:
        return FileResponse(PAGE / name, media_type=kind)
    return send


def refused(_: Request, error: Exception) -> Response:
    return JSONResponse(error.body(), error.status)


def invalid(_: Request, error: Exception) -> Response:
    """422 (400 where the body is no JSON) naming the first field at fault."""
    fault = error.errors()[0]
    if fault["type"] == "json_invalid":
        return refused(_, Refused(400, "the body is not JSON"))
    field = ".".join(map(str, fault["loc"][1:])).encode(errors="replace").decode() or None
    return refused(_, Refused(422, f"{field or 'body'}: {fault['msg']}", field))


def http_error(_: Request, error: Exception) -> Response:
    return refused(_, Refused(error.status_code, str(error.detail)))


def unusable(_: Request, error: Exception) -> Response:
    return refused(_, Refused(500, str(error)))


def unwritten(_: Request, error: Exception) -> Response:
    return refused(_, Refused(507, f"not saved: {error.strerror or error} ({error.filename or 'the answers file'}): "
                                   "free space or mend its permissions, then answer again"))
