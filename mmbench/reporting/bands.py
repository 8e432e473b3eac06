"""How far numbers move with a rule that nobody chose: the order of equal times, under which several runs are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbench.atomic import hash_json
from mmbench.choices import MaskRule, SplitName
from mmbench.data.protocol import PreparedName
from mmbench.errors import UsageError
from mmbench.evaluation.metrics import Metric
from mmbench.reporting.gather import measure
from mmbench.reporting.labels import Group, group_runs, names_of
from mmbench.reporting.request import TableRequest
from mmbench.runs.store import RunRecord

_OF_THE_ORDER = ("ties", "data")  # fields of the protocol that another order changes


@dataclass(frozen=True)
class Band:
    """A row's mean over seeds under each order of equal times, by the order's name."""

    row: str
    values: Mapping[str, float]

    @property
    def mean(self) -> float:
        return sum(self.values.values()) / len(self.values)

    @property
    def low(self) -> float:
        return min(self.values.values())

    @property
    def high(self) -> float:
        return max(self.values.values())


@dataclass(frozen=True)
class BandTable:
    """The bands of a data set's rows, the strongest first; `orders` are those of some row."""

    dataset: str
    metric: Metric
    orders: tuple[str, ...]
    bands: tuple[Band, ...]

    def best(self, order: str) -> str:
        """Return the row with the largest value under an order."""
        return max(
            (band for band in self.bands if order in band.values), key=lambda band: band.values[order]
        ).row


def tie_bands(
    records: Sequence[RunRecord],
    *,
    metric: Metric,
    split: SplitName = "test",
    mask_seen: MaskRule | None = None,
    data_dir: Path | None = None,
) -> list[BandTable]:
    """Return the bands over orders of equal times, a table for each data set and protocol that differ in nothing else.

    Raises UsageError where no row was run under two orders.
    """
    request = TableRequest(metrics=(metric,), split=split, mask_seen=mask_seen, data_dir=data_dir)
    groups, _ = group_runs([record for record in records if record.status == "finished"])
    tables: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for group, name in zip(groups, names_of(groups), strict=True):
        measured = measure(group, request)[0]
        if measured is not None:
            values = tables.setdefault(_without_order(group), {}).setdefault(name, {})
            values[str(group.records[0].protocol.get("ties", ""))] = float(measured.values.mean())
    tables_ = [_table(name, metric, rows) for (name, _), rows in tables.items()]
    several = [table for table in tables_ if any(len(band.values) > 1 for band in table.bands)]
    if not several:
        raise UsageError(
            "--band ties: no row was run under two orders of equal times; "
            "run for example: mmbench run sasrec --tie-orders file,random:1,random:2"
        )
    return several


def _without_order(group: Group) -> tuple[str, str]:
    """Return the data set's name without its order, and a hash of what else must be equal."""
    parsed = PreparedName.parse(group.dataset)
    name = parsed.dataset if parsed.protocol is None else f"{parsed.dataset}@{parsed.protocol}"
    protocol = {key: value for key, value in group.records[0].protocol.items() if key not in _OF_THE_ORDER}
    return name, hash_json(protocol)


def _table(dataset: str, metric: Metric, rows: Mapping[str, Mapping[str, float]]) -> BandTable:
    bands = sorted((Band(name, values) for name, values in rows.items()), key=lambda band: -band.mean)
    orders = sorted({order for band in bands for order in band.values})
    return BandTable(dataset, metric, tuple(orders), tuple(bands))
