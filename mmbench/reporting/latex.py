"""The table as LaTeX: needs the package booktabs, and graphicx to shrink a wide table to the page."""

import re
from itertools import groupby

from mmbench.reporting import rounding
from mmbench.reporting.table import Cell, Row, Table
from mmbench.visible import visible

_FITTING = 5  # columns that fit on a page as they are
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    "±": r"$\pm$", "−": "$-$", "≤": r"$\le$", "≥": r"$\ge$", "×": r"$\times$", "†": r"$\dagger$", "–": "--",
    "—": "---", "…": r"\dots{}", "·": r"$\cdot$", '"': "''",
}  # fmt: skip


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; letters with accents need the (default) UTF-8 input."""
    text = visible(text).replace("\n", " ").replace("<=", "≤").replace(">=", "≥")
    escaped = "".join(_ESCAPES.get(char, char) for char in text.replace("--", "-\0-")).replace("\0", "{}")
    return re.sub(r"^\[", "{[}", escaped)  # after a line break \\ a bracket would be read as an option


def latex(table: Table) -> str:
    """A `table*` environment: two header levels, floors under a rule, notes below the table."""
    columns = len(table.columns)
    wide = columns > _FITTING
    lines = [
        rf"% needs \usepackage{{booktabs{',graphicx' if wide else ''}}}",
        r"\begin{table*}[t]",
        r"\centering",
        r"\small",
        rf"\caption{{{escape(_title(table))}}}",
        rf"\label{{tab:{'-'.join(re.sub(r'[^a-z0-9]+', '-', one.name) for one in table.datasets)}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{lr{'l' * columns}}}",
        r"\toprule",
        *_head(table),
        r"\midrule",
    ]
    for at, row in enumerate(table.rows):
        if row.floor and at and not table.rows[at - 1].floor:
            lines.append(r"\midrule")
        lines.append(_row(row, table))
    below = rounding.summary(table)
    if below:
        lines.append(r"\midrule")
        lines += [rf"{escape(one.label)} & & {' & '.join(map(escape, one.texts))} \\" for one in below]
    lines += [r"\bottomrule", r"\end{tabular}" + "}" * wide, *_notes(table), r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _title(table: Table) -> str:
    names = [one.name + (" (synthetic)" if one.synthetic else "") for one in table.datasets]
    return (
        f"{'Test' if table.split == 'test' else 'Validation'} results on {', '.join(names)}. Bold: best, "
        "underlined: second of a column, on unrounded means."
    )


def _head(table: Table) -> list[str]:
    """Data sets over their metrics, with a rule under each; one level when there is one data set."""
    metrics = " & ".join(escape(str(column.metric)) for column in table.columns)
    lowest = rf"Model & $n$ & {metrics} \\"
    if len(table.datasets) == 1:
        return [lowest]
    names = {one.name: one.name + (" (synthetic)" if one.synthetic else "") for one in table.datasets}
    spans, rules, start = [], [], 3
    for dataset, group in groupby(table.columns, key=lambda column: column.dataset):
        size = len(list(group))
        spans.append(rf"\multicolumn{{{size}}}{{c}}{{{escape(names[dataset])}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + size - 1}}}")
        start += size
    return [rf" & & {' & '.join(spans)} \\", " ".join(rules), lowest]


def _row(row: Row, table: Table) -> str:
    cells = " & ".join(_cell(cell) for cell in row.cells)
    return rf"{escape(row.label)} & {escape(rounding.runs_text(row, table))} & {cells} \\"


def _cell(cell: Cell) -> str:
    mean = escape(rounding.mean_text(cell))
    text = {1: rf"\textbf{{{mean}}}", 2: rf"\underline{{{mean}}}"}.get(cell.place, mean)
    if cell.std is not None:
        text += rf"\,{{\scriptsize$\pm${rounding.number(cell.std)}}}"
    marks = ("*" if cell.star else "") + "".join(rounding.footnote_mark(at) for at in cell.footnotes)
    return text + (rf"\textsuperscript{{{marks}}}" if marks else "")


def _notes(table: Table) -> list[str]:
    said = [
        rf"\textsuperscript{{{rounding.footnote_mark(at)}}}~{escape(text)}."
        for at, text in enumerate(table.footnotes)
    ]
    said += [rf"\textbf{{Warning:}} {escape(one)}." for one in table.warnings]
    said += [rf"\textit{{{escape(key)}:}} {escape(text)}" for key, text in table.caption]
    return [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize", *said, r"\end{minipage}"]
