"""Rows of improvements, claims about their range, and underlined numbers, checked against the printed scores.

The improvement of a over the best other b is 100 (a - b)/b. As a and b lie within half a unit of the printed values,
it lies between a_low/b_high - 1 and a_high/b_low - 1; the interval of the printed percentage, half a unit to both
sides, must overlap that.
"""

from collections.abc import Iterator, Mapping, Sequence

from mmbench.audit.finding import Finding
from mmbench.audit.number import READINGS, Printed, Reading, Span, decimal_text, overlap
from mmbench.audit.sources import PaperClaims, Range, Row, TableClaims
from mmbench.evaluation.metrics import Metric

CUT = "it follows if digits were cut off instead of rounded"


def improvement(ours: Printed, other: Printed, reading: Reading = "rounded") -> Span | None:
    """Return the smallest and largest 100 (a - b)/b in percent; None if b may have been 0."""
    (a_low, a_high), (b_low, b_high) = ours.span(reading), other.span(reading)
    return None if b_low <= 0 else (100 * (a_low / b_high - 1), 100 * (a_high / b_low - 1))


def column(rows: Sequence[Row], dataset: str, metric: Metric) -> dict[str, Printed]:
    """Return the column's scores by method."""
    return {row.method: row.scores[metric] for row in rows if row.dataset == dataset and metric in row.scores}


def best_other(scores: Mapping[str, Printed], ours: str, against: Sequence[str] = ()) -> str | None:
    """Return the method with the largest printed score among the others (or among `against`)."""
    others = [method for method in scores if method != ours and (not against or method in against)]
    return max(others, key=lambda method: scores[method].value, default=None)


def check_improved(
    rows: Sequence[Row], table: str, claims: TableClaims, paper: PaperClaims
) -> Iterator[Finding]:
    """Yield the printed improvements that do not follow from their column."""
    if claims.improved is None:
        return
    ours = claims.improved.ours
    for dataset, printed in claims.improved.percent.items():
        for metric, percent in printed.items():
            scores = column(rows, dataset, metric)
            rival = best_other(scores, ours)
            if ours not in scores or rival is None:
                continue
            rounded, cut = (improvement(scores[ours], scores[rival], reading) for reading in READINGS)
            if rounded is None or overlap(rounded, percent.span()):
                continue
            fits_if_cut = cut is not None and overlap(cut, percent.span("cut"))
            hints = [*([CUT] if fits_if_cut else []), *_right_against(scores, ours, percent)]
            yield Finding(
                check="improved",
                weight="remark" if fits_if_cut else "contradiction",
                dataset=dataset,
                method=ours,
                numbers=(f"{metric} improved {percent} %",),
                rule=f"improved = ({ours} - {rival}) / {rival}, the best other method of the column",
                arithmetic=_division(scores[ours], scores[rival], rounded, percent),
                hints=(*hints, *_other_places(paper, table, percent)),
            )


def _division(a: Printed, b: Printed, span: Span, percent: Printed) -> str:
    exact = 100 * (a.value - b.value) / b.value
    digits = max(percent.digits, 2)
    low, high = (decimal_text(end, digits, sign=True) for end in span)
    return (
        f"({a} - {b}) / {b} = {decimal_text(exact, digits, sign=True)} % (with rounding {low} to {high}), "
        f"printed {percent.text} %"
    )


def _right_against(scores: Mapping[str, Printed], ours: str, percent: Printed) -> list[str]:
    right = []
    for method, score in scores.items():
        span = improvement(scores[ours], score) if method != ours else None
        if span is not None and overlap(span, percent.span()):
            right.append(method)
    return [f"it would be right against {' or '.join(right)}"] if right else []


def _other_places(paper: PaperClaims, table: str, percent: Printed) -> list[str]:
    """Return where other tables print exactly the same percentage."""
    tables = [
        f"{name} under {dataset} {metric}"
        for name, claims in paper.tables.items()
        if name != table and claims.improved is not None
        for dataset, printed in claims.improved.percent.items()
        for metric, value in printed.items()
        if value.text == percent.text
    ]
    return [f"{percent.text} % is also printed in {', '.join(tables)}"] if tables else []


def check_ranges(rows: Sequence[Row], claims: TableClaims) -> Iterator[Finding]:
    """Yield the claims about the smallest and largest improvement that no column supports."""
    for claim in claims.ranges:
        spans = list(_improvements(rows, claim))
        for what, printed in (("smallest", claim.low), ("largest", claim.high)):
            if printed is None or not spans:
                continue
            choose = min if what == "smallest" else max
            end = choose(span[0] for _, span in spans), choose(span[1] for _, span in spans)
            if overlap(end, printed.span()):
                continue
            where, _ = choose(spans, key=lambda item: item[1][0] + item[1][1])
            yield Finding(
                check="range",
                weight="contradiction",
                dataset="",
                method=claim.ours,
                numbers=(f"{what} improvement {printed.text} %",),
                rule=f"{claim.source}: the {what} over all columns",
                arithmetic=f"{where}, with rounding {decimal_text(end[0], 2)} to {decimal_text(end[1], 2)} %, "
                f"printed {printed.text} %",
            )


def _improvements(rows: Sequence[Row], claim: Range) -> Iterator[tuple[str, Span]]:
    """Yield (text, interval) of each column's improvement over the best of the claim's methods."""
    for key in dict.fromkeys((row.dataset, metric) for row in rows for metric in row.scores):
        scores = column(rows, *key)
        rival = best_other(scores, claim.ours, claim.against)
        if claim.ours not in scores or rival is None:
            continue
        span = improvement(scores[claim.ours], scores[rival])
        if span is not None:
            a, b = scores[claim.ours], scores[rival]
            percent = decimal_text(100 * (a.value - b.value) / b.value, 2)
            yield f"{key[0]} {key[1]}: ({a} - {b}) / {b} = {percent} % against {rival}", span


def check_underlined(rows: Sequence[Row], claims: TableClaims) -> Iterator[Finding]:
    """Yield the underlined numbers that are not the second best of their column; equal numbers may share a place."""
    for method, dataset, metric in claims.underlined:
        scores = column(rows, dataset, metric)
        value = scores[method].value
        above = {name: score for name, score in scores.items() if name != method and score.value > value}
        level = [name for name, score in scores.items() if name != method and score.value == value]
        if len(above) == 1 or (not above and level):
            continue
        better = ", ".join(
            f"{name} {score}" for name, score in sorted(above.items(), key=lambda item: -item[1].value)
        )
        yield Finding(
            check="mark",
            weight="contradiction",
            dataset=dataset,
            method=method,
            numbers=(f"{metric} {scores[method]}",),
            rule="underlined as the second best (in the paper's text version)",
            arithmetic=f"place {len(above) + 1} of {len(scores)}: above it {better}"
            if above
            else f"no other of the {len(scores)} is as large: it is the best",
        )
