"""Under every order of equal times a run reads features of the same encoder."""

from pathlib import Path

import numpy as np
import pytest

import mmbench
from mmbench.api.watching import watchers_of
from mmbench.contract.data_set import random_histories
from mmbench.data.store import Prepared, is_prepared, open_prepared
from mmbench.errors import UsageError
from mmbench.features.extract import extract
from mmbench.features.imported import import_features
from mmbench.features.store import list_features
from mmbench.runs.request import in_tie_orders
from tests.data.raw_files import AMAZON_2014, grid, write_2014, write_toml
from tests.prepared import write_toy

ORDERS = ("file", "random:1")


def ordered(prepared: Prepared, data_dir: Path) -> list[Prepared]:
    return in_tie_orders([prepared], ORDERS, data_dir, watchers=watchers_of(False))


def encoders_of(prepared: Prepared) -> list[tuple[str, str]]:
    return [
        (modality, manifest.encoder)
        for modality, stored in list_features(prepared).items()
        for manifest in stored
    ]


@pytest.fixture
def toy_of_two_orders(tmp_path: Path) -> Prepared:
    """The data set `toy`, under two orders, both without features."""
    for name, ties in (("toy", "file"), ("toy@random:1", "random:1")):
        write_toy(tmp_path, name, features=False, ties=ties, histories=random_histories(n_users=40))
    return open_prepared("toy", tmp_path)


def test_an_order_that_lacks_features_gets_those_of_the_data_set(
    toy_of_two_orders: Prepared, tmp_path: Path
) -> None:
    assert list(map(encoders_of, ordered(toy_of_two_orders, tmp_path))) == [[], []]
    extract(toy_of_two_orders, "text", "tfidf-svd")
    assert list(map(encoders_of, ordered(toy_of_two_orders, tmp_path))) == [[("text", "tfidf-svd")]] * 2


def test_an_order_that_is_prepared_for_a_run_has_the_features_of_the_data_set(tmp_path: Path) -> None:
    """Neither more nor fewer: without texts under the first order there are none under the second."""
    write_toml(tmp_path, AMAZON_2014)
    write_2014(tmp_path / "raw" / "mine", grid())
    mine = mmbench.prepare("mine", text="none", data_dir=tmp_path)
    assert list(map(encoders_of, ordered(mine, tmp_path))) == [[], []]
    assert is_prepared("mine@random:1", tmp_path)


def test_imported_features_are_imported_for_each_order(toy_of_two_orders: Prepared, tmp_path: Path) -> None:
    array, ids = tmp_path / "rows.npy", tmp_path / "ids.txt"
    np.save(array, np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    ids.write_text("\n".join(f"i{i:05}" for i in range(60)), encoding="utf-8")
    import_features(toy_of_two_orders, "text", "mine", array, ids)
    with pytest.raises(UsageError, match=r"toy@random:1 lacks.*toy@random:1 --modality text --name mine"):
        ordered(toy_of_two_orders, tmp_path)
    import_features(open_prepared("toy@random:1", tmp_path), "text", "mine", array, ids)
    assert list(map(encoders_of, ordered(toy_of_two_orders, tmp_path))) == [[("text", "mine")]] * 2
