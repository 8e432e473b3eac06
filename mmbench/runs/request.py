"""The request for a run, resolved: which models, data sets and seeds."""

import operator
from collections.abc import Callable, Sequence
from pathlib import Path

from mmbench.choices import FLOORS
from mmbench.data.definition import check_current
from mmbench.data.protocol import PreparedName, check_ties
from mmbench.data.store import Prepared, is_prepared, list_prepared, open_prepared
from mmbench.errors import DataError, UsageError
from mmbench.features.extract import SKIP
from mmbench.features.manifest import MODALITIES
from mmbench.features.pipeline import Preparation, extract_features, prepare_whole
from mmbench.features.store import default_encoder, find_manifest
from mmbench.models import registry
from mmbench.runs.plan import Cell
from mmbench.runs.watchers import Watchers

DEMO = "demo"  # generated, so that it can always be prepared


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """Return the seeds of a run: 3 -> 1, 2, 3; a list as it is. Seeds are positive integers, each once."""
    is_list = isinstance(seeds, Sequence) and not isinstance(seeds, str)
    members: Sequence[int] = seeds if is_list else [seeds]  # type: ignore[assignment,list-item]
    text = repr(",".join(map(str, members)))
    try:
        numbers = [operator.index(seed) for seed in members]
    except TypeError:
        numbers = []
    if not numbers or isinstance(seeds, bool):
        raise UsageError(f"--seeds {text}: give a number of seeds (10) or a list of seeds (3,5,8)")
    if min(numbers) < 1:
        raise UsageError(f"--seeds {text}: seeds and their number must be 1 or more")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--seeds {text}: a seed appears twice; it would count as two runs")
    return numbers if is_list else list(range(1, numbers[0] + 1))


def choose_models(models: Sequence[str], *, floors: bool) -> list[str]:
    """Return the registered names of the models to run, each once; floors come along unless they are not wanted."""
    models = [registry.canonical(name) for name in models]
    extra = [name for name in FLOORS if name in registry.entries()] if floors else []
    return list(dict.fromkeys([*models, *extra]))


def choose_datasets(names: Sequence[str | Prepared], data_dir: Path, *, watchers: Watchers) -> list[Prepared]:
    """Return the named prepared data sets; without a name the last prepared, and the demo where none is prepared.

    The demo is prepared when it is not. Raises UsageError for another that is not prepared, DataError where definition
    or raw files changed since the preparation.
    """
    chosen = [_open(name, data_dir, watchers) for name in names] or [_last(data_dir, watchers)]
    for prepared in chosen:
        check_current(prepared)
    return list({prepared.path: prepared for prepared in chosen}.values())


def in_tie_orders(
    datasets: Sequence[Prepared], orders: Sequence[str], data_dir: Path, *, watchers: Watchers
) -> list[Prepared]:
    """Return each data set under each order of equal times ("file", "random:1"); what is not prepared is prepared.

    Under every order there are the features that runs of the data set read by default. UsageError for an order that
    is none, for data without a table that says where their raw files are, and for imported features.
    """
    for order in orders:
        check_ties(order)
    chosen = [_in_order(prepared, order, data_dir, watchers) for prepared in datasets for order in orders]
    return list({prepared.path: prepared for prepared in chosen}.values())


def _in_order(prepared: Prepared, order: str, data_dir: Path, watchers: Watchers) -> Prepared:
    if prepared.protocol.ties == order:
        return prepared
    name = PreparedName.parse(prepared.name)
    text = "@".join(part for part in (name.dataset, name.protocol, order) if part)
    encoders = {name: default_encoder(prepared, name) for name in MODALITIES}
    for modality, encoder in encoders.items():
        _check_extracted(prepared, text, modality, encoder, data_dir)
    if not is_prepared(text, data_dir):
        how = Preparation(text=encoders["text"] or SKIP, image=encoders["image"] or SKIP)
        return prepare_whole(text, data_dir, how, watcher=watchers.preparation)
    ordered = open_prepared(text, data_dir)
    missing = {
        name: encoder for name, encoder in encoders.items() if encoder and not _has(ordered, name, encoder)
    }
    if missing:
        wanted = {name: missing.get(name, SKIP) for name in MODALITIES}
        extract_features(ordered, text=wanted["text"], image=wanted["image"], watcher=watchers.preparation)
    return ordered


def _has(prepared: Prepared, modality: str, encoder: str) -> bool:
    return find_manifest(prepared, modality, encoder) is not None


def _check_extracted(
    prepared: Prepared, ordered: str, modality: str, encoder: str | None, data_dir: Path
) -> None:
    """Raise UsageError where a data set reads imported features, which nothing here can make for another order."""
    manifest = find_manifest(prepared, modality, encoder) if encoder else None
    if manifest is None or not manifest.is_imported:
        return
    if is_prepared(ordered, data_dir) and _has(open_prepared(ordered, data_dir), modality, manifest.encoder):
        return
    raise UsageError(
        f"{prepared.name} reads the imported {modality} features {encoder}, which {ordered} lacks; import them there, "
        f"too: mmbench preprocess {ordered} && mmbench import-features {ordered} --modality {modality} "
        f"--name {encoder} --array ... --ids ..."
    )


def _open(dataset: str | Prepared, data_dir: Path, watchers: Watchers) -> Prepared:
    if isinstance(dataset, Prepared):
        return dataset
    if PreparedName.parse(dataset).dataset == DEMO and not is_prepared(dataset, data_dir):
        return prepare_whole(dataset, data_dir, watcher=watchers.preparation)
    return open_prepared(dataset, data_dir)


def _last(data_dir: Path, watchers: Watchers) -> Prepared:
    faults: list[DataError] = []
    known = list_prepared(data_dir, on_error=faults.append)
    if faults and not known:
        raise faults[0]  # somebody prepared data, so the demo is not what is wanted
    for fault in faults:
        watchers.warn(f"data set skipped: {fault}")
    if not known:
        watchers.say("no data set is prepared; preparing the built-in synthetic 'demo'")
        known = [prepare_whole(DEMO, data_dir, watcher=watchers.preparation)]
    others = [prepared.name for prepared in known[1:]]
    also = f"; also prepared: {', '.join(others)}" if others else ""
    watchers.say(f"using data set {known[0].name} (prepared last{also}); --dataset chooses another")
    return known[0]


def without_costly_floors(
    cells: Sequence[Cell],
    datasets: Sequence[Prepared],
    *,
    requested: Sequence[str],
    say: Callable[[str], object],
) -> list[Cell]:
    """Return the cells without floors that nobody requested on a catalogue that is too large for them, and say so."""
    planned = {(cell.dataset, cell.model) for cell in cells}
    left_out = set()
    for prepared in datasets:
        for name, most in FLOORS.items():
            if most is None or prepared.n_items <= most or name in requested:
                continue
            if (prepared.name, name) in planned:
                left_out.add((prepared.name, name))
                say(
                    f"{name} is left out: {prepared.name} has {prepared.n_items:,} items, and above {most:,} its time "
                    f"and memory are large; name it to run it (mmbench run {name} ...)"
                )
    return [cell for cell in cells if (cell.dataset, cell.model) not in left_out]
