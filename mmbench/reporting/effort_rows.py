"""Rows by how their settings came about: of each model the recipe's row and the tuned row, and no others."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmbench.choices import Rows
from mmbench.errors import UsageError
from mmbench.reporting.labels import RECIPE, TUNED, Group, Label, RowKey, is_floor, row_keys
from mmbench.tuning.origin import SettingsOrigin, settings_origin


@dataclass
class EffortRows:
    """The groups of a table whose rows are named by their effort.

    entries   a row's key with its group on a data set
    labels    of each row: "recipe", "tuned, 30 trials"; of models without a training as in other tables
    missing   (data set, row) -> why there is nothing
    left_out  a line for each configuration that is not a row
    """

    entries: list[tuple[RowKey, Group]] = field(default_factory=list)
    labels: dict[RowKey, Label] = field(default_factory=dict)
    missing: dict[tuple[str, RowKey], str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def effort_rows(groups: Sequence[Group], rows: Rows) -> EffortRows:
    """Return the rows with the recipe's settings, with tuned settings, or both.

    Of several tuned configurations of a model on a data set, that with the most trials counts; of several of the
    recipe, that with the most runs. Floors and other models without a training are in every table, with all of their
    configurations. UsageError when no trained model is left.
    """
    by_row: dict[tuple[str, RowKey], list[tuple[Group, SettingsOrigin]]] = defaultdict(list)
    table = EffortRows()
    _add_untrained(table, [group for group in groups if is_untrained(group)])
    for group in groups:
        origin = settings_origin(group.records[0])
        if is_untrained(group):
            continue
        if origin.kind == "--set":
            table.left_out.append(
                f"{_name(group)}: its settings were given by --set, and --rows {rows} has none of these"
            )
        elif rows == "both" or _is_wanted(origin, rows):
            kind = RECIPE if rows == RECIPE else origin.kind
            by_row[group.dataset, RowKey(group.model, (kind,))].append((group, origin))
    budgets: dict[RowKey, set[str]] = defaultdict(set)
    for (_, key), members in by_row.items():
        group, origin = max(members, key=lambda member: (member[1].n_trials, len(member[0].finished)))
        table.entries.append((key, group))
        table.left_out += [
            f"{_name(other)}: --rows {rows} has a single {''.join(key.choice)} row of a model, here configuration "
            f"{group.config_id}; mmbench report without --rows has both"
            for other, _ in members if other is not group
        ]  # fmt: skip
        budgets[key].add(_label(key, origin))
        if rows == "both" and origin.is_recipe and key.choice == (TUNED,):
            reason = f"the search on {group.dataset} ended with the recipe's settings: see the tuned row"
            table.missing[group.dataset, RowKey(group.model, (RECIPE,))] = reason
    if all(is_untrained(group) for _, group in table.entries):
        raise UsageError(f"--rows {rows}: no stored run has such settings; see mmbench tune and run --tuned")
    for key, texts in budgets.items():
        table.labels[key] = Label.of(texts.pop() if len(texts) == 1 else "".join(key.choice))
    return table


def _add_untrained(table: EffortRows, groups: Sequence[Group]) -> None:
    """Add a row for every configuration of models without a training."""
    keys, labels = row_keys(groups)
    table.entries += zip(keys, groups, strict=True)
    table.labels.update(labels)


def is_untrained(group: Group) -> bool:
    """Return whether nothing is trained, so that there is nothing to be tuned fairly."""
    return is_floor(group.model) or any(run.stopped == "closed form" for run in group.records)


def _is_wanted(origin: SettingsOrigin, rows: Rows) -> bool:
    return origin.is_recipe if rows == RECIPE else origin.kind == TUNED


def _label(key: RowKey, origin: SettingsOrigin) -> str:
    if not key.choice or key.choice == (RECIPE,):
        return "".join(key.choice)
    return f"tuned, {origin.budget}" + (": the recipe's" if origin.is_recipe else "")


def _name(group: Group) -> str:
    return f"{group.model} on {group.dataset}, configuration {group.config_id}"
