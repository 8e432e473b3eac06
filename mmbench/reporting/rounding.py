"""The only place where a report's numbers are rounded to text; shared by all renderers that people read."""

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
    """One line of the block under the rows: what it is, and a text per column."""

    label: str
    texts: tuple[str, ...]


def number(value: float, *, sign: bool = False) -> str:
    """`.0415`: four digits, no leading zero; `+.0031` with `sign`."""
    text = f"{value:+.{DIGITS}f}" if sign else f"{value:.{DIGITS}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and text.lstrip("+-").startswith("0.") else text


def statistic(name: str, value: float) -> str:
    """A statistic of a data set: whole counts, sparsity in percent, averages with two decimals."""
    if name in COUNTS:
        return f"{value:,.0f}"
    return f"{100 * value:.2f}%" if name == "sparsity" else f"{value:.2f}"


def p_value(p: float) -> str:
    """Four digits; below .0001 only that bound."""
    return "< .0001" if p < 0.0001 else number(p)


def mean_text(cell: Cell) -> str:
    return DASH if cell.mean is None else number(cell.mean)


def std_text(cell: Cell) -> str:
    """` ± .0012`, or nothing for one run."""
    return "" if cell.std is None else f" ± {number(cell.std)}"


def footnote_mark(position: int) -> str:
    """a, b, c, ... for the first 25 footnotes, then numbers (q has no superscript)."""
    letters = list(_SUPERSCRIPTS)
    return letters[position] if position < len(letters) else f"({position + 1})"


def superscript(mark: str) -> str:
    return _SUPERSCRIPTS.get(mark, mark)


def runs_text(row: Row, table: Table) -> str:
    """Number of runs of a row; one number per data set when they differ; a dash when none finished."""
    per_dataset = {column.dataset: cell.n for column, cell in zip(table.columns, row.cells, strict=True)}
    counts = list(per_dataset.values())
    texts = [str(n) if n else DASH for n in (counts if len(set(counts)) > 1 else counts[:1])]
    return "/".join(texts)


def summary(table: Table) -> list[Line]:
    """The lines that compare: who against whom, by how much, and how sure one may be."""
    shown = table.headlines()
    if not any(shown):
        return []
    rows = table.rows

    def line(label: str, text: Callable[[Comparison], str]) -> Line:
        return Line(label, tuple(DASH if one is None else text(one) for one in shown))

    names = {"t": "t", "wilcoxon": "Wilcoxon", "sign-flip": "sign-flip", "users": "users"}
    lines = [
        line("Compared", lambda one: rows[one.compared].label),
        line("Against", lambda one: rows[one.rival].label),
        line("Improved", _percent),
        line("Difference", lambda one: number(one.difference, sign=True)),
    ]
    if any(one is not None and one.interval for one in shown):
        lines.append(line("95 % CI", _interval))
    lines.append(line(f"p ({names[table.test]})", lambda one: _outcome(one.outcome)))
    if table.correction != "none" and table.family:
        label = f"p ({names[table.test]}, {_NAMES[table.correction]} of {table.family})"
        lines.append(line(label, lambda one: DASH if one.adjusted is None else p_value(one.adjusted)))
    if table.test == "t":
        beside = "p (sign-flip)"
        lines.append(line(beside, lambda one: DASH if one.beside is None else _outcome(one.beside)))
    if any(one is not None and one.effect is not None for one in shown):
        name = next(one.effect_name for one in shown if one is not None and one.effect is not None)
        lines.append(line(f"{name} ({table.unit}s)", _effect))
    if any(one is not None and one.won is not None for one in shown):
        lines.append(line("Users won/lost", lambda one: DASH if one.won is None else f"{one.won}/{one.lost}"))
    return lines


def _percent(one: Comparison) -> str:
    return DASH if one.percent is None else f"{one.percent:+.2f} %"


def _interval(one: Comparison) -> str:
    if one.interval is None:
        return DASH
    low, high = one.interval
    return f"[{number(low)}, {number(high)}]"


def _outcome(outcome: Outcome) -> str:
    """p, with a word when the compared row is the worse one; words where there is no p."""
    if isinstance(outcome, NoVerdict):
        return outcome.words
    return p_value(outcome.p) + (" worse" if outcome.direction == "worse" else "")


def _effect(one: Comparison) -> str:
    return DASH if one.effect is None else f"{one.effect:+.2f}"
