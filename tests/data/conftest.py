"""What the data stages' tests share: the committed thresholds, a runtime, real technical prose, a corpus on disk."""

import functools
import json
import pydoc
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tasks import params
from tasks.data import documents, remembered

ROOT = Path(__file__).parents[2]
VALUES = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
MODULES = ("argparse", "calendar", "configparser", "csv", "difflib", "email.message", "fractions", "heapq", "json",
           "logging", "optparse", "pickle", "pprint", "shlex", "sqlite3", "statistics", "string", "tarfile",
           "textwrap", "threading", "traceback", "unittest.case", "urllib.request", "zipfile")
ZH_SUBJECTS = ("数据库", "服务器", "编译器", "图书馆", "火车站", "天气预报", "操作系统", "搜索引擎", "实验室", "博物馆")
ZH_SENTENCES = ("{}是一种常见的设施，人们每天都会用到它。", "在城市的中心，{}的作用变得越来越大。", "有了{}以后，工作的效率提高了不少。",
                "专家认为{}的质量还需要继续改进。", "如果没有{}，很多事情都会变得十分困难。", "去年建成的{}已经接待了上万名访客。",
                "关于{}的历史，书中有详细的记载。", "为了保护{}，大家制定了严格的规定。")


def section(kind, path, **changes):
    """A section of the committed params.yaml, validated, with `changes`."""
    made = params.section(kind, path, VALUES)
    return kind.model_validate(made.model_dump() | changes)


def runtime(workers=1):
    """The committed runtime section with so many workers."""
    return section(params.Runtime, "runtime", workers=workers)


def forget():
    """Empty the stages' memory, so that the next run finds everything out by itself."""
    shutil.rmtree(remembered.FOLDER, ignore_errors=True)


def chinese(seed):
    """A page of Chinese, another for each seed."""
    draw = random.Random(seed)
    subjects = draw.sample(ZH_SUBJECTS, 4)
    return "\n".join("".join(draw.choice(ZH_SENTENCES).format(s) for s in draw.sample(subjects, 3)) for _ in range(5))


def document(name, text, language="en", **metadata):
    """A document as a stage reads it."""
    return documents.Document(text=text, id=name, metadata={"source": "test", "language": language} | metadata)


@functools.cache
def rendered(name):
    """A module's documentation as text."""
    return pydoc.plain(pydoc.render_doc(name))


def pages():
    """Real pages: the standard library's own documentation, 2-200 kB each, and Chinese ones."""
    english = [document(f"py:{name}", rendered(name), url=f"https://docs.example/{name}.html")
               for name in MODULES]
    return english + [document(f"zh:{n:02d}", chinese(n), "zh") for n in range(12)]


def write_shards(folder, made, count=3):
    """`made` dealt out to `count` shards under `folder`; returns the folder."""
    for number in range(count):
        documents.write(folder / f"{number:05d}.jsonl", made[number::count])
    return folder


def read_all(folder):
    """Every document of a folder of shards, by id."""
    return {d.id: d for shard in sorted(folder.glob("*.jsonl")) for d in documents.read(shard)}


def tree(folder):
    """Relative path -> bytes of every file below `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def data():
    """The helpers above under one name, for tests of any folder layout."""
    return SimpleNamespace(section=section, runtime=runtime, forget=forget, document=document, chinese=chinese,
                           pages=pages, write_shards=write_shards, read_all=read_all, tree=tree, values=VALUES)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty working directory: executors keep their logs below it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def scripts(tmp_path):
    """A language folder that tells English and Chinese by their scripts."""
    folder = tmp_path / "lid"
    folder.mkdir()
    (folder / "scripts.json").write_text(json.dumps({"en": "A-Za-z", "zh": "一-鿿", "ru": "А-я"}), "utf-8")
    return folder
