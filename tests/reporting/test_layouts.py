"""What a table leaves out or turns on demand: its numbers and its tests stay those of all rows."""

import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mmbench import api
from mmbench.errors import UsageError
from mmbench.evaluation.metrics import Metric
from mmbench.reporting import render, rounding, to_text
from mmbench.reporting.layout import BRIEF, Layout, laid_out
from mmbench.reporting.places import with_cell
from mmbench.reporting.table import Table
from tests.reporting.conftest import (
    all_records,
    caption_of,
    fake_run,
    headline,
    make_table,
    paper_like,
    skilled_ranks,
)

METRICS = (Metric("NDCG", 10), Metric("HR", 10))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets with three models, a floor with ties, a failed run, an under-trained model."""
    root = tmp_path_factory.mktemp("layouts") / "results"
    paper_like(root, seeds=4, datasets=("aa", "bb"))
    fake_run(root, "bert4rec", dataset="bb", reason="loss became nan")
    fake_run(root, "caser", dataset="aa", skill=0.5, best_epoch=99)
    return root


@pytest.fixture
def table(results: Path) -> Table:
    return make_table(all_records(results), metrics=METRICS)


def screen(table: Table, layout: Layout, *, width: int = 80) -> list[str]:
    """Return the lines that a terminal gets, without colour codes."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system="standard")
    render(table, "terminal", console, layout)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


def test_on_a_terminal_the_table_comes_last_and_warnings_take_a_line_each(table: Table) -> None:
    lines = screen(table, Layout())
    assert len(table.warnings) >= 1
    assert [line.startswith("warning: ") for line in lines[: len(table.warnings)]] == [True] * len(
        table.warnings
    )
    assert max(map(len, lines)) <= 80
    last_rule = max(number for number, line in enumerate(lines) if line.startswith("━"))
    below = lines[last_rule + 1 :]
    assert below[-1] == "bold best, underlined second; data, metrics, tests: mmbench report --notes"
    assert len(below) <= 1 + 2 * len(table.footnotes)
    assert "loss became nan" in " ".join(below)  # a footnote explains a mark of the table
    assert not any(line.startswith(("Metrics", "Data", "Test")) for line in lines)


def test_notes_are_printed_on_demand_and_where_nobody_scrolls(table: Table) -> None:
    for text in ("\n".join(screen(table, Layout(notes=True))), to_text(table, "terminal")):
        for key in ("Marks", "Warning", "Metrics", "Data", "Test", "Reading"):
            assert re.search(rf"^{key}\s", text, flags=re.M), key


@pytest.mark.parametrize("key", ["Other rule", "Tied scores", "Equal times"])
def test_the_longest_keywords_of_notes_stand_apart_from_their_text(key: str, table: Table) -> None:
    lines = screen(replace(table, caption=((key, "text"),)), Layout(notes=True))
    assert re.search(rf"^{key} {{2,}}text$", "\n".join(lines), flags=re.M)


def test_brief_has_the_means_alone(table: Table) -> None:
    text = to_text(table, "markdown", BRIEF)
    assert "±" not in text
    assert "p (t" not in text
    assert "Metrics" not in text
    for row in table.rows:
        for cell in row.cells:
            assert cell.mean is None or rounding.number(cell.mean) in text


def test_the_style_of_papers(table: Table) -> None:
    starred = replace(table.rows[0].cells[0], star=True)
    table = replace(table, rows=(with_cell(table.rows[0], 0, starred), *table.rows[1:]))
    shown = laid_out(table, Layout(style="paper"))
    (line,) = rounding.summary(shown)
    assert line == next(entry for entry in rounding.summary(table) if entry.label == "Improved")
    assert [row.cells for row in shown.rows] == [row.cells for row in table.rows]
    text = to_text(table, "latex", Layout(style="paper"))
    assert "Warning" not in text
    assert "--epochs" not in text
    assert "mean $\\pm$ standard deviation over 4 seeds" in text
    assert "p $<$ .05 (paired t-test, Holm-corrected)" in text


def test_without_tests_there_are_no_stars_either(table: Table) -> None:
    shown = laid_out(table, Layout(tests=False))
    assert rounding.summary(shown) == []
    assert not any(cell.star for row in shown.rows for cell in row.cells)
    assert "Test" not in dict(shown.caption)
    assert "Metrics" in dict(shown.caption)


def cells_of(line: str) -> list[str]:
    return [
        cell.strip()
        for cell in line.strip().removesuffix(r"\\").removeprefix("|").removesuffix("|").split("|")
    ]


def test_a_transposed_table_has_every_number_at_its_place(table: Table) -> None:
    lines = [
        line for line in to_text(table, "markdown", Layout(transposed=True)).splitlines() if line[:1] == "|"
    ]
    head, body = cells_of(lines[0]), list(map(cells_of, lines[2:]))
    assert head[2 : 2 + len(table.rows)] == [row.label for row in table.rows]
    for index, column in enumerate(table.columns):
        line = next(cells for cells in body if cells[:2] == [column.dataset, str(column.metric)])
        for number, row in enumerate(table.rows):
            assert rounding.mean_text(row.cells[index]) in line[2 + number]
        improved = next(entry for entry in rounding.summary(table) if entry.label == "Improved")
        assert line[head.index("*Improved*")] == improved.texts[index]
    assert body[-1][1] == "*n*"
    assert body[-1][2] == rounding.runs_text(table.rows[0], table)
    terminal = screen(table, Layout(transposed=True), width=250)
    assert any(line.startswith("aa NDCG@10") for line in terminal)
    for fmt in ("html", "csv", "json"):
        with pytest.raises(UsageError, match="--transpose"):
            to_text(table, fmt, Layout(transposed=True))  # type: ignore[arg-type]


def test_wide_tables_become_tabulars_of_whole_data_sets(tmp_path: Path) -> None:
    names = ("aa", "bb", "cc")
    paper_like(tmp_path, seeds=2, datasets=names)
    table = make_table(all_records(tmp_path))  # five metrics each
    text = to_text(table, "latex")
    tabulars = re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, flags=re.S)
    assert len(tabulars) == 2
    assert [[name in part for name in names] for part in tabulars] == [
        [True, True, False],
        [False, False, True],
    ]
    for part, n_columns in zip(tabulars, (10, 5), strict=True):
        rows = [line for line in part.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert {line.count("&") - line.count(r"\&") for line in rows} == {n_columns + 1}
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("layout", [Layout(), Layout(style="paper"), Layout(transposed=True)])
def test_latex_compiles(table: Table, layout: Layout, tmp_path: Path) -> None:
    text = to_text(table, "latex", layout)
    page = (
        rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{text}\end{{document}}"
    )
    (tmp_path / "t.tex").write_text(page, encoding="utf-8")
    subprocess.run(
        ["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )


def test_rows_that_are_not_printed_stay_in_the_tests(results: Path) -> None:
    records = all_records(results)
    every, two = (make_table(records, metrics=METRICS, top=top) for top in (0, 2))
    assert [row.label for row in two.shown_rows] == ["HM4SR", "SASRec", "Pop"]
    assert two.family == every.family
    assert headline(two).adjusted == headline(every).adjusted
    assert caption_of(two, "Rows").startswith("the first 2; 3 more are not printed.")
    for fmt in ("terminal", "markdown", "latex", "html"):
        text = to_text(two, fmt)  # type: ignore[arg-type]
        body = text.partition("Numbers")[0]
        assert "SASRec" in body
        assert "GRU4Rec" not in body
    assert "GRU4Rec" in to_text(two, "csv")


def test_rows_are_sorted_as_asked(results: Path) -> None:
    records = all_records(results)
    by_name = make_table(records, metrics=METRICS, sort="name").rows
    assert [row.label for row in by_name] == ["bert4rec", "caser", "GRU4Rec", "HM4SR", "SASRec", "Pop"]
    by_hits = [
        row.cells[1].mean or 0
        for row in make_table(records, metrics=METRICS, sort="hr@10").rows
        if not row.floor
    ]
    assert by_hits == sorted(by_hits, reverse=True)
    with pytest.raises(UsageError, match=r"--sort: .*did you mean 'HR@10'"):
        make_table(records, metrics=METRICS, sort="HR@11")


def test_floors_can_be_left_out(results: Path) -> None:
    table = api.report(all_records(results), floors=False, metrics=["NDCG@10"]).table
    assert not any(row.floor for row in table.rows)
    with pytest.raises(UsageError, match="floors"):
        api.report([run for run in all_records(results) if run.model == "pop"], floors=False)


def test_ties_of_floors_are_a_note_and_no_warning(tmp_path: Path) -> None:
    import numpy as np

    from mmbench.evaluation.evidence import Ranks

    ranks = skilled_ranks(1.0, seed=1)
    tied = Ranks(ranks.user, np.minimum(ranks.greater, 198), np.ones_like(ranks.equal), 200)
    for model in ("pop", "hm4sr"):
        fake_run(tmp_path, model, ranks=tied)
    table = make_table(all_records(tmp_path))
    assert [text.partition(" on ")[0] for text in table.warnings] == ["HM4SR"]
    assert caption_of(table, "Tied scores") == "toys: users with a tied target: Pop 100.0 %."


def test_a_lower_row_has_changed_and_not_improved(results: Path) -> None:
    records = all_records(results)
    labels = {
        name: [line.label for line in rounding.summary(make_table(records, metrics=METRICS, compare=name))]
        for name in ("gru4rec", "hm4sr")
    }
    assert "Change" in labels["gru4rec"]
    assert "Improved" not in labels["gru4rec"]
    assert "Improved" in labels["hm4sr"]
