"""Feature arrays on disk: the right catalogue, the right shape, all or nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.errors import DataError, UsageError
from mmbench.features.store import (
    default_encoder,
    feature_dir,
    list_features,
    load_features,
    write_features,
)
from tests.features.toy import items, prepare

N = 4


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return prepare(tmp_path, items(N))


def arrays(dim: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(seed).normal(size=(N + 1, dim)).astype(np.float32)
    return values, np.array([True, True, False, True, True])


def test_round_trip_zeroes_padding_and_absent_rows(prepared: Prepared) -> None:
    values, present = arrays()
    stored = write_features(prepared, "text", "mine", values, present, {"identity": {"a": 1}})
    assert stored.values.dtype == np.float32
    assert stored.values.shape == (N + 1, 3)
    assert not stored.values[[0, 2]].any()
    np.testing.assert_array_equal(stored.values[[1, 3, 4]], values[[1, 3, 4]])
    assert stored.present.tolist() == [False, True, False, True, True]
    assert stored.manifest["n_present"] == 3
    assert stored.manifest["identity"] == {"a": 1}
    stored.verify()


def test_hash_follows_the_values_and_nothing_else(prepared: Prepared) -> None:
    values, present = arrays()
    first = write_features(prepared, "text", "a", values, present, {"note": 1}).hash
    assert write_features(prepared, "text", "b", values, present, {"note": 2}).hash == first
    changed = values.copy()
    changed[1, 0] += 1e-3
    assert write_features(prepared, "text", "c", changed, present, {}).hash != first
    # An item that is absent and one that is present with a zero vector are different things.
    zero = np.where(present[:, None], values, 0)
    assert write_features(prepared, "text", "d", zero, np.ones(N + 1, bool), {}).hash != first


def test_damaged_values_fail_verification(prepared: Prepared) -> None:
    values, present = arrays()
    stored = write_features(prepared, "text", "mine", values, present, {})
    broken = np.array(stored.values)
    broken[1, 1] = 7
    np.save(stored.path / "values.npy", broken)
    with pytest.raises(DataError, match="extract it again"):
        load_features(prepared, "text", "mine").verify()


def test_another_catalogue_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    write_features(prepared, "text", "mine", *arrays(), {})
    renamed = [{**record, "id": f"z{record['id']}"} for record in items(N)]
    again = prepare(tmp_path, renamed)  # the same place: features stay, the catalogue is another
    with pytest.raises(DataError, match="another catalogue"):
        load_features(again, "text", "mine")


def test_same_catalogue_prepared_again_keeps_its_features(prepared: Prepared, tmp_path: Path) -> None:
    stored = write_features(prepared, "text", "mine", *arrays(), {})
    assert load_features(prepare(tmp_path, items(N)), "text", "mine").hash == stored.hash


@pytest.mark.parametrize("part", ["values.npy", "present.npy"])
def test_truncated_arrays_are_one_line(prepared: Prepared, part: str) -> None:
    stored = write_features(prepared, "text", "mine", *arrays(), {})
    (stored.path / part).write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="cannot be read") as caught:
        load_features(prepared, "text", "mine")
    assert "\n" not in str(caught.value)


def test_wrong_shapes_and_numbers_are_refused(prepared: Prepared) -> None:
    values, present = arrays()
    for bad in (values[:-1], values[:, 0], values[:, :0]):
        with pytest.raises(DataError, match="need values"):
            write_features(prepared, "text", "mine", bad, present, {})
    values[3, 1] = np.nan
    with pytest.raises(DataError, match="item 3 has NaN"):
        write_features(prepared, "text", "mine", values, present, {})
    assert list_features(prepared) == {"text": [], "image": []}


def test_default_is_the_preference_else_the_newest(tmp_path: Path) -> None:
    plain = prepare(tmp_path / "a", items(N))
    assert default_encoder(plain, "text") is None
    for name in ("first", "second"):
        write_features(plain, "text", name, *arrays(), {})
    assert default_encoder(plain, "text") == "second"
    write_features(plain, "text", "first", *arrays(), {})
    assert list_features(plain)["text"] == ["first", "second"]
    assert default_encoder(plain, "image") is None
    choosy = prepare(tmp_path / "b", items(N), more={"encoders": {"text": "first"}})
    for name in ("first", "second"):
        write_features(choosy, "text", name, *arrays(), {})
    assert default_encoder(choosy, "text") == "first"


def test_states_per_layer_round_trip_and_are_never_the_default(prepared: Prepared) -> None:
    values = np.random.default_rng(0).normal(size=(N + 1, 3, 5)).astype(np.float32)
    stored = write_features(prepared, "text", "deep+layers", values, arrays()[1], {})
    assert (stored.values.shape, stored.dim, stored.n_layers) == ((N + 1, 3, 5), 5, 3)
    assert not stored.values[[0, 2]].any()
    np.testing.assert_array_equal(stored.values[[1, 3, 4]], values[[1, 3, 4]])
    stored.verify()
    assert default_encoder(prepared, "text") is None
    write_features(prepared, "text", "flat", *arrays(), {})
    write_features(prepared, "text", "deep+layers", values, arrays()[1], {})
    assert list_features(prepared)["text"] == ["deep+layers", "flat"]
    assert default_encoder(prepared, "text") == "flat"
    flat = write_features(prepared, "text", "flat", values.reshape(N + 1, 15), arrays()[1], {})
    assert flat.hash != stored.hash, "the shape is part of the content"


def test_float16_is_checked_and_hashed_as_such(prepared: Prepared) -> None:
    values, present = arrays()
    half = write_features(prepared, "text", "half", values, present, {}, float16=True)
    assert (half.values.dtype, half.manifest["dtype"]) == (np.float16, "float16")
    half.verify()
    assert half.hash != write_features(prepared, "text", "full", values, present, {}).hash
    broken = np.array(half.values)
    broken[1, 0] += np.float16(0.01)
    np.save(half.path / "values.npy", broken)
    with pytest.raises(DataError, match="extract it again"):
        load_features(prepared, "text", "half").verify()
    values[4, 1] = 70_000
    with pytest.raises(DataError, match="item 4 is too large for float16; store float32"):
        write_features(prepared, "text", "half", values, present, {}, float16=True)
    np.save(half.path / "values.npy", np.array(half.values, np.float64))
    with pytest.raises(DataError, match="float64 do not fit"):
        load_features(prepared, "text", "half")


def test_unknown_names(prepared: Prepared) -> None:
    write_features(prepared, "text", "tfidf-svd", *arrays(), {})
    with pytest.raises(UsageError, match="did you mean 'tfidf-svd'"):
        load_features(prepared, "text", "tfidf_svd")
    with pytest.raises(UsageError, match="did you mean 'image'"):
        load_features(prepared, "images", "tfidf-svd")
    for name in ("../up", "", ".hidden", "a/b"):
        with pytest.raises(UsageError, match="not usable as a folder"):
            write_features(prepared, "text", name, *arrays(), {})


def test_failed_write_leaves_the_old_features(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_features(prepared, "text", "mine", *arrays(), {})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mmbench.features.store.write_json", full)
        with pytest.raises(DataError, match="No space left on device; free some space"):
            write_features(prepared, "text", "mine", *arrays(seed=1), {})
    kept = load_features(prepared, "text", "mine")
    kept.verify()
    assert kept.hash == old.hash
    assert not list(old.path.parent.glob(".writing-*"))


def test_open_maps_survive_a_replacement(prepared: Prepared) -> None:
    old = write_features(prepared, "text", "mine", *arrays(), {})
    before = np.array(old.values)
    write_features(prepared, "text", "mine", *arrays(seed=1), {})
    np.testing.assert_array_equal(old.values, before)
    assert [path.name for path in old.path.parent.iterdir() if path.is_dir()] == ["mine"]


def test_features_of_another_format_are_not_listed(prepared: Prepared) -> None:
    write_features(prepared, "text", "mine", *arrays(), {})
    file = feature_dir(prepared, "text", "mine") / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 0}))
    assert list_features(prepared)["text"] == []
