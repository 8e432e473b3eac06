"""Do an encoder's neighbours make sense? python benchmarks/neighbours.py hm-fashion --level 3 [--field categories]

For every stored encoder of a prepared data set: the share of each item's k nearest other items (cosine) that carry
the same label, against the share that two random items have in common. Only items with a vector and a label take
part. The label is the `--level`-th entry (from 1) of a list field, or a plain field of the item record.

With `--encode NAME ...` those image encoders (text with --modality text) are built and timed on the spot, nothing is
stored: items per second of preparing and of the network, batches of --batch, weights loaded and warm.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmbench.data.store import Prepared, open_prepared
from mmbench.features.encoders import get_encoder
from mmbench.features.sources import PictureSource, TextSource
from mmbench.features.store import list_features, load_features
from mmbench.paths import data_dir


def labels_of(prepared: Prepared, field: str, level: int) -> np.ndarray:
    """[n_items] of str; "" = the item has none."""
    found = []
    for record in prepared.item_records:
        value: Any = record.get(field) or ""
        if isinstance(value, list):
            value = value[level - 1] if len(value) >= level else ""
            value = value[-1] if isinstance(value, list) and value else value
        found.append(str(value or ""))
    return np.array(found)


def shares(values: np.ndarray, labels: np.ndarray, k: int) -> tuple[float, float]:
    """values [n, D], labels [n] -> (share of the k nearest others with the same label, the same of random pairs)."""
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    order = np.argpartition(-near, k, axis=1)[:, :k]
    same = float((labels[order] == labels[:, None]).mean())
    counts = np.unique(labels, return_counts=True)[1]
    n = len(labels)
    return same, float((counts * (counts - 1)).sum() / (n * (n - 1)))


def line(name: str, values: np.ndarray, present: np.ndarray, labels: np.ndarray, k: int) -> str:
    """One row of the table; values [n, D], present and labels [n]."""
    use = present & (labels != "")
    same, chance = shares(values[use].astype(np.float32), labels[use], k)
    return f"{name:34} {values.shape[1]:5}  {100 * same:5.1f}%  {100 * chance:5.1f}%  {use.sum():6}"


def encode(prepared: Prepared, modality: str, name: str, batch: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Vectors of all items by a network encoder, their presence, and how fast it went."""
    encoder: Any = get_encoder(modality, name)
    source = PictureSource(prepared) if modality == "image" else TextSource(prepared)
    raw = list(source.read(lambda done: None))
    began = time.perf_counter()
    inputs = [None if one is None else encoder.prepare(one) for one in raw]
    prepared_s = time.perf_counter() - began
    arrays = [one.array for one in inputs if one is not None]
    present = np.array([one is not None for one in inputs])
    encoder.run(arrays[:batch])  # loads the weights and warms up
    began = time.perf_counter()
    parts = [encoder.run(arrays[at : at + batch]) for at in range(0, len(arrays), batch)]
    run_s = time.perf_counter() - began
    rows = np.concatenate(parts)
    values = np.zeros((len(raw), rows.shape[-1]), np.float32)
    values[present] = rows if rows.ndim == 2 else rows[:, -1]
    n = len(arrays)
    return values, present, f"prepare {n / prepared_s:.0f} items/s, network {n / run_s:.1f} items/s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--field", default="categories")
    parser.add_argument("--level", type=int, default=3, help="entry of a list field, from 1")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--encode", nargs="*", default=[], metavar="ENCODER")
    parser.add_argument("--modality", default="image")
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    prepared = open_prepared(given.dataset, data_dir())
    labels = labels_of(prepared, given.field, given.level)
    print(
        f"{prepared.name}: {given.field}[{given.level}], {len(set(labels))} labels, {given.k} nearest others"
    )
    print(f"{'encoder':34} {'width':>5}  {'same':>6}  {'random':>6}  {'items':>6}")
    for modality, manifests in list_features(prepared).items():
        for name in (manifest.encoder for manifest in manifests):
            features = load_features(prepared, modality, name)
            if features.values.ndim == 2:
                print(line(f"{modality} {name}", features.values[1:], features.present[1:], labels, given.k))
    for name in given.encode:
        values, present, speed = encode(prepared, given.modality, name, given.batch)
        print(line(f"{given.modality} {name}", values, present, labels, given.k), speed)


if __name__ == "__main__":
    main()
