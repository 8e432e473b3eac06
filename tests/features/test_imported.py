"""Ready-made arrays: the right row for each item, or one line that says why not."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from mmbench.cli import features as cli
from mmbench.cli.state import State
from mmbench.data.store import Prepared
from mmbench.errors import DataError, MmbenchError, UsageError
from mmbench.features.imported import import_features
from mmbench.features.store import load_features
from tests.features.toy import items, prepare

IDS = ["a002", "a000", "a001", "other"]  # three of the four items, in another order, and a stranger
VALUES = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
EXPECTED = [[0, 0], [3, 4], [5, 6], [1, 2], [0, 0]]  # padding, a000, a001, a002, a003


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return prepare(tmp_path, items(4))


def save(path: Path, values: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, values)
    else:
        torch.save(torch.from_numpy(values), path)
    return path


def write_ids(path: Path, ids: list[str] = IDS) -> Path:
    forms = {
        ".txt": "\n".join(ids),
        ".json": json.dumps(ids),
        ".csv": "id,row\n" + "".join(f"{item},{row}\n" for row, item in enumerate(ids)),
    }
    path.write_text(forms[path.suffix], encoding="utf-8")
    return path


@pytest.mark.parametrize("form", [".npy", ".npz", ".pt"])
@pytest.mark.parametrize("ids", [".txt", ".json", ".csv"])
def test_every_form_puts_the_rows_where_they_belong(
    prepared: Prepared, tmp_path: Path, form: str, ids: str
) -> None:
    array, names = save(tmp_path / f"f{form}", VALUES), write_ids(tmp_path / f"ids{ids}")
    report = import_features(prepared, "text", "bert", array, names)
    stored = load_features(prepared, "text", "bert")
    assert stored.values.tolist() == EXPECTED
    assert stored.present.tolist() == [False, True, True, True, False]
    assert report.reasons == {"not in the id map": 1, "unknown id": 1}
    assert import_features(prepared, "text", "bert", array, names).skipped


def test_json_object_may_use_some_rows_and_share_them(prepared: Prepared, tmp_path: Path) -> None:
    names = tmp_path / "ids.json"
    names.write_text('{"a000": 3, "a001": 3}')
    import_features(prepared, "image", "vit", save(tmp_path / "f.npy", VALUES), names)
    assert load_features(prepared, "image", "vit").values[1:3].tolist() == [[7, 8], [7, 8]]


def test_zero_rows_are_absent_and_counted(prepared: Prepared, tmp_path: Path) -> None:
    values = VALUES.copy()
    values[1] = 0
    report = import_features(
        prepared, "text", "bert", save(tmp_path / "f.npy", values), write_ids(tmp_path / "i.txt")
    )
    assert report.absent == {"not in the id map": 1, "zero row": 1}
    assert "2 of 4 items (50.0%)" in report.line()


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32"])
def test_number_types_become_float32(prepared: Prepared, tmp_path: Path, dtype: str) -> None:
    array = save(tmp_path / "f.npy", VALUES.astype(dtype))
    import_features(prepared, "text", "bert", array, write_ids(tmp_path / "i.txt"))
    assert load_features(prepared, "text", "bert").values.tolist() == EXPECTED


def test_torch_files_with_bfloat16_or_one_named_tensor(prepared: Prepared, tmp_path: Path) -> None:
    tensor = torch.from_numpy(VALUES).bfloat16().requires_grad_()
    for number, content in enumerate((tensor, {"features": tensor.detach(), "note": "x"})):
        torch.save(content, tmp_path / "f.pt")
        import_features(prepared, "text", f"b{number}", tmp_path / "f.pt", write_ids(tmp_path / "i.txt"))
        assert load_features(prepared, "text", f"b{number}").values.tolist() == EXPECTED


def changed(row: int, value: float) -> np.ndarray:
    values = VALUES.astype(np.float64)
    values[row, 0] = value
    return values


def test_nan_counts_only_in_rows_that_are_used(prepared: Prepared, tmp_path: Path) -> None:
    array = save(tmp_path / "f.npy", changed(3, np.nan))  # the stranger's row
    assert import_features(prepared, "text", "bert", array, write_ids(tmp_path / "i.txt")).n_present == 3


BAD_ARRAYS = {
    "NaN": (changed(1, np.nan), r"1 rows have NaN .* row 1 \(item 'a000'\)"),
    "inf": (changed(2, np.inf), "row 2"),
    "too large for float32": (changed(0, 1e300), "row 0"),
    "one row too few": (VALUES[:3], "4 ids for an array of 3 rows"),
    "1-D": (VALUES[:, 0], r"shape \[4\]; it must be \[rows, D\]"),
    "3-D": (VALUES[:, None], r"shape \[4, 1, 2\]"),
    "no columns": (VALUES[:, :0], r"shape \[4, 0\]"),
    "text": (np.full((4, 2), "a"), "they must be real numbers"),
    "complex": (VALUES.astype(complex), "they must be real numbers"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_one_line(prepared: Prepared, tmp_path: Path, case: str) -> None:
    values, message = BAD_ARRAYS[case]
    check_refused(prepared, save(tmp_path / "f.npy", values), write_ids(tmp_path / "i.txt"), message)


def check_refused(
    prepared: Prepared, array: Path, ids: Path, message: str, error: type[MmbenchError] = DataError
) -> None:
    with pytest.raises(error, match=message) as caught:
        import_features(prepared, "text", "bert", array, ids)
    assert "\n" not in str(caught.value)
    assert not (prepared.features_dir / "text" / "bert").exists()


BAD_IDS = {
    "twice.txt": ("a000\na001\na000\na000", "1 ids appear more than once, the first is 'a000'"),
    "gap.txt": ("a000\n\na001\na002", "gap.txt:2: empty line"),
    "none.txt": ("", "holds no ids"),
    "strangers.txt": (
        "7\n8\n9\n10",
        "none of its 4 ids is an item of toy .*it has '7', the catalogue 'a000'",
    ),
    "few.json": ('["a000"]', "1 ids for an array of 4 rows"),
    "twice.json": ('{"a000": 1, "a000": 2}', "more than once"),
    "range.json": ('{"a000": 4}', "row 4; the array has rows 0 to 3"),
    "negative.json": ('{"a000": -1}', "row -1"),
    "float.json": ('{"a000": 1.5}', "must be a whole number"),
    "true.json": ('{"a000": true}', "must be a whole number"),
    "nested.json": ('[["a000"], "a001", "a002", "x"]', "entry 0 is"),
    "word.json": ('"a000"', "neither a list of ids nor an object"),
    "broken.json": ('{"a000": 1', "not JSON"),
    "three.csv": ("a000,1,2\n", "three.csv:1: 3 columns"),
    "word.csv": ("id,row\na000,first\n", "word.csv:2: row 'first'"),
    "twice.csv": ("a000,1\na000,1\n", "more than once"),
    "empty.csv": ("id,row\n", "holds no ids"),
}


@pytest.mark.parametrize("name", BAD_IDS)
def test_bad_id_maps_are_one_line(prepared: Prepared, tmp_path: Path, name: str) -> None:
    text, message = BAD_IDS[name]
    (tmp_path / name).write_text(text)
    check_refused(prepared, save(tmp_path / "f.npy", VALUES), tmp_path / name, message)


def test_bytes_that_are_no_text(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "i.txt").write_bytes(b"a000\n\xff\xfe\n")
    check_refused(prepared, save(tmp_path / "f.npy", VALUES), tmp_path / "i.txt", "not UTF-8")


def test_files_that_are_not_there_or_of_another_kind(prepared: Prepared, tmp_path: Path) -> None:
    array, ids = save(tmp_path / "f.npy", VALUES), write_ids(tmp_path / "i.txt")
    check_refused(prepared, tmp_path / "gone.npy", ids, "gone.npy does not exist")
    check_refused(prepared, array, tmp_path / "gone.txt", "gone.txt does not exist")
    check_refused(prepared, ids, ids, "known: .npy, .npz, .pt", UsageError)
    check_refused(prepared, array, array, "known: .txt, .json, .csv", UsageError)


class Bomb:
    """Unpickling this would create a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.mark), "w"))


def test_pickled_code_is_never_run(prepared: Prepared, tmp_path: Path) -> None:
    mark, ids = tmp_path / "ran", write_ids(tmp_path / "i.txt")
    np.save(tmp_path / "f.npy", np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "f.npz", np.array([Bomb(mark)], dtype=object))
    torch.save({"x": Bomb(mark)}, tmp_path / "f.pt")
    (tmp_path / "g.pt").write_bytes(pickle.dumps(Bomb(mark)))
    mark.unlink(missing_ok=True)
    for name in ("f.npy", "f.npz", "f.pt", "g.pt"):
        check_refused(prepared, tmp_path / name, ids, "not a readable")
    assert not mark.exists()


def test_several_arrays_or_none(prepared: Prepared, tmp_path: Path) -> None:
    ids = write_ids(tmp_path / "i.txt")
    np.savez(tmp_path / "f.npz", a=VALUES, b=VALUES)
    torch.save({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "f.pt")
    torch.save([1.0], tmp_path / "g.pt")
    check_refused(prepared, tmp_path / "f.npz", ids, r"holds 2 arrays \(a, b\)")
    check_refused(prepared, tmp_path / "f.pt", ids, r"holds 2 tensors \(a, b\)")
    check_refused(prepared, tmp_path / "g.pt", ids, "holds a list")


def test_built_in_names_are_kept_for_built_in_encoders(prepared: Prepared, tmp_path: Path) -> None:
    array, ids = save(tmp_path / "f.npy", VALUES), write_ids(tmp_path / "i.txt")
    with pytest.raises(UsageError, match="registered text encoder"):
        import_features(prepared, "text", "tfidf-svd", array, ids)
    import_features(prepared, "image", "tfidf-svd", array, ids)


def test_command_line(prepared: Prepared, tmp_path: Path) -> None:
    app = Typer()
    app.callback()(lambda: None)
    cli.register(app)
    array, ids = save(tmp_path / "f.npy", VALUES), write_ids(tmp_path / "i.txt")
    options = ["--modality", "text", "--name", "bert", "--array", str(array), "--ids", str(ids)]
    state = State(data_dir=tmp_path, results_dir=tmp_path)
    result = CliRunner().invoke(app, ["import-features", "toy", *options], obj=state)
    assert result.exit_code == 0, result.output
    assert "text bert: 3 of 4 items (75.0%); 2 dimensions; absent: 1 not in the id map" in result.output
    shown = CliRunner().invoke(app, ["import-features", "--help"]).output
    assert "Example:" in shown
