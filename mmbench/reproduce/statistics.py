"""A paper's table of data set statistics beside those of the prepared data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmbench.data.spec import Slip
from mmbench.data.statistics import Compared, compare
from mmbench.reporting import rounding, terminal
from mmbench.reporting.grid import Line, Lines, draw
from mmbench.reporting.plain import csv_text, escape, json_text, pipes
from mmbench.reproduce.plan import NOT_PREPARED, Target
from mmbench.reproduce.spec import Experiment, Statistics

if TYPE_CHECKING:
    from rich.console import Console

PRINTED = "  printed"
CSV_FIELDS = ("experiment", "dataset", "statistic", "computed", "printed", "remark")


@dataclass(frozen=True)
class Counted:
    """The table: for each data set and statistic the computed and the printed value."""

    experiment: Experiment
    content: Statistics
    targets: tuple[Target, ...]
    values: Mapping[tuple[str, str], Compared | float | None]  # not prepared: the printed value alone

    def computed(self, dataset: str, name: str) -> str:
        facts = self.values[dataset, name]
        return rounding.statistic(name, facts.computed) if isinstance(facts, Compared) else NOT_PREPARED

    def printed(self, dataset: str, name: str) -> str:
        """Return the printed value, with "=" where the computed value rounds to it."""
        facts = self.values[dataset, name]
        value = facts.printed if isinstance(facts, Compared) else facts
        if value is None:
            return rounding.DASH
        text = rounding.statistic(name, value)
        if not isinstance(facts, Compared):
            return text
        return f"{text} =" if facts.remark == "as printed" else f"{text} *"

    @property
    def remarks(self) -> list[str]:
        """Return a line per printed value that differs from the computed, and per data set that is not prepared."""
        shown = self.experiment.shown
        lines = [
            f"{shown(target.name)}, {column.label}: {facts.remark}"
            for target in self.targets
            for column in self.content.statistics
            if isinstance(facts := self.values[target.name, column.name], Compared)
            and facts.remark not in ("", "as printed")
        ]
        missing = [counts.name for counts in self.targets if counts.prepared is None]
        return lines + [
            f"{shown(counts)} is not prepared; run: mmbench prepare {counts}" for counts in missing
        ]


def counted(
    experiment: Experiment, targets: Sequence[Target], slips: Mapping[str, Sequence[Slip]]
) -> Counted:
    """Count statistics beside the printed values; `slips` are the catalogue's known misprints by data set."""
    content = experiment.content
    assert isinstance(content, Statistics)
    values: dict[tuple[str, str], Compared | float | None] = {}
    for target in targets:
        printed = dict(content.printed.get(target.printed_as, {}))
        if target.prepared is None:
            values.update(
                {(target.name, counts.name): printed.get(counts.name) for counts in content.statistics}
            )
            continue
        protocol = target.prepared.protocol.name
        facts = compare(
            target.prepared.manifest.statistics,
            printed,
            slips.get(target.printed_as, []),
            protocol=protocol,
            default_protocol=protocol,
        )
        values.update({(target.name, counts.statistic): counts for counts in facts})
    return Counted(experiment, content, tuple(targets), values)


def _body(counts: Counted) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return (column heads, (label, texts)) in the paper's orientation; printed values on the line below each."""
    names = [target.name for target in counts.targets]
    columns = counts.content.statistics
    rows: list[tuple[str, list[str]]] = []
    if counts.content.rows_are == "statistics":
        for column in columns:
            rows.append((column.label, [counts.computed(name, column.name) for name in names]))
            rows.append((PRINTED, [counts.printed(name, column.name) for name in names]))
        return [counts.experiment.shown(name) for name in names], rows
    for name in names:
        rows.append(
            (counts.experiment.shown(name), [counts.computed(name, column.name) for column in columns])
        )
        rows.append((PRINTED, [counts.printed(name, column.name) for column in columns]))
    return [column.label for column in columns], rows


def _legend(counts: Counted) -> str:
    return f"{counts.content.source}. = computed and printed agree to the digits printed; * see below."


def print_terminal(counts: Counted, console: "Console") -> None:
    from rich.text import Text

    emit = terminal.emitter(console)
    heads, rows = _body(counts)
    lines = tuple(
        Line(label, "", tuple(Text(text, "dim" if label == PRINTED else "") for text in texts))
        for label, texts in rows
    )
    emit(Text(f"{counts.experiment.name}: {counts.content.title}", "bold"))
    grid = Lines(tuple((counts.content.source, head) for head in heads), lines, first="", runs="")
    for line in draw(grid, console.width if console.is_terminal else None):
        emit(line)
    for text in ["", _legend(counts), *counts.remarks]:
        emit(text)


def to_text(counts: Counted, fmt: str) -> str:
    """Return the table as text without colour codes."""
    if fmt == "terminal":
        return terminal.plain_text(lambda console: print_terminal(counts, console))
    return {"markdown": _markdown, "csv": _long_csv, "json": _full_json}[fmt](counts)


def _markdown(counts: Counted) -> str:
    heads, rows = _body(counts)
    lines = [[escape(label.strip()), *map(escape, texts)] for label, texts in rows]
    remarks = "\n".join(f"- {escape(text)}" for text in [_legend(counts), *counts.remarks])
    title = f"**{counts.experiment.name}: {escape(counts.content.title)}**"
    return f"{title}\n\n{pipes(['', *map(escape, heads)], lines)}\n\n{remarks}\n"


def _facts(counts: Counted) -> list[dict[str, Any]]:
    facts = []
    for target in counts.targets:
        for column in counts.content.statistics:
            value = counts.values[target.name, column.name]
            is_counted = isinstance(value, Compared)
            facts.append(
                {
                    "experiment": counts.experiment.name,
                    "dataset": target.name,
                    "statistic": column.name,
                    "computed": value.computed if isinstance(value, Compared) else None,
                    "printed": value.printed if isinstance(value, Compared) else value,
                    "remark": value.remark if is_counted and isinstance(value, Compared) else NOT_PREPARED,
                }
            )
    return facts


def _long_csv(counts: Counted) -> str:
    return csv_text(CSV_FIELDS, [[fact[name] for name in CSV_FIELDS] for fact in _facts(counts)])


def _full_json(counts: Counted) -> str:
    content = {
        "experiment": counts.experiment.name,
        "source": counts.content.source,
        "values": _facts(counts),
    }
    return json_text(content)
