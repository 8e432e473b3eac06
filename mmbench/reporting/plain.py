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

CSV_FIELDS = (
    "dataset", "model", "row", "config", "metric", "mean", "std", "n", "place", "floor", "leaky", "synthetic",
    "footnote",
)  # fmt: skip


def markdown(table: Table) -> str:
    """Pipe table with the caption as a list; best **bold**, second <u>underlined</u>."""
    several = len(table.datasets) > 1
    names = {one.name: one.name + (" (synthetic)" if one.synthetic else "") for one in table.datasets}
    heads = [
        f"{escape(names[one.dataset])} {one.metric}" if several else str(one.metric) for one in table.columns
    ]
    rows = [
        [escape(row.label), rounding.runs_text(row, table), *map(cell_markdown, row.cells)]
        for row in table.rows
    ]
    floors = [row.floor for row in table.rows]
    if any(floors) and not all(floors):  # pipe tables have no rule inside; an empty row separates the floors
        rows.insert(floors.index(True), [""] * (2 + len(heads)))
    below = [[f"*{escape(one.label)}*", "", *map(escape, one.texts)] for one in rounding.summary(table)]
    if below:
        below.insert(0, [""] * (2 + len(heads)))
    title = "" if several else f"**{escape(names[table.datasets[0].name])}**\n\n"
    return title + pipes(["Model", "n", *heads], [*rows, *below]) + "\n\n" + words(table)


def words(table: Table) -> str:
    """Footnotes, warnings and caption as a list."""
    said = ["- **Bold**: best, <u>underlined</u>: second of a column, on unrounded means; ties share a mark."]
    said += [
        f"- <sup>{rounding.footnote_mark(at)}</sup> {escape(one)}" for at, one in enumerate(table.footnotes)
    ]
    said += [f"- **Warning**: {escape(one)}" for one in table.warnings]
    said += [f"- **{escape(key)}**: {escape(text)}" for key, text in table.caption]
    return "\n".join(said) + "\n"


def pipes(head: list[str], rows: list[list[str]]) -> str:
    """Aligned pipe table: first column left, the others right."""
    widths = [max(3, *(len(line[at]) for line in [head, *rows])) for at in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = [
            one.ljust(width) if at == 0 else one.rjust(width)
            for at, (one, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * width) if at == 0 else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(one) for one in rows)])


def escape(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return re.sub(r"([\\`*_|<>\[\]~])", r"\\\1", text).replace("\n", " ")


def cell_markdown(cell: Cell) -> str:
    mean = rounding.mean_text(cell)
    text = {1: f"**{mean}**", 2: f"<u>{mean}</u>"}.get(cell.place, mean)
    marks = "".join(f"<sup>{rounding.footnote_mark(at)}</sup>" for at in cell.footnotes)
    return text + rounding.std_text(cell) + ("\\*" if cell.star else "") + marks


def long_rows(table: Table) -> list[tuple[Any, ...]]:
    """Return one tuple of CSV_FIELDS per row and column, unrounded; place 0 = neither best nor second."""
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
    """Return one line per row and column, unrounded; flags are 0 and 1."""
    rows = []
    for row in long_rows(table):
        fields = dict(zip(CSV_FIELDS, row, strict=True))
        fields |= {key: int(fields[key]) for key in ("floor", "leaky", "synthetic")}
        fields |= {key: exact(fields[key]) for key in ("mean", "std")}
        rows.append([*(fields | {"place": fields["place"] or ""}).values()])
    return csv_text(CSV_FIELDS, rows)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lines of comma-separated values; None is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()


def exact(value: float | None) -> str:
    """All digits of a number, nothing for none."""
    return "" if value is None else repr(value)


def json_text(content: object) -> str:
    """Indented JSON; what is no number is an error."""
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def full_json(table: Table) -> str:
    """Everything, unrounded: per-seed values, every comparison of the family, caption, warnings."""
    content = {
        "split": table.split,
        "rank_ties": table.ties,
        "unit": table.unit,
        "test": table.test,
        "sides": 2,
        "correction": table.correction,
        "family": table.family,
        "compare": table.compare or None,
        "datasets": [{**asdict(one), "protocol": dict(one.protocol)} for one in table.datasets],
        "rows": [row_content(row, table) for row in table.rows],
        "comparisons": [comparison_content(one, table) for one in table.comparisons],
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
            "footnotes": [table.footnotes[at] for at in cell.footnotes],
        }
        for column, cell in zip(table.columns, row.cells, strict=True)
    ]
    facts = {key: getattr(row, key) for key in ("model", "name", "config", "floor", "leaky", "deterministic")}
    return {**facts, "row": row.label, "cells": cells}


def comparison_content(one: Comparison, table: Table) -> dict[str, Any]:
    column = table.columns[one.column]
    return {
        "dataset": column.dataset,
        "metric": str(column.metric),
        "compared": table.rows[one.compared].label,
        "against": table.rows[one.rival].label,
        "strongest": one.strongest,
        "difference": one.difference,
        "interval_95": one.interval,
        "improved_percent": one.percent,
        "improved_percent_interval_95": one.percent_interval,
        "outcome": _json_outcome(one.outcome),
        "p_adjusted": one.adjusted,
        "beside": None if one.beside is None else _json_outcome(one.beside),
        "effect": one.effect,
        "effect_name": one.effect_name,
        "users_won": one.won,
        "users_lost": one.lost,
    }


def _json_outcome(outcome: Outcome) -> dict[str, Any]:
    kept = ("test", "n", "difference", "direction")
    facts = {key: getattr(outcome, key) for key in kept}
    if isinstance(outcome, Verdict):
        return {**facts, "p": outcome.p, "statistic": outcome.statistic, "df": outcome.df}
    return {**facts, "p": None, "words": outcome.words, "reason": outcome.reason}
