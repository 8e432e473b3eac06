"""The controls of a multi-modal model: rows that each explain its gain by something other than its fusion.

    ids, text, image alone   late-fusion:id, :text, :image: the backbone, and whether content alone suffices
    wide ids                 late-fusion:id as wide as the model has parameters: capacity
    several members of ids   late-fusion with as many ids as the model has inputs: an ensemble without content
    late fusion              late-fusion: joint training, alignment, gates
    untrained                ease-text and itemknn-cbf: training
    the model itself         with random, shuffled and constant features, with each modality shuffled, and with both
                             in the same order, so that an item's text and picture stay together

A model above late fusion shows that its fusion is worth something; the model minus itself with shuffled features is the
share of the content; that minus ids alone is the share of the pathway.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmbench.data.loaded import load_data
from mmbench.data.store import Prepared, open_path
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.models.base import Recommender
from mmbench.runs.build import build_model
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import CONTROL_MODELS, LATE_FUSION, Cell, make_cell

FEATURE_SEEDS = (1, 2, 3)  # crossed with the seeds of the runs: a single permutation may be lucky


@dataclass(frozen=True)
class Control:
    """A model that is run beside another, with the control's settings."""

    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def controls_of(model: str, read: Sequence[str], wide: Control) -> list[Control]:
    """Return the controls of a model that reads these modalities, of "text" and "image".

    wide  the backbone with as many parameters as the model
    """
    members = [Control(f"{LATE_FUSION}:{name}") for name in ("id", *read)]
    ids = Control(LATE_FUSION, {"modalities": ["id"] * (1 + len(read))})
    fusion = Control(LATE_FUSION, {"modalities": ["id", *read]})
    untrained = [Control("ease-text", {"modalities": ["id", *read]})]
    untrained += [Control(f"itemknn-cbf:{name}") for name in read]
    return [*members, wide, ids, fusion, *untrained, *_changed(model, read)]


def _changed(model: str, read: Sequence[str]) -> list[Control]:
    """Return the model itself with other features."""
    texts = [f"{kind}:{seed}" for kind in ("random", "shuffled") for seed in FEATURE_SEEDS]
    controls = [Control(model, {f"{name}_features": text for name in read}) for text in (*texts, "constant")]
    if len(read) > 1:
        controls += [Control(model, {f"{name}_features": "shuffled:1"}) for name in read]
        controls.append(Control(model, {f"{name}_features": "shuffled-together:1" for name in read}))
    return controls


def wide_backbone(cell: Cell, results_dir: Path, overrides: Overrides) -> Control:
    """Return the backbone over ids with as many trained parameters as a cell's model, within 2 % where widths allow.

    The inner width is four times the width, but for what is left of the parameters. Widths are multiples of the heads.
    """
    data = load_data(cell.data_path, str(cell.protocol["data"]))
    target = n_trained(build_model(cell, data, "cpu")[0])
    prepared = open_path(cell.data_path)

    def planned(width: int, inner: int) -> Control:
        return Control(f"{LATE_FUSION}:id", {"hidden_dim": width, "inner_dim": inner})

    def counted(width: int, inner: int) -> int:
        control = planned(width, inner)
        narrow = _plan_control(control, prepared, cell.seed, overrides, results_dir)
        return n_trained(build_model(narrow, data, "cpu")[0])

    usual = _plan_control(Control(f"{LATE_FUSION}:id"), prepared, cell.seed, overrides, results_dir)
    heads = int(usual.settings["n_heads"].value)
    low, high = 1, 2
    while counted(high * heads, 4 * high * heads) <= target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = counted(middle * heads, 4 * middle * heads) <= target
        low, high = (middle, high) if fits else (low, middle)
    width, inner = low * heads, 4 * low * heads
    per_unit = counted(width, inner + 1) - counted(width, inner)
    return planned(width, max(1, inner + (target - counted(width, inner)) // per_unit))


def n_trained(model: Recommender[Any]) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


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
    wanted = {data.path: _wanted(cells, data, models, results_dir, overrides) for data in datasets}
    for prepared in datasets:
        for seed in seeds:
            for control in wanted[prepared.path]:
                n_controls += 1
                if seed == seeds[0] or not registry.find(control.model).load().deterministic:
                    cell = _plan_control(control, prepared, seed, overrides, results_dir)
                    by_path.setdefault(cell.path, cell)
    if not n_controls:
        raise UsageError(
            f"--controls: {', '.join(models)} reads no text or image features here, so there is nothing to control; "
            "leave it out"
        )
    return list(by_path.values())


def _wanted(
    cells: Sequence[Cell], prepared: Prepared, models: Sequence[str], results_dir: Path, overrides: Overrides
) -> list[Control]:
    """Return the controls on a data set, by the features that the planned cells read; those of controls have none."""
    wanted = []
    for model in models:
        mine = [cell for cell in cells if cell.model == model and cell.data_path == prepared.path]
        if mine and mine[0].features and model.partition(":")[0] not in CONTROL_MODELS:
            read = [name for name in ("text", "image") if name in mine[0].features]
            wanted += controls_of(model, read, wide_backbone(mine[0], results_dir, overrides))
    return wanted


def _plan_control(
    control: Control, prepared: Prepared, seed: int, overrides: Overrides, results_dir: Path
) -> Cell:
    settings = {**overrides.by_model.get(control.model, {}), **control.settings}
    changed = replace(overrides, by_model={**overrides.by_model, control.model: settings})
    entry = registry.find(control.model)
    layers = changed.layers(control.model, entry.known_settings(), prepared.name)
    return make_cell(
        results_dir=results_dir, prepared=prepared, model=control.model, seed=seed, overrides=layers
    )
