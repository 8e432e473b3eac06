"""What a multi-modal table lacks before a gain in it can be ascribed to the fusion."""

from collections.abc import Sequence

from mmbench.reporting.labels import Group
from mmbench.reporting.table import Row
from mmbench.runs.plan import CONTROL_MODELS, FEATURE_CHANGES, LATE_FUSION


def missing_control_lines(groups: Sequence[tuple[Group, Row]]) -> list[tuple[str, str]]:
    """Return a line about models that read features on a data set where the table lacks their controls."""
    bare: dict[str, str] = {}  # model -> its name in tables
    for group, row in groups:
        is_control = group.model.partition(":")[0] in CONTROL_MODELS
        if is_control or row.floor or not any(run.features for run in group.finished):
            continue
        beside = [other for other, _ in groups if other.dataset == group.dataset and other.finished]
        has_fusion = any(_is_late_fusion(other) for other in beside)
        has_changed = any(other.model == group.model and _is_changed(other) for other in beside)
        if not (has_fusion and has_changed):
            bare.setdefault(group.model, row.name)
    if not bare:
        return []
    text = (
        f"without late fusion of independent members, or without shuffled features, of {', '.join(bare.values())}: "
        f"a gain may come from parameters or from ensembling (mmbench run {' '.join(bare)} --controls adds them)."
    )
    return [("Controls", text)]


def _is_late_fusion(group: Group) -> bool:
    """Return whether ids and content are members."""
    run = group.finished[0]
    members = run.extra.get("members", [])
    return group.model.partition(":")[0] == LATE_FUSION and "id" in members and bool(run.features)


def _is_changed(group: Group) -> bool:
    settings = group.finished[0].settings
    return any(key in settings and str(settings[key].value).startswith("shuffled") for key in FEATURE_CHANGES)
