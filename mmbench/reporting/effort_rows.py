"""Rows by how their settings came about: of each model the recipe's row and the tuned row, and no others."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmbench.choices import Rows
from mmbench.errors import UsageError
from mmbench.reporting.labels import Group, RowKey, is_floor
from mmbench.tuning.origin import SettingsOrigin, settings_origin

RECIPE, TUNED = "recipe", "tuned"


@dataclass
class EffortRows:
    """The groups of a table whose rows are named by their effort.

    entries   a row's key with its group on a data set
    labels    by row: "recipe", "tuned, 30 trials"; "" for models that are neither
    missing   (data set, row) -> why there is nothing
    left_out  a line for each configuration that is not a row
    """

    entries: list[tuple[RowKey, Group]] = field(default_factory=list)
    labels: dict[RowKey, str] = field(default_factory=dict)
    missing: dict[tuple[str, RowKey], str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def effort_rows(groups: Sequence[Group], rows: Rows) -> EffortRows:
    """Return the rows with the recipe's settings, with tuned settings, or both.

    Of several tuned configurations of a model on a data set, that with the most trials counts; of several of the
    recipe, that with the most runs. Floors and other models without a training are in every table. UsageError when
    no trained model is left.
    """
    by_row: dict[tuple[str, RowKey], list[tuple[Group, SettingsOrigin]]] = defaultdict(list)
    table = EffortRows()
    for group in groups:
        origin = settings_origin(group.records[0])
        if is_untrained(group):
            by_row[group.dataset, RowKey(group.model)].append((group, origin))
        elif origin.kind == "--set" or (rows in (RECIPE, TUNED) and not _is_wanted(origin, rows)):
            table.left_out.append(f"{_name(group)}: the origin of its settings is {origin}")
        else:
            kind = RECIPE if rows == RECIPE else origin.kind
            by_row[group.dataset, RowKey(group.model, (kind,))].append((group, origin))
    budgets: dict[RowKey, set[str]] = defaultdict(set)
    for (_, key), members in by_row.items():
        group, origin = max(members, key=lambda member: (member[1].n_trials, len(member[0].finished)))
        table.entries.append((key, group))
        table.left_out += [f"{_name(other)}: another is shown" for other, _ in members if other is not group]
        budgets[key].add(_label(key, origin))
        if rows == "both" and origin.is_recipe and key.choice == (TUNED,):
            reason = f"the search on {group.dataset} ended with the recipe's settings: see the tuned row"
            table.missing[group.dataset, RowKey(group.model, (RECIPE,))] = reason
    if not any(key.choice for key, _ in table.entries):
        raise UsageError(f"--rows {rows}: no stored run has such settings; see mmbench tune and run --tuned")
    for key, texts in budgets.items():
        table.labels[key] = texts.pop() if len(texts) == 1 else "".join(key.choice)
    return table


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
