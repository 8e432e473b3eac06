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
        found = self.values[dataset, name]
        return rounding.statistic(name, found.computed) if isinstance(found, Compared) else NOT_PREPARED

    def printed(self, dataset: str, name: str) -> str:
        """The printed value, with "=" where the computed one rounds to it."""
        found = self.values[dataset, name]
        value = found.printed if isinstance(found, Compared) else found
        if value is None:
            return rounding.DASH
        text = rounding.statistic(name, value)
        if not isinstance(found, Compared):
            return text
        return f"{text} =" if found.remark == "as printed" else f"{text} *"

    @property
    def remarks(self) -> list[str]:
        """One line per printed value that is not the computed one, and per data set that is not there."""
        shown = self.experiment.shown
        lines = [
            f"{shown(target.name)}, {column.label}: {found.remark}"
            for target in self.targets
            for column in self.content.statistics
            if isinstance(found := self.values[target.name, column.name], Compared)
            and found.remark not in ("", "as printed")
        ]
        missing = [one.name for one in self.targets if one.prepared is None]
        return lines + [f"{shown(one)} is not prepared; run: mmbench prepare {one}" for one in missing]


def counted(
    experiment: Experiment, targets: Sequence[Target], slips: Mapping[str, Sequence[Slip]]
) -> Counted:
    """Statistics beside printed ones; `slips` are the catalogue's known misprints by data set."""
    content = experiment.content
    assert isinstance(content, Statistics)
    values: dict[tuple[str, str], Compared | float | None] = {}
    for target in targets:
        printed = dict(content.printed.get(target.printed_as, {}))
        if target.prepared is None:
            values.update({(target.name, one.name): printed.get(one.name) for one in content.statistics})
            continue
        protocol = target.prepared.protocol.name
        found = compare(
            target.prepared.manifest.statistics,
            printed,
            slips.get(target.printed_as, []),
            protocol=protocol,
            default_protocol=protocol,
        )
        values.update({(target.name, one.statistic): one for one in found})
    return Counted(experiment, content, tuple(targets), values)


def _body(one: Counted) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(column heads, (label, texts)) in the paper's orientation; printed values on the line below each."""
    names = [target.name for target in one.targets]
    columns = one.content.statistics
    rows: list[tuple[str, list[str]]] = []
    if one.content.rows_are == "statistics":
        for column in columns:
            rows.append((column.label, [one.computed(name, column.name) for name in names]))
            rows.append((PRINTED, [one.printed(name, column.name) for name in names]))
        return [one.experiment.shown(name) for name in names], rows
    for name in names:
        rows.append((one.experiment.shown(name), [one.computed(name, column.name) for column in columns]))
        rows.append((PRINTED, [one.printed(name, column.name) for column in columns]))
    return [column.label for column in columns], rows


def _legend(one: Counted) -> str:
    return f"{one.content.source}. = computed and printed agree to the digits printed; * see below."


def print_terminal(one: Counted, console: "Console") -> None:
    from rich.text import Text

    emit = terminal.emitter(console)
    heads, rows = _body(one)
    lines = tuple(
        Line(label, "", tuple(Text(text, "dim" if label == PRINTED else "") for text in texts))
        for label, texts in rows
    )
    emit(Text(f"{one.experiment.name}: {one.content.title}", "bold"))
    grid = Lines(tuple((one.content.source, head) for head in heads), lines, first="", runs="")
    for line in draw(grid, console.width if console.is_terminal else None):
        emit(line)
    for text in ["", _legend(one), *one.remarks]:
        emit(text)


def to_text(one: Counted, fmt: str) -> str:
    """The table as text without colour codes."""
    if fmt == "terminal":
        return terminal.plain_text(lambda console: print_terminal(one, console))
    return {"markdown": _markdown, "csv": _long_csv, "json": _full_json}[fmt](one)


def _markdown(one: Counted) -> str:
    heads, rows = _body(one)
    lines = [[escape(label.strip()), *map(escape, texts)] for label, texts in rows]
    said = "\n".join(f"- {escape(text)}" for text in [_legend(one), *one.remarks])
    title = f"**{one.experiment.name}: {escape(one.content.title)}**"
    return f"{title}\n\n{pipes(['', *map(escape, heads)], lines)}\n\n{said}\n"


def _facts(one: Counted) -> list[dict[str, Any]]:
    found = []
    for target in one.targets:
        for column in one.content.statistics:
            value = one.values[target.name, column.name]
            is_counted = isinstance(value, Compared)
            found.append(
                {
                    "experiment": one.experiment.name,
                    "dataset": target.name,
                    "statistic": column.name,
                    "computed": value.computed if isinstance(value, Compared) else None,
                    "printed": value.printed if isinstance(value, Compared) else value,
                    "remark": value.remark if is_counted and isinstance(value, Compared) else NOT_PREPARED,
                }
            )
    return found


def _long_csv(one: Counted) -> str:
    return csv_text(CSV_FIELDS, [[fact[name] for name in CSV_FIELDS] for fact in _facts(one)])


def _full_json(one: Counted) -> str:
    content = {"experiment": one.experiment.name, "source": one.content.source, "values": _facts(one)}
    return json_text(content)
