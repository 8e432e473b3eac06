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


def to_text(one: Reproduced, fmt: Format) -> str:
    """The table as text without colour codes; "terminal" is unwrapped plain text."""
    if fmt == "terminal":
        return terminal.plain_text(lambda console: print_terminal(one, console))
    return {"markdown": markdown, "csv": long_csv, "json": full_json}[fmt](one)


def printed_text(beside: Beside) -> str:
    """`.0325 -.0008 in`: printed, measured minus printed, where it lies."""
    if beside.printed is None:
        return ""
    if beside.difference is None:
        return rounding.number(beside.printed)
    where = {None: "n/a", True: "in", False: "out"}[beside.inside]
    return f"{rounding.number(beside.printed)} {rounding.number(beside.difference, sign=True)} {where}"


def runs_text(one: Reproduced, at: int) -> str:
    """Runs of a row on the data sets that are measured."""
    if not one.plan.rows[at].is_live:
        return NOT_YET
    counts = sorted({cell.n for cell in one.table.rows[at].cells if cell.n})
    if not counts:
        return DASH
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def summary(one: Reproduced) -> list[tuple[str, list[str]]]:
    """The lines under the rows as the paper has them, measured and printed."""
    content, texts = one.plan.content, {line.label: list(line.texts) for line in rounding.summary(one.table)}
    if not content.compare:
        return []
    found = [("Against", texts["Against"])] if texts else []
    blank = [DASH] * len(one.table.columns)
    found.append(
        (
            content.improved.label if content.improved else "Improved",
            texts.get(rounding.improved_label(one.table), blank),
        )
    )
    if content.improved:
        found.append((PRINTED, one.place(content.improved.printed)))
    found.append((content.p.label if content.p else "p (paired t)", texts.get("p (t)", blank)))
    if content.p:
        found.append((PRINTED, one.place(content.p.printed)))
    return found if texts else [line for line in found if line[0] == PRINTED or line[1] != blank]


def print_terminal(one: Reproduced, console: "Console") -> None:
    """Print to a rich console; when it is no terminal nothing is wrapped or split."""
    from rich.text import Text

    width = console.width if console.is_terminal else None
    colour = console.is_terminal and not console.no_color
    emit = terminal.emitter(console)
    emit(Text(f"{one.plan.experiment.name}: {one.plan.content.title}", "bold"))
    rows: list[Line] = []
    for at, (row, beside) in enumerate(zip(one.table.rows, one.beside, strict=True)):
        cells = tuple(terminal.cell_text(cell, colour) for cell in row.cells)
        rows.append(Line(row.label, runs_text(one, at), cells))
        if any(cell.printed is not None for cell in beside):
            rows.append(Line(PRINTED, "", tuple(_coloured(cell) for cell in beside), "dim"))
    below = [terminal.summary_line(rounding.Line(label, tuple(texts))) for label, texts in summary(one)]
    heads = tuple(
        (head, str(column.metric)) for head, column in zip(one.heads, one.table.columns, strict=True)
    )
    for line in draw(Lines(heads, tuple(rows), tuple(below), "Method"), width):
        emit(line)
    emit("")
    for line in terminal.notes(one.table, colour, width):
        emit(line)


def _coloured(beside: Beside) -> "Text":
    from rich.text import Text

    style = {None: "dim", True: "green", False: "yellow"}[beside.inside]
    return Text(printed_text(beside), style)


def markdown(one: Reproduced) -> str:
    """Pipe table, the printed line under each measured one; best **bold**, second <u>underlined</u>."""
    heads = [
        f"{escape(head)} {column.metric}" for head, column in zip(one.heads, one.table.columns, strict=True)
    ]
    rows = []
    for at, (row, beside) in enumerate(zip(one.table.rows, one.beside, strict=True)):
        rows.append([escape(row.label), runs_text(one, at), *map(cell_markdown, row.cells)])
        if any(cell.printed is not None for cell in beside):
            rows.append(["*printed*", "", *(escape(printed_text(cell)) for cell in beside)])
    below = [[f"*{escape(label.strip())}*", "", *map(escape, texts)] for label, texts in summary(one)]
    if below:
        below.insert(0, [""] * (2 + len(heads)))
    title = f"**{one.plan.experiment.name}: {escape(one.plan.content.title)}**\n\n"
    return title + pipes(["Method", "n", *heads], [*rows, *below]) + "\n\n" + notes(one.table)


def _status(one: Reproduced, at: int, column: int) -> str:
    """measured, failed, "not yet", "not prepared" or "cannot run"."""
    cell, dataset = one.table.rows[at].cells[column], one.table.columns[column].dataset
    if cell.mean is not None:
        return "measured"
    if dataset in one.plan.rows[at].cells:
        return "failed"
    reason = one.plan.rows[at].missing[dataset]
    return reason if reason in (NOT_YET, NOT_PREPARED) else "cannot run"


def long_csv(one: Reproduced) -> str:
    """One line per row and column, unrounded."""
    rows: list[list[object]] = []
    for at, (row, beside) in enumerate(zip(one.table.rows, one.beside, strict=True)):
        for number, (column, cell, paper) in enumerate(
            zip(one.table.columns, row.cells, beside, strict=True)
        ):
            numbers = [paper.printed, paper.difference, *(paper.interval or (None, None))]
            rows.append(
                [
                    one.plan.experiment.name, column.dataset, row.name, row.model, str(column.metric),
                    _status(one, at, number), exact(cell.mean), exact(cell.std), cell.n, *map(exact, numbers),
                    "" if paper.inside is None else int(paper.inside),
                    "; ".join(one.table.footnotes[mark] for mark in cell.footnotes),
                ]
            )  # fmt: skip
    return csv_text(CSV_FIELDS, rows)


def full_json(one: Reproduced) -> str:
    """Everything, unrounded: per-seed values, printed values, comparisons, caption, warnings."""
    plan = one.plan
    rows: list[dict[str, Any]] = []
    for at, (row, beside) in enumerate(zip(one.table.rows, one.beside, strict=True)):
        content = row_content(row, one.table)
        for number, (cell, paper) in enumerate(zip(content["cells"], beside, strict=True)):
            cell |= {
                "status": _status(one, at, number), "printed": paper.printed, "difference": paper.difference,
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
        "printed_improved": one.place(improved.printed) if improved else None,
        "printed_p": one.place(p.printed) if p else None,
        "comparisons": [comparison_content(line, one.table) for line in one.table.comparisons],
        "warnings": list(one.table.warnings),
        "caption": [{"key": key, "text": text} for key, text in one.table.caption],
    }
    return json_text(content)
