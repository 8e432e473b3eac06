"""The table as an HTML page that loads nothing: light and dark, readable on paper; and as a part of another page."""

from importlib.resources import files
from itertools import groupby
from typing import Any

from mmbench.reporting import rounding
from mmbench.reporting.table import Row, Table
from mmbench.visible import visible_if_text

_PLACES = {0: "", 1: "best", 2: "second"}


def html(table: Table) -> str:
    """Return the whole page."""
    return _rendered("table.html.j2", table)


def fragment(table: Table) -> str:
    """Return the table for a page of somebody else's, a notebook: its rules touch nothing outside it."""
    return _rendered("table_fragment.html.j2", table)


def _rendered(template: str, table: Table) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("mmbench.reporting")
    loader = FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    page = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=visible_if_text
    ).get_template(template)
    synthetic = {dataset.name: dataset.synthetic for dataset in table.datasets}
    datasets = [
        {"name": name, "span": len(list(group)), "synthetic": synthetic[name]}
        for name, group in groupby(column.dataset for column in table.columns)
    ]
    parts = [
        {"name": "floors" if floor else "models", "rows": [_row(row, table) for row in rows]}
        for floor, rows in groupby(table.shown_rows, key=lambda row: row.floor)
    ]
    names = ", ".join(info.name for info in table.datasets)
    return page.render(
        title=f"{'Test' if table.split == 'test' else 'Validation'} results on {names}",
        datasets=datasets,
        metrics=[str(column.metric) for column in table.columns],
        parts=parts,
        tests=rounding.summary(table),
        footnotes=[(rounding.footnote_mark(index), text) for index, text in enumerate(table.footnotes)],
        warnings=table.warnings,
        caption=table.caption,
        left_out=table.left_out,
    )


def _row(row: Row, table: Table) -> dict[str, Any]:
    cells = [
        {
            "mean": rounding.mean_text(cell),
            "std": rounding.std_text(cell),
            "place": _PLACES[cell.place],
            "star": cell.star,
            "marks": [rounding.footnote_mark(index) for index in cell.footnotes],
        }
        for cell in row.cells
    ]
    return {"label": row.label, "runs": rounding.runs_text(row, table), "cells": cells}
