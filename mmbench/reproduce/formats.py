"""A reproduced table as text: terminal, Markdown, CSV (long) and JSON (everything). Rounding as in reports."""

from typing import TYPE_CHECKING, Any, Literal, get_args

from mmbench.reporting import rounding, terminal
from mmbench.reporting.grid import Line, Lines, draw
from mmbench.reporting.plain import (
    cell_markdown,
    comparison_content,
    csv_text,
    escape,
    exact,
    json_text,
    notes,
    pipes,
    row_content,
)
from mmbench.reporting.rounding import DASH
from mmbench.reproduce.plan import NOT_PREPARED, NOT_YET
from mmbench.reproduce.scores import Beside, Reproduced

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Format = Literal["terminal", "markdown", "csv", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
PRINTED = "  printed"
CSV_FIELDS = (
    "experiment", "dataset", "method", "model", "metric", "status", "mean", "std", "n", "printed", "difference",
    "low", "high", "inside", "footnote",
)  # fmt: skip


def to_text(result: Reproduced, fmt: Format) -> str:
    """Return the table as text without colour codes; "terminal" is unwrapped plain text."""
    if fmt == "terminal":
        return terminal.plain_text(lambda console: print_terminal(result, console))
    return {"markdown": markdown, "csv": long_csv, "json": full_json}[fmt](result)


def printed_text(beside: Beside) -> str:
    """Return `.0325 -.0008 in`: the printed value, measured minus printed, inside or outside the interval."""
    if beside.printed is None:
        return ""
    if beside.difference is None:
        return rounding.number(beside.printed)
    side = {None: "n/a", True: "in", False: "out"}[beside.inside]
    return f"{rounding.number(beside.printed)} {rounding.number(beside.difference, sign=True)} {side}"


def runs_text(result: Reproduced, row: int) -> str:
    """Return the number of runs of a row on the data sets that are measured."""
    if not result.plan.rows[row].is_live:
        return NOT_YET
    counts = sorted({cell.n for cell in result.table.rows[row].cells if cell.n})
    if not counts:
        return DASH
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def summary(result: Reproduced) -> list[tuple[str, list[str]]]:
    """Return the lines under the rows as the paper has them, measured and printed."""
    content, texts = (
        result.plan.content,
        {line.label: list(line.texts) for line in rounding.summary(result.table)},
    )
    if not content.compare:
        return []
    lines = [("Against", texts["Against"])] if texts else []
    blank = [DASH] * len(result.table.columns)
    lines.append(
        (
            content.improved.label if content.improved else "Improved",
            texts.get(rounding.improved_label(result.table), blank),
        )
    )
    if content.improved:
        lines.append((PRINTED, result.under_columns(content.improved.printed)))
    lines.append((content.p.label if content.p else "p (paired t)", texts.get("p (t)", blank)))
    if content.p:
        lines.append((PRINTED, result.under_columns(content.p.printed)))
    return lines if texts else [line for line in lines if line[0] == PRINTED or line[1] != blank]


def print_terminal(result: Reproduced, console: "Console") -> None:
    """Print to a rich console; when it is not a terminal nothing is wrapped or split."""
    from rich.text import Text

    width = console.width if console.is_terminal else None
    colour = console.is_terminal and not console.no_color
    emit = terminal.emitter(console)
    emit(Text(f"{result.plan.experiment.name}: {result.plan.content.title}", "bold"))
    rows: list[Line] = []
    for at, (row, beside) in enumerate(zip(result.table.rows, result.beside, strict=True)):
        cells = tuple(terminal.cell_text(cell, colour) for cell in row.cells)
        rows.append(Line(row.label, runs_text(result, at), cells))
        if any(cell.printed is not None for cell in beside):
            rows.append(Line(PRINTED, "", tuple(_coloured(cell) for cell in beside), "dim"))
    below = [terminal.summary_line(rounding.Line(label, tuple(texts))) for label, texts in summary(result)]
    heads = tuple(
        (head, str(column.metric)) for head, column in zip(result.heads, result.table.columns, strict=True)
    )
    for line in draw(Lines(heads, tuple(rows), tuple(below), "Method"), width):
        emit(line)
    emit("")
    for line in terminal.notes(result.table, colour, width):
        emit(line)


def _coloured(beside: Beside) -> "Text":
    from rich.text import Text

    style = {None: "dim", True: "green", False: "yellow"}[beside.inside]
    return Text(printed_text(beside), style)


def markdown(result: Reproduced) -> str:
    """Return a pipe table, the printed line under each measured one; best **bold**, second <u>underlined</u>."""
    heads = [
        f"{escape(head)} {column.metric}"
        for head, column in zip(result.heads, result.table.columns, strict=True)
    ]
    rows = []
    for at, (row, beside) in enumerate(zip(result.table.rows, result.beside, strict=True)):
        rows.append([escape(row.label), runs_text(result, at), *map(cell_markdown, row.cells)])
        if any(cell.printed is not None for cell in beside):
            rows.append(["*printed*", "", *(escape(printed_text(cell)) for cell in beside)])
    below = [[f"*{escape(label.strip())}*", "", *map(escape, texts)] for label, texts in summary(result)]
    if below:
        below.insert(0, [""] * (2 + len(heads)))
    title = f"**{result.plan.experiment.name}: {escape(result.plan.content.title)}**\n\n"
    return title + pipes(["Method", "n", *heads], [*rows, *below]) + "\n\n" + notes(result.table)


def _status(result: Reproduced, at: int, column: int) -> str:
    """Return "measured", "failed", "not yet", "not prepared" or "cannot run"."""
    cell, dataset = result.table.rows[at].cells[column], result.table.columns[column].dataset
    if cell.mean is not None:
        return "measured"
    if dataset in result.plan.rows[at].cells:
        return "failed"
    reason = result.plan.rows[at].missing[dataset]
    return reason if reason in (NOT_YET, NOT_PREPARED) else "cannot run"


def long_csv(result: Reproduced) -> str:
    """Return a line per row and column, unrounded."""
    rows: list[list[object]] = []
    for at, (row, beside) in enumerate(zip(result.table.rows, result.beside, strict=True)):
        for number, (column, cell, paper) in enumerate(
            zip(result.table.columns, row.cells, beside, strict=True)
        ):
            numbers = [paper.printed, paper.difference, *(paper.interval or (None, None))]
            rows.append(
                [
                    result.plan.experiment.name, column.dataset, row.name, row.model, str(column.metric),
                    _status(result, at, number), exact(cell.mean), exact(cell.std), cell.n, *map(exact, numbers),
                    "" if paper.inside is None else int(paper.inside),
                    "; ".join(result.table.footnotes[mark] for mark in cell.footnotes),
                ]
            )  # fmt: skip
    return csv_text(CSV_FIELDS, rows)


def full_json(result: Reproduced) -> str:
    """Return everything unrounded: per-seed values, printed values, comparisons, caption, warnings."""
    plan = result.plan
    rows: list[dict[str, Any]] = []
    for at, (row, beside) in enumerate(zip(result.table.rows, result.beside, strict=True)):
        content = row_content(row, result.table)
        for number, (cell, paper) in enumerate(zip(content["cells"], beside, strict=True)):
            cell |= {
                "status": _status(result, at, number), "printed": paper.printed, "difference": paper.difference,
                "interval_95": paper.interval, "inside": paper.inside,
            }  # fmt: skip
        settings = {**plan.rows[at].row.settings, **plan.rows[at].row.fixed}
        rows.append({**content, "settings": settings, "is_registered": plan.rows[at].is_live})
    improved, p = plan.content.improved, plan.content.p
    content = {
        "experiment": plan.experiment.name,
        "title": plan.content.title,
        "source": plan.content.source,
        "seeds": list(plan.seeds),
        "not_yet": plan.not_yet,
        "not_prepared": plan.not_prepared,
        "rows": rows,
        "printed_improved": result.under_columns(improved.printed) if improved else None,
        "printed_p": result.under_columns(p.printed) if p else None,
        "comparisons": [comparison_content(line, result.table) for line in result.table.comparisons],
        "warnings": list(result.table.warnings),
        "caption": [{"key": key, "text": text} for key, text in result.table.caption],
    }
    return json_text(content)
