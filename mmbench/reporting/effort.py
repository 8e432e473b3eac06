"""How the settings of a table's rows came about. Rows that were tuned with different effort do not compare fairly."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mmbench.errors import counted
from mmbench.reporting.labels import Group
from mmbench.reporting.table import Row
from mmbench.tuning.origin import SettingsOrigin, settings_origin

Efforts = Mapping[str, Mapping[str, SettingsOrigin]]  # by data set and row label

AS_RECIPE = "as the recipe"
MARGIN = 1.2  # the ratio up to which two times are the same budget


def efforts_of(groups: Sequence[tuple[Group, Row]]) -> Efforts:
    """Return the origin of the settings of each row that is trained, by data set and label; floors have none."""
    origins: dict[str, dict[str, SettingsOrigin]] = defaultdict(dict)
    for group, row in groups:
        if group.finished and not (row.floor or row.deterministic or group.finished[0].external):
            origins[group.dataset][row.label] = settings_origin(group.finished[0])
    return origins


def unequal_datasets(efforts: Efforts) -> list[str]:
    """Return the data sets on which some rows are tuned, and not all with the same budget."""
    return [dataset for dataset, origins in efforts.items() if _differ([*origins.values()])]


def _differ(origins: Sequence[SettingsOrigin]) -> bool:
    """Return whether budgets differ; times by more than what the epochs under way take when a search ends."""
    hours = [origin.hours for origin in origins]
    if origins and all(hours):
        return max(hours) > MARGIN * min(hours)
    return len({origin.budget for origin in origins}) > 1


def effort_lines(efforts: Efforts, shown: Iterable[Row]) -> list[tuple[str, str]]:
    """Return a caption line of what the names of rows only count, and one per data set on which some row is tuned."""
    lines = [("Settings", f"{listed}.")] if (listed := listed_settings(shown)) else []
    for dataset, origins in efforts.items():
        if not any(origin.budget for origin in origins.values()):
            continue
        rows: dict[str, list[str]] = defaultdict(list)
        for label, origin in origins.items():
            rows[str(origin)].append(f"{label} ({origin.changes or AS_RECIPE})" if origin.budget else label)
        parts = "; ".join(f"{origin}: {', '.join(labels)}" for origin, labels in rows.items())
        lines.append(("Settings", f"{dataset}: {parts}."))
    return lines


def listed_settings(rows: Iterable[Row]) -> str:
    """Return the settings that names of rows only count: "5 settings of SASRec: batch_size=100, lr=0.01, ..."."""
    listed = {row.name: row.settings.listed for row in rows if row.settings.listed}
    return "; ".join(
        f"{counted(len(settings), 'setting')} of {name}: {', '.join(settings)}"
        for name, settings in listed.items()
    )


def effort_warnings(efforts: Efforts, *, with_stars: bool) -> list[str]:
    """Return what unequal budgets mean for the comparisons of a data set."""
    stars = "" if with_stars else "; no star is given (--unequal-budgets gives them)"
    return [
        f"{dataset}: the rows were tuned with different budgets, so a difference may come from the effort{stars}"
        for dataset in unequal_datasets(efforts)
    ]
