"""Feature files as other projects publish them (UniSRec, MMRec), and files that were made for other data."""

from pathlib import Path

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.errors import DataError
from mmbench.features.imported import import_features
from mmbench.features.imported_files import IdMap, read_array
from mmbench.features.store import load_features
from tests.features.test_imported import EXPECTED, IDS, VALUES, save
from tests.features.toy import items, prepare


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return prepare(tmp_path, items(4))


def raw(path: Path, values: np.ndarray = VALUES) -> Path:
    """As UniSRec writes it: numbers only, no shape."""
    values.astype("<f4").tofile(path)
    return path


def table(path: Path, ids: list[str] = IDS, *, header: str = "", cut: str = "\t") -> Path:
    path.write_text(header + "".join(f"{item}{cut}{row}\n" for row, item in enumerate(ids)), encoding="utf-8")
    return path


@pytest.mark.parametrize("dim", [None, 2])
def test_unisrec(prepared: Prepared, tmp_path: Path, dim: int | None) -> None:
    array, ids = raw(tmp_path / "Pantry.feat1CLS"), table(tmp_path / "Pantry.item2index")
    report = import_features(prepared, "text", "bert", array, ids, dim=dim)
    assert load_features(prepared, "text", "bert").values.tolist() == EXPECTED
    assert report.reasons == {"not in the id map": 1, "unknown id": 1}


def test_the_map_need_not_be_in_row_order(prepared: Prepared, tmp_path: Path) -> None:
    ids = tmp_path / "Pantry.item2index"
    ids.write_text("a001\t2\nother\t3\na002\t0\na000\t1\n")
    import_features(prepared, "text", "bert", raw(tmp_path / "Pantry.feat1CLS"), ids)
    assert load_features(prepared, "text", "bert").values.tolist() == EXPECTED


@pytest.mark.parametrize("name", ["text_feat.npy", "image_feat.npy"])
def test_mmrec(prepared: Prepared, tmp_path: Path, name: str) -> None:
    ids = table(tmp_path / "i_id_mapping.csv", header="asin\titemID\n")
    import_features(prepared, "image", "mmrec", save(tmp_path / name, VALUES.astype("float64")), ids)
    assert load_features(prepared, "image", "mmrec").values.tolist() == EXPECTED


def test_a_comma_or_a_quote_is_part_of_an_id_in_a_table_cut_at_tabs(tmp_path: Path) -> None:
    odd = ['"quoted"', "a,b", "2\u2028lines"]
    prepared = prepare(tmp_path, [{**item, "id": name} for item, name in zip(items(3), odd, strict=True)])
    ids = table(tmp_path / "ids.tsv", odd)
    import_features(prepared, "text", "bert", save(tmp_path / "f.npy", VALUES[:3]), ids)
    assert load_features(prepared, "text", "bert").values[1:].tolist() == VALUES[:3].tolist()


REFUSED = {
    "rows of another map": (
        VALUES[:, :1].repeat(3, 1)[:3],
        None,
        r"36 bytes / 4 / 4 \(ids in the map\) = 2.25",
    ),
    "another width": (VALUES, 3, r"32 bytes / 4 / 3 \(--dim\) = 2.66667 rows, but the id map has 4 ids"),
    "too few rows": (VALUES[:3], 2, r"24 bytes / 4 / 2 \(--dim\) = 3 rows, but the id map has 4 ids"),
    "nothing": (VALUES[:0], None, r"0 bytes are not a whole number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_sizes_that_do_not_fit_are_refused_with_the_arithmetic(
    prepared: Prepared, tmp_path: Path, case: str
) -> None:
    values, dim, message = REFUSED[case]
    array, ids = raw(tmp_path / "Pantry.feat1CLS", values), table(tmp_path / "Pantry.item2index")
    with pytest.raises(DataError, match=message) as caught:
        import_features(prepared, "text", "bert", array, ids, dim=dim)
    assert "\n" not in str(caught.value)


def test_a_cut_file_and_another_width_of_an_array_with_a_header(prepared: Prepared, tmp_path: Path) -> None:
    array, ids = raw(tmp_path / "Pantry.feat1CLS"), table(tmp_path / "Pantry.item2index")
    array.write_bytes(array.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"31 bytes are not a whole number of 4-byte numbers \(7.75\)"):
        import_features(prepared, "text", "bert", array, ids)
    with pytest.raises(DataError, match="rows of 2 numbers, not the 768 of --dim"):
        import_features(prepared, "text", "bert", save(tmp_path / "f.npy", VALUES), ids, dim=768)


def test_features_of_another_catalogue(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, items(10))
    names = [*(f"a{k:03d}" for k in range(4)), *(f"b{k:03d}" for k in range(8))]
    array = save(tmp_path / "f.npy", np.arange(1, 25, dtype=np.float32).reshape(12, 2))
    ids = table(tmp_path / "ids.tsv", names)
    message = r"covers 4 of the 10 items of toy \(40.0%\), 8 of its 12 ids are not items: .*--allow-partial"
    with pytest.raises(DataError, match=message):
        import_features(prepared, "text", "bert", array, ids)
    report = import_features(prepared, "text", "bert", array, ids, allow_partial=True)
    assert (report.n_present, report.reasons) == (4, {"not in the id map": 6, "unknown id": 8})
    table(ids, ["a004", *names[:11]])
    assert import_features(prepared, "text", "half", array, ids).n_present == 5


def test_rows_that_several_items_share_are_counted(prepared: Prepared, tmp_path: Path) -> None:
    """MMRec gives items without a picture the mean of all others."""
    values = VALUES.copy()
    values[2] = values[1] = values[0]
    report = import_features(
        prepared, "image", "mmrec", save(tmp_path / "f.npy", values), table(tmp_path / "ids.tsv")
    )
    assert report.reasons["duplicate"] == 2
    assert "2 duplicates" in report.line()


@pytest.mark.parametrize("single_first", [False, True])
def test_float64_without_a_header_is_not_read_as_noise(
    tmp_path: Path, prepared: Prepared, single_first: bool
) -> None:
    """Twice the width would be whole, too: the numbers themselves say that they are float64."""
    values = np.random.default_rng(0).normal(size=(4, 8))
    if single_first:
        values = values.astype(np.float32)
    values.astype("<f8").tofile(tmp_path / "a.feat1CLS")
    ids = table(tmp_path / "Pantry.item2index")
    with pytest.raises(DataError, match=r"16 float32 or 8 float64 numbers per row.*save them as float32"):
        import_features(prepared, "text", "bert", tmp_path / "a.feat1CLS", ids)


@pytest.mark.parametrize("scale", [1e-6, 0.05, 1.0, 3e4])
def test_float32_is_never_taken_for_float64(tmp_path: Path, scale: float) -> None:
    values = (np.random.default_rng(1).normal(size=(50, 64)) * scale).astype("<f4")
    values[::3] = 0.0
    values[1] = 1.0
    values.tofile(tmp_path / "a.feat1CLS")
    pairs = [(str(row), row) for row in range(50)]
    read = read_array(tmp_path / "a.feat1CLS", IdMap(tmp_path / "ids", pairs, in_row_order=True))
    assert np.array_equal(read, values)
