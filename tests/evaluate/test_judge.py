"""The judge against scripted OpenAI servers on loopback: a good one ranks, a biased one is exposed, faults named."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest

from flows import judge as command
from tasks.data.annotate import items
from tasks.evaluate import judge as judging
from tasks.evaluate import kept
from tasks.evaluate.judging import calibration, endpoint, methods, questions, ranking, sitting
from tasks.evaluate.judging.methods import Verdict
from tasks.evaluate.judging.ranking import Comparison
from tasks.stage import StageError

COMPARED = re.compile(r"(?:Question: |问题：)(.*?)\n\n(?:Answer A: |回答 A：)(.*?)\n\n(?:Answer B: |回答 B：)(.*?)\n\n", re.S)
RATED = re.compile(r"(?:Question: |问题：)(.*?)\n\n(?:Answer: |回答：)(.*?)\n\n", re.S)
PEOPLE = {one.question: one.answer for which in ("calibration", "asked") for one in questions.read(which)}


def worth(question: str, answer: str) -> float:
    """How good an answer really is: a person's, a right sum, another question's, garbled ones."""
    if sum_ := re.match(r"(?:What is )?(\d) (?:\+|加) (\d)", question):
        return 3.0 if re.search(rf"\b{int(sum_[1]) + int(sum_[2])}\b", answer.replace("。", ".")) else 1.0
    if answer == PEOPLE.get(question):
        return 3.0
    if PEOPLE.get(question) and answer.replace(" ", "") == 2 * PEOPLE[question].replace(" ", ""):
        return 2.5
    return 2.0 if answer.startswith("model") else 1.0 if answer in PEOPLE.values() else 0.0


def perfect(body: dict) -> str:
    """The words of a judge that knows."""
    text = body["messages"][0]["content"]
    if found := COMPARED.match(text):
        one, other = (worth(found[1], found[n]) for n in (2, 3))
        return json.dumps({"verdict": "tie" if one == other else "A" if one > other else "B"})
    found = RATED.match(text)
    return json.dumps({"score": 1 + round(worth(found[1], found[2]))})


@contextmanager
def server(script, key: str | None = None):
    """(base URL, requests got) of an OpenAI server: script(body) gives a text, an HTTP status or a raw reply."""
    got: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append(body | {"path": self.path})
            reply = script(body) if "messages" in body else 404
            if key is not None and self.headers["Authorization"] != f"Bearer {key}":
                reply = 401
            status = reply if isinstance(reply, int) else 200
            if isinstance(reply, str):
                reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}]}
            sent = json.dumps({"error": {"message": "no"}} if status != 200 else reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/v1", got
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with two models' answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ranking, "RESAMPLES", 40)
    (tmp_path / "params.yaml").write_text("seed: 7\n")
    folder = tmp_path / "data/responses"
    folder.mkdir(parents=True)
    for name, says in (("able", lambda one: one.answer), ("weak", lambda one: f"model {one.id}")):
        (folder / f"{name}.jsonl").write_text("".join(
            json.dumps({"id": one.id, "answer": says(one)}) + "\n" for one in questions.read("asked")))
    return tmp_path


def asked(url, *words):
    return command.main(["--url", url, "--model", "judge/1", "--key", "SECRET", *words])


def written(place):
    return json.loads((place / ".runtime/judge/judge-1/judge.json").read_text())


def test_a_perfect_judge_is_believed_and_ranks_right(place, capsys):
    with server(perfect) as (url, got):
        assert asked(url) == 0
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        first = len(got)
        assert asked(url) == 0, "all over"
        again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["asked"] <= first and again["asked"] == 0
    assert all(body["path"].endswith("/completions") and "messages" not in body for body in got[first:]), \
        "only what the endpoint had refused is tried again"
    found = written(place)
    for language in ("en", "zh"):
        known = found["calibration"][language]["methods"]
        assert known["pairwise"]["kappa"] == 1.0 and known["pairwise"]["swap"]["value"] == 1.0
        assert known["pairwise"]["first"]["value"] == 0.5, "both orders were asked: no place is preferred"
        assert known["pairwise"]["itself"]["share"] == 1.0 and known["pairwise"]["said_twice"] == [0, 8]
        assert known["likelihood"] == {"unsupported": True} and known["logits"]["above_chance"] is False
        of = found["ranking"][language]
        strength = {name: one["strength"] for name, one in of["models"].items()}
        assert strength["able"] == pytest.approx(strength["a person's answer"])
        assert sorted(strength, key=strength.get)[2::-1] == ["weak", "off topic", "garbled"] and of["in_order"]
        assert of["models"]["garbled"]["rank_low"] == 5 and of["models"]["weak"]["won"] == 20
    assert (place / ".runtime/judge/judge-1/ranking-zh.svg").read_text().startswith("<svg")


def test_a_judge_that_takes_the_first_is_exposed_and_may_not_rank(place, capsys):
    with server(lambda body: '{"verdict": "A", "score": 3}') as (url, _):
        assert asked(url) == 0
    told = capsys.readouterr().out
    found = written(place)
    known = found["calibration"]["en"]["methods"]["pairwise"]
    assert known["swap"]["value"] == 0.0 and known["first"]["value"] == 1.0 and known["kappa"] == 0.0
    assert set(found["ranking"]["en"]) == {"refused"} and "pairwise 0 right, 0 wrong of 24" in told
    assert "not ranked" in told and not list((place / ".runtime/judge/judge-1").glob("*.svg"))


def test_a_judge_that_takes_the_longer_is_exposed(place):
    def longer(body):
        found = COMPARED.match(body["messages"][0]["content"])
        if not found:
            return "3"
        return "tie" if len(found[2]) == len(found[3]) else "A" if len(found[2]) > len(found[3]) else "B"

    with server(longer) as (url, _):
        assert asked(url) == 0
    known = written(place)["calibration"]["zh"]
    assert known["methods"]["pairwise"]["said_twice"] == [8, 8]
    assert known["methods"]["pairwise"]["kappa"] == known["longer"]["kappa"]
    assert known["chosen"] is None


def test_what_is_no_verdict_counts_as_none(place):
    with server(lambda body: "I would rather not say whether A or B.") as (url, _):
        assert asked(url) == 0
    known = written(place)["calibration"]["en"]["methods"]
    assert known["pairwise"]["unreadable"] == known["pointwise"]["unreadable"] == 32
    assert known["pairwise"]["above_chance"] is False


@pytest.mark.parametrize("text, verdict", [
    ('{"verdict": "B"}', "B"), ("B", "B"), ("**A** is better", "A"), ("tie.", "tie"), ('{"verdict": "C"}', None),
    ('{"verdict": ["A"]}', None), ("", None), ("A or B", None), ("A" * 5000, None), ("[1, 2]", None), ("BA", None)])
def test_said(text, verdict):
    assert methods.said(text, "verdict", methods.WORD) == verdict


def test_digits_of_other_numbers_are_no_score():
    assert methods.said('{"score": 4}', "score", methods.DIGIT) == "4"
    assert methods.said("4", "score", methods.DIGIT) == "4"
    for text in ('{"score": 7}', "45", "3.5", '{"score": true}', "from 1 to 5"):
        assert methods.said(text, "score", methods.DIGIT) is None, text


def test_a_form_that_is_refused_gives_way_to_a_plainer_one(place):
    def plain(body):
        return 400 if "response_format" in body or "logprobs" in body else perfect(body)

    with server(plain) as (url, got):
        assert asked(url) == 0
    assert written(place)["calibration"]["en"]["methods"]["pairwise"]["kappa"] == 1.0
    assert sum("response_format" in body for body in got) <= 2 * command.WORKERS, "learned once"


def test_killed_and_started_again_asks_nothing_twice(place, capsys):
    answered = []

    def dies(body):
        if len(answered) >= 40:
            return 401
        answered.append(json.dumps(body["messages"]) + str(body.get("seed")))
        return perfect(body)

    with server(dies) as (url, _):
        assert asked(url) == 1
    err = capsys.readouterr().err
    assert "refuses the key (HTTP 401): set the variable named by --key; what was answered is kept" in err
    path = next((place / ".resume/judge").glob("*/answers.jsonl"))
    with path.open("a") as file:
        file.write('["torn')   # as a crash leaves it
    have = set(kept.read(path))
    again: list[str] = []
    with server(lambda body: again.append(json.dumps(body["messages"]) + str(body.get("seed"))) or perfect(body)) as (
            url, _):
        path.rename(endpoint.folder(path.parents[1], url, "judge/1").with_suffix(".jsonl"))
        moved = endpoint.folder(path.parents[1], url, "judge/1")
        moved.mkdir()
        moved.with_suffix(".jsonl").rename(moved / "answers.jsonl")   # the port is another one
        assert asked(url) == 0
    assert len(have) == 40 and not set(answered) & set(again)
    assert have <= set(kept.read(moved / "answers.jsonl"))


def test_faults_of_the_endpoint_are_one_line_without_the_key(place, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "sk-hush")
    monkeypatch.setattr(endpoint, "RETRIES", 1)
    with server(perfect, key="sk-other") as (url, _):
        assert asked(url) == 1
    err = capsys.readouterr().err
    assert "refuses the key" in err and "sk-hush" not in err
    with server(lambda body: time.sleep(1) or "A") as (url, _):
        assert asked(url, "--seconds", "0.1") == 1
    assert "did not answer in 0.1 s, 2 times" in capsys.readouterr().err
    assert asked("http://127.0.0.1:9/v1") == 1
    assert "cannot be reached, tried 2 times: check --url" in capsys.readouterr().err
    fails = iter([503])   # one alone: two might hit one request's both tries
    with server(lambda body: next(fails, None) or perfect(body), key="sk-hush") as (url, _):
        assert asked(url) == 0, "tried again"
    with server(lambda body: 400) as (url, _):
        assert asked(url) == 1
    assert "takes no request" in capsys.readouterr().err


@pytest.mark.parametrize("words, told", [
    (["--url", "host", "--model", "x"], "--url 'host' is no address"),
    (["--url", "http://x/v1"], "--url needs --model"),
    (["--model", "nowhere"], "nowhere is no model directory"), (["--human", "none.jsonl"], "none.jsonl")])
def test_bad_arguments(place, capsys, words, told):
    assert command.main(words) == 1
    assert told in capsys.readouterr().err


def test_bad_responses_name_the_line(place):
    (place / "data/responses/able.jsonl").write_text('{"id": "en-sun"}\n')
    with pytest.raises(StageError, match=r"able\.jsonl:1 is no"):
        judging.read(place / "data/responses")
    with pytest.raises(StageError, match="holds no answers"):
        judging.read(place / "data")


def test_pairs_for_people_suggest_nothing_and_come_back_as_agreement(place, capsys):
    assert command.main(["--pairs", "pairs.jsonl"]) == 0
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    made = [items.pair("x", row, 7) for row in rows]
    assert all(one["suggestion"]["label"] is None for one in made)
    assert {row["one"] == one["left"] for row, one in zip(rows, made)} == {True, False}, "sides are drawn"
    # people agree with the perfect judge on all but every fifth pair
    labelled = ""
    for n, row in enumerate(rows):
        chosen, rejected = ("other", "one") if n % 5 == 0 else ("one", "other")
        labelled += json.dumps({"id": row["id"], "prompt": [{"role": "user", "content": row["prompt"]}],
                                "chosen": [{"role": "assistant", "content": row[chosen]}],
                                "rejected": [{"role": "assistant", "content": row[rejected]}],
                                "annotators": ["amy"], "adjudicated": False}) + "\n"
    (place / "labels.jsonl").write_text(labelled)
    with server(perfect) as (url, _):
        assert asked(url, "--human", "labels.jsonl") == 0
    found = written(place)["people"]["pairwise"]
    assert (found["right"], found["wrong"], found["n"]) == (16, 4, 20) and 0.4 < found["kappa"] < 0.7
    (place / "labels.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert asked("http://127.0.0.1:9/v1", "--human", "labels.jsonl") == 1
    assert "chosen is missing" in capsys.readouterr().err


def test_the_sign_test_is_scipys():
    for right, wrong in ((0, 0), (5, 0), (17, 7), (3, 9)):
        expected = binomtest(right, right + wrong, alternative="greater").pvalue if right + wrong else 1.0
        assert calibration.sign_test(right, wrong) == pytest.approx(expected)


def test_calibration_pairs_are_balanced_and_their_truth_holds():
    pairs = questions.calibration(questions.read("calibration"), 3)
    for kind in ("garbled", "off topic", "arithmetic", questions.REPEATED):
        sides = [pair.truth for pair in pairs if pair.kind == kind]
        assert sides.count("left") == sides.count("right") == 8
    for pair in pairs:
        good, bad = (pair.left, pair.right) if pair.truth == "left" else (pair.right, pair.left)
        assert good != bad
        if pair.kind == "garbled":
            assert sorted(good) == sorted(bad)
        if pair.kind == "arithmetic":
            a, b, c = map(int, re.findall(r"\d+", good))
            assert a + b == c != int(re.findall(r"-?\d+", bad)[-1])
    calibrating = {one.question for one in questions.read("calibration")}
    assert not calibrating & {one.question for one in questions.read("asked")}


def test_logits_cancel_a_constant_liking_for_a_place():
    pair = questions.Pair("x", "en", "garbled", "q", "good", "bad", "left")

    def reply(lean):
        told = {"C": -9.0, "B": -1.0 - lean, "A": -1.0}
        return {"text": '{"verdict": "A"}', "tokens": [['{"', {"A": -1.0, "B": -9.0}], ["verdict", {"verdict": 0.0}],
                                                        ['": "', {"x": 0.0}], ["A", told]]}

    found = methods.Logits().verdict(pair, [reply(3.0), reply(1.0)])   # left by 1 nat, the first place by 2
    assert found.label == "left" and found.lean == pytest.approx(2.0) and found.orders == ("first", "first")
    assert methods.Logits().verdict(pair, [reply(2.0), reply(2.0)]).label == "tie"
    assert methods.Logits().verdict(pair, [{"text": "A"}, reply(1.0)]).label is None


def test_likelihood_is_the_mean_over_the_answers_tokens():
    pair = questions.Pair("x", "en", "garbled", "q", "good", "bad", "left")
    begin = len("Question: q\nAnswer:")
    one = {"prompt": [[0, None], [begin - 1, -50.0], [begin, -1.0], [begin + 2, -3.0]]}
    other = {"prompt": [[0, None], [begin, -4.0]]}
    found = methods.Likelihood().verdict(pair, [one, other])
    assert found.label == "left" and found.scores == (-2.0, -4.0)
    assert methods.Likelihood().verdict(pair, [one, {"unsupported": True}]).label is None


def test_bradley_terry_by_hand_and_by_maximum_likelihood():
    won = [Comparison(f"q{n}", "a", "b", "one" if n < 3 else "other") for n in range(4)]
    one, other = ranking.strengths(won, ["a", "b"], [1.0] * 4)
    assert one - other == pytest.approx(math.log(3.5 / 1.5), abs=1e-6)   # 3 : 1 and the prior's tie
    wins = {("a", "b"): 6, ("b", "a"): 2, ("b", "c"): 5, ("c", "b"): 3, ("a", "c"): 4, ("c", "a"): 4}
    made = [Comparison(f"q{n}", *pair, "one") for pair, times in wins.items() for n in range(times)]
    names = ["a", "b", "c"]

    def loss(x):
        counts = {pair: times + 0.5 for pair, times in wins.items()}
        return sum(times * math.log1p(math.exp(x[names.index(b)] - x[names.index(a)]))
                   for (a, b), times in counts.items()) + sum(x) ** 2

    expected = minimize(loss, [0.0, 0.0, 0.0], tol=1e-12).x
    assert ranking.strengths(made, names, [1.0] * len(made)) == pytest.approx(expected - expected.mean(), abs=1e-4)


def test_ranked_intervals_hold_the_value_narrow_with_questions_and_repeat():
    def table(n):
        made = [Comparison(f"q{i}", "a", "b", ("tie", "other", "one", "one")[i % 4]) for i in range(n)]
        return ranking.ranked(made, ["a", "b"], 5)

    few, many = table(8), table(80)
    assert few == table(8) and few["a"]["won"] == 4 and few["a"]["tied"] == few["a"]["lost"] == 2
    for found in (few, many):
        assert found["a"]["low"] < found["a"]["strength"] < found["a"]["high"]
    assert many["a"]["high"] - many["a"]["low"] < few["a"]["high"] - few["a"]["low"]
    with pytest.raises(ValueError, match="c was compared with nobody"):
        ranking.ranked([Comparison("q", "a", "b", "one")], ["a", "b", "c"], 0)


def test_a_contestant_of_the_judges_own_weights_is_left_out_of_its_likelihood(place):
    class Sure:
        """Finds short answers likely."""

        def replies(self, requests, what):
            return [{"prompt": [[len(one.forms[0]["prompt"]) - 1, -len(one.forms[0]["prompt"])]]} for one in requests]

    found = {language: {"chosen": "likelihood", "methods": {}} for language in questions.LANGUAGES}
    contestants = {"mine": {"en-sun": "x"}, "theirs": {"en-sun": "xx"}, "third": {"en-sun": "xxx"}}
    table, rows = sitting.rank(Sure(), found | {"zh": {"chosen": None, "methods": {}}}, questions.read("asked"),
                               contestants, 1, own=["mine"])
    assert table["en"]["barred"] == ["mine"] and list(table["en"]["models"]) == ["theirs", "third"]
    assert rows[0]["outcome"] == "one" and table["en"]["longer_won"] == [0, 1]


def test_unreadable_verdicts_are_wrong_not_left_out():
    pairs = questions.calibration(questions.read("calibration"), 3)[:32]
    found = calibration.calibrated([(pair, Verdict(None, (None, None))) for pair in pairs], 4, 1)
    assert found["unreadable"] == 32 and found["right"] == 0 and found["n"] == 24 and not found["above_chance"]
