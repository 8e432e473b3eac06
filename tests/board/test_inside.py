"""Slices and lists on pages of configurations: numbers of the report, drawn users, nothing that may not be shown.

Run: python -m pytest tests/board/test_inside.py
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mmbench
from mmbench.board.entries import MAIN, Entry, entries_of_bundles
from mmbench.board.inside import drawn, look_inside
from mmbench.board.writing import write_bundle
from mmbench.data.store import open_prepared
from mmbench.evaluation.evidence import Ranking
from mmbench.reporting.slices import labels_of
from mmbench.runs.store import RunRecord
from tests.board.conftest import Made


def entries_of(folder: Path, data_dir: Path | None) -> dict[str, Entry]:
    entries = entries_of_bundles(folder, on_left_out=lambda each: pytest.fail(each.reason), data_dir=data_dir)
    return {entry.record.model: entry for entry in entries}


@pytest.fixture(scope="module")
def bundles(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pop with its lists, SASRec without."""
    folder = tmp_path_factory.mktemp("bundles")
    (folder / made.pop.name).write_bytes(made.pop.read_bytes())
    write_bundle(made.folder("sasrec"), folder / "sasrec.mmb.zip", with_lists=False)
    return folder


def test_slices_are_those_of_the_report_and_lists_those_of_recommend(
    made: Made, bundles: Path, data_dir: Path
) -> None:
    inside = entries_of(bundles, data_dir)["pop"].inside
    (pop,) = mmbench.load(models="pop", results_dir=made.results)
    assert inside is not None
    values = MAIN.values(pop.ranks("test"))
    for family in ("history", "popularity", "tied"):
        labels = labels_of(pop, family, "test", data_dir)
        assert [piece.n for piece in inside.slices[family]] == np.bincount(
            labels.index, minlength=len(labels.names)
        ).tolist()
        for k, piece in enumerate(inside.slices[family]):
            assert piece.value is None or piece.value == pytest.approx(
                values[labels.index == k].mean(), abs=1e-6
            )
    prepared = open_prepared("toy", data_dir)
    users = drawn(prepared.user_ids, prepared.hash)
    assert [case.shown.user for case in inside.cases] == users
    for case, user in zip(inside.cases, users, strict=True):
        shown = mmbench.recommend(pop, user, k=5, data_dir=data_dir)
        assert [entry.item for entry in case.shown.entries] == [entry.item for entry in shown.entries]
        assert case.shown.target == shown.target


def test_the_users_are_drawn_by_the_data_and_by_nothing_else() -> None:
    ids = [f"u{k}" for k in range(200)]
    assert drawn(ids, "a") == drawn(ids[::-1], "a")
    assert set(drawn(ids, "a")) != set(drawn(ids, "b"))
    counts = [int(user[1:]) for data in map(str, range(60)) for user in drawn(ids, data)]
    assert 70 < np.mean(counts) < 130, "no part of the users is preferred"


def test_a_bundle_without_lists_shows_nothing_of_users(
    made: Made, bundles: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Nor does a site with --no-lists, nor one where the data set is not prepared."""
    assert entries_of(bundles, data_dir)["sasrec"].inside is None
    assert entries_of(bundles, tmp_path / "nowhere")["pop"].inside is None
    for name, options in (("with", {}), ("without", {"lists": False})):
        mmbench.leaderboard(
            tmp_path / name, bundles=bundles, results=False, date="2026-01-01", data_dir=data_dir, **options
        )
    pages = {
        name: {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / name).glob("run-*")}
        for name in ("with", "without")
    }
    titles = [record["title"] for record in open_prepared("toy", data_dir).item_records]
    for name, page in pages["with"].items():
        assert ("Lists of a few users" in page) is ("pop" in name)
        assert ("<h2>Slices</h2>" in page) is ("pop" in name)
        assert any(f">{title}<" in page for title in titles) is ("pop" in name)
        assert not any(user in page for user in open_prepared("toy", data_dir).user_ids)
    for page in pages["without"].values():
        assert "Lists of a few users" not in page
        assert "<h2>Slices</h2>" not in page
        assert not any(f">{title}<" in page for title in titles)


@pytest.mark.parametrize(
    "change",
    [
        lambda ranking: replace(ranking, user=ranking.user[::-1].copy()),
        lambda ranking: replace(ranking, target=np.roll(ranking.target, 1)),
        lambda ranking: replace(ranking, target=np.zeros_like(ranking.target)),
        lambda ranking: replace(ranking, lists={}),
    ],
    ids=["other users", "other targets", "no targets", "no lists"],
)
def test_rankings_that_are_not_of_these_data_show_nothing(
    change: Callable[[Ranking], Ranking], made: Made, data_dir: Path
) -> None:
    (pop,) = mmbench.load(models="pop", results_dir=made.results)
    values = MAIN.values(pop.ranks("test"))

    def as_stored(record: RunRecord, split: str) -> Ranking:
        return record.ranking(split)

    assert look_inside([pop], as_stored, values, data_dir) is not None
    assert (
        look_inside([pop], lambda record, split: change(as_stored(record, split)), values, data_dir) is None
    )
