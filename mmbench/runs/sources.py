"""The other data sets that a cell is pre-trained on: what they are, and their events and features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbench import strict
from mmbench.data.definition import check_current
from mmbench.data.protocol import PreparedName
from mmbench.data.store import Prepared, open_prepared
from mmbench.errors import UsageError
from mmbench.features.store import FeatureSet, load_features
from mmbench.features.use import FeatureUse
from mmbench.models.pretraining import SETTING, TARGET


@dataclass(frozen=True)
class SourceUse(strict.Strict):
    """A data set that a run was pre-trained on.

    data      the hash of the prepared data
    features  what was read of it, by modality
    """

    name: str
    data: str
    features: dict[str, FeatureUse] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what a result depends on: the content, whatever the data set is called."""
        features = {modality: use.identity for modality, use in self.features.items()}
        return {"data": self.data, "features": features}


@dataclass(frozen=True)
class CellSource:
    """A prepared data set to pre-train on, and where it lies."""

    path: Path
    use: SourceUse


def choose_sources(
    values: Mapping[str, Any], prepared: Prepared, features: Mapping[str, FeatureSet]
) -> tuple[CellSource, ...]:
    """Return the data sets that a model with these settings is pre-trained on, from the same data folder.

    features  those of the run's own data set; each source must have been encoded alike

    Raises UsageError for a data set that is the run's own, is not prepared, or has no such features.
    """
    names = [name for name in values.get(SETTING, ()) if name != TARGET]
    return tuple(_choose(name, prepared, features) for name in names)


def _choose(name: str, target: Prepared, features: Mapping[str, FeatureSet]) -> CellSource:
    own = PreparedName.parse(target.name).dataset
    advice = f'pretrain_on = ["{TARGET}"] trains on its training events first'
    if PreparedName.parse(name).dataset == own:
        raise UsageError(
            f"pretrain_on: {name} is the run's own data set, whose test items it holds; {advice}"
        )
    source = open_prepared(name, target.path.parents[1])
    check_current(source)
    if source.hash == target.hash:
        raise UsageError(
            f"pretrain_on: {name} has the same content as {target.name}, the run's own; {advice}"
        )
    uses = {modality: _features_alike(source, target, modality, own) for modality, own in features.items()}
    return CellSource(source.path, SourceUse(source.name, source.hash, uses))


def _features_alike(source: Prepared, target: Prepared, modality: str, own: FeatureSet) -> FeatureUse:
    """Return the features of a source, made by the encoder that made those of the run's data set."""
    encoder = own.manifest.encoder
    try:
        stored = load_features(source, modality, encoder)
    except UsageError:
        raise UsageError(
            f"pretrain_on: {source.name} has no {modality} features {encoder}, which {target.name} is read with; "
            f"run: mmbench extract {source.name} --{modality} {encoder}"
        ) from None
    sizes = [(features.manifest.dim, features.manifest.n_layers) for features in (stored, own)]
    if sizes[0] != sizes[1]:
        widths = [f"{dim} wide" + (f" with {layers} layers" if layers else "") for dim, layers in sizes]
        raise UsageError(
            f"pretrain_on: {modality} features {encoder} of {source.name} are {widths[0]}, those of {target.name} "
            f"{widths[1]}; extract both with the same encoder"
        )
    made = [features.manifest for features in (stored, own)]
    if not any(manifest.is_imported for manifest in made) and made[0].identity != made[1].identity:
        raise UsageError(
            f"pretrain_on: {modality} features {encoder} of {source.name} and of {target.name} come from different "
            f"versions of the encoder; run: mmbench extract {source.name} {target.name} --{modality} {encoder} --force"
        )
    return stored.use


def identities_of(sources: Sequence[SourceUse]) -> list[dict[str, Any]]:
    """Return the identities of some sources, in their order, which decides the numbers of their items."""
    return [source.identity for source in sources]
