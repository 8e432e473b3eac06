"""The table as LaTeX; it needs the package booktabs, and graphicx to shrink a wide table to the page."""

import re
from collections.abc import Sequence
from itertools import groupby

from mmbench.reporting import rounding
from mmbench.reporting.table import Cell, Row, Table
from mmbench.reporting.turned import turn
from mmbench.visible import visible

_FITTING = 5  # this many columns fit on a page
_MOST = 10  # more columns in a tabular would be too small to read
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    "±": r"$\pm$", "−": "$-$", "≤": r"$\le$", "≥": r"$\ge$", "×": r"$\times$", "†": r"$\dagger$", "–": "--",
    "—": "---", "…": r"\dots{}", "·": r"$\cdot$", '"': "''",
}  # fmt: skip


def escape(text: str) -> str:
    """Escape text so that LaTeX prints it unchanged; accented letters need the (default) UTF-8 input."""
    text = visible(text).replace("\n", " ").replace("<=", "≤").replace(">=", "≥")
    escaped = "".join(_ESCAPES.get(char, char) for char in text.replace("--", "-\0-")).replace("\0", "{}")
    return re.sub(r"^\[", "{[}", escaped)  # after a line break \\ LaTeX would read a bracket as an option


def latex(table: Table) -> str:
    """Return a `table*` environment: two header levels, floors under a rule, notes below the table.

    Many columns become several tabulars below each other, each of whole data sets.
    """
    parts = [line for block in _blocks(table) for line in [*_tabular(table, block), r"\par\medskip"]][:-1]
    return _environment(table, parts, wide=len(table.columns) > _FITTING)


def latex_turned(table: Table) -> str:
    """Return the same with a line per metric and a column per model."""
    turned, lines = turn(table), []
    columns = len(turned.models) + len(turned.comparisons)
    heads = [escape(text) for text in (*(row.label for row in turned.models), *turned.comparisons)]
    for index, line in enumerate(turned.lines):
        is_first = index == 0 or turned.lines[index - 1].dataset != line.dataset
        lines += [r"\midrule"] * (is_first and index > 0)
        cells = [*map(_cell, line.cells), *map(escape, line.compared)]
        dataset = escape(line.dataset) if is_first else ""
        lines.append(rf"{dataset} & {escape(line.metric)} & {' & '.join(cells)} \\")
    counts = [*map(escape, turned.runs), *("" for _ in turned.comparisons)]
    body = [
        rf"\begin{{tabular}}{{ll{'l' * columns}}}", r"\toprule", rf"Data set & Metric & {' & '.join(heads)} \\",
        r"\midrule", *lines, r"\midrule", rf" & $n$ & {' & '.join(counts)} \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    return _environment(table, _shrunk(body, columns), wide=columns > _FITTING)


def _environment(table: Table, body: list[str], *, wide: bool) -> str:
    label = "-".join(re.sub(r"[^a-z0-9]+", "-", info.name) for info in table.datasets)
    lines = [
        rf"% needs \usepackage{{booktabs{',graphicx' if wide else ''}}}",
        r"\begin{table*}[t]",
        r"\centering",
        r"\small",
        rf"\caption{{{escape(_title(table))}}}",
        rf"\label{{tab:{label}}}",
        *body,
        *_notes(table),
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _shrunk(tabular: list[str], columns: int) -> list[str]:
    """Return a tabular that is shrunk to the page if it is too wide for it."""
    if columns <= _FITTING:
        return tabular
    return [r"\resizebox{\linewidth}{!}{%", *tabular[:-1], tabular[-1] + "}"]


def _blocks(table: Table) -> list[list[int]]:
    """Return the columns of each tabular: whole data sets, and more than _MOST columns only within a data set."""
    blocks: list[list[int]] = []
    for _, group in groupby(range(len(table.columns)), key=lambda index: table.columns[index].dataset):
        columns = list(group)
        if blocks and len(blocks[-1]) + len(columns) <= _MOST:
            blocks[-1] += columns
        else:
            blocks.append(columns)
    return blocks


def _tabular(table: Table, block: Sequence[int]) -> list[str]:
    """Return the tabular of some columns."""
    rows, below = table.shown_rows, rounding.summary(table)
    lines = [rf"\begin{{tabular}}{{lr{'l' * len(block)}}}", r"\toprule", *_head(table, block), r"\midrule"]
    for index, row in enumerate(rows):
        if row.floor and index and not rows[index - 1].floor:
            lines.append(r"\midrule")
        lines.append(_row(row, table, block))
    lines += [r"\midrule"] * bool(below)
    for line in below:
        texts = " & ".join(escape(line.texts[index]) for index in block)
        lines.append(rf"{escape(line.label)} & & {texts} \\")
    return _shrunk([*lines, r"\bottomrule", r"\end{tabular}"], len(block))


def _title(table: Table) -> str:
    names = [info.name + (" (synthetic)" if info.synthetic else "") for info in table.datasets]
    return (
        f"{'Test' if table.split == 'test' else 'Validation'} results on {', '.join(names)}. Bold: best, "
        "underlined: second of a column, on unrounded means."
    )


def _head(table: Table, block: Sequence[int]) -> list[str]:
    """Return data sets over their metrics, with a rule under each; the metrics only if there is a single data set."""
    columns = [table.columns[index] for index in block]
    metrics = " & ".join(escape(str(column.metric)) for column in columns)
    lowest = rf"Model & $n$ & {metrics} \\"
    if len(table.datasets) == 1:
        return [lowest]
    names = {info.name: info.name + (" (synthetic)" if info.synthetic else "") for info in table.datasets}
    spans, rules, start = [], [], 3
    for dataset, group in groupby(columns, key=lambda column: column.dataset):
        size = len(list(group))
        spans.append(rf"\multicolumn{{{size}}}{{c}}{{{escape(names[dataset])}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + size - 1}}}")
        start += size
    return [rf" & & {' & '.join(spans)} \\", " ".join(rules), lowest]


def _row(row: Row, table: Table, block: Sequence[int]) -> str:
    cells = " & ".join(_cell(row.cells[index]) for index in block)
    return rf"{escape(row.label)} & {escape(rounding.runs_text(row, table))} & {cells} \\"


def _cell(cell: Cell) -> str:
    mean = escape(rounding.mean_text(cell))
    text = {1: rf"\textbf{{{mean}}}", 2: rf"\underline{{{mean}}}"}.get(cell.place, mean)
    if cell.std is not None:
        text += rf"\,{{\scriptsize$\pm${rounding.number(cell.std)}}}"
    marks = ("*" if cell.star else "") + "".join(rounding.footnote_mark(index) for index in cell.footnotes)
    return text + (rf"\textsuperscript{{{marks}}}" if marks else "")


def _notes(table: Table) -> list[str]:
    notes = [
        rf"\textsuperscript{{{rounding.footnote_mark(index)}}}~{escape(text)}."
        for index, text in enumerate(table.footnotes)
    ]
    notes += [rf"\textbf{{Warning:}} {escape(warning)}." for warning in table.warnings]
    notes += [rf"\textit{{{escape(key)}:}} {escape(text)}" for key, text in table.caption]
    if not notes:
        return []
    return [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize", *notes, r"\end{minipage}"]
