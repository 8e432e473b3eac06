"""Text formats: Markdown for reading, CSV (long) and JSON (everything) for other programs."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from mmbench.evaluation.significance import Outcome, Verdict
from mmbench.reporting import rounding
from mmbench.reporting.table import Cell, Comparison, Row, Table
from mmbench.reporting.turned import turn
from mmbench.visible import visible

CSV_FIELDS = (
    "dataset", "model", "row", "config", "metric", "mean", "std", "n", "place", "floor", "leaky", "synthetic",
    "footnote",
)  # fmt: skip


def markdown(table: Table) -> str:
    """Return a pipe table with the caption as a list; best is **bold**, second <u>underlined</u>."""
    several = len(table.datasets) > 1
    names = {info.name: info.name + (" (synthetic)" if info.synthetic else "") for info in table.datasets}
    heads = [
        f"{escape(names[column.dataset])} {column.metric}" if several else str(column.metric)
        for column in table.columns
    ]
    rows = [
        [escape(row.label), rounding.runs_text(row, table), *map(cell_markdown, row.cells)]
        for row in table.shown_rows
    ]
    floors = [row.floor for row in table.shown_rows]
    # Pipe tables cannot have an inner rule; an empty row separates the floors.
    if any(floors) and not all(floors):
        rows.insert(floors.index(True), [""] * (2 + len(heads)))
    below = [[f"*{escape(line.label)}*", "", *map(escape, line.texts)] for line in rounding.summary(table)]
    if below:
        below.insert(0, [""] * (2 + len(heads)))
    title = "" if several else f"**{escape(names[table.datasets[0].name])}**\n\n"
    return title + pipes(["Model", "n", *heads], [*rows, *below]) + "\n\n" + notes(table)


def markdown_turned(table: Table) -> str:
    """Return a pipe table with a line per metric and a column per model."""
    turned = turn(table)
    head = ["Data set", "Metric", *(escape(row.label) for row in turned.models)]
    head += [f"*{escape(label)}*" for label in turned.comparisons]
    rows = [
        [escape(line.dataset), line.metric, *map(cell_markdown, line.cells), *map(escape, line.compared)]
        for line in turned.lines
    ]
    rows.append(["", "*n*", *turned.runs, *("" for _ in turned.comparisons)])
    return pipes(head, rows) + "\n\n" + notes(table)


def notes(table: Table) -> str:
    """Return footnotes, warnings and caption as a list."""
    lines = [
        "- **Bold**: best, <u>underlined</u>: second of a column, on unrounded means; ties share a mark."
    ]
    lines += [
        f"- <sup>{rounding.footnote_mark(index)}</sup> {escape(text)}"
        for index, text in enumerate(table.footnotes)
    ]
    lines += [f"- **Warning**: {escape(warning)}" for warning in table.warnings]
    lines += [f"- **{escape(key)}**: {escape(text)}" for key, text in table.caption]
    return "\n".join(lines) + "\n"


def pipes(head: list[str], rows: list[list[str]]) -> str:
    """Return an aligned pipe table: the first column left, the others right."""
    widths = [max(3, *(len(line[index]) for line in [head, *rows])) for index in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * width) if index == 0 else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])


def escape(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return re.sub(r"([\\`*_|<>\[\]~])", r"\\\1", visible(text)).replace("\n", " ")


def cell_markdown(cell: Cell) -> str:
    mean = rounding.mean_text(cell)
    text = {1: f"**{mean}**", 2: f"<u>{mean}</u>"}.get(cell.place, mean)
    marks = "".join(f"<sup>{rounding.footnote_mark(index)}</sup>" for index in cell.footnotes)
    return text + rounding.std_text(cell) + ("\\*" if cell.star else "") + marks


def long_rows(table: Table) -> list[tuple[Any, ...]]:
    """Return a tuple of CSV_FIELDS per row and column, unrounded; place 0 = neither best nor second."""
    synthetic = {dataset.name: dataset.synthetic for dataset in table.datasets}
    return [
        (
            column.dataset, row.model, row.label, row.config, str(column.metric), cell.mean, cell.std,
            cell.n, cell.place, row.floor, row.leaky, synthetic[column.dataset],
            "; ".join(table.footnotes[position] for position in cell.footnotes),
        )
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    ]  # fmt: skip


def long_csv(table: Table) -> str:
    """Return a line per row and column, unrounded; flags are 0 and 1."""
    rows = []
    for row in long_rows(table):
        fields = dict(zip(CSV_FIELDS, row, strict=True))
        fields |= {key: int(fields[key]) for key in ("floor", "leaky", "synthetic")}
        fields |= {key: exact(fields[key]) for key in ("mean", "std")}
        rows.append([*(fields | {"place": fields["place"] or ""}).values()])
    return csv_text(CSV_FIELDS, rows)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return lines of comma-separated values; None becomes an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[_inert(value) for value in row] for row in rows])
    return out.getvalue()


def _inert(value: object) -> object:
    """Return a text so that no spreadsheet takes it for a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def exact(value: float | None) -> str:
    """Return all digits of a number, "" for None."""
    return "" if value is None else repr(value)


def json_text(content: object) -> str:
    """Return indented JSON; values that are not finite raise an error."""
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def full_json(table: Table) -> str:
    """Return everything, unrounded: per-seed values, every comparison of the family, caption, warnings."""
    content = {
        "split": table.split,
        "rank_ties": table.ties,
        "unit": table.unit,
        "test": table.test,
        "sides": 2,
        "correction": table.correction,
        "family": table.family,
        "compare": table.compare or None,
        "datasets": [{**asdict(info), "protocol": dict(info.protocol)} for info in table.datasets],
        "rows": [row_content(row, table) for row in table.rows],
        "comparisons": [comparison_content(comparison, table) for comparison in table.comparisons],
        "warnings": list(table.warnings),
        "left_out": list(table.left_out),
        "caption": [{"key": key, "text": text} for key, text in table.caption],
    }
    return json_text(content)


def row_content(row: Row, table: Table) -> dict[str, Any]:
    cells = [
        {
            "dataset": column.dataset,
            "metric": str(column.metric),
            "mean": cell.mean,
            "std": cell.std,
            "n": cell.n,
            "place": cell.place or None,
            "star": cell.star,
            "seeds": list(cell.seeds),
            "values": list(cell.values),
            "footnotes": [table.footnotes[index] for index in cell.footnotes],
        }
        for column, cell in zip(table.columns, row.cells, strict=True)
    ]
    facts = {key: getattr(row, key) for key in ("model", "name", "config", "floor", "leaky", "deterministic")}
    return {**facts, "row": row.label, "cells": cells}


def comparison_content(comparison: Comparison, table: Table) -> dict[str, Any]:
    column = table.columns[comparison.column]
    return {
        "dataset": column.dataset,
        "metric": str(column.metric),
        "compared": table.rows[comparison.compared].label,
        "against": table.rows[comparison.rival].label,
        "strongest": comparison.strongest,
        "difference": comparison.difference,
        "interval_95": comparison.interval,
        "improved_percent": comparison.percent,
        "improved_percent_interval_95": comparison.percent_interval,
        "outcome": _json_outcome(comparison.outcome),
        "p_adjusted": comparison.adjusted,
        "beside": None if comparison.beside is None else _json_outcome(comparison.beside),
        "effect": comparison.effect,
        "effect_name": comparison.effect_name,
        "users_won": comparison.won,
        "users_lost": comparison.lost,
    }


def _json_outcome(outcome: Outcome) -> dict[str, Any]:
    kept = ("test", "n", "difference", "direction")
    facts = {key: getattr(outcome, key) for key in kept}
    if isinstance(outcome, Verdict):
        return {**facts, "p": outcome.p, "statistic": outcome.statistic, "df": outcome.df}
    return {**facts, "p": None, "words": outcome.words, "reason": outcome.reason}
