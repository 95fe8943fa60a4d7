"""One static page over all runs in git history: filter, sort, compare two models item by item.

    ./run leaderboard              report/leaderboard.html
    ./run leaderboard --out PATH

Every commit that changed a file of metrics/ is there with the models that it changed, every DVC experiment
(refs/exps, what `dvc exp show` lists), the working tree where it differs, releases marked. The page needs no server
and no network. Item by item goes what DVC's cache still holds; of the rest the page says so.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from flows import history
from flows.compare import LOWER_IS_BETTER
from flows.lineage import LineageError, git
from tasks import progress, stage
from tasks.stage import StageError

OUT = Path("report/leaderboard.html")
FILES = 40           # answers embedded, the newest first: about 60 KB each
PROMPT, ANSWER = 600, 400   # characters of each shown
GROUPS = ("evaluate", "agents", "pretrain", "preference")


def board(root: Path) -> dict[str, Any]:
    """What the page draws: {"rows", "items", "lower", "shown"}, as plain JSON values.

    A row is a model at the first run that had these very scores of it: {"run", "kind", "releases", "date", "subject",
    "group", "model", "scores": key -> [value, low, high, items, trivial], "answers": an index into items or a reason}.
    Raises LineageError, StageError.
    """
    found = history.runs(root)
    if not found:
        raise StageError("no commit holds a file below metrics/, nor does the working tree: ./run makes them")
    scores = history.scores(root, found)
    rows: list[dict[str, Any]] = []
    known: dict[tuple[str, str, str], dict[str, Any]] = {}
    for order, run in enumerate(found):
        for path, blob in sorted(run.files.items()):
            parts = path.split("/")
            if len(parts) != 3 or parts[1] not in GROUPS or not scores[blob]:
                continue
            model, md5 = parts[2].removesuffix(".json"), run.answers.get(parts[2].removesuffix(".json"), "")
            key = (path, blob, run.experiment)
            if key in known or (run.kind != "commit" and (path, blob, "") in known):
                known.get(key, known.get((path, blob, "")))["releases"] += run.releases
                continue
            known[key] = {"order": order, "run": run.commit[:8] or history.WORKTREE, "kind": run.kind,
                          "experiment": run.experiment, "releases": list(run.releases), "date": run.date,
                          "subject": run.subject, "group": parts[1], "model": model, "scores": scores[blob],
                          "md5": md5 if parts[1] == "evaluate" else ""}
            rows.append(known[key])
    items = embedded(root, rows)
    for row in rows:
        row["answers"] = items["of"].get(row.pop("md5")) if row["group"] == "evaluate" else None
    return {"rows": rows, "questions": items["questions"], "files": items["files"], "lower": LOWER_IS_BETTER,
            "groups": [group for group in GROUPS if any(row["group"] == group for row in rows)]}


def embedded(root: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The answers that DVC's cache holds: {"of": md5 -> index or reason, "questions", "files"}.

    A file is question index -> [answer, right or None]; a question [task, id, prompt, target].
    """
    wanted = list(dict.fromkeys(row["md5"] for row in reversed(rows) if row["md5"]))
    of: dict[str, int | str] = {"": "its answers are not in dvc.lock"}
    questions: dict[str, int] = {}
    shown: list[list[str]] = []
    files: list[dict[int, list[Any]]] = []
    place = cache(root) if wanted else root
    for md5 in progress.track(wanted, what="answers", unit="file"):
        path = place / md5[:2] / md5[2:]
        if len(files) >= FILES:
            of[md5] = f"the page holds the answers of the {FILES} newest alone"
        elif not path.is_file():
            of[md5] = "not in DVC's cache: dvc fetch --all-commits, then again"
        else:
            try:
                answers = read(path, questions, shown)
            except (OSError, ValueError, TypeError, KeyError):
                of[md5] = "its answers cannot be read"
                continue
            of[md5] = len(files)
            files.append(answers)
    return {"of": of, "questions": shown, "files": files}


def read(path: Path, questions: dict[str, int], shown: list[list[str]]) -> dict[int, list[Any]]:
    """An answers file by question; new questions are added to `questions` and `shown`."""
    answers = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        target = said(row.get("target"), row)
        prompt = str(row.get("prompt", ""))
        key = json.dumps([row["task"], row["id"], prompt, target])
        if key not in questions:
            questions[key] = len(shown)
            shown.append([str(row["task"]), str(row["id"]), cut(prompt, PROMPT), cut(target, ANSWER)])
        right = row.get("right")
        answers[questions[key]] = [cut(said(row.get("answer"), row), ANSWER),
                                   int(right) if right in (0, 1) else None]
    return answers


def said(value: Any, row: dict[str, Any]) -> str:
    """An answer or target as text: a place among the choices as that choice."""
    choices = row.get("choices")
    if isinstance(value, int) and isinstance(choices, list) and 0 <= value < len(choices):
        return str(choices[value])
    return "" if value is None else str(value)


def cut(text: str, characters: int) -> str:
    """The end of a text (questions stand there), marked where its beginning was left out."""
    return text if len(text) <= characters else "… " + text[-characters:]


def cache(root: Path) -> Path:
    """Where DVC keeps objects by md5. Raises StageError where this is no DVC repository."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            return Path(repo.cache.local.path)
    except DvcException as error:
        raise StageError(f"{root} is no DVC repository ({stage.one_line(error)}): run from the checkout") from None


def page(found: dict[str, Any], commit: str) -> str:
    """The page as HTML: no request to anywhere, its one script named by hash, all text set as text."""
    import jinja2

    folder = Path(__file__).parent
    script = (folder / "leaderboard.js").read_text(encoding="utf-8")
    data = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True,
                                     undefined=jinja2.StrictUndefined)
    return environment.get_template("leaderboard.html.j2").render(
        script=script, data=data, commit=commit,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit codes: 0 written, 1 cannot, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="./run leaderboard", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, metavar="PATH", help=f"where (default: {OUT})")
    given = parser.parse_args(argv)
    root = Path.cwd()
    try:
        found = board(root)
        text = page(found, git("rev-parse", "--short", "HEAD").strip())
        given.out.parent.mkdir(parents=True, exist_ok=True)
        partial = given.out.with_name(f".{given.out.name}.partial")
        partial.write_text(text.encode("utf-8", "replace").decode(), encoding="utf-8")
        partial.replace(given.out)
    except (LineageError, StageError) as error:
        return stage.fail(1, str(error))
    except OSError as error:
        return stage.fail(1, stage.one_line(error))
    runs = {row["run"] for row in found["rows"]}
    print(f"{given.out}: {len(found['rows'])} models of {len(runs)} runs, the answers of {len(found['files'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
