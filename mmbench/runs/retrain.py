"""Knock-outs before the training: the cells of a run's configuration with other features, which are settings like any.

Such a cell is also what `mmbench run MODEL --set text_features=shuffled:1`, or `--controls`, would compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbench.choices import SPLITS
from mmbench.data.store import Prepared, open_prepared
from mmbench.errors import RunError, UsageError
from mmbench.runs.knockout import FEATURES, KnockedOut, why_not_read
from mmbench.runs.plan import Cell, make_cell
from mmbench.runs.store import RunRecord, read_record
from mmbench.settings.config import DELIBERATE, Layer, Origin
from mmbench.settings.feature_change import STORED, FeatureChange

BY_DEFAULT = ("shuffled:1", "random:1", "constant")


@dataclass(frozen=True)
class Retrained:
    """A knock-out of a run that is trained, or why there is none.

    name  "text=shuffled:1"
    cell  None where the run does not read the modality
    """

    name: str
    cell: Cell | None
    reason: str = ""


def plan_retraining(record: RunRecord, knock_outs: Sequence[str], *, data_dir: Path) -> list[Retrained]:
    """Return the cells of knock-outs such as "text" (BY_DEFAULT of it) and "image=shuffled:3", each once.

    Raises UsageError for a knock-out that is not a setting, RunError where the data or the model's recipe changed.
    """
    chosen = list(dict.fromkeys(name for text in knock_outs for name in _names(text.strip())))
    if record.status != "finished":
        raise RunError(f"{record.path} did not finish ({record.reason}); run it again first")
    prepared = open_prepared(record.dataset, data_dir)
    if _cell(record, prepared, {}).config_id != record.config_id:
        raise RunError(
            f"{record.path}: its data, features or recipe changed since it was run, so that another run would differ "
            f"in more than the knock-out; run it again: mmbench run {record.model} --dataset {record.dataset}"
        )
    return [_plan(record, prepared, name) for name in chosen]


def _names(text: str) -> list[str]:
    modality, equals, how = text.partition("=")
    if modality not in FEATURES:
        raise UsageError(
            f"--what {text}: only text and image can be knocked out before a training; leave --retrain out"
        )
    if equals:
        try:
            FeatureChange.parse(how)
        except ValueError as error:
            raise UsageError(f"--what {text}: {error}") from None
        if how == STORED:
            raise UsageError(
                f"--what {text}: stored features are those of the run itself; name another change"
            )
    return [text] if equals else [f"{modality}={how}" for how in BY_DEFAULT]


def _plan(record: RunRecord, prepared: Prepared, name: str) -> Retrained:
    modality, _, how = name.partition("=")
    if reason := why_not_read(record, modality):
        return Retrained(name, None, reason)
    return Retrained(name, _cell(record, prepared, {f"{modality}_features": how}))


def _cell(record: RunRecord, prepared: Prepared, change: dict[str, str]) -> Cell:
    """Return the run's cell with what was set for it, and with the change."""
    layers = [
        Layer(
            origin,
            {key: setting.value for key, setting in record.settings.items() if setting.origin == origin},
        )
        for origin in sorted(DELIBERATE, key=list(Origin).index)
    ]
    return make_cell(
        results_dir=record.path.parents[3], prepared=prepared, model=record.model, seed=record.seed,
        overrides=[*layers, Layer(Origin.user, change)],
    )  # fmt: skip


def as_knocked_out(retrained: Retrained) -> KnockedOut:
    """Return the rankings of a trained cell as those of a knock-out; its reason where it failed."""
    if retrained.cell is None:
        return KnockedOut(retrained.name, reason=retrained.reason)
    record = read_record(retrained.cell.path)
    if record.status != "finished":
        return KnockedOut(retrained.name, reason=f"failed: {record.reason}")
    return KnockedOut(retrained.name, {split: record.ranking(split) for split in SPLITS})
