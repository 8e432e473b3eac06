"""The table as LaTeX; it needs the package booktabs, and graphicx to shrink a wide table to the page."""

import re
from itertools import groupby

from mmbench.reporting import rounding
from mmbench.reporting.table import Cell, Row, Table
from mmbench.visible import visible

_FITTING = 5  # this many columns fit on a page
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
    """Return a `table*` environment: two header levels, floors under a rule, notes below the table."""
    columns = len(table.columns)
    wide = columns > _FITTING
    lines = [
        rf"% needs \usepackage{{booktabs{',graphicx' if wide else ''}}}",
        r"\begin{table*}[t]",
        r"\centering",
        r"\small",
        rf"\caption{{{escape(_title(table))}}}",
        rf"\label{{tab:{'-'.join(re.sub(r'[^a-z0-9]+', '-', info.name) for info in table.datasets)}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{lr{'l' * columns}}}",
        r"\toprule",
        *_head(table),
        r"\midrule",
    ]
    for index, row in enumerate(table.rows):
        if row.floor and index and not table.rows[index - 1].floor:
            lines.append(r"\midrule")
        lines.append(_row(row, table))
    below = rounding.summary(table)
    if below:
        lines.append(r"\midrule")
        lines += [rf"{escape(line.label)} & & {' & '.join(map(escape, line.texts))} \\" for line in below]
    lines += [r"\bottomrule", r"\end{tabular}" + "}" * wide, *_notes(table), r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _title(table: Table) -> str:
    names = [info.name + (" (synthetic)" if info.synthetic else "") for info in table.datasets]
    return (
        f"{'Test' if table.split == 'test' else 'Validation'} results on {', '.join(names)}. Bold: best, "
        "underlined: second of a column, on unrounded means."
    )


def _head(table: Table) -> list[str]:
    """Return data sets over their metrics, with a rule under each; one level if there is one data set."""
    metrics = " & ".join(escape(str(column.metric)) for column in table.columns)
    lowest = rf"Model & $n$ & {metrics} \\"
    if len(table.datasets) == 1:
        return [lowest]
    names = {info.name: info.name + (" (synthetic)" if info.synthetic else "") for info in table.datasets}
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
    marks = ("*" if cell.star else "") + "".join(rounding.footnote_mark(index) for index in cell.footnotes)
    return text + (rf"\textsuperscript{{{marks}}}" if marks else "")


def _notes(table: Table) -> list[str]:
    notes = [
        rf"\textsuperscript{{{rounding.footnote_mark(index)}}}~{escape(text)}."
        for index, text in enumerate(table.footnotes)
    ]
    notes += [rf"\textbf{{Warning:}} {escape(warning)}." for warning in table.warnings]
    notes += [rf"\textit{{{escape(key)}:}} {escape(text)}" for key, text in table.caption]
    return [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize", *notes, r"\end{minipage}"]
