"""What a multi-modal table lacks before a gain in it can be ascribed to the fusion."""

from collections.abc import Sequence

from mmbench.reporting.labels import Group
from mmbench.reporting.table import Row
from mmbench.runs.plan import CONTROL_MODELS, FEATURE_CHANGES, LATE_FUSION


def missing_control_lines(groups: Sequence[tuple[Group, Row]]) -> list[tuple[str, str]]:
    """Return a line about models that read features on a data set where the table lacks their controls."""
    unfused: dict[str, str] = {}  # model -> its name in tables
    unshuffled: dict[str, str] = {}
    for group, row in groups:
        is_control = group.model.partition(":")[0] in CONTROL_MODELS
        if is_control or row.floor or not any(run.features for run in group.finished):
            continue
        beside = [other for other, _ in groups if other.dataset == group.dataset and other.finished]
        if not any(_is_late_fusion(other) for other in beside):
            unfused.setdefault(group.model, row.name)
        if not any(other.model == group.model and _is_changed(other) for other in beside):
            unshuffled.setdefault(group.model, row.name)
    parts = []
    if unfused:
        fused = f"no late fusion of independent members beside {', '.join(unfused.values())}"
        parts.append(f"{fused}: a gain may come from ensembling")
    if unshuffled:
        shuffled = f"no shuffled features of {', '.join(unshuffled.values())}"
        parts.append(f"{shuffled}: a gain may come from parameters")
    if not parts:
        return []
    models = " ".join({**unfused, **unshuffled})
    return [("Controls", f"{'; '.join(parts)} (mmbench run {models} --controls adds them).")]


def _is_late_fusion(group: Group) -> bool:
    """Return whether ids and content are members."""
    run = group.finished[0]
    members = run.extra.get("members", [])
    return group.model.partition(":")[0] == LATE_FUSION and "id" in members and bool(run.features)


def _is_changed(group: Group) -> bool:
    settings = group.finished[0].settings
    return any(key in settings and str(settings[key].value).startswith("shuffled") for key in FEATURE_CHANGES)
