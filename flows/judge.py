"""Have any OpenAI endpoint judge the served models' open answers; see first what it is worth as a judge.

    ./run judge                                        the pinned local model (params.yaml: judge.model)
    ./run judge --url https://host/v1 --model NAME     another one, its key in the variable OPENAI_API_KEY
    ./run judge --pairs pairs.jsonl                    the answers as pairs for people:
                                                       ./run annotate preference --items pairs.jsonl
    ./run judge --human labels.jsonl                   agreement with people: ./run annotate preference --export
                                                       labels.jsonl wrote it

The judge is tried on pairs whose better answer is known, in English and in Chinese, in both orders, by four ways of
asking (tasks/evaluate/judging/methods.py). It ranks, by Bradley-Terry, only where a way agrees with them above chance.
Every reply is on disk before it is used: a run that was killed goes on, and nothing is asked twice.

Written to .runtime/judge/NAME: judge.json, verdicts.jsonl, ranking.svg. The last line printed is one JSON document.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import params, stage
from tasks.data.annotate.items import pair, rows
from tasks.evaluate import judge
from tasks.evaluate.judging import questions, sitting
from tasks.evaluate.judging.endpoint import Endpoint, folder
from tasks.stage import StageError

RESPONSES = Path("data/responses")
OUT = Path(".runtime/judge")
REPEATS = 16         # pairs of a language that an endpoint is asked all over: it may say something else
WORKERS = 8          # requests open at once to an endpoint that is not ours
HAN = re.compile("[\u3400-\u9fff]")


@contextlib.contextmanager
def endpoint(url: str | None, model: str | None, key: str, seconds: float) -> Iterator[tuple[str, Endpoint, list[str]]]:
    """(name, judge, contestants of its own weights): the endpoint at `url`, else the pinned model served on loopback.

    Raises StageError, ParamsError.
    """
    import openai

    if url is not None:
        if not re.match(r"https?://[^/]", url):
            raise StageError(f"--url {url!r} is no address: http:// or https://, a host, mostly a path such as /v1")
        if not model:
            raise StageError("--url needs --model, the name that the endpoint knows the judge by")
        server = openai.OpenAI(base_url=url, api_key=os.environ.get(key) or "none", timeout=seconds)
        yield model, Endpoint(server, model, folder(judge.KEPT, url, model), workers=WORKERS), []
        return
    from tasks.serve import client, digest

    place = Path(model or params.section(judge.JudgeParams, "judge", params.load()).model)
    if not (place / "config.json").is_file():
        raise StageError(f"{place} is no model directory: ./run makes the pinned one, or give --url and --model")
    try:
        with client.running(place, threads=params.runtime().threads, slots=1) as local:
            server = openai.OpenAI(base_url=local, api_key="none", timeout=seconds)
            own = [place.parent.name] if place.parent.parent == Path("models") else []
            yield str(place), Endpoint(server, "default", folder(judge.KEPT, digest.digest(place))), own
    except client.ServerError as error:
        raise StageError(str(error)) from None


def undecided(contestants: sitting.Contestants) -> Iterator[dict[str, Any]]:
    """The contestants' answers as items for ./run annotate preference."""
    for one, left, right in sitting.meetings(questions.read("asked"), contestants):
        if one.left != one.right:
            yield {"id": f"{one.id} {left} {right}", "prompt": one.question, "one": one.left, "other": one.right}


def people(path: Path, seed: int) -> list[questions.Pair]:
    """What people decided, as pairs with the side they chose as the truth; sides by a draw over the id.

    Raises StageError naming the line that is no pair, or where there is none.
    """
    found = []
    for place, row in rows(path):
        item = pair(place, row, seed)
        chosen = item["suggestion"]["label"]
        if chosen is None:
            raise StageError(f"{place}: chosen is missing: --human reads what ./run annotate preference --export wrote")
        asked = item["prompt"][0]["content"] if len(item["prompt"]) == 1 else "\n".join(
            f"{turn['role']}: {turn['content']}" for turn in item["prompt"])
        language = "zh" if HAN.search(asked) else "en"
        found.append(questions.Pair(item["id"], language, "people", asked, item["left"], item["right"], chosen))
    if not found:
        raise StageError(f"{path} holds no pair: ./run annotate preference, then --export")
    return found


def shown(name: str, found: dict[str, Any]) -> None:
    """Print what the judge is worth and, where it may, its ranking; a refusal in red."""
    from rich.console import Console
    from rich.markup import escape

    from rich.table import Table

    from tasks.report import judge as report

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)

    def draw(title: str, made: dict[str, list]) -> None:
        drawn = Table(*made["head"], title=title, title_justify="left")
        for row in made["rows"]:
            drawn.add_row(*(escape(cell) for cell in row))
        console.print(drawn)

    made = report.tables(found)
    draw(f"{escape(name)} on known answers", made["calibration"])
    for language, of in found["ranking"].items():
        if "refused" in of:
            console.print(f"[bold red]{language}: not ranked: {escape(of['refused'])}[/]")
        elif not of["in_order"]:
            console.print(f"[bold red]{language}: {report.OUT_OF_ORDER}[/]")
    if made["ranking"]["rows"]:
        draw("ranking", made["ranking"])
    if "people" in found:
        draw("beside people", made["people"])


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything the command line asks for; what is printed last. Raises StageError, ParamsError."""
    seed = params.section(int, "seed", params.load())
    if given.pairs is not None:
        items = list(undecided(judge.read(RESPONSES)))
        if not items:
            raise StageError(f"{RESPONSES} holds the answers of less than two models: serve more tracks (params.yaml)")
        given.pairs.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
        return {"pairs": len(items), "path": str(given.pairs)}
    decided = people(given.human, seed) if given.human is not None else []
    contestants = judge.read(RESPONSES)
    with endpoint(given.url, given.model, given.key, given.seconds) as (name, asked, own):
        found, verdicts = judge.sit(asked, contestants, seed, own, REPEATS if given.url else judge.REPEATS)
        if decided:
            found["people"] = sitting.beside_people(asked, decided, seed)
    found["judge"] = {"model": name, "own": own, "url": given.url}
    place = OUT / re.sub(r"[^\w.-]+", "-", name)
    stage.write_json(place / "judge.json", found)
    (place / "verdicts.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n"
                                                  for row in verdicts), encoding="utf-8")
    from tasks.report import judge as report

    for language, figure in report.pictures(found).items():
        (place / f"ranking-{language}.svg").write_text(str(figure), encoding="utf-8")
    shown(name, found)
    print(f"written: {place}", file=sys.stderr)
    return {"judge": name, "asked": asked.asked, "known": asked.known, "unreadable": sum(
        one.get("unreadable", 0) for of in found["calibration"].values() for one in of["methods"].values()),
        "chosen": {language: of["chosen"] for language, of in found["calibration"].items()}} | {
        key: found[key] for key in ("ranking", "people") if key in found}


def positive(text: str) -> float:
    """A number of seconds above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above zero")
    return value


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit codes: 0 done, 1 cannot, 2 bad arguments or params."""
    parser = argparse.ArgumentParser(prog="./run judge", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="base URL of an OpenAI endpoint (default: serve the model here)")
    parser.add_argument("--model", help="the judge's name there; without --url a model directory")
    parser.add_argument("--key", default="OPENAI_API_KEY", metavar="VARIABLE",
                        help="environment variable that holds the endpoint's key (default: OPENAI_API_KEY)")
    parser.add_argument("--seconds", type=positive, default=120.0, metavar="N",
                        help="wait so long for one reply (default: 120)")
    parser.add_argument("--human", type=Path, metavar="PATH", help="people's decisions to compare the judge with")
    parser.add_argument("--pairs", type=Path, metavar="PATH", help="write the answers as pairs for people, and end")
    given = parser.parse_args(argv)
    try:
        last = run(given)
    except params.ParamsError as error:
        return stage.fail(2, str(error))
    except StageError as error:
        return stage.fail(1, str(error))
    except OSError as error:
        return stage.fail(1, stage.one_line(error))
    except KeyboardInterrupt:
        return stage.fail(1, "ended; what was answered is kept, run again to go on")
    print(json.dumps(last, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
