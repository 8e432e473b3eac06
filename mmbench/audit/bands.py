"""Find printed metric values that contradict each other within a row.

A user whose target has rank r <= K adds q(r) to a metric: HR 1, NDCG 1/log2(r+1), MRR 1/r. So for two quantities f
and g of a row, c = min over r of f(r)/g(r) is the best constant with f >= c g. For example

    NDCG@10 - NDCG@5 >= 6/log2(7) (MRR@10 - MRR@5) = 2.137 (MRR@10 - MRR@5)       the users at ranks 6..10

The linear program of `ranks` decides whether a row is possible. If an inequality between two quantities fails, it says
why the row is not; otherwise the proof of the linear program is shown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np

from mmbench.audit.finding import Finding
from mmbench.audit.number import Printed, decimal_text
from mmbench.audit.ranks import TOLERANCE, Box, Certificate, conflict, gains, reach
from mmbench.audit.sources import Row
from mmbench.evaluation.metrics import Metric

Scores = Mapping[Metric, Printed]


@dataclass(frozen=True)
class Quantity:
    """A metric, or its gain between two cutoffs: NDCG@10 - NDCG@5."""

    metric: Metric
    minus: Metric | None = None

    @property
    def metrics(self) -> frozenset[Metric]:
        return frozenset({self.metric} if self.minus is None else {self.metric, self.minus})

    def gains(self, n_ranks: int) -> np.ndarray:
        values = gains(self.metric, n_ranks)
        return values if self.minus is None else values - gains(self.minus, n_ranks)

    def value(self, scores: Scores) -> Fraction:
        return scores[self.metric].value - (0 if self.minus is None else scores[self.minus].value)

    def span(self, scores: Scores) -> tuple[Fraction, Fraction]:
        low, high = scores[self.metric].span()
        if self.minus is None:
            return low, high
        subtracted = scores[self.minus].span()
        return low - subtracted[1], high - subtracted[0]

    def terms(self, scores: Scores) -> str:
        """Return `.0411 - .0348 = .0063`."""
        if self.minus is None:
            return str(scores[self.metric])
        return f"{scores[self.metric]} - {scores[self.minus]} = {decimal_text(self.value(scores), 4)}"

    def __str__(self) -> str:
        return str(self.metric) if self.minus is None else f"({self.metric} - {self.minus})"


@dataclass(frozen=True)
class Rule:
    """large >= factor x small for any users; the ratio is smallest at `rank`. `factor` is rounded down."""

    large: Quantity
    small: Quantity
    factor: float
    rank: int

    def shortfall(self, scores: Scores) -> float:
        """Return by how much the printed numbers miss the rule, however they were rounded; <= 0 if they may meet it."""
        return self.factor * float(self.small.span(scores)[0]) - float(self.large.span(scores)[1])


def rules(metrics: Sequence[Metric]) -> list[Rule]:
    """Return every f >= c g with c > 0 between two of the metrics, or between their gains from cutoff to cutoff."""
    plain = [Quantity(metric) for metric in metrics]
    steps = [
        Quantity(wide, narrow)
        for wide in metrics
        for narrow in metrics
        if wide.name == narrow.name and (wide.k or 0) > (narrow.k or 0)
    ]
    pairs = [(f, g) for f in plain for g in plain if f != g]
    pairs += [(f, g) for f in steps for g in steps if f != g and _cutoffs(f) == _cutoffs(g)]
    return [rule for f, g in pairs if (rule := _rule(f, g)) is not None]


def _cutoffs(step: Quantity) -> tuple[int | None, int | None]:
    return step.metric.k, step.minus.k if step.minus else None


def _rule(f: Quantity, g: Quantity) -> Rule | None:
    n_ranks = max(f.metric.k or 0, g.metric.k or 0)
    large, small = f.gains(n_ranks), g.gains(n_ranks)
    ranks = np.flatnonzero(small > 0)
    ratios = large[ranks] / small[ranks]
    smallest = int(ratios.argmin())
    factor = math.floor(float(ratios[smallest]) * 10_000 + 1e-6) / 10_000
    return Rule(f, g, factor, int(ranks[smallest]) + 1) if factor > 0 else None


def check_row(row: Row) -> list[Finding]:
    """Return a finding for each smallest set of numbers of the row that contradict each other."""
    scores = {metric: score for metric, score in row.scores.items() if metric.k is not None}
    if len(scores) == 0 or conflict(Box.of(scores)) is None:
        return []
    return [_finding(row, scores, proof) for proof in _irreducible(Box.of(scores))]


def _irreducible(box: Box) -> list[Certificate]:
    """Return the proofs of all sets in conflict of which no proper subset is in conflict."""
    proofs: dict[tuple[int, ...], Certificate] = {}
    for size in range(1, len(box.metrics) + 1):
        for chosen in combinations(range(len(box.metrics)), size):
            if any(set(smaller) <= set(chosen) for smaller in proofs):
                continue
            proof = conflict(box.only(chosen))
            if proof is not None:
                proofs[chosen] = proof
    return list(proofs.values())


def _finding(row: Row, scores: Scores, proof: Certificate) -> Finding:
    chosen = proof.metrics
    involved = {metric: scores[metric] for metric in chosen}
    failing = [rule for rule in rules(chosen) if rule.shortfall(involved) > TOLERANCE]
    whole = [rule for rule in failing if rule.large.metrics | rule.small.metrics == set(chosen)]
    if whole:
        rule, arithmetic = _describe_rule(max(whole, key=lambda rule: rule.shortfall(involved)), involved)
    else:
        rule, arithmetic = _describe_proof(proof, involved)
    fits_if_cut = conflict(Box.of(involved, "cut")) is None
    hints = [_repairs(scores, chosen)]
    if fits_if_cut:
        hints.append("they are possible if the digits were cut off instead of rounded")
    return Finding(
        check="band",
        weight="remark" if fits_if_cut else "impossible",
        dataset=row.dataset,
        method=row.method,
        numbers=tuple(f"{metric} {score}" for metric, score in involved.items()),
        rule=rule,
        arithmetic=arithmetic,
        hints=tuple(hints),
    )


def _describe_rule(rule: Rule, scores: Scores) -> tuple[str, str]:
    f, g = rule.large, rule.small
    index = rule.rank - 1
    large, small = (float(quantity.gains(rule.rank)[index]) for quantity in (f, g))
    times = "" if rule.factor == 1 else f"{rule.factor:.4f} x "
    left_gain, right_gain = decimal_text(large, 4), decimal_text(small, 4)
    why = f"a user at rank {rule.rank} adds {left_gain} to the left and {right_gain} to the right"
    words = f"{f} >= {times}{g}: {why}, and no rank has a smaller ratio"
    most, least = f.span(scores)[1], g.span(scores)[0]
    left = f"{f.terms(scores)}, before rounding at most {decimal_text(most, 5)}"
    right = f"{g.terms(scores)}, at least {decimal_text(least, 5)}"
    needed = rule.factor * float(least)
    product = (
        ""
        if rule.factor == 1
        else f", so {times}{decimal_text(least, 5)} = {decimal_text(needed, 5)} are needed"
    )
    return words, f"{left}; {right}{product}; {decimal_text(rule.shortfall(scores), 5)} too little"


def _describe_proof(proof: Certificate, scores: Scores) -> tuple[str, str]:
    parts = [(weight, metric) for weight, metric in zip(proof.weights, proof.metrics, strict=True) if weight]
    left = _sum([(weight, str(metric)) for weight, metric in parts])
    adds = " ".join(decimal_text(value, 3) for value in proof.per_rank)
    words = f"{left} <= {decimal_text(proof.bound, 4)}: users at ranks 1..{len(proof.per_rank)} add {adds} to the left"
    ends = [(weight, scores[metric].span()[0 if weight > 0 else 1]) for weight, metric in parts]
    terms = _sum([(weight, decimal_text(end, 5)) for weight, end in ends])
    over = decimal_text(proof.least - proof.bound, 5)
    return words, f"before rounding at least {terms} = {decimal_text(proof.least, 5)}; {over} too much"


def _sum(parts: Sequence[tuple[float, str]]) -> str:
    text = " ".join(
        f"{'-' if weight < 0 else '+'} {'' if abs(weight) == 1 else f'{abs(weight):g} x '}{what}"
        for weight, what in parts
    )
    return text.removeprefix("+ ")


def _repairs(scores: Scores, chosen: tuple[Metric, ...]) -> str:
    """Return what each number of the set would have to be if only that number were wrong."""
    ranges = []
    for metric in chosen:
        others = {other: value for other, value in scores.items() if other != metric}
        ends = reach(metric, Box.of(others)) if others else None
        if ends is None:
            continue
        unit = float(scores[metric].unit)
        low = max(0, math.ceil((ends[0] - unit / 2) / unit - 1e-6))
        high = min(round(1 / unit), math.floor((ends[1] + unit / 2) / unit + 1e-6))
        digits = scores[metric].digits
        ranges.append(f"{metric} {decimal_text(low * unit, digits)} to {decimal_text(high * unit, digits)}")
    return (
        f"if a single number is wrong: {', or '.join(ranges)}" if ranges else "no single number explains it"
    )
