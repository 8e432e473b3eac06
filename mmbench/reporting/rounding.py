"""Rounds a report's numbers to text, for all renderers that people read. Nothing is rounded elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass

from mmbench.data.statistics import COUNTS
from mmbench.evaluation.significance import NoVerdict, Outcome
from mmbench.reporting.table import Cell, Comparison, Row, Table

DIGITS = 4
DASH = "–"
_NAMES = {"holm": "Holm", "bh": "BH"}
_SUPERSCRIPTS = dict(zip("abcdefghijklmnoprstuvwxyz", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ", strict=True))


@dataclass(frozen=True)
class Line:
    """A line of the block below the rows: a label, and a text per column."""

    label: str
    texts: tuple[str, ...]


def number(value: float, *, sign: bool = False) -> str:
    """Return `.0415`: four digits, no leading zero; `+.0031` with `sign`."""
    text = f"{value:+.{DIGITS}f}" if sign else f"{value:.{DIGITS}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and text.lstrip("+-").startswith("0.") else text


def statistic(name: str, value: float) -> str:
    """Return a statistic of a data set: whole counts, sparsity in percent, averages with two decimals."""
    if name in COUNTS:
        return f"{value:,.0f}"
    return f"{100 * value:.2f}%" if name == "sparsity" else f"{value:.2f}"


def p_value(p: float) -> str:
    """Return four digits, or `< .0001`."""
    return "< .0001" if p < 0.0001 else number(p)


def mean_text(cell: Cell) -> str:
    return DASH if cell.mean is None else number(cell.mean)


def std_text(cell: Cell) -> str:
    """Return ` ± .0012`, or "" for a single run."""
    return "" if cell.std is None else f" ± {number(cell.std)}"


def footnote_mark(position: int) -> str:
    """Return a, b, c, ... for the first 25 footnotes, then numbers (q has no superscript)."""
    letters = list(_SUPERSCRIPTS)
    return letters[position] if position < len(letters) else f"({position + 1})"


def superscript(mark: str) -> str:
    return _SUPERSCRIPTS.get(mark, mark)


def runs_text(row: Row, table: Table) -> str:
    """Return the number of runs of a row: of each data set if they differ, a dash if none finished."""
    per_dataset = {column.dataset: cell.n for column, cell in zip(table.columns, row.cells, strict=True)}
    counts = list(per_dataset.values())
    texts = [str(n) if n else DASH for n in (counts if len(set(counts)) > 1 else counts[:1])]
    return "/".join(texts)


def summary(table: Table) -> list[Line]:
    """Return the lines that compare: which row against which, by how much, and how certain it is."""
    shown = table.headlines()
    if not any(shown) or table.lines == "none":
        return []
    rows = table.rows

    def line(label: str, text: Callable[[Comparison], str]) -> Line:
        return Line(label, tuple(DASH if comparison is None else text(comparison) for comparison in shown))

    if table.lines == "improved":
        return [line(improved_label(table), _percent)]
    names = {"t": "t", "wilcoxon": "Wilcoxon", "sign-flip": "sign-flip", "users": "users"}
    lines = [
        line("Compared", lambda c: rows[c.compared].label),
        line("Against", lambda c: rows[c.rival].label),
        line(improved_label(table), _percent),
        line("Difference", lambda c: number(c.difference, sign=True)),
    ]
    if any(c is not None and c.interval for c in shown):
        lines.append(line("95 % CI", _interval))
    lines.append(line(f"p ({names[table.test]})", lambda c: _outcome(c.outcome, c.difference)))
    if table.correction != "none" and table.family:
        label = f"p ({names[table.test]}, {_NAMES[table.correction]} of {table.family})"
        lines.append(line(label, lambda c: DASH if c.adjusted is None else p_value(c.adjusted)))
    if table.test == "t":
        beside = "p (sign-flip)"
        lines.append(line(beside, lambda c: DASH if c.beside is None else _outcome(c.beside, c.difference)))
    if any(c is not None and c.effect is not None for c in shown):
        name = next(c.effect_name for c in shown if c is not None and c.effect is not None)
        lines.append(line(f"{name} ({table.unit}s)", _effect))
    if any(c is not None and c.won is not None for c in shown):
        lines.append(line("Users won/lost", lambda c: DASH if c.won is None else f"{c.won}/{c.lost}"))
    return lines


def improved_label(table: Table) -> str:
    """Return "Improved", or "Change" where the compared row is below the strongest other."""
    is_lower = any(c is not None and c.difference < 0 for c in table.headlines())
    return "Change" if table.compare and is_lower else "Improved"


def _percent(comparison: Comparison) -> str:
    return DASH if comparison.percent is None else f"{comparison.percent:+.2f} %"


def _interval(comparison: Comparison) -> str:
    if comparison.interval is None:
        return DASH
    low, high = comparison.interval
    return f"[{number(low)}, {number(high)}]"


def _outcome(outcome: Outcome, difference: float) -> str:
    """Return p, followed by "worse" if the compared row is worse in the test; words if there is no p.

    A row that is worse by the means of all runs, the `difference`, and better by its pairs has "better" there.
    """
    if isinstance(outcome, NoVerdict):
        return outcome.words
    is_said = outcome.direction == "worse" or difference < 0
    return f"{p_value(outcome.p)} {outcome.direction}" if is_said else p_value(outcome.p)


def _effect(comparison: Comparison) -> str:
    return DASH if comparison.effect is None else f"{comparison.effect:+.2f}"
