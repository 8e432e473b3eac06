"""Runs as Python shows them: a sequence of records with a short table in a notebook, and a frame."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from mmbench import paths
from mmbench.choices import SPLITS, SplitName
from mmbench.errors import DataError, counted
from mmbench.evaluation.metrics import DEFAULT_METRICS, Metric, as_metrics, default_metrics, main_metric
from mmbench.reporting.rounding import DASH, number
from mmbench.runs.facts import data_facts
from mmbench.runs.store import RunRecord
from mmbench.settings.config import DELIBERATE

if TYPE_CHECKING:
    import pandas as pd

MOST_SHOWN = 60  # runs of which a line is shown; each costs two files
HEAD = ("data set", "model", "seed", "set", "state")
FACTS = ("dataset", "model", "seed", "status", "reason", "config_id", "n_epochs", "best_epoch", "path")


class Runs(Sequence[RunRecord]):
    """Runs, finished and failed, in the order in which they were asked for or lie in the results folder.

    left_out  a line about each stored run that was asked for and could not be read
    filters   what the runs were chosen by, besides data sets and models, for the caption of a table
    """

    def __init__(
        self, records: Iterable[RunRecord], *, left_out: Sequence[str] = (), filters: Sequence[str] = ()
    ) -> None:
        self._records = tuple(records)
        self.left_out, self.filters = tuple(left_out), tuple(filters)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RunRecord]:
        return iter(self._records)

    @overload
    def __getitem__(self, position: int) -> RunRecord: ...
    @overload
    def __getitem__(self, position: slice) -> "Runs": ...
    def __getitem__(self, position: int | slice) -> "RunRecord | Runs":
        if isinstance(position, slice):
            return Runs(self._records[position], left_out=self.left_out, filters=self.filters)
        return self._records[position]

    @property
    def failed(self) -> "Runs":
        """Return the runs that failed, each with its `reason`."""
        return Runs((record for record in self if record.status == "failed"), filters=self.filters)

    def to_frame(
        self,
        metrics: str | Metric | Iterable[str | Metric] = DEFAULT_METRICS,
        *,
        splits: SplitName | Sequence[SplitName] = SPLITS,
        data_dir: Path | None = None,
    ) -> "pd.DataFrame":
        """Return a row per run: FACTS, the settings that somebody chose, and metrics, "test NDCG@10", unrounded.

        A failed run has no metrics and a model may lack a setting: NaN.

        data_dir  where metrics that read the data set, as Novelty@10 does, find it; by default as in every function

        Raises DataError for stored rankings that are missing or damaged.
        """
        import pandas as pd

        wanted = as_metrics(metrics)
        if wanted == DEFAULT_METRICS and (sizes := self._sizes):
            wanted = default_metrics(min(sizes))
        parts: Sequence[SplitName] = [splits] if isinstance(splits, str) else splits
        keys = sorted({key for record in self for key in _chosen(record)})
        rows = [
            _facts(record)
            | {_column(key): _setting(record, key) for key in keys}
            | {
                f"{split} {name}": value
                for split in parts
                for name, value in _metrics(record, split, wanted, data_dir).items()
            }
            for record in self
        ]
        columns = [*FACTS, *map(_column, keys), *(f"{split} {name}" for split in parts for name in wanted)]
        return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))

    @property
    def _sizes(self) -> set[int]:
        """Return the numbers of items of the catalogues, of those that are known."""
        return {record.n_items for record in self} - {0}

    @property
    def _shown(self) -> Metric:
        """Return the metric of the lines, of all items where no catalogue has ten."""
        return main_metric(max(self._sizes, default=None))

    @property
    def _head(self) -> tuple[str, ...]:
        shown = self._shown
        return (*HEAD, *(f"{split} {shown}" for split in SPLITS))

    def __repr__(self) -> str:
        from tabulate import tabulate

        lines = [tabulate(self._lines(), headers=self._head, tablefmt="plain", disable_numparse=True)]
        return "\n".join([*lines, *self._remarks()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(text)}</th>" for text in self._head)
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in line)}</tr>" for line in self._lines()
        )
        remarks = "".join(f"<p>{escape(text)}</p>" for text in self._remarks())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{remarks}"

    def _lines(self) -> list[tuple[str, ...]]:
        shown = self._shown
        return [
            (
                record.dataset, record.model, str(record.seed), _settings_text(record), _state(record),
                *(_value(record, split, shown) for split in SPLITS),
            )
            for record in self._records[:MOST_SHOWN]
        ]  # fmt: skip

    def _remarks(self) -> list[str]:
        n_more = len(self) - MOST_SHOWN
        omitted = [f"... and {n_more:,} more runs; to_frame() has all"] if n_more > 0 else []
        return omitted + [f"left out: {text}" for text in self.left_out]


def _metrics(
    record: RunRecord, split: SplitName, wanted: Sequence[Metric], data_dir: Path | None
) -> dict[str, float]:
    if record.status == "failed" or not any(metric.reads_data for metric in wanted):
        return record.metrics(split, wanted)
    return record.metrics(split, wanted, data_facts(record, split, data_dir or paths.data_dir()))


def _facts(record: RunRecord) -> dict[str, Any]:
    return {key: str(value) if key == "path" else value for key in FACTS for value in [getattr(record, key)]}


def _chosen(record: RunRecord) -> list[str]:
    """Return the settings that a user, a search or a declared experiment chose."""
    return [key for key, setting in record.settings.items() if setting.origin in DELIBERATE]


def _column(key: str) -> str:
    return f"setting {key}" if key in FACTS else key


def _setting(record: RunRecord, key: str) -> Any:
    return record.settings[key].value if key in record.settings else None


def _settings_text(record: RunRecord) -> str:
    return ", ".join(f"{key}={record.settings[key].value}" for key in sorted(_chosen(record)))


def _state(record: RunRecord) -> str:
    if record.status == "failed":
        return f"failed: {record.reason}"
    return counted(record.n_epochs, "epoch") if record.n_epochs else record.stopped or "finished"


def _value(record: RunRecord, split: SplitName, shown: Metric) -> str:
    """Return the shown metric of a run; what cannot be read must not keep the others from being shown."""
    if not shown.fits(record.n_items):
        return DASH
    try:
        values = record.metrics(split, [shown])
    except DataError:
        return "unreadable"
    return number(values[str(shown)]) if values else DASH
