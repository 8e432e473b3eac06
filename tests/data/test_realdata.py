"""Counts of the real data sets; the folder comes from MMBENCH_REAL_DATA."""

import os
from pathlib import Path
from typing import Any

import pytest

from mmbench.data.detective import Wanted, match
from mmbench.data.export import export
from mmbench.data.prepare import PrepareReport, prepare
from mmbench.data.statistics import Statistics

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif("MMBENCH_REAL_DATA" not in os.environ, reason="MMBENCH_REAL_DATA is not set"),
]


@pytest.fixture(autouse=True)
def _no_own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMBENCH_DATASETS", raising=False)


def real(name: str, folder: str, tmp_path: Path) -> tuple[PrepareReport, Statistics]:
    raw = Path(os.environ["MMBENCH_REAL_DATA"]) / folder
    if not raw.is_dir():
        pytest.skip(f"{raw} is not there")
    report = prepare(name, tmp_path, raw=raw)
    return report, report.prepared.manifest.statistics


def counts(statistics: Statistics) -> tuple[int, int, int]:
    return statistics.users, statistics.items, statistics.interactions


def test_beauty(tmp_path: Path) -> None:
    report, statistics = real("amazon-beauty", "amazon-2014-raw", tmp_path)
    assert counts(statistics) == (22_363, 12_101, 198_502)
    assert statistics.tied_neighbours == pytest.approx(0.439, abs=0.0005)
    assert statistics.coverage.n_without_title == 7
    assert statistics.raw.duplicates == 0
    assert report.notes == []
    # ties in file order: inside one moment of one user the items stand in the order of the raw file, by asin
    prepared = report.prepared
    start, end = prepared.offsets[0], prepared.offsets[-1]
    tied = (prepared.times[start + 1 : end] == prepared.times[start : end - 1]).nonzero()[0]
    inside = tied[~_is_border(prepared.offsets, tied + 1)]
    assert (prepared.items[inside + 1] > prepared.items[inside]).mean() > 0.999


def _is_border(offsets: Any, places: Any) -> Any:
    import numpy as np

    return np.isin(places, offsets)


def test_movielens(tmp_path: Path) -> None:
    _, statistics = real("movielens-posters", "movielens-posters", tmp_path)
    assert counts(statistics) == (943, 1_682, 100_000)
    assert statistics.coverage.n_without_image == 1_682 - 1_445
    assert 0.45 < statistics.tied_neighbours < 0.55


def test_hm_fashion(tmp_path: Path) -> None:
    report, statistics = real("hm-fashion", "hm-fashion", tmp_path)
    assert counts(statistics) == (584, 952, 9_747)
    assert statistics.coverage.image == 1.0
    assert all(len(record["image"]) == len("0108775015.jpg") for record in report.prepared.item_records)


@pytest.mark.parametrize(("more", "padding"), [(0, ()), (1, ("user", "item"))])
def test_detective_on_beauty(tmp_path: Path, more: int, padding: tuple[str, ...]) -> None:
    raw = Path(os.environ["MMBENCH_REAL_DATA"]) / "amazon-2014-raw"
    if not raw.is_dir():
        pytest.skip(f"{raw} is not there")
    actual = match("amazon-beauty", Wanted(22_363 + more, 12_101 + more, 198_502), tmp_path, raw=raw)
    assert actual.exact
    assert [(match.counts, match.padding) for match in actual.matches] == [
        ((22_363, 12_101, 198_502), padding)
    ]
    assert {0, 5} == {
        recipe.min_user for recipe in actual.matches[0].recipes if recipe.min_user == recipe.min_item
    } - {3}


def test_recbole_round_trip_of_beauty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days survive float32, so a peer sees the same times; the order is the same in any case."""
    report, _ = real("amazon-beauty", "amazon-2014-raw", tmp_path)
    written = export(report.prepared, tmp_path / "peer", form="recbole")
    assert written.n_merged == 0
    monkeypatch.setenv("MMBENCH_DATASETS", str(written.files[-1]))
    again = prepare("amazon-beauty-export", tmp_path).prepared
    for name in ("items.npy", "times.npy", "offsets.npy", "users.txt"):
        assert (again.path / name).read_bytes() == (report.prepared.path / name).read_bytes()
    assert again.items_hash == report.prepared.items_hash
