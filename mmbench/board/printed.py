"""Numbers that papers print for a data set, with what the audit says about each row."""

from dataclasses import dataclass
from functools import cache

from mmbench.audit import MEANINGS, WEIGHTS, Audit, audit, library
from mmbench.board.entries import METRICS


@dataclass(frozen=True)
class PrintedRow:
    """A method's printed numbers, in the order of METRICS, "" where none is printed.

    weight  the weightiest finding of the audit: "impossible", "contradiction", "remark"; "" for none
    """

    source: str
    method: str
    values: tuple[str, ...]
    weight: str
    verdict: str


def printed_rows(dataset: str) -> list[PrintedRow]:
    """Return what the papers that mmbench knows print for a data set; the protocol is the paper's."""
    base = dataset.partition("@")[0]
    rows = []
    for row in library().rows:
        if row.dataset != base or not any(metric in row.scores for metric in METRICS):
            continue
        report = _audited(f"{row.paper}/{row.table}")
        findings = [
            finding
            for finding in report.findings
            if (finding.dataset, finding.method) == (base, row.method) and finding.check != "count"
        ]
        weight = min((finding.weight for finding in findings), key=WEIGHTS.index, default=None)
        values = tuple(str(row.scores[metric]) if metric in row.scores else "" for metric in METRICS)
        verdict = "nothing found" if weight is None else f"{weight}: {MEANINGS[weight]}"
        rows.append(PrintedRow(f"{row.paper}/{row.table}", row.method, values, weight or "", verdict))
    return rows


@cache
def _audited(name: str) -> Audit:
    return audit(name)
