"""Claim: of a week of refreshes only real gains are promoted, a bad day is stopped by a named gate, nothing is lost.

    python -m benchmarks.week [--scale 1]

A copy of this checkout's committed files retrains once a day on accelerated time, with a DVC remote beside it. Its
chain is this one's real stages from the sources to an evaluated int4 model, under the tiny profile (no fine-tuning,
agents or export; the base is quantized). The changing source is a folder of HTML pages, documentation of Python modules:

    first        pages of half the standard library's modules
    good         also pages of sympy, on mathematics, of which the first model has read nothing
    poisoned     thirty pages of insults and adult phrases among sentences of the others
    duplicated   every page four times
    empty        no page
    offline      the folder is away
    no change    all is as it was on the good day
    better       a commit that reads four times the tokens

--scale multiplies the tokens of pretraining. The last line is one JSON document. Exit code 1 where the week went
otherwise than the claim.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from flows import models, release, server, workspace
from flows.environment import stage_environment
from tasks import params
from tasks.data import pydocs

ROOT = Path(__file__).resolve().parents[1]
MATHS = ["calculus.util", "codegen.ast", "codegen.matrix_nodes", "combinatorics.permutations",
         "combinatorics.tensor_can", "concrete.summations", "core.basic", "core.expr", "core.function", "core.numbers",
         "core.relational", "core.symbol", "crypto.crypto", "geometry.ellipse", "geometry.line", "geometry.point",
         "geometry.polygon", "holonomic.holonomic", "integrals.integrals", "integrals.intpoly",
         "integrals.manualintegrate", "integrals.prde", "integrals.risch", "integrals.transforms", "logic.boolalg",
         "matrices.dense", "ntheory.factor_", "ntheory.generate", "ntheory.residue_ntheory", "physics.secondquant",
         "physics.wigner", "plotting.plot", "polys.densearith", "polys.densebasic", "polys.densetools",
         "polys.euclidtools", "polys.galoistools", "polys.polyclasses", "polys.ring_series", "polys.rings",
         "printing.codeprinter", "series.formal", "sets.sets", "simplify.fu", "simplify.hyperexpand",
         "simplify.radsimp", "simplify.simplify", "solvers.pde", "solvers.polysys", "solvers.solvers",
         "solvers.solveset", "stats.crv_types", "stats.joint_rv_types", "stats.rv", "tensor.tensor",
         "utilities.codegen", "utilities.enumerative", "utilities.iterables", "utilities.lambdify",
         "vector.basisdependent"]
CUT = ("sft", "preference", "export", "serve_bench", "agents", "report", "picture")
WANTED = {"first": "Promoted", "good": "Promoted", "poisoned": "Kept", "duplicated": "Kept", "empty": "Failed",
          "offline": "Failed", "no change": "Unchanged", "better": "Promoted"}
WEEK: dict[str, Any] = {
    "evalsets": {"split": {"fraction": 0.4, "max_document_characters": 80000}, "pairs": 200},
    "decontaminate": {"max_fraction": 0.9, "max_document": 0.9},
    "evaluate": {"held_out": 60, "held_out_bytes": 1500, "pairs": 200, "cloze": 4, "recall": 4, "tools": 4,
                 "arithmetic": 4},
    "retrain": {"dropped": {"filter": 0.1, "dedup": 0.1, "safety": 0.05, "value": 0.1}, "frozen": 0.5},
    "models": workspace.Instead({"scratch-int4": "models/scratch/int4"}),
}


def git(root: Path, *words: str) -> str:
    """git's answer."""
    return subprocess.run(["git", "-c", "user.name=week", "-c", "user.email=week@localhost", "-C", str(root), *words],
                          check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, text: str) -> None:
    """Commit whatever has changed."""
    git(root, "add", "-A")
    git(root, "commit", "-qm", text)


def checkout(place: Path, feed: Path, tokens: int) -> Path:
    """A repository with the committed files of this one, its chain cut at the evaluated int4 model."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(place)], check=True)
    values = workspace.overlay(params.load(place / "params.yaml"), workspace.read_profile(place / "profiles/tiny.yaml"),
                               "tiny")
    values = workspace.overlay(values, WEEK, "week")
    values["sources"]["corpora"] = [{"name": "python", "kind": "local", "as": "site", "path": str(feed),
                                     "snapshot": "2026", "language": "en", "licence": "PSF-2.0"}]
    values["value"]["enrich"]["seeds"] = {"en": {"sources": ["python"], "urls": ["*/argparse.html"], "file": None}}
    values["retrain"]["metrics"] = {"scratch-int4": {"held_out": 0.3, "pairs": 0.3}}
    track = values["tracks"]["scratch"]
    values["tracks"] = {"scratch": {name: track[name] for name in track if name not in CUT}}
    track["pretrain"]["tokens"] = tokens
    (place / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    chain = yaml.safe_load((place / "dvc.yaml").read_text(encoding="utf-8"))
    chain["stages"] = {name: stage for name, stage in chain["stages"].items() if name not in CUT}
    quantize = chain["stages"]["quantize"]["do"]
    quantize["cmd"] = quantize["cmd"].replace("/chat", "/base")
    quantize["deps"] = [path.replace("}/chat", "}/base") for path in quantize["deps"]]
    (place / "dvc.yaml").write_text(yaml.safe_dump(chain, sort_keys=False), encoding="utf-8")
    (place / "dvc.lock").unlink()
    shutil.rmtree(place / "metrics")
    commit(place, "the chain of the week")
    dvc = [sys.executable, "-m", "dvc", "remote", "add", "-q", "--local", "-d", "store", str(place.parent / "remote")]
    subprocess.run(dvc, cwd=place, check=True)
    return place


def pages(modules: list[str]) -> dict[str, bytes]:
    """The site of some modules: path -> HTML."""
    return dict(pydocs.pages(modules))


def poison(real: dict[str, bytes], count: int) -> dict[str, bytes]:
    """Pages that insult and offend in every other sentence; the sentences between are of real pages."""
    from lxml import html

    draw = random.Random(7)
    sentences = [text.strip() for page in real.values() for text in html.fromstring(page).text_content().split(". ")
                 if 40 < len(text.strip()) < 200]
    insults = ["idiot", "moron", "jerk", "liar", "coward", "bastard", "whore", "slut"]
    phrases = ["porn video", "nude photo", "sex chat", "erotic story", "adult webcam"]
    made = {}
    for number in range(count):
        lines = []
        for _ in range(40):
            lines.append(f"{draw.choice(sentences)}.")
            lines.append(f"You are an {draw.choice(insults)} and a stupid {draw.choice(insults)}, get a free "
                         f"{draw.choice(phrases)} online tonight, {draw.choice(insults)}!")
        body = "".join(f"<p>{line.replace('<', '')}</p>" for line in lines)
        made[f"offer{number}.html"] = f"<html><head><title>Offer {number}</title></head><body><h1>Offer {number}</h1>" \
                                      f"{body}</body></html>".encode()
    return made


def lay(feed: Path, files: dict[str, bytes]) -> None:
    """Make the folder hold exactly these files, the index linking to all of them."""
    shutil.rmtree(feed, ignore_errors=True)
    feed.mkdir()
    links = "".join(f'<p><a href="{name}">{name}</a></p>' for name in sorted(files) if name != "index.html")
    if files:
        files = files | {"index.html": f"<html><head><title>Index</title></head><body>{links}</body></html>".encode()}
    for name, data in files.items():
        (feed / name).parent.mkdir(parents=True, exist_ok=True)
        (feed / name).write_bytes(data)


def day(root: Path, name: str) -> dict[str, Any]:
    """Retrain once; the line of the history that it left."""
    env = {key: value for key, value in stage_environment(root).items() if not key.startswith("PREFECT_")}
    command = [sys.executable, "-m", "flows.server", sys.executable, "-m", "flows.retrain", "--reason", name]
    begin, used = time.monotonic(), os.times()
    done = subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds, now = time.monotonic() - begin, os.times()
    history = root / ".retrain" / "history.jsonl"
    lines = history.read_text(encoding="utf-8").splitlines() if history.exists() else []
    if not lines or json.loads(lines[-1])["asked"] != name:
        sys.exit(f"{name}: the retraining left no record:\n{done.stdout[-3000:]}")
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    return json.loads(lines[-1]) | {"seconds": round(seconds, 1), "cpu": round(cpu, 1)}


def main() -> int:
    """The week, its table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the tokens of pretraining")
    tokens = int(147456 * parser.parse_args().scale)
    tiny = workspace.read_profile(ROOT / "profiles/tiny.yaml")
    few = pages(sorted(tiny["sources"]["corpora"][0]["modules"])[::2])
    every = few | pages([f"sympy.{name}" for name in MATHS])
    top = Path(tempfile.mkdtemp(prefix="week-"))
    feed, root = top / "feed", checkout(top / "catena", top / "feed", tokens)
    doubled = {f"copy{number}-{name.replace('/', '-')}": page for number in range(3) for name, page in every.items()}
    days = {"first": few, "good": every, "poisoned": every | poison(every, 30), "duplicated": every | doubled,
            "empty": {}, "offline": None, "no change": every, "better": every}
    rows, head = [], git(root, "rev-parse", "HEAD")
    try:
        print(f"{'day':<11} {'decision':<10} {'wall s':>7} {'CPU s':>6}  changed; gate or reason")
        for name, files in days.items():
            shutil.rmtree(feed, ignore_errors=True) if files is None else lay(feed, files)
            if name == "better":
                text = (root / "params.yaml").read_text(encoding="utf-8")
                text = text.replace(f"tokens: {tokens}\n", f"tokens: {4 * tokens}\n")
                (root / "params.yaml").write_text(text, encoding="utf-8")
                commit(root, "four times the tokens")
                head = git(root, "rev-parse", "HEAD")
            row = {"day": name, **day(root, name)}
            rows.append(row)
            print(f"{name:<11} {row['decision']:<10} {row['seconds']:>7.1f} {row['cpu']:>6.1f}  "
                  f"{', '.join(row['changed']) or '-'}; {row['reason'][:300]}", flush=True)
        made = release.releases(root)
        begin = time.monotonic()
        back = release.rollback(root, reason="the week's end")
        returned = time.monotonic() - begin
        for one in [*made, back]:   # every release is whole: from the cache, and again from the remote alone
            release.materialize(root, one.tag)
        shutil.rmtree(root / ".dvc" / "cache")
        shutil.rmtree(root / ".releases")
        for one in [*made, back]:
            for file in models.listing(root, one.commit, models.served(root, one.commit)):
                assert models.md5(file.source) == file.md5, file
        untouched = git(root, "rev-parse", "HEAD") == head and not git(root, "status", "--porcelain")
    finally:
        server.stop(root / ".prefect")
        shutil.rmtree(top, ignore_errors=True)
    right = {row["day"]: row["decision"] for row in rows} == WANTED and untouched
    print(f"rollback {returned:.1f} s; {len(made) + 1} releases whole from the remote alone; "
          f"checkout untouched: {untouched}")
    told = [{key: row[key] for key in ("day", "decision", "reason", "changed", "seconds", "cpu")} for row in rows]
    print(json.dumps({"benchmark": "week", "as_claimed": right, "rollback_seconds": round(returned, 2), "days": told}))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
