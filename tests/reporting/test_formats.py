"""What each renderer makes of one table: structure, rounding, escaping, widths.

Run: python -m pytest tests/reporting/test_formats.py
"""

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mmbench.choices import FORMATS
from mmbench.errors import UsageError
from mmbench.evaluation.metrics import Metric
from mmbench.reporting import render, rounding, to_text
from mmbench.reporting.latex import escape
from mmbench.reporting.table import Table
from mmbench.runs.store import read_all
from tests.reporting.conftest import fake_run, make_table, paper_like


@pytest.fixture
def table(results: Path) -> Table:
    """Two data sets, all kinds of cells: best, second, failed, partly failed, not run, floor, leaky."""
    paper_like(results, seeds=4, datasets=("aa", "bb"))
    fake_run(results, "hm4sr", dataset="aa", seed=9, skill=1.2, reason="100% of <memory> & disk_space used")
    fake_run(results, "bert4rec", dataset="bb", reason="loss became nan")
    fake_run(results, "sasrec:weird", dataset="aa", leaky=True, display="S_A|S*Rec")
    return make_table(list(read_all(results)), compare="hm4sr")


def console(width: int, *, terminal: bool) -> tuple["object", io.StringIO]:
    from rich.console import Console

    out = io.StringIO()
    return Console(
        file=out, width=width, force_terminal=terminal, color_system="standard" if terminal else None
    ), out


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04149, ".0415"),
        (1.0, "1.0000"),
        (0.0, ".0000"),
        (-0.0031, "-.0031"),
        (0.99999, "1.0000"),
        (10.5, "10.5000"),
    ],
)
def test_numbers_have_four_digits_and_no_leading_zero(value: float, text: str) -> None:
    assert rounding.number(value) == text


def test_small_p_and_signs() -> None:
    assert rounding.p_value(3e-9) == "< .0001"
    assert rounding.p_value(0.0485) == ".0485"
    assert rounding.number(0.0031, sign=True) == "+.0031"


def test_footnote_marks_are_different() -> None:
    marks = [rounding.footnote_mark(at) for at in range(40)]
    assert len(set(marks)) == 40
    assert marks[:3] == ["a", "b", "c"]


def test_plain_text_is_never_wrapped_and_marks_without_colour(table: Table) -> None:
    text = to_text(table, "terminal")
    assert "\x1b" not in text
    hm4sr = next(line for line in text.splitlines() if line.startswith("HM4SR"))
    mean = rounding.number(next(row for row in table.rows if row.label == "HM4SR").cells[0].mean or 0)
    assert f"{mean} ± " in hm4sr
    assert hm4sr.count("¹") == 10
    assert len(hm4sr) > 150
    assert "¹ best, ² second" in text
    assert all(
        key in text
        for key in ("Improved", "95 % CI", "p (t)", "p (t, Holm of 30)", "p (sign-flip)", "d_z (runs)")
    )


def test_floors_stand_last_under_a_rule(table: Table) -> None:
    lines = to_text(table, "terminal").splitlines()
    pop = next(at for at, line in enumerate(lines) if line.startswith("Pop"))
    assert set(lines[pop - 1].strip()) == {"─"}
    assert set(lines[pop + 1].strip()) == {"─"}
    assert lines[pop + 2].startswith("Compared")


@pytest.mark.parametrize("width", [60, 80, 120, 200, 300])
def test_a_terminal_gets_blocks_that_fit(table: Table, width: int) -> None:
    screen, out = console(width, terminal=True)
    render(table, "terminal", screen)  # type: ignore[arg-type]
    lines = plain(out.getvalue()).splitlines()
    assert max(len(line) for line in lines) <= width
    heads = [line for line in lines if line.startswith("Model ")]
    assert sum(len(re.findall(r"(?:NDCG|MRR|HR)@\d+", line)) for line in heads) == 10  # every column once
    assert sum(line.startswith("HM4SR") for line in lines) == len(heads)  # every row in every block
    if width == 300:
        assert len(heads) == 1


def test_a_terminal_shows_best_bold_and_second_underlined(table: Table) -> None:
    screen, out = console(250, terminal=True)
    render(table, "terminal", screen)  # type: ignore[arg-type]
    best = next(row for row in table.rows if row.label == "HM4SR").cells[0].mean
    second = next(row for row in table.rows if row.label == "SASRec").cells[0].mean
    assert re.search(r"\x1b\[1;32m" + re.escape(rounding.number(best or 0)), out.getvalue())
    assert re.search(r"\x1b\[4m" + re.escape(rounding.number(second or 0)), out.getvalue())
    assert "¹" not in out.getvalue()


def md_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_is_a_rectangle_with_marks(table: Table) -> None:
    text = to_text(table, "markdown")
    rows = md_rows(text)
    assert {len(row) for row in rows} == {12}
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1  # aligned
    assert rows[0][:4] == ["Model", "n", "aa NDCG@5", "aa NDCG@10"]
    hm4sr = next(row for row in rows if row[0] == "HM4SR")
    assert re.fullmatch(r"\*\*\.\d{4}\*\* ± \.\d{4}(\\\*)?<sup>[a-z]</sup>", hm4sr[2])
    sasrec = next(row for row in rows if row[0] == "SASRec")
    assert re.fullmatch(r"<u>\.\d{4}</u> ± \.\d{4}", sasrec[2])
    assert any(row[0] == r"S\_A\|S\*Rec:weird †" for row in rows)
    assert r"\<memory\> & disk\_space" in text


def test_latex_is_balanced_and_rectangular(table: Table) -> None:
    text = to_text(table, "latex")
    begun, ended = (re.findall(rf"\\{kind}{{(\w+\*?)}}", text) for kind in ("begin", "end"))
    assert sorted(begun) == sorted(ended) == ["minipage", "table*", "tabular"]
    unescaped = re.sub(r"\\[{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    for row in rows:
        spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", row)]
        assert len(re.split(r"(?<!\\)&", row)) + sum(spans) - len(spans) == 12
    assert r"\cmidrule(lr){3-7} \cmidrule(lr){8-12}" in text
    assert text.count(r"\textbf{.") == 10
    assert text.count(r"\underline{.") == 10
    assert r"100\% of $<$memory$>$ \& disk\_space used" in text
    assert text.isascii()


def test_latex_escapes() -> None:
    assert escape(r"a_b&c%d#e$f{g}~^\ <") == (
        r"a\_b\&c\%d\#e\$f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{} $<$"
    )
    assert escape("[1, 2]").startswith("{[}")
    assert escape("--test") == "-{}-test"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(table: Table, tmp_path: Path) -> None:
    page = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "page.tex").write_text(page % to_text(table, "latex"), encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if "booktabs.sty' not found" in done.stdout:
        pytest.skip("this LaTeX has no booktabs")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


class _Page(HTMLParser):
    """Collects table cells and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip("\n")


def test_html_is_well_formed_and_loads_nothing(table: Table) -> None:
    text = to_text(table, "html")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.links == []
    assert "http" not in text
    assert {len(row) for row in page.rows[1:]} == {12}
    hm4sr = next(row for row in page.rows if row[0] == "HM4SR")
    assert re.fullmatch(r"\.\d{4} ± \.\d{4}\*?a", hm4sr[2])
    assert text.count('class="best"') == 10
    assert "100% of &lt;memory&gt; &amp; disk_space used" in text


def test_csv_is_long_and_unrounded(table: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(to_text(table, "csv"))))
    assert len(lines) == len(table.rows) * len(table.columns)
    for line in lines:
        row = next(row for row in table.rows if row.label == line["row"])
        cell = row.cells[
            [(c.dataset, str(c.metric)) for c in table.columns].index((line["dataset"], line["metric"]))
        ]
        assert (float(line["mean"]) if line["mean"] else None) == cell.mean
        assert (float(line["std"]) if line["std"] else None) == cell.std
        assert int(line["n"]) == cell.n
    failed = next(line for line in lines if line["model"] == "bert4rec" and line["dataset"] == "bb")
    assert (failed["mean"], failed["footnote"]) == ("", "failed (seed 0): loss became nan")


def test_json_holds_seeds_and_every_comparison(table: Table) -> None:
    content = json.loads(to_text(table, "json"))
    assert len(content["comparisons"]) == len(table.comparisons) == 30
    cell = next(row for row in content["rows"] if row["row"] == "HM4SR")["cells"][0]
    assert cell["seeds"] == [0, 1, 2, 3]
    assert sum(cell["values"]) / 4 == pytest.approx(cell["mean"], abs=1e-15)
    strongest = [comparison for comparison in content["comparisons"] if comparison["strongest"]]
    assert len(strongest) == 10
    assert {comparison["against"] for comparison in strongest} == {"SASRec"}
    for comparison in content["comparisons"]:
        assert comparison["outcome"]["direction"] in ("better", "worse", "equal")
        assert comparison["p_adjusted"] >= comparison["outcome"]["p"]
        assert comparison["interval_95"][0] < comparison["difference"] < comparison["interval_95"][1]
    assert content["sides"] == 2
    assert content["unit"] == "run"


def test_nothing_is_rounded_before_the_renderers(results: Path) -> None:
    record = fake_run(results)
    table = make_table([record], metrics=[Metric("NDCG", 10)])
    exact = Metric("NDCG", 10).values(record.ranks("test")).mean()
    assert table.rows[0].cells[0].mean == exact
    assert repr(float(exact)) in to_text(table, "csv")
    assert repr(float(exact)) in to_text(table, "json")


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_takes_tables_without_tests_or_values(fmt: str, results: Path) -> None:
    table = make_table([fake_run(results)])
    assert "Improved" not in to_text(table, fmt)  # type: ignore[arg-type]
    failed = make_table([fake_run(results / "x", reason="out of memory")])
    assert "out of memory" in to_text(failed, fmt)  # type: ignore[arg-type]


@pytest.mark.parametrize("fmt", ["terminal", "markdown", "latex", "html"])
def test_synthetic_and_words_are_visible(fmt: str, results: Path) -> None:
    records = [fake_run(results, model, synthetic=True) for model in ("hm4sr", "sasrec")]
    text = to_text(make_table(records), fmt)  # type: ignore[arg-type]
    assert "synthetic" in text
    assert "SYNTHETIC" in text
    assert "one run" in text


def test_unknown_format_is_refused(results: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'markdown'"):
        to_text(make_table([fake_run(results)]), "markdwn")  # type: ignore[arg-type]
