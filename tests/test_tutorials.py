"""The notebooks of the documentation run, and what is stored in them is what they show."""

from pathlib import Path

import pytest

from mmbench.data.demo import write_raw
from tests.prepared import environment

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "docs" / "tutorials").glob("*.ipynb"))
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install -e '.[notebooks]'")


def test_the_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another in one kernel, in a folder with the raw files of a small demo."""
    nbclient = pytest.importorskip(
        "nbclient", reason="nbclient is not installed: pip install -e '.[notebooks]'"
    )
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -e '.[notebooks]'")
    raw = tmp_path / "data" / "raw" / "demo"
    raw.mkdir(parents=True)
    write_raw(raw, n_users=150, n_items=60)
    notebooks = [nbformat.read(file, as_version=4) for file in TUTORIALS]
    stored = [_kinds(cell) for notebook in notebooks for cell in notebook.cells]
    cells = [cell for notebook in notebooks for cell in notebook.cells]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    joined = nbformat.v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(
        joined, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environment())
    assert [_kinds(cell) for cell in joined.cells] == stored


def _kinds(cell: dict) -> list[list[str]]:
    """Return the kinds of content of each output of a cell; an error is none that a page may show."""
    return [sorted(output.get("data", {"text/plain": ""})) for output in cell.get("outputs", [])]


def test_each_stored_table_is_shown_once_and_loads_nothing() -> None:
    assert len(TUTORIALS) == 2
    n_tables = 0
    for file in TUTORIALS:
        for cell in nbformat.read(file, as_version=4).cells:
            if cell.cell_type == "code":
                assert cell.execution_count, (
                    f"{file.name}: a cell was not run; jupyter execute --inplace {file.name}"
                )
                assert len(cell.outputs) <= 1
                html = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
                assert "http://" not in html
                assert "https://" not in html
                n_tables += "<table" in html
    assert n_tables == 4
