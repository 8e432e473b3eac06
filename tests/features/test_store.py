"""Feature arrays on disk: the right catalogue, the right shape, all or nothing."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench import sealed
from mmbench.data.store import Prepared
from mmbench.errors import DamagedError, DataError, OtherVersionError, UsageError
from mmbench.features.manifest import FORMAT, MadeBy
from mmbench.features.store import (
    check_modality,
    default_encoder,
    feature_dir,
    list_features,
    load_features,
    remove_features,
    write_features,
)
from tests.features.toy import items, prepare
from tests.prepared import MADE

N = 4


def names(prepared: Prepared, modality: str) -> list[str]:
    return [manifest.encoder for manifest in list_features(prepared)[check_modality(modality)]]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return prepare(tmp_path, items(N))


def arrays(dim: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(seed).normal(size=(N + 1, dim)).astype(np.float32)
    return values, np.array([True, True, False, True, True])


def test_round_trip_zeroes_padding_and_absent_rows(prepared: Prepared) -> None:
    values, present = arrays()
    stored = write_features(prepared, "text", "mine", values, present, MadeBy(identity={"a": 1}))
    assert stored.values.dtype == np.float32
    assert stored.values.shape == (N + 1, 3)
    assert not stored.values[[0, 2]].any()
    np.testing.assert_array_equal(stored.values[[1, 3, 4]], values[[1, 3, 4]])
    assert stored.present.tolist() == [False, True, False, True, True]
    assert stored.manifest.n_present == 3
    assert stored.manifest.identity == {"a": 1}
    stored.verify()


def test_hash_follows_the_values_and_nothing_else(prepared: Prepared) -> None:
    values, present = arrays()
    first = write_features(prepared, "text", "a", values, present, MadeBy(identity={"note": 1})).use.content
    assert (
        write_features(prepared, "text", "b", values, present, MadeBy(identity={"note": 2})).use.content
        == first
    )
    changed = values.copy()
    changed[1, 0] += 1e-3
    assert write_features(prepared, "text", "c", changed, present, MADE).use.content != first
    # An item that is absent and one that is present with a zero vector are different things.
    zero = np.where(present[:, None], values, 0)
    assert write_features(prepared, "text", "d", zero, np.ones(N + 1, bool), MADE).use.content != first


def test_damaged_values_fail_verification(prepared: Prepared) -> None:
    values, present = arrays()
    stored = write_features(prepared, "text", "mine", values, present, MADE)
    broken = np.array(stored.values)
    broken[1, 1] = 7
    np.save(stored.path / "values.npy", broken)
    with pytest.raises(DataError, match=r"is damaged .*does not hold the values.*; run: mmbench extract toy"):
        load_features(prepared, "text", "mine").verify()


def test_another_catalogue_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    write_features(prepared, "text", "mine", *arrays(), MADE)
    renamed = [{**record, "id": f"z{record['id']}"} for record in items(N)]
    again = prepare(tmp_path, renamed)  # the same place: features stay, the catalogue is another
    with pytest.raises(DataError, match="another catalogue"):
        load_features(again, "text", "mine")


def test_same_catalogue_prepared_again_keeps_its_features(prepared: Prepared, tmp_path: Path) -> None:
    stored = write_features(prepared, "text", "mine", *arrays(), MADE)
    assert load_features(prepare(tmp_path, items(N)), "text", "mine").use.content == stored.use.content


@pytest.mark.parametrize("part", ["values.npy", "present.npy"])
def test_truncated_arrays_are_one_line(prepared: Prepared, part: str) -> None:
    stored = write_features(prepared, "text", "mine", *arrays(), MADE)
    (stored.path / part).write_bytes(b"\x93NUMPY")
    with pytest.raises(
        DamagedError, match=f"{part} is damaged .*; run: mmbench extract toy --text mine"
    ) as caught:
        load_features(prepared, "text", "mine").verify()
    assert "\n" not in str(caught.value)


def test_wrong_shapes_and_numbers_are_refused(prepared: Prepared) -> None:
    values, present = arrays()
    for bad in (values[:-1], values[:, 0], values[:, :0]):
        with pytest.raises(DataError, match="need values"):
            write_features(prepared, "text", "mine", bad, present, MADE)
    values[3, 1] = np.nan
    with pytest.raises(DataError, match="item 3 has NaN"):
        write_features(prepared, "text", "mine", values, present, MADE)
    assert names(prepared, "text") == names(prepared, "image") == []


def test_the_default_is_the_newest(tmp_path: Path) -> None:
    plain = prepare(tmp_path / "a", items(N))
    assert default_encoder(plain, "text") is None
    for name in ("first", "second"):
        write_features(plain, "text", name, *arrays(), MADE)
    assert default_encoder(plain, "text") == "second"
    write_features(plain, "text", "first", *arrays(), MADE)
    assert names(plain, "text") == ["first", "second"]
    assert default_encoder(plain, "image") is None


def test_states_per_layer_round_trip_and_are_never_the_default(prepared: Prepared) -> None:
    values = np.random.default_rng(0).normal(size=(N + 1, 3, 5)).astype(np.float32)
    stored = write_features(prepared, "text", "deep+layers", values, arrays()[1], MADE)
    assert (stored.values.shape, stored.dim, stored.n_layers) == ((N + 1, 3, 5), 5, 3)
    assert not stored.values[[0, 2]].any()
    np.testing.assert_array_equal(stored.values[[1, 3, 4]], values[[1, 3, 4]])
    stored.verify()
    assert default_encoder(prepared, "text") is None
    write_features(prepared, "text", "flat", *arrays(), MADE)
    write_features(prepared, "text", "deep+layers", values, arrays()[1], MADE)
    assert names(prepared, "text") == ["deep+layers", "flat"]
    assert default_encoder(prepared, "text") == "flat"
    flat = write_features(prepared, "text", "flat", values.reshape(N + 1, 15), arrays()[1], MADE)
    assert flat.use.content != stored.use.content, "the shape is part of the content"


def test_float16_is_checked_and_hashed_as_such(prepared: Prepared) -> None:
    values, present = arrays()
    half = write_features(prepared, "text", "half", values, present, MADE, dtype="float16")
    assert (half.values.dtype, half.manifest.dtype) == (np.float16, "float16")
    half.verify()
    assert half.use.content != write_features(prepared, "text", "full", values, present, MADE).use.content
    broken = np.array(half.values)
    broken[1, 0] += np.float16(0.01)
    np.save(half.path / "values.npy", broken)
    with pytest.raises(DataError, match=r"is damaged .*does not hold the values.*; run: mmbench extract toy"):
        load_features(prepared, "text", "half").verify()
    values[4, 1] = 70_000
    with pytest.raises(DataError, match="item 4 is too large for float16; store float32"):
        write_features(prepared, "text", "half", values, present, MADE, dtype="float16")


def test_unknown_names(prepared: Prepared) -> None:
    write_features(prepared, "text", "tfidf-svd", *arrays(), MADE)
    with pytest.raises(UsageError, match="did you mean 'tfidf-svd'"):
        load_features(prepared, "text", "tfidf_svd")
    with pytest.raises(UsageError, match="did you mean 'image'"):
        load_features(prepared, "images", "tfidf-svd")
    for name in ("../up", "", ".hidden", "a/b"):
        with pytest.raises(UsageError, match="not usable as a folder"):
            write_features(prepared, "text", name, *arrays(), MADE)


def test_failed_write_leaves_the_old_features(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_features(prepared, "text", "mine", *arrays(), MADE)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mmbench.features.store.write_manifest", full)
        with pytest.raises(DataError, match="No space left on device; free some space"):
            write_features(prepared, "text", "mine", *arrays(seed=1), MADE)
    kept = load_features(prepared, "text", "mine")
    kept.verify()
    assert kept.use.content == old.use.content
    assert [path.name for path in old.path.parent.iterdir() if path.is_dir()] == ["mine"]


def test_open_maps_survive_a_replacement(prepared: Prepared) -> None:
    old = write_features(prepared, "text", "mine", *arrays(), MADE)
    before = np.array(old.values)
    write_features(prepared, "text", "mine", *arrays(seed=1), MADE)
    np.testing.assert_array_equal(old.values, before)
    assert [path.name for path in old.path.parent.iterdir() if path.is_dir()] == ["mine"]


def rewritten(prepared: Prepared, **changes: Any) -> None:
    """Change the manifest of `mine` and give it a hash that fits."""
    file = feature_dir(prepared, "text", "mine") / "manifest.json"
    content = sealed.read_json(file, advice="", version=FORMAT)
    sealed.write_json(file, {**content, **changes}, version=changes.pop("format", FORMAT))


def refused(prepared: Prepared, error: type[DataError], message: str) -> None:
    """Stored features `mine` are refused by every way to them: never absent, never passed over."""
    for read in (
        lambda: load_features(prepared, "text", "mine"),
        lambda: list_features(prepared),
        lambda: default_encoder(prepared, "text"),
    ):
        with pytest.raises(error, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)
    faults: list[DataError] = []
    assert list_features(prepared, on_error=faults.append) == {"text": [], "image": []}
    assert len(faults) == 1


@pytest.mark.parametrize("is_sealed", [False, True])
def test_features_of_another_format_are_refused(prepared: Prepared, is_sealed: bool) -> None:
    write_features(prepared, "text", "mine", *arrays(), MADE)
    if is_sealed:
        rewritten(prepared, format=7)
    else:
        file = feature_dir(prepared, "text", "mine") / "manifest.json"
        file.write_text('{"format": 1, "encoder": "mine"}')
    number = 7 if is_sealed else 1
    message = rf"by another version of mmbench \(format {number}, .* mmbench extract toy --text mine --force"
    refused(prepared, OtherVersionError, message)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 2}', None])
def test_a_damaged_manifest_never_takes_the_modality_away(prepared: Prepared, content: str | None) -> None:
    write_features(prepared, "text", "mine", *arrays(), MADE)
    file = feature_dir(prepared, "text", "mine") / "manifest.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    refused(
        prepared, DamagedError, r"manifest\.json is damaged .*; run: mmbench extract toy --text mine --force"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_present": "3"}, 'n_present: .*got "3"'),
        ({"dim": 0}, "dim: "),
        ({"modality": "sound"}, "modality: .*'text' or 'image'"),
        ({"files": {}}, r"files must be values\.npy and present\.npy"),
        ({"colour": 1}, "colour is unknown"),
        ({"encoder": "other"}, "it describes the text features other"),
        ({"modality": "image"}, "it describes the image features mine"),
    ],
)
def test_a_manifest_that_is_none_is_refused(
    prepared: Prepared, changes: dict[str, Any], message: str
) -> None:
    write_features(prepared, "text", "mine", *arrays(), MADE)
    rewritten(prepared, **changes)
    refused(prepared, DamagedError, message)


@pytest.mark.parametrize("changes", [{"dim": 4}, {"n_layers": 1}, {"n_items": N + 1}, {"dtype": "float16"}])
def test_arrays_that_do_not_fit_their_manifest_are_refused(
    prepared: Prepared, changes: dict[str, Any]
) -> None:
    write_features(prepared, "text", "mine", *arrays(), MADE)
    rewritten(prepared, **changes)
    with pytest.raises(DamagedError, match=r"values\.npy is damaged .* instead of "):
        load_features(prepared, "text", "mine").verify()


def test_a_copy_under_another_name_is_not_taken_for_features(prepared: Prepared) -> None:
    stored = write_features(prepared, "text", "mine", *arrays(), MADE)
    shutil.copytree(stored.path, stored.path.with_name("mine_backup"))
    with pytest.raises(DamagedError, match="it describes the text features mine"):
        load_features(prepared, "text", "mine_backup")
    assert load_features(prepared, "text", "mine").dim == 3


def test_the_identity_is_what_made_them_and_not_the_bytes(prepared: Prepared) -> None:
    values, present = arrays()
    made = MadeBy(identity={"a": 1}, inputs="0" * 64, preprocessing="none", versions={"numpy": "1"})
    made = replace(made, inputs=prepared.manifest.inputs.text)
    uses = [
        write_features(prepared, "text", "a", values, present, made).use,
        # The last digits, the library's version and how it went are those of another machine.
        write_features(
            prepared, "text", "a", values * np.float32(1 + 1e-6), present,
            replace(made, versions={"numpy": "2"}, extraction={"device": "cuda"}, reasons={"no text": 1}),
        ).use,
    ]  # fmt: skip
    assert uses[0].identity == uses[1].identity
    assert uses[0].content != uses[1].content
    others = [
        replace(made, identity={"a": 2}),
        replace(made, preprocessing="some"),
        replace(made, inputs=None),
    ]
    actual = {write_features(prepared, "text", "a", values, present, other).use.identity for other in others}
    half = write_features(prepared, "text", "a", values, present, made, dtype="float16").use.identity
    assert len({uses[0].identity, half, *actual}) == 5


def test_removed_features_are_absent(prepared: Prepared) -> None:
    stored = write_features(prepared, "text", "mine", *arrays(), MADE)
    remove_features(prepared, "text", "mine")
    remove_features(prepared, "text", "mine")
    assert [path for path in stored.path.parent.iterdir() if path.is_dir()] == []
    assert default_encoder(prepared, "text") is None


def test_the_default_is_what_was_stored_last_whatever_the_clock_says(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, clock in (("ahead", 4e9), ("right", 1.7e9), ("behind", 1.0)):
        monkeypatch.setattr("time.time", lambda clock=clock: clock)
        write_features(prepared, "text", name, *arrays(), MADE)
        assert default_encoder(prepared, "text") == name
    assert names(prepared, "text") == ["behind", "right", "ahead"]


def test_imported_features_are_the_default_only_where_nothing_was_extracted(prepared: Prepared) -> None:
    imported = MadeBy(identity={"imported": {"array": "0" * 64, "ids": "0" * 64}})
    write_features(prepared, "text", "theirs", *arrays(), imported)
    assert default_encoder(prepared, "text") == "theirs"
    write_features(prepared, "text", "own", *arrays(), MADE)
    write_features(prepared, "text", "newer", *arrays(), imported)
    assert default_encoder(prepared, "text") == "own"
