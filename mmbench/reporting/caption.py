"""The text under a table: what the numbers are, what the test asks, and what to be careful about."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mmbench.choices import Correction, MaskRule, SplitName, TestName, Ties
from mmbench.errors import counted
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import NoVerdict, Verdict, smallest_sign_p
from mmbench.models.pretraining import SETTING, described
from mmbench.reporting.gather import Measured
from mmbench.reporting.labels import Group
from mmbench.reporting.table import ALPHA, Column, Comparison, DatasetInfo, Row, Table
from mmbench.runs.store import RunRecord

TIE_SHARE = 0.01  # of the users; a larger share with tied targets is noted
_TIES: dict[Ties, str] = {
    "expected": "tied scores count by their expectation over random tie breaking",
    "optimistic": "tied scores rank the target first (optimistic: constant scores would be perfect)",
    "pessimistic": "tied scores rank the target last (pessimistic)",
}
_MASK: dict[MaskRule, str] = {
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
        spread = "a single run per row, so no deviation is known"
    else:
        counts = str(n[0]) if len(n) == 1 else f"{n[0]} to {n[-1]} (column n)"
        spread = f"mean ± standard deviation (n - 1) over n runs with different seeds, n = {counts}"
    fixed = [row.label for row in rows if row.deterministic]
    single = f" Deterministic, hence a single run: {', '.join(fixed)}." if fixed else ""
    return "Numbers", f"{title} targets; {spread}.{single}"


def metrics_lines(metrics: Sequence[Metric], ties: Ties, rules: Iterable[MaskRule]) -> list[tuple[str, str]]:
    """Return the definitions of the metrics, always with the mask rule, on which the order of a table may depend."""
    ranks = [metric for metric in metrics if metric.needs == "ranks"]
    lists = [metric for metric in metrics if metric.per == "catalogue"]
    of_users = [metric for metric in metrics if metric.needs == "lists" and metric.per == "user"]
    masked = ", ".join(_MASK[rule] for rule in sorted(set(rules)))
    lines = []
    if ranks:
        lines.append((
            "Metrics",
            f"means over users of a value of r, the rank of the user's held-out item among all items: "
            f"{'; '.join(_definitions(ranks))}; else 0. Full ranking, {masked}; {_TIES[ties]}.",
        ))  # fmt: skip
    if lists:
        lines.append((
            "Lists",
            f"a value for the catalogue, from every user's list of the best items, {masked}, ties by smaller id: "
            f"{'; '.join(_definitions(lists))}.",
        ))  # fmt: skip
    if of_users:
        lines.append((
            "Lists",
            f"means over users of a value of each list of the best items, {masked}, ties by smaller id: "
            f"{'; '.join(_definitions(of_users))}. Marks say which is largest; larger is not always better.",
        ))  # fmt: skip
    return lines


def _definitions(metrics: Sequence[Metric]) -> list[str]:
    families: dict[str, list[Metric]] = defaultdict(list)
    for metric in metrics:
        families[metric.name].append(metric)
    definitions = []
    for members in families.values():
        if len(members) > 1 and all(metric.k is not None for metric in members):
            definitions.append(f"{members[0].name}@K = {members[0].formula('K')}")
        else:
            definitions += [f"{metric} = {metric.formula()}" for metric in members]
    return definitions


def selection_lines(groups: Sequence[tuple[Group, Row]], mask_seen: MaskRule | None) -> list[tuple[str, str]]:
    """Return which rows were selected under another mask rule than that of the numbers."""
    if mask_seen is None:
        return []
    selected: dict[MaskRule, list[str]] = defaultdict(list)
    for group, row in groups:
        for record in group.finished:
            is_other = record.selection is not None and record.mask_seen != mask_seen
            if is_other and row.label not in selected[record.mask_seen]:
                selected[record.mask_seen].append(row.label)
    return [
        ("Selected", f"under {rule}, not {mask_seen}: {', '.join(rows)}.") for rule, rows in selected.items()
    ]


@dataclass(frozen=True)
class OtherWinner:
    """A column whose best rows differ under another mask rule; `present` and `other` list them."""

    column: Column
    rule: MaskRule
    present: str
    other: str


def other_rule_lines(changed: Sequence[OtherWinner]) -> list[tuple[str, str]]:
    """Return which columns have other best rows under the other mask rule."""
    by_change: dict[tuple[MaskRule, str, str], list[Column]] = defaultdict(list)
    for change in changed:
        by_change[change.rule, change.present, change.other].append(change.column)
    lines = []
    for (rule, present, other), columns in by_change.items():
        by_dataset: dict[str, list[str]] = defaultdict(list)
        for column in columns:
            by_dataset[column.dataset].append(str(column.metric))
        columns_text = "; ".join(
            f"{', '.join(metrics)} on {dataset}" for dataset, metrics in by_dataset.items()
        )
        text = f"if {_MASK[rule]}, {other} and not {present} is best in {columns_text} (--mask-seen {rule} prints it)."
        lines.append(("Other rule", text))
    return lines


def data_lines(datasets: Sequence[DatasetInfo]) -> list[tuple[str, str]]:
    lines = []
    for info in datasets:
        protocol = info.protocol
        parts = [f"{info.n_users:,} users ranked over {info.n_items:,} items"]
        least = protocol.get("min_user"), protocol.get("min_item")
        if all(least):
            parts.append(f"at least {least[0]} events per user and {least[1]} per item")
        if protocol.get("split"):
            parts.append(f"{protocol['split']} split")
        if protocol.get("ties"):
            parts.append(f"equal timestamps in order: {protocol['ties']}")
        if info.data_hash:
            parts.append(f"data {info.data_hash[:8]}")
        parts.append(f"each user moves HR by {_short(1 / info.n_users)}")
        label = "SYNTHETIC (generated) data; " if info.synthetic else ""
        lines.append(("Data", f"{info.name}: {label}{', '.join(parts)}."))
    return lines


def feature_lines(groups: Sequence[tuple[Group, Row]]) -> list[tuple[str, str]]:
    """Return which encoder each row's features come from, per data set, and which rows read different versions.

    Rows of a model that all have the same encoder are named by the model alone.
    """
    used: dict[str, dict[str, dict[str, list[Row]]]] = defaultdict(dict)
    for group, row in groups:
        for record in group.finished[:1]:
            for modality in sorted(record.features, reverse=True):  # text, then image
                encoders = used[group.dataset].setdefault(modality, {})
                encoders.setdefault(record.features[modality].encoder, []).append(row)
    lines = []
    for dataset, modalities in used.items():
        parts = [
            f"{modality} {encoder} ({', '.join(_shortest_names(rows, encoders))})"
            for modality, encoders in modalities.items()
            for encoder, rows in encoders.items()
        ]
        lines.append(("Features", f"{dataset}: {'; '.join(parts)}."))
    return lines + _feature_mixtures(groups)


def _shortest_names(rows: Sequence[Row], parts: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the names of the rows of a part: only that of the model where all its rows are in the same part."""
    n_parts = Counter(name for part in parts.values() for name in {row.name for row in part})
    return list(dict.fromkeys(row.label if n_parts[row.name] > 1 else row.name for row in rows))


def pretraining_lines(groups: Sequence[tuple[Group, Row]]) -> list[tuple[str, str]]:
    """Return what the rows of models that can be pre-trained on data sets were pre-trained on."""
    by_data: dict[str, list[Row]] = defaultdict(list)
    for group, row in groups:
        setting = group.records[0].settings.get(SETTING)
        if setting is not None:
            by_data[described(setting.value)].append(row)
    parts = [f"{text} ({', '.join(_shortest_names(rows, by_data))})" for text, rows in by_data.items()]
    return [("Pre-training", f"{'; '.join(parts)}.")] if parts else []


def _feature_mixtures(groups: Sequence[tuple[Group, Row]]) -> list[tuple[str, str]]:
    """Return the rows whose runs read features that were made in the same way but differ in their last digits."""
    lines = []
    for group, row in groups:
        for modality in sorted({modality for record in group.finished for modality in record.features}):
            versions = _seeds_by(group, partial(_content_of, modality))
            if len(versions) > 1:
                text = (
                    f"{row.label} on {group.dataset}: {modality} features made in the same way on different "
                    f"machines, equal up to rounding ({_seed_lists(versions)})."
                )
                lines.append(("Features", text))
    return lines


def _content_of(modality: str, record: RunRecord) -> str:
    return record.features[modality].content[:8]


def machine_lines(groups: Sequence[tuple[Group, Row]]) -> list[tuple[str, str]]:
    """Return the rows whose runs had different devices or thread counts, since their last digits may differ."""
    lines = []
    for group, row in groups:
        machines = _seeds_by(group, _machine)
        if len(machines) > 1:
            lines.append(("Machines", f"{row.label} on {group.dataset}: {_seed_lists(machines)}."))
    return lines


def _machine(record: RunRecord) -> str:
    device, threads = record.environment.get("device", ""), record.environment.get("threads", "")
    return f"{device}, {threads} threads" if device == "cpu" else str(device)


def _seeds_by(group: Group, key: Callable[[RunRecord], str]) -> dict[str, list[int]]:
    seeds: dict[str, list[int]] = defaultdict(list)
    for record in group.finished:
        seeds[key(record)].append(record.seed)
    return seeds


def _seed_lists(seeds: Mapping[str, Sequence[int]]) -> str:
    return "; ".join(f"{version}: seed {', '.join(map(str, numbers))}" for version, numbers in seeds.items())


def mark_lines(rows: Sequence[Row]) -> list[tuple[str, str]]:
    if not any(row.leaky for row in rows):
        return []
    return [("†", "selected on the test item, as released code does; not marked best or second.")]


def hidden_lines(table: Table) -> list[tuple[str, str]]:
    """Return how many rows are not printed."""
    n_hidden = len(table.rows) - len(table.shown_rows)
    if not n_hidden:
        return []
    return [
        (
            "Rows",
            f"the first {table.top}; {n_hidden} more are not printed. Marks and tests are about all rows.",
        )
    ]


def tie_lines(measured: Sequence[tuple[str, Row, Measured]]) -> list[tuple[str, str]]:
    """Return how many users have a tied target under the floors, whose scores are often equal by their nature."""
    shares: dict[str, list[str]] = defaultdict(list)
    for dataset, row, runs in measured:
        if row.floor and runs.tie_share > TIE_SHARE:
            shares[dataset].append(f"{row.label} {100 * runs.tie_share:.1f} %")
    return [
        ("Tied scores", f"{dataset}: users with a tied target: {', '.join(texts)}.")
        for dataset, texts in shares.items()
    ]


def test_lines(
    comparisons: Sequence[Comparison], *, test: TestName, correction: Correction, compare: str, n_columns: int
) -> list[tuple[str, str]]:
    """Describe the test: unit, sides, pairs, n, family, correction and attainable p; say why some p are missing."""
    if not comparisons:
        return [("Test", "none: a column needs two measured rows that can be compared.")]
    tested = [comparison for comparison in comparisons if isinstance(comparison.outcome, Verdict)]
    first = compare or "the best row of each column (chosen on these very numbers)"
    family = (
        f"Declared family: {first} against every other row in every column, "
        f"{counted(len(comparisons), 'comparison')} in {counted(n_columns, 'column')}"
    )
    if len(tested) < len(comparisons):
        family += f", {len(comparisons) - len(tested)} of them without a p"
    names = {"holm": "Holm", "bh": "Benjamini-Hochberg", "none": "no"}
    corrected = f"; {names[correction]} correction over {counted(len(tested), 'test')}" if tested else ""
    shown = "Shown: the strongest other row of each column (Against)."
    star = f" * better than it, {'adjusted ' if correction != 'none' else ''}p < {_short(ALPHA)}."
    lines = [
        ("Test", f"{_describe(tested, test)} {family}{corrected}. {shown}{star if tested else ''}"),
        ("Reading", f"{_ASKS['user' if test == 'users' else 'run']} {_effect(test)}"),
    ]
    without = [comparison.outcome for comparison in comparisons if isinstance(comparison.outcome, NoVerdict)]
    reasons = {outcome.words: outcome.reason for outcome in without}
    if reasons:
        lines.append(("No p", "; ".join(f"{words}: {reason}" for words, reason in reasons.items()) + "."))
    return lines


def _describe(tested: Sequence[Comparison], test: TestName) -> str:
    n = sorted({comparison.outcome.n for comparison in tested})
    counts = f"n = {n[0]:,}" if len(n) == 1 else f"n = {n[0]:,} to {n[-1]:,}" if n else "n too small"
    kinds = list(dict.fromkeys(comparison.outcome.test for comparison in tested))
    beside = dict.fromkeys(
        comparison.beside.test for comparison in tested if isinstance(comparison.beside, Verdict)
    )
    unit = "user (values averaged over runs)" if test == "users" else "training run (pairs have equal seeds)"
    text = f"two-sided, unit {unit}, {counts}: {', '.join(kinds) or 'no p'}"
    if beside:
        text += f"; beside it the {', '.join(beside)}"
    smallest = [smallest_sign_p(size) for size in n]
    if test != "users" and smallest and max(smallest) > ALPHA and ("sign" in text or "Wilcoxon" in text):
        text += f", which cannot fall below {_short(max(smallest))} with n = {n[0]}"
    if test != "users" and any(comparison.unpaired_runs for comparison in tested):
        text += "; runs without a partner of equal seed count in the means only"
    return text + "."


def _short(p: float) -> str:
    """Return a small number with three digits and without the leading zero."""
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
    """Return the models' notes, each once, with the rows that have it."""
    rows_of: dict[str, list[str]] = defaultdict(list)
    for group, row in groups:
        for record in group.finished:
            for note in record.notes:
                if row.label not in rows_of[note]:
                    rows_of[note].append(row.label)
    return [("Note", f"{', '.join(rows)}: {note.rstrip('.')}.") for note, rows in rows_of.items()]


def warnings(
    groups: Sequence[tuple[Group, Row]],
    measured: Sequence[tuple[str, Row, Measured]],
    comparisons: Sequence[Comparison],
    *,
    test: TestName,
    correction: Correction,
) -> list[str]:
    """Return what makes a number in this table mean less than it seems to."""
    lines = []
    for group, row in groups:
        late = [record for record in group.finished if near_budget(record)]
        if late:
            last = late[0]
            lines.append(
                f"{row.label} on {group.dataset}: best epoch {last.best_epoch} of at most {_budget(last)} in "
                f"{len(late)} of {len(group.finished)} runs; possibly under-trained, raise --epochs"
            )
    for dataset, row, runs in measured:
        if runs.tie_share > TIE_SHARE and not row.floor:
            lines.append(
                f"{row.label} on {dataset}: {100 * runs.tie_share:.1f} % of users have a tied target"
            )
    if test in ("sign-flip", "wilcoxon"):
        lines += _sign_test_limits(comparisons, correction)
    return lines


def _sign_test_limits(comparisons: Sequence[Comparison], correction: Correction) -> list[str]:
    """Return warnings about sign and rank tests: corrected p out of reach, locations that contradict the means."""
    lines = []
    n = [comparison.outcome.n for comparison in comparisons if isinstance(comparison.outcome, Verdict)]
    if n and correction == "holm" and len(n) * smallest_sign_p(max(n)) > ALPHA:
        lines.append(
            f"no claim is possible: Holm over {counted(len(n), 'test')} needs a p of {_short(ALPHA / len(n))}, and "
            f"{max(n)} pairs give {_short(smallest_sign_p(max(n)))} at best; use --test t or more seeds"
        )
    if any(
        comparison.effect_name == "r_rb" and (comparison.effect or 0) * comparison.difference < 0
        for comparison in comparisons
    ):
        lines.append(
            "Wilcoxon's direction contradicts the mean in some comparison; use --test t or sign-flip"
        )
    return lines


def near_budget(record: RunRecord) -> bool:
    """Return whether the best epoch is among the last 10 % allowed, so that a longer run might have been better."""
    budget = _budget(record)
    return record.best_epoch > 0 and budget > 0 and record.best_epoch > math.floor(0.9 * budget)


def _budget(record: RunRecord) -> int:
    setting = record.settings.get("max_epochs")
    return setting.value if setting is not None and isinstance(setting.value, int) else 0
