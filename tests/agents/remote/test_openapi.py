"""Our actions as an OpenAPI service, and any OpenAPI service as actions: what is read, sent, refused and survived."""

from __future__ import annotations

import json
from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI, Header, HTTPException, Query, Response
from pydantic import BaseModel

from tasks.agents.actions import plot
from tasks.agents.actions.calculator import calculator
from tasks.agents.remote import openapi_client, openapi_server
from tasks.agents.remote.openapi_document import checked
from tasks.agents.tools import ARGUMENTS, Action, ActionError
from tasks.serve.limits import Guard
from tests.agents.remote.served import running


class Order(BaseModel):
    item: str
    count: int = 1
    parts: list["Order"] = []


def shop() -> FastAPI:
    """What anybody would write with FastAPI."""
    app = FastAPI()

    @app.get("/items/{name}", operation_id="find", summary="Find an item")
    def find(name: str, sizes: Annotated[list[int], Query()], exact: bool = False,
             x_lang: Annotated[str, Header()] = "en"):
        return {"name": name, "sizes": sizes, "exact": exact, "lang": x_lang}

    @app.post("/orders", operation_id="order", status_code=201)
    def order(order: Order):
        return {"ordered": order.model_dump()}

    @app.get("/no")
    def no():
        raise HTTPException(409, "sold out")

    @app.get("/away")
    def away():
        return Response(status_code=302, headers={"Location": "http://127.0.0.1:9/"})

    @app.get("/picture")
    def picture():
        return Response(b"\x89PNG", media_type="image/png")

    @app.get("/huge")
    def huge():
        return Response("x" * 3_000_000, media_type="text/plain")

    @app.get("/empty", status_code=204)
    def empty():
        return Response(status_code=204)

    return app


@pytest.fixture(scope="module")
def theirs():
    with running(shop()) as place:
        made = openapi_client.actions(f"{place}/openapi.json", [], {}, pytest.fail)
        yield {action.name: action for action in made}


def test_operations_become_actions(theirs):
    find = theirs["find"]
    assert find.schema["function"]["description"] == "Find an item" and find.scope == "network" and find.outside
    assert find.schema["function"]["parameters"]["required"] == ["name", "sizes"]
    assert json.loads(find.call('{"name": "..b?c#d 茶", "sizes": [1, 2], "exact": true, "x-lang": "zh"}')) == {
        "name": "..b?c#d 茶", "sizes": [1, 2], "exact": True, "lang": "zh"}
    order = theirs["order"]
    assert order.scope == "write" and list(order.schema["function"]["parameters"]["$defs"]) == ["Order"]
    assert json.loads(order.call('{"item": "tea", "parts": [{"item": "leaf"}]}'))["ordered"]["parts"][0]["count"] == 1


@pytest.mark.parametrize("name, arguments, shown", [
    ("find", {"name": "x"}, "'sizes' is a required"), ("find", {"name": "x", "sizes": ["a"]}, "sizes.0: 'a' is not"),
    ("find", {"name": "..", "sizes": [1]}, "'..' cannot stand in a path"),
    ("order", {"item": "tea", "parts": [{"count": 1}]}, "parts.0: 'item' is a required"),
    ("no_no_get", {}, "409: .*sold out"), ("away_away_get", {}, "302: it leads elsewhere"),
    ("picture_picture_get", {}, "image/png, no text"),
])
def test_what_goes_wrong_is_one_line(theirs, name, arguments, shown):
    with pytest.raises(ActionError, match=shown) as error:
        theirs[name].call(json.dumps(arguments))
    assert "\n" not in str(error.value)


def test_answers_are_bounded(theirs):
    assert len(theirs["huge_huge_get"].call("{}")) < 2_000
    assert theirs["empty_empty_get"].call("{}") == "done (204)"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("workspace")
    made = [Action.of(calculator), Action.of(plot.action(workspace), scope="write")]
    with running(Guard(openapi_server.application(made, keyed=True), "sesame")) as place:
        yield place, made


def test_our_service_read_back_is_the_same_tools(ours):
    place, made = ours
    host = place.removeprefix("http://")
    back = openapi_client.actions(f"{place}/openapi.json", [], {host: "sesame"}, pytest.fail)
    assert [action.name for action in back] == ["calculator", "plot"]
    assert back[0].schema["function"]["description"] == "exact arithmetic"
    assert json.loads(back[0].call('{"expression": "12 * 7"}')) == {"result": "84"}
    with pytest.raises(ActionError, match="calculator: 422: .*division by zero"):
        back[0].call('{"expression": "1 / 0"}')
    with pytest.raises(ActionError, match="status 401"):
        openapi_client.actions(f"{place}/openapi.json", [], {"other.example": "sesame"}, pytest.fail)


def test_our_service_refuses_what_is_wrong(ours):
    place, _ = ours
    with httpx.Client(base_url=place, headers={"Authorization": "Bearer sesame"}) as client:
        for body, status in ((b"{", 422), (b"[]", 422), (b"\xff", 422), (b"{}", 422), (b"", 422),
                             (b" " * 5 * ARGUMENTS, 413), (b'{"expression": "1 + 1"}', 200)):
            answer = client.post("/tools/calculator", content=body)
            assert answer.status_code == status and isinstance(answer.json(), dict), body[:20]
        drawn = client.post("/tools/plot", json={"x": [1], "y": [1]}).json()
        assert drawn["result"] == "drawn: plot-1.png" and drawn["picture"].startswith("iVBORw0KGgo")
        assert client.post("/tools/rm", json={}).status_code == 404
    assert httpx.post(f"{place}/tools/calculator", json={}).status_code == 401


def test_our_document_is_openapi_and_the_service_keeps_to_it(ours):
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance     # 1 / 0 is well-formed and fails

    place, _ = ours
    headers = {"Authorization": "Bearer sesame"}
    document = httpx.get(f"{place}/openapi.json", headers=headers).json()
    assert checked(document) and document["security"] == [{"key": []}]
    operation = schemathesis.openapi.from_dict(document)["/tools/calculator"]["POST"]

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy())
    def conforms(case):
        case.validate_response(case.call(base_url=place, headers=headers), excluded_checks=[positive_data_acceptance])
    conforms()


SERVICE = {
    "openapi": "3.0.3", "info": {"title": "t", "version": "1"}, "servers": [{"url": "http://127.0.0.1:9/v1"}],
    "paths": {"/a/{id}": {
        "parameters": [{"$ref": "#/components/parameters/Id"}],
        "get": {"operationId": "get a", "responses": {"200": {"description": "x"}}, "parameters": [
            {"name": "n", "in": "query", "schema": {"type": "integer", "minimum": 0, "exclusiveMinimum": True,
                                                    "nullable": True}},
            {"name": "tags", "in": "query", "explode": False, "schema": {"type": "array", "items": {"type": "string"}}},
            {"name": "Authorization", "in": "header", "schema": {"type": "string"}}]},
        "put": {"responses": {"200": {"description": "x"}}, "requestBody": {"content": {
            "application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Node"}}}}}}}},
    "components": {
        "parameters": {"Id": {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}},
        "schemas": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Node"}}}},
        "securitySchemes": {"k": {"type": "apiKey", "in": "header", "name": "X-Key"}}},
    "security": [{"k": []}]}


def written(tmp_path, document, name="service.json"):
    (tmp_path / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return str(tmp_path / name)


def test_a_document_of_3_0_from_a_file(tmp_path):
    from tasks.agents.remote.openapi_document import operations

    address = written(tmp_path, SERVICE)
    made = openapi_client.actions(address, ["127.0.0.1:9"], {}, pytest.fail)
    assert [action.name for action in made] == ["get_a", "put_a_id"]
    properties = made[0].schema["function"]["parameters"]["properties"]
    assert properties["n"] == {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]}
    assert "Authorization" not in properties
    with pytest.raises(ActionError, match="ConnectError"):
        made[0].call('{"id": "x"}')
    get, put = operations(SERVICE, pytest.fail)
    assert openapi_client.request(get, "http://h/v1", "KEY", {"id": "a/b", "tags": ["x", "y"], "n": 3}) == (
        "GET", "http://h/v1/a/a%2Fb", {"params": [("n", "3"), ("tags", "x,y")],
                                       "headers": {"User-Agent": "catena-agent", "X-Key": "KEY"}})
    assert openapi_client.request(put, "http://h", None, {"id": "1", "body": [{}]})[2]["json"] == [{}]
    yaml = pytest.importorskip("yaml")
    again = openapi_client.actions(written(tmp_path, yaml.safe_dump(SERVICE), "service.yaml"), ["127.0.0.1:9"], {},
                                   pytest.fail)
    assert [action.schema for action in again] == [action.schema for action in made]


@pytest.mark.parametrize("kind, headers, query", [
    ({"type": "http", "scheme": "bearer"}, {"Authorization": "Bearer KEY"}, []),
    ({"type": "http", "scheme": "basic"}, {"Authorization": "Basic S0VZ"}, []),
    ({"type": "apiKey", "in": "query", "name": "k"}, {}, [("k", "KEY")]),
    (None, {"Authorization": "Bearer KEY"}, []),
])
def test_where_a_key_goes(kind, headers, query):
    from tasks.agents.remote.openapi_document import operations

    document = json.loads(json.dumps(SERVICE))
    document["components"]["securitySchemes"] = {"k": kind} if kind else {}
    get = next(operations(document, pytest.fail))
    _, _, parts = openapi_client.request(get, "http://h", "KEY", {"id": "1"})
    assert parts == {"params": query, "headers": {"User-Agent": "catena-agent", **headers}}


def test_operations_that_cannot_be_tools_are_left_out_with_a_line(tmp_path):
    document = json.loads(json.dumps(SERVICE))
    good = {"responses": {"200": {"description": "x"}}}
    document["paths"] |= {
        "/cookie": {"get": {**good, "parameters": [{"name": "c", "in": "cookie", "required": True, "schema": {}}]}},
        "/deep": {"get": {**good, "parameters": [{"name": "o", "in": "query", "style": "deepObject",
                                                  "schema": {"type": "object"}}]}},
        "/form": {"post": {**good, "requestBody": {"content": {"multipart/form-data": {"schema": {}}}}}},
        "/out": {"get": {**good, "parameters": [{"name": "x", "in": "query", "schema": {"$ref": "http://e/x"}}]}},
        "/none": {"get": {**good, "parameters": [{"$ref": "#/components/parameters/None"}]}},
        "/hole/{x}": {"get": good}}
    said = []
    made = openapi_client.actions(written(tmp_path, document), ["127.0.0.1:9"], {}, said.append)
    assert len(made) == 2 and [line.split(": ", 3)[2] for line in said] == [
        "GET /cookie", "GET /deep", "POST /form", "GET /out", "GET /none", "GET /hole/{x}"]


@pytest.mark.parametrize("change, shown", [
    ({"openapi": "2.0"}, "no OpenAPI 3.0 or 3.1 document"), ({"openapi": "3.2.0"}, "openapi 3.2.0"),
    ({"info": None}, "not valid OpenAPI: .*info"), ({"servers": [{"url": "http://evil.example/"}]}, "not allowed"),
    ({"servers": [{"url": "file:///etc/passwd"}]}, "not allowed"), ({"servers": []}, "not allowed"),
    ({"servers": [{"url": "http://user@127.0.0.1:9/"}]}, "not allowed"),
])
def test_documents_that_are_refused(tmp_path, change, shown):
    with pytest.raises(ActionError, match=shown) as error:
        openapi_client.actions(written(tmp_path, {**SERVICE, **change}), ["127.0.0.1:9"], {}, pytest.fail)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, text", [("a.json", "{"), ("a.json", "[" * 99_999), ("a.json", "[]"), ("a.yaml", "a: ["),
                                        ("a.yaml", "a: &x [*x]"), ("a.json", "\x00")])
def test_files_that_are_no_document(tmp_path, name, text):
    with pytest.raises(ActionError) as error:
        openapi_client.actions(written(tmp_path, text, name), [], {}, pytest.fail)
    assert "\n" not in str(error.value)
    for gone in ("/no/such/file.json", "http://127.0.0.1:9/openapi.json", "http://[::1"):
        with pytest.raises(ActionError, match="cannot be read"):
            openapi_client.actions(gone, [], {}, pytest.fail)
