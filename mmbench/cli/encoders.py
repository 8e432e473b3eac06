"""`mmbench extract --list`: the encoders there are, and the features that data sets have stored."""

from datetime import UTC, datetime

from mmbench.cli.state import State
from mmbench.cli.tables import open_named, print_table


def print_encoders(state: State) -> None:
    """One row per registered encoder: where its weights come from, and what is missing here."""
    from mmbench.features.overview import available

    rows = [
        [
            one.modality,
            f"{one.name} (default)" if one.default else one.name,
            f"{'up to ' if one.card.up_to else ''}{one.card.dim}",
            one.card.used_by,
            one.weights,
            one.state,
        ]
        for one in available()
    ]
    print_table(state, ["modality", "encoder", "numbers", "used by", "weights", "here"], rows)
    state.out.print(
        "also: a folder of a saved transformers model, or owner/name on the hub; then :cls or :mean, and +layers",
        markup=False,
    )


def print_stored(state: State, name: str) -> None:
    """One row per stored encoder of a prepared data set; whether its rows are those of the present items."""
    from mmbench.features.overview import stored

    prepared = open_named(state, name)
    found = stored(prepared)
    if not found:
        state.out.print(
            f"{prepared.name}: no features are stored; run: mmbench extract {prepared.name}", markup=False
        )
        return
    rows = [
        [
            one.modality,
            f"{one.name} (default)" if one.default else one.name,
            " x ".join(map(str, one.shape)),
            one.dtype,
            f"{one.n_present:,} of {prepared.n_items:,} ({100 * one.n_present / prepared.n_items:.1f}%)",
            datetime.fromtimestamp(one.created, tz=UTC).date().isoformat(),
            one.identity,
            f"{one.n_bytes / 1e6:.1f} MB",
            f"no: {one.fits}" if one.fits else "yes",
        ]
        for one in found
    ]
    state.out.print(f"{prepared.name}: {prepared.n_items:,} items", markup=False)
    header = ["modality", "encoder", "numbers", "type", "items", "made", "identity", "size", "fits"]
    print_table(state, header, rows)
