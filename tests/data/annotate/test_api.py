"""The API: answers reach the disk, bad fields are named, and no other site or name gets in."""

from __future__ import annotations

import json
import os

import pytest
from starlette.testclient import TestClient

from tasks.data.annotate import guard
from tasks.data.annotate.annotation import checked_name
from tasks.data.annotate.api import FILES, PAGE, application
from tasks.data.annotate.store import Answer, AnswerLog
from tasks.stage import StageError

PORT = 8765
HOME = f"http://127.0.0.1:{PORT}"


@pytest.fixture
def http(annotation):
    return TestClient(application(annotation, "amy", PORT), base_url=HOME, raise_server_exceptions=False)


def ids(annotation):
    return [item["id"] for item in annotation.items]


def test_answer_skip_edit_undo_and_resume(http, annotation):
    one, two = ids(annotation)[:2]
    state = http.get("/api/state").json()
    assert (state["annotator"], state["progress"]["total"], state["annotators"]) == ("amy", 20, [])
    assert [label["name"] for label in state["labels"]] == ["good", "ads", "thin", "broken"]
    item = http.get("/api/item", params={"id": one}).json()
    assert item["text"] == annotation.by_id[one]["text"] and item["answer"] is None and item["suggestion"]["why"]
    sent = {"item": one, "label": "thin", "comment": "太短 <b>", "suggested": True}
    assert http.post("/api/answer", json=sent).json()["progress"]["answered"] == 1
    assert AnswerLog(annotation.place / "amy.jsonl", annotation.task.names).answers() == {
        one: Answer(one, "thin", "太短 <b>", True)}
    assert http.post("/api/skip", json={"item": two}).json()["answer"] == {"label": None, "comment": "", "by": None}
    assert http.post("/api/answer", json={"item": one, "label": "ads"}).json()["answer"]["label"] == "ads"
    undone = http.post("/api/undo", json={}).json()
    assert (undone["id"], undone["answer"]["label"]) == (one, "thin")
    again = TestClient(application(annotation, "amy", PORT), base_url=HOME).get("/api/state").json()
    found = {item["id"]: item["answer"] for item in again["items"]}
    assert found[one]["comment"] == "太短 <b>" and found[two]["label"] is None and again["progress"]["skipped"] == 1
    for _ in range(3):
        last = http.post("/api/undo", json={}).json()
    assert last == {"id": None, "answer": None, "progress": {"answered": 0, "skipped": 0, "total": 20, "notices": []}}


@pytest.mark.parametrize(("path", "body", "status", "field"), [
    ("answer", {"item": "ID", "label": "great"}, 422, "label"), ("answer", {"item": "none", "label": "good"}, 404, "item"),
    ("answer", {"label": "good"}, 422, "item"), ("answer", {"item": 5, "label": "good"}, 422, "item"),
    ("answer", {"item": "ID", "label": "good", "extra": 1}, 422, "extra"),
    ("answer", {"item": "ID", "label": "good", "suggested": "yes"}, 422, "suggested"),
    ("answer", {"item": "ID", "label": "good", "comment": "x" * 4001}, 422, "comment"),
    ("answer", {"item": "ID", "label": "good", "comment": "half \ud800"}, 422, "comment"),
    ("answer", {"item": "\ud800", "label": "good"}, 422, "item"), ("answer", [], 422, None), ("answer", None, 422, None),
    ("skip", {"item": "../amy"}, 404, "item"), ("undo", {"item": "ID"}, 422, "item"),
    ("adjudicate", {"item": "ID", "label": None}, 422, "label"), ("adjudicate", {"item": "ID", "label": ""}, 422, "label")])
def test_bad_bodies_are_4xx_naming_the_field(http, annotation, path, body, status, field):
    text = json.dumps(body).replace('"ID"', json.dumps(ids(annotation)[0]))
    answer = http.post(f"/api/{path}", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["field"] == field and error["message"]
    assert not (annotation.place / "amy.jsonl").exists()


def test_bad_json_unknown_paths_and_strangers(http):
    headers = {"Content-Type": "application/json"}
    for content in (b"{", b"\xff\xfe", b"[" * 5000, b""):
        answer = http.post("/api/undo", content=content, headers=headers)
        assert answer.status_code in (400, 422) and answer.json()["error"]["message"]
    for path in ("/none", "/page/app.js", "/..%2f..%2fparams.yaml", "/docs", "/openapi.json"):
        assert http.get(path).status_code == 404
    assert http.get("/api/answer").status_code == 405
    assert http.get("/api/item", params={"id": "none"}).json()["error"]["field"] == "item"
    assert http.get("/api/item").json()["error"]["field"] == "id"
    for path in ("agreement", "disagreements"):
        answer = http.get(f"/api/{path}", params={"first": "pipeline", "second": "../../etc/passwd"})
        assert answer.status_code == 404 and answer.json()["error"]["field"] == "second"


@pytest.mark.parametrize(("headers", "status"), [
    ({"Host": "evil.example"}, 421), ({"Host": f"evil.example:{PORT}"}, 421), ({"Host": "127.0.0.1"}, 421),
    ({"Host": "127.0.0.1:1"}, 421), ({"Host": f"127.0.0.1:{PORT}.evil.example"}, 421), ({"Host": ""}, 421),
    ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Origin": f"https://127.0.0.1:{PORT}"}, 403),
    ({"Origin": f"http://localhost:{PORT}"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403), ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415), ({"Content-Length": "70000"}, 413),
    ({"Content-Length": "9" * 30}, 413), ({"Content-Length": "-1"}, 411), ({"Content-Length": "²"}, 411)])
def test_other_sites_names_and_forms_are_refused(http, annotation, headers, status):
    body = json.dumps({"item": ids(annotation)[0], "label": "good"}).encode()
    sent = {name: value.encode("latin-1") for name, value in ({"Content-Type": "application/json"} | headers).items()}
    answer = http.post("/api/answer", content=body, headers=sent)
    assert answer.status_code == status and answer.json()["error"]["message"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not (annotation.place / "amy.jsonl").exists()


def test_no_length_is_refused_and_own_names_pass(http, annotation):
    chunks = iter([b"{}"])
    assert http.post("/api/undo", content=chunks, headers={"Content-Type": "application/json"}).status_code == 411
    for host in (f"localhost:{PORT}", f"[::1]:{PORT}"):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert http.post("/api/undo", json={}, headers=headers).status_code == 200
    assert "http" not in "".join((PAGE / name).read_text("utf-8") for name, _ in FILES.values())  # loads nothing else


def test_page_files_come_with_guards_on(http):
    for path, (name, kind) in FILES.items():
        answer = http.get(path)
        assert answer.status_code == 200 and answer.content == (PAGE / name).read_bytes()
        assert answer.headers["content-type"].startswith(kind)
        assert {name: answer.headers[name] for name in guard.HEADERS} == guard.HEADERS
    inline = (PAGE / "index.html").read_text("utf-8")
    assert " style=" not in inline and "onclick" not in inline and inline.count("<script") == 1


def test_agreement_disagreements_adjudication_and_export(http, annotation):
    four = ids(annotation)[:4]
    bob = annotation.log("bob")
    for item, mine, theirs in zip(four, ("good", "good", "ads", "thin"), ("good", "ads", "ads", "broken"), strict=True):
        http.post("/api/answer", json={"item": item, "label": mine})
        bob.append(Answer(item, theirs, "why not"))
    sides = {"first": "amy", "second": "bob"}
    found = http.get("/api/agreement", params=sides).json()
    assert (found["items"], found["agree"], found["share"]) == (4, 2, 0.5)
    assert found["kappa"] == round((0.5 - 0.25) / 0.75, 4)  # pe = (2*1 + 1*2 + 1*0 + 0*1) / 16
    assert found["suggested"] == {"amy": 0, "bob": 0}
    differing = http.get("/api/disagreements", params=sides).json()["items"]
    assert [one["id"] for one in differing] == [four[1], four[3]]
    assert differing[0]["second"] == {"label": "ads", "comment": "why not", "by": None}
    settled = http.post("/api/adjudicate", json={"item": four[1], "label": "ads"}).json()
    assert settled["adjudicated"] == {"label": "ads", "comment": "", "by": "amy"}
    assert http.get("/api/disagreements", params=sides).json()["items"][0]["adjudicated"]["by"] == "amy"
    rows = [json.loads(line) for line in http.get("/api/export").text.splitlines()]
    assert {row["id"]: (row["label"], row["adjudicated"]) for row in rows} == {
        four[0]: ("good", False), four[1]: ("ads", True), four[2]: ("ads", False)}
    assert http.get("/api/state").json()["annotators"] == ["amy", "bob"]  # adjudications are nobody's answers


def test_a_disk_that_refuses_is_507_and_says_so(http, annotation):
    path = annotation.place / "amy.jsonl"
    path.mkdir()
    answer = http.post("/api/answer", json={"item": ids(annotation)[0], "label": "good"})
    assert answer.status_code == 507 and "not saved" in answer.json()["error"]["message"]
    os.rmdir(path)
    assert http.post("/api/answer", json={"item": ids(annotation)[0], "label": "good"}).status_code == 200


def test_a_spoiled_file_is_500_in_one_line(http, annotation):
    (annotation.place / "amy.jsonl").write_text("garbage\n")
    answer = http.get("/api/state")
    assert answer.status_code == 500 and "amy.jsonl:1 is no answer" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "a.b", "items", "adjudicated", "pipeline", "x" * 41, "a\n", "-x"])
def test_names_that_are_no_file_names_are_refused(name):
    with pytest.raises(StageError, match="--annotator"):
        checked_name(name)
    assert checked_name("王小明-2") == "王小明-2"
