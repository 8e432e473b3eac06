"""`mmbench extract --list`: the registered encoders, and the stored features of data sets."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mmbench.cli.state import State
from mmbench.cli.tables import open_to_look, print_table

if TYPE_CHECKING:
    from mmbench.features.overview import StoredFeatures


def print_encoders(state: State) -> None:
    """Print a row per registered encoder: where its weights come from, and what is missing on this machine."""
    from mmbench.features.encoders import plugged
    from mmbench.features.overview import available

    rows = [
        [
            encoder.modality,
            f"{encoder.name} (default)" if encoder.default else encoder.name,
            f"{'up to ' if encoder.card.up_to else ''}{encoder.card.dim or ''}",
            encoder.card.used_by,
            encoder.weights,
            encoder.state,
        ]
        for encoder in available()
    ]
    print_table(state, ["modality", "encoder", "numbers", "used by", "weights", "here"], rows)
    state.out.print(
        "also: a folder of a saved transformers model, or owner/name on the hub; then :cls or :mean, and +layers",
        markup=False,
    )
    state.warn_plugins(plugged().faults)


def print_stored(state: State, name: str) -> None:
    """Print a row per stored encoder of a prepared data set: how it was made, and whether it fits the items."""
    from mmbench.features.overview import stored

    prepared = open_to_look(state, name)
    stored_features = stored(prepared, on_error=state.skip_features)
    if not stored_features:
        state.out.print(
            f"{prepared.name}: no features are stored; run: mmbench extract {prepared.name}", markup=False
        )
        return
    state.out.print(f"{prepared.name}: {prepared.n_items:,} items", markup=False)
    header = ["modality", "encoder", "numbers", "type", "items", "made", "identity", "size", "fits"]
    print_table(state, header, [_stored_row(features, prepared.n_items) for features in stored_features])


def _stored_row(features: "StoredFeatures", n_items: int) -> list[str]:
    from mmbench.fetch.files import size_text

    manifest = features.manifest
    return [
        manifest.modality,
        f"{manifest.encoder} (default)" if features.is_default else manifest.encoder,
        " x ".join(map(str, manifest.shape)),
        manifest.dtype,
        f"{manifest.n_present:,} of {n_items:,} ({100 * manifest.n_present / n_items:.1f}%)",
        datetime.fromtimestamp(manifest.created, tz=UTC).date().isoformat(),
        manifest.made_from[:12],
        size_text(features.n_bytes),
        features.fits or "yes",
    ]
