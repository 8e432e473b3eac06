"""The controls of a multi-modal model: rows that each explain its gain away by something else than its fusion.

    ids, text, image alone   late-fusion:id, :text, :image: the backbone, and whether content alone suffices
    several members of ids   late-fusion with as many ids as the model has inputs: an ensemble without content
    late fusion              late-fusion: joint training, alignment, gates
    untrained                ease-text and itemknn-cbf: training
    the model itself         with random, shuffled and constant features, and with one modality shuffled at a time

A model above late fusion shows that its fusion is worth something; the model minus itself with shuffled features is the
share of the content; that minus ids alone is the share of the pathway.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.runs.plan import Cell, make_cell
from mmbench.runs.schedule import Overrides

LATE_FUSION = "late-fusion"
CONTROL_MODELS = (LATE_FUSION, "ease-text", "itemknn-cbf")
FEATURE_SEEDS = (1, 2, 3)  # crossed with the seeds of the runs: one permutation may be lucky


@dataclass(frozen=True)
class Control:
    """A model that is run beside another one, with settings of its own."""

    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def controls_of(model: str, read: Sequence[str]) -> list[Control]:
    """Return the controls of a model that reads these modalities, of "text" and "image"."""
    members = [Control(f"{LATE_FUSION}:{name}") for name in ("id", *read)]
    ids = Control(LATE_FUSION, {"modalities": ["id"] * (1 + len(read))})
    fusion = Control(LATE_FUSION, {"modalities": ["id", *read]})
    untrained = [Control("ease-text", {"modalities": ["id", *read]})]
    untrained += [Control(f"itemknn-cbf:{name}") for name in read]
    return [*members, ids, fusion, *untrained, *_changed(model, read)]


def _changed(model: str, read: Sequence[str]) -> list[Control]:
    """Return the model itself with other features."""
    texts = [f"{kind}:{seed}" for kind in ("random", "shuffled") for seed in FEATURE_SEEDS]
    controls = [Control(model, {f"{name}_features": text for name in read}) for text in (*texts, "constant")]
    if len(read) > 1:
        controls += [Control(model, {f"{name}_features": "shuffled:1"}) for name in read]
    return controls


def plan_controls(
    cells: Sequence[Cell],
    *,
    results_dir: Path,
    datasets: Sequence[Prepared],
    models: Sequence[str],
    seeds: Sequence[int],
    overrides: Overrides,
) -> list[Cell]:
    """Return the planned cells, and after them the cells of the controls of these models that are not among them.

    What the user set for all models, such as the width and the number of epochs, is set for the controls too.
    UsageError when no model reads a modality.
    """
    by_path = {cell.path: cell for cell in cells}
    n_controls = 0
    for prepared in datasets:
        for seed in seeds:
            for control in _wanted(cells, prepared, models):
                n_controls += 1
                if seed == seeds[0] or not registry.find(control.model).load().deterministic:
                    cell = _plan_one(control, prepared, seed, overrides, results_dir)
                    by_path.setdefault(cell.path, cell)
    if not n_controls:
        raise UsageError(
            f"--controls: {', '.join(models)} reads no text or image features here, so there is nothing to control; "
            "leave it out"
        )
    return list(by_path.values())


def _wanted(cells: Sequence[Cell], prepared: Prepared, models: Sequence[str]) -> list[Control]:
    """Return the controls on a data set, by the features that the planned cells read; those of controls have none."""
    wanted = []
    for model in models:
        mine = [cell for cell in cells if cell.model == model and cell.data_path == prepared.path]
        if mine and mine[0].features and model.partition(":")[0] not in CONTROL_MODELS:
            wanted += controls_of(model, [name for name in ("text", "image") if name in mine[0].features])
    return wanted


def _plan_one(
    control: Control, prepared: Prepared, seed: int, overrides: Overrides, results_dir: Path
) -> Cell:
    own = {**overrides.by_model.get(control.model, {}), **control.settings}
    changed = replace(overrides, by_model={**overrides.by_model, control.model: own})
    entry = registry.find(control.model)
    layers = changed.layers(control.model, entry.known_settings(), prepared.name)
    return make_cell(
        results_dir=results_dir, prepared=prepared, model=control.model, seed=seed, overrides=layers
    )
