"""Each notebook runs from the committed metrics, start to end, and draws; without them it says what makes them."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tasks.stage import StageError

ROOT = Path(__file__).resolve().parents[1]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=240, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    shown = [data for cell in book.cells if cell.cell_type == "code" for output in cell.outputs
             for data in output.get("data", {})]
    assert "image/svg+xml" in shown and "text/markdown" in shown


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_empty_and_only_draws(path):
    for cell in (cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"):
        assert not cell.outputs and cell.execution_count is None
        logic = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.If)
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, logic)]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_without_metrics_it_names_what_makes_them(path, tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text("models: {}\n")
    monkeypatch.chdir(tmp_path)
    first = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    with pytest.raises(StageError, match=r"(metrics|examples|benchmarks)/\S+ is not there: \S+ (\S+ )*makes"):
        exec(first.source, {})
