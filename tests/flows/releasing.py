"""A repository small enough to release in a second, of real DVC stages: text -> corpus and items -> a model -> answers.

The "model" is the set of words it has read; it answers an item right where it knows the item's word, and needs one bit
less of each byte of a held-out text for each word it knows of it. So more good text is a real gain, and noise is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.flows.conftest import sh

STEP = '''
import hashlib, json, pathlib, sys, yaml

def dump(path, text):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

def text():
    source = yaml.safe_load(open("params.yaml"))["sources"]["corpora"][0]
    files = sorted(pathlib.Path(source["path"]).glob("*.txt"))
    lines = [line for path in files for line in path.read_text().splitlines()]
    if not lines:
        sys.exit("error: sources: %s: no text in it: put some there" % source["name"])
    kept = sorted({line for line in lines if "bad" not in line})
    dump("metrics/safety.json", json.dumps({"read": len(lines), "kept": sum("bad" not in line for line in lines)}))
    dump("metrics/dedup.json", json.dumps({"read": len(lines), "kept": len(set(lines))}))
    dump("metrics/mixture.json", json.dumps({"all": {"all": {"documents": len(kept)}}}))
    held = [line for line in kept if hashlib.sha256(line.encode()).digest()[0] < 64]
    dump("data/corpus.txt", "".join(line + chr(10) for line in kept))
    dump("data/evalsets/held_out.jsonl", "".join(json.dumps({"id": line[:8], "text": line}) + chr(10) for line in held))

def train(out):
    text = pathlib.Path("data/corpus.txt").read_text()
    dump(out + "/weights.json", json.dumps(sorted(set(text.split()))))

def evaluate(model, evalsets, answers, metrics):
    known = set(json.loads((pathlib.Path(model) / "weights.json").read_text()))
    lines = []
    for number in range(60):
        word = "w%d" % number
        lines.append({"task": "pairs", "id": word, "prompt": "", "choices": [word, "x"], "target": 0,
                      "right": int(word in known)})
    for item in map(json.loads, open(evalsets + "/held_out.jsonl")):
        words = item["text"].split()
        lines.append({"task": "held_out", "id": item["id"], "prompt": item["text"], "bytes": len(item["text"]),
                      "answer": -float(sum(1 + 3 * (word not in known) for word in words))})
    dump(answers, "".join(json.dumps(line) + chr(10) for line in lines))
    dump(metrics, json.dumps({"n": len(lines)}))

globals()[sys.argv[1]](*sys.argv[2:])
'''
PIPELINE = """
stages:
  mixture:
    cmd: python step.py text
    deps: [step.py]
    params: [sources]
    outs: [data/corpus.txt, data/evalsets]
    metrics:
      - metrics/safety.json: {cache: false}
      - metrics/dedup.json: {cache: false}
      - metrics/mixture.json: {cache: false}
  train:
    foreach: ${served}
    do:
      cmd: python step.py train models/${item}/int4
      deps: [step.py, data/corpus.txt]
      outs: ["models/${item}/int4"]
  evaluate:
    foreach: ${models}
    do:
      cmd: python step.py evaluate ${item} data/evalsets data/answers/${key}.jsonl metrics/evaluate/${key}.json
      deps: [step.py, "${item}", data/evalsets]
      outs: ["data/answers/${key}.jsonl"]
      metrics: ["metrics/evaluate/${key}.json": {cache: false}]
"""
PARAMS = """
sources:
  corpora: [{name: notes, kind: local, as: text, path: %s, snapshot: "2026", language: en, licence: MIT}]
  packages: []
models: {t-int4: models/t/int4}
served: [t]
retrain:
  documents: 0.8
  dropped: {safety: 0.05, dedup: 0.2}
  frozen: 0.5
  metrics: {t-int4: {pairs: 0.1, held_out: 0.5}}
"""


def line(number: int, word: str | None = None) -> str:
    """A document of the toy corpus."""
    return f"note{number:04d} " + " ".join(f"c{(number * 7 + step) % 13}" for step in range(6)) + f" {word or ''}"


def git(root: Path, *words: str) -> str:
    done = sh("git", *words, cwd=root)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def remote(root: Path, url: Path) -> None:
    """Configure a default DVC remote, for this checkout alone."""
    (root / ".dvc/config.local").write_text(f"[core]\n    remote = r\n['remote \"r\"']\n    url = {url}\n")


def repository(root: Path, notes: Path) -> Path:
    """A git and DVC repository over the folder `notes`, committed, nothing run yet."""
    root.mkdir(parents=True)
    (root / "step.py").write_text(STEP)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "params.yaml").write_text(PARAMS % notes)
    (root / ".gitignore").write_text("/data/\n/models/\n/.runtime/\n/.retrain/\n/.releases/\n__pycache__/\n")
    git(root, "init", "-q", "-b", "main")
    (root / ".dvc").mkdir()   # what `dvc init` writes, without its seconds
    (root / ".dvc/config").write_text('[core]\n    analytics = false\n[cache]\n    type = "hardlink,copy"\n')
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / ".dvcignore").write_text(".retrain\n.releases\n.runtime\n")
    git(root, "add", "-A")
    git(root, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "toy")
    return root


def python(root: Path, code: str, env: dict[str, str], **options: object) -> subprocess.Popen[str]:
    """Code run in `root` with this checkout's modules, both streams in stdout."""
    here = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", code], cwd=root, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env={**os.environ, **env, "PYTHONPATH": str(here)}, **options)
