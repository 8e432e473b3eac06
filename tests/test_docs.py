"""The documentation's own code works: it is cut out of the pages and run."""

import re
from pathlib import Path
from typing import Any

import pytest

from mmbench.contract.report import check_model
from mmbench.contract.subject import of_toy
from mmbench.data.demo import write_raw

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def documented_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    text = (ROOT / "docs" / "adding_a_model.md").read_text(encoding="utf-8")
    files = re.findall(r"`my-models/([a-z_]+\.(?:py|toml))`:\n\n```\w+\n(.*?)```", text, flags=re.S)
    assert [name for name, _ in files] == ["markov_mf.py", "markov_mf.toml"]
    for name, content in files:
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.setenv("MMBENCH_MODELS", str(tmp_path))
    return "markov-mf"


def test_the_documented_model_is_found_and_keeps_the_contract(documented_model: str) -> None:
    for name in (documented_model, f"{documented_model}:wide"):
        findings = list(check_model(of_toy(name)))
        assert not [finding for finding in findings if finding.is_fault]
        assert [finding.check for finding in findings if finding.status == "not asked"] == ["shift"]


def test_the_documented_python_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block of docs/python.md, one after another, in a folder with the raw files of a small demo."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(blocks) == 14
    monkeypatch.chdir(tmp_path)
    for variable in ("MMBENCH_DATA", "MMBENCH_RESULTS", "MMBENCH_MODELS", "MMBENCH_DATASETS"):
        monkeypatch.delenv(variable, raising=False)
    raw = tmp_path / "data" / "raw" / "demo"
    raw.mkdir(parents=True)
    write_raw(raw, n_users=150, n_items=60)
    names: dict[str, Any] = {}
    exec(blocks[0], names)
    assert {record.status for record in names["runs"]} == {"finished"}
    shown = str(names["mmbench"].report(names["runs"]))
    assert {"HM4SR [max_epochs=2]", "SASRec [max_epochs=2]", "Pop"} <= set(re.split(r"  +|\n", shown))
    for block in blocks[1:]:
        exec(block, names)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("150 60 [")
    assert [(record.model, record.seed) for record in names["runs"]] == [
        ("sasrec", 1), ("sasrec:official", 1), ("sasrec", 5), ("sasrec:official", 5),
    ]  # fmt: skip
    assert {record.settings["lr"].value for record in names["stored"]} == {0.003}
    assert set(names["frame"]["metric"]) == {"HR@10", "MRR"}
    assert f"print(error)  # {said[-1]}" in blocks[-1]


def test_the_readme_s_python_is_that_of_the_page() -> None:
    """But for the number of epochs, which is small on the page that is run."""
    blocks = [
        re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.S)[0]
        for name in ("README.md", "docs/python.md")
    ]
    assert blocks[0].split() == blocks[1].replace(", epochs=2", "").split()


def test_pages_named_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?:docs/)?[\w./-]+)\)", text):
        assert (ROOT / target).exists(), target


PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob(".github/*.md"), *ROOT.glob("docs/**/*.md")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_begins_a_line_stands_in_no_paragraph(page: Path) -> None:
    """A page that was wrapped again may have taken a heading, or the marker that `--write` looks for, into a line."""
    text = re.sub(
        r"^```.*?^```$|^    .*?$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    assert not re.findall(r"^.*\S #{2,4} .*$", text, flags=re.M)
    markers = re.findall(r"<!--.*?-->", text, flags=re.S)
    assert [marker for marker in markers if f"\n{marker}\n" not in f"\n{text}\n"] == []
    begun = [marker.replace(": begin -->", "") for marker in markers if marker.endswith(": begin -->")]
    assert begun == [marker.replace(": end -->", "") for marker in markers if marker.endswith(": end -->")]
