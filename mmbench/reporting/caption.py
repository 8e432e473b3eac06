"""The words under a table: what the numbers are, what the test asks, and what to be wary of."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from mmbench.evaluation.metrics import Metric, Ties
from mmbench.evaluation.significance import NoVerdict, Verdict, smallest_sign_p
from mmbench.reporting.gather import Measured
from mmbench.reporting.labels import Group
from mmbench.reporting.table import ALPHA, Comparison, Correction, DatasetInfo, Row, TestName
from mmbench.runs.store import RunRecord, SplitName

_TIES: dict[Ties, str] = {
    "expected": "tied scores count by their expectation over random tie breaking",
    "optimistic": "tied scores rank the target first (optimistic: constant scores would be perfect)",
    "pessimistic": "tied scores rank the target last (pessimistic)",
}
_MASK = {
    "none": "no seen item is masked",
    "train": "training items are masked",
    "input": "input items are masked",
}
_ASKS = {
    "run": "It asks whether retraining with other seeds would keep the order, not whether other users would "
    "(that is --test users).",
    "user": "It asks whether other users of this population would keep the order for these trained models, "
    "not whether retraining would.",
}


def runs_line(split: SplitName, rows: Sequence[Row]) -> tuple[str, str]:
    n = sorted({cell.n for row in rows if not row.deterministic for cell in row.cells if cell.n})
    title = "Test" if split == "test" else "Validation"
    if not n or n == [1]:
        spread = "one run per row, so no deviation is known"
    else:
        counts = str(n[0]) if len(n) == 1 else f"{n[0]} to {n[-1]} (column n)"
        spread = f"mean ± standard deviation (n - 1) over n runs with different seeds, n = {counts}"
    fixed = [row.label for row in rows if row.deterministic]
    one_run = f" Deterministic, hence one run: {', '.join(fixed)}." if fixed else ""
    return "Numbers", f"{title} targets; {spread}.{one_run}"


def metrics_line(metrics: Sequence[Metric], ties: Ties, masks: Iterable[str]) -> tuple[str, str]:
    families: dict[str, list[Metric]] = defaultdict(list)
    for metric in metrics:
        families[metric.name].append(metric)
    said = []
    for members in families.values():
        if len(members) > 1 and all(one.k is not None for one in members):
            formula = members[0].formula("K")
            said.append(f"{members[0].name}@K = {formula}")
        else:
            said += [f"{one} = {one.formula()}" for one in members]
    masked = ", ".join(sorted(_MASK.get(mask, f"mask {mask}") for mask in set(masks)))
    return "Metrics", (
        f"means over users of a value of r, the rank of the user's one held-out item among all items: "
        f"{'; '.join(said)}; else 0. Full ranking, {masked}; {_TIES[ties]}."
    )


def data_lines(datasets: Sequence[DatasetInfo]) -> list[tuple[str, str]]:
    lines = []
    for one in datasets:
        protocol = one.protocol
        parts = [f"{one.n_users:,} users ranked over {one.n_items:,} items"]
        least = protocol.get("min_user"), protocol.get("min_item")
        if all(least):
            parts.append(f"at least {least[0]} events per user and {least[1]} per item")
        if protocol.get("split"):
            parts.append(f"{protocol['split']} split")
        if protocol.get("ties"):
            parts.append(f"equal timestamps in order: {protocol['ties']}")
        if one.data_hash:
            parts.append(f"data {one.data_hash[:8]}")
        parts.append(f"one user moves HR by {_short(1 / one.n_users)}")
        label = "SYNTHETIC (generated) data; " if one.synthetic else ""
        lines.append(("Data", f"{one.name}: {label}{', '.join(parts)}."))
    return lines


def feature_lines(groups: Sequence[tuple[Group, Row]]) -> list[tuple[str, str]]:
    """Which encoder each row's features come from, one line per data set."""
    used: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for group, row in groups:
        for record in group.finished[:1]:
            for modality in ("text", "image"):
                encoder = record.features.get(modality, {}).get("encoder")
                if encoder and row.label not in used[group.dataset][f"{modality} {encoder}"]:
                    used[group.dataset][f"{modality} {encoder}"].append(row.label)
    lines = []
    for dataset, found in used.items():
        parts = [f"{what} ({', '.join(rows)})" for what, rows in found.items()]
        lines.append(("Features", f"{dataset}: {'; '.join(parts)}."))
    return lines


def mark_lines(rows: Sequence[Row]) -> list[tuple[str, str]]:
    if not any(row.leaky for row in rows):
        return []
    return [("†", "selected on the test item, as released code does; not marked best or second.")]


def test_lines(
    comparisons: Sequence[Comparison], *, test: TestName, correction: Correction, compare: str, n_columns: int
) -> list[tuple[str, str]]:
    """Unit, sides, pairs, n, family, correction and attainable p of the test; why some p are missing."""
    if not comparisons:
        return [("Test", "none: a column needs two measured rows that can be compared.")]
    tested = [one for one in comparisons if isinstance(one.outcome, Verdict)]
    who = compare or "the best row of each column (chosen on these very numbers)"
    family = (
        f"Declared family: {who} against every other row in every column, {len(comparisons)} comparisons in "
        f"{n_columns} column{'s' * (n_columns > 1)}"
    )
    if len(tested) < len(comparisons):
        family += f", {len(comparisons) - len(tested)} of them without a p"
    names = {"holm": "Holm", "bh": "Benjamini-Hochberg", "none": "no"}
    corrected = f"; {names[correction]} correction over {len(tested)} tests" if tested else ""
    shown = "Shown: the strongest other row of each column (Against)."
    star = f" * better than it, {'adjusted ' if correction != 'none' else ''}p < {_short(ALPHA)}."
    lines = [
        ("Test", f"{_describe(tested, test)} {family}{corrected}. {shown}{star if tested else ''}"),
        ("Reading", f"{_ASKS['user' if test == 'users' else 'run']} {_effect(test)}"),
    ]
    without = [one.outcome for one in comparisons if isinstance(one.outcome, NoVerdict)]
    reasons = {one.words: one.reason for one in without}
    if reasons:
        lines.append(("No p", "; ".join(f"{words}: {reason}" for words, reason in reasons.items()) + "."))
    return lines


def _describe(tested: Sequence[Comparison], test: TestName) -> str:
    n = sorted({one.outcome.n for one in tested})
    counts = f"n = {n[0]:,}" if len(n) == 1 else f"n = {n[0]:,} to {n[-1]:,}" if n else "n too small"
    kinds = list(dict.fromkeys(one.outcome.test for one in tested))
    beside = dict.fromkeys(one.beside.test for one in tested if isinstance(one.beside, Verdict))
    unit = "user (values averaged over runs)" if test == "users" else "training run (pairs have equal seeds)"
    text = f"two-sided, unit {unit}, {counts}: {', '.join(kinds) or 'no p'}"
    if beside:
        text += f"; beside it the {', '.join(beside)}"
    smallest = [smallest_sign_p(one) for one in n]
    if test != "users" and smallest and max(smallest) > ALPHA and ("sign" in text or "Wilcoxon" in text):
        text += f", which cannot fall below {_short(max(smallest))} with n = {n[0]}"
    if test != "users" and any(one.unpaired_runs for one in tested):
        text += "; runs without a partner of equal seed count in the means only"
    return text + "."


def _short(p: float) -> str:
    """A small number in three digits, without the leading zero."""
    return f"{p:.3g}".removeprefix("0")


def _effect(test: TestName) -> str:
    if test == "wilcoxon":
        return (
            "r_rb: matched-pairs rank-biserial correlation over runs. Wilcoxon tests location, not the mean."
        )
    unit = "users" if test == "users" else "runs"
    won = " Users won/lost: those for whom the compared row is higher/lower." if test == "users" else ""
    return f"d_z: mean / deviation of the differences over {unit}, Hedges-corrected.{won}"


def note_lines(groups: Sequence[tuple[Group, Row]]) -> list[tuple[str, str]]:
    """The models' own notes, each once, with the rows that say it."""
    said: dict[str, list[str]] = defaultdict(list)
    for group, row in groups:
        for record in group.finished:
            for note in record.notes:
                if row.label not in said[note]:
                    said[note].append(row.label)
    return [("Note", f"{', '.join(rows)}: {note.rstrip('.')}.") for note, rows in said.items()]


def warnings(
    groups: Sequence[tuple[Group, Row]],
    measured: Sequence[tuple[str, Row, Measured]],
    comparisons: Sequence[Comparison],
    *,
    test: TestName,
    correction: Correction,
) -> list[str]:
    """What makes a number in this table less than it seems."""
    found = []
    for group, row in groups:
        late = [one for one in group.finished if near_budget(one)]
        if late:
            last = late[0]
            found.append(
                f"{row.label} on {group.dataset}: best epoch {last.best_epoch} of at most {_budget(last)} in "
                f"{len(late)} of {len(group.finished)} runs; possibly under-trained, raise --epochs"
            )
    for dataset, row, one in measured:
        if one.tie_share > 0.01:
            found.append(f"{row.label} on {dataset}: {100 * one.tie_share:.1f} % of users have a tied target")
    if test in ("sign-flip", "wilcoxon"):
        found += _limits_of_signs(comparisons, correction)
    return found


def _limits_of_signs(comparisons: Sequence[Comparison], correction: Correction) -> list[str]:
    """Tests on signs and ranks: corrected p that no data could reach, and locations that contradict means."""
    found = []
    n = [one.outcome.n for one in comparisons if isinstance(one.outcome, Verdict)]
    if n and correction == "holm" and len(n) * smallest_sign_p(max(n)) > ALPHA:
        found.append(
            f"no claim is possible: Holm over {len(n)} tests needs a p of {_short(ALPHA / len(n))}, and "
            f"{max(n)} pairs give {_short(smallest_sign_p(max(n)))} at best; take --test t or more seeds"
        )
    if any(one.effect_name == "r_rb" and (one.effect or 0) * one.difference < 0 for one in comparisons):
        found.append(
            "Wilcoxon's direction contradicts the mean in some comparison; take --test t or sign-flip"
        )
    return found


def near_budget(record: RunRecord) -> bool:
    """Whether the best epoch lies in the last 10 % of those allowed: a longer run might have been better."""
    budget = _budget(record)
    return record.best_epoch > 0 and budget > 0 and record.best_epoch > math.floor(0.9 * budget)


def _budget(record: RunRecord) -> int:
    value = record.settings.get("max_epochs", {}).get("value", 0)
    return value if isinstance(value, int) else 0
