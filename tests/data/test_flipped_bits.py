"""One changed bit anywhere in what is stored: an error of one line or equal content, never other numbers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.data.manifest import ARRAYS, FILE, TEXTS
from mmbench.data.prepare import prepare
from mmbench.data.raw_hashes import Recorded, hashes_path, read_recorded, record_file
from mmbench.data.store import open_prepared
from mmbench.errors import DamagedError
from mmbench.features.extract import Options, extract
from mmbench.features.store import default_encoder, feature_dir, load_features
from tests.data.raw_files import AMAZON_2014, grid, write_2014
from tests.features.network_toys import Letters
from tests.features.test_extract import Length

MOST = 250  # bits that are changed of one file
FEATURES = ("values.npy", "present.npy", "manifest.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with `mine`, its features, and a recorded hash."""
    folder = tmp_path_factory.mktemp("flips")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "mine.toml").write_text(f"[mine]\n{AMAZON_2014}")
        patch.setenv("MMBENCH_DATASETS", str(folder / "mine.toml"))
        write_2014(folder, grid())
        extract(prepare("mine", folder).prepared, "text", Length())
        record_file(folder, "mine", "a.gz", Recorded("0" * 64, 7, "https://there/a.gz", "2026-01-01"))
        yield folder


def content_of(folder: Path) -> dict[str, Any]:
    """Everything that a reader can learn of `mine`."""
    prepared = open_prepared("mine", folder)
    arrays = ("items", "times", "offsets", "category_ids", "category_offsets")
    encoder = default_encoder(prepared, "text")
    features = None if encoder is None else load_features(prepared, "text", encoder)
    return {
        "manifest": prepared.manifest,
        **{name: np.array(getattr(prepared, name)) for name in arrays},
        **{name: getattr(prepared, name) for name in ("category_names", "item_records", "user_ids")},
        "features": None if features is None else features.manifest,
        "values": None if features is None else np.array(features.values),
        "present": None if features is None else np.array(features.present),
    }


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(
        (np.array_equal(value, second[name]) and value.dtype == second[name].dtype)
        if isinstance(value, np.ndarray)
        else value == second[name]
        for name, value in first.items()
    )


def flips(content: bytes) -> Iterator[bytes]:
    """The content with one bit changed: in every byte of a small file, in MOST of a large one."""
    rng = np.random.default_rng(0)
    places = rng.permutation(len(content))[:MOST]
    for place, bit in zip(places.tolist(), rng.integers(0, 8, len(places)).tolist(), strict=True):
        yield content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def refusal(read: Callable[[], dict[str, Any]], expected: dict[str, Any]) -> str:
    """Return why nothing is read, "" when what is read is what was written."""
    try:
        actual = read()
    except DamagedError as error:
        return str(error)
    assert equal(expected, actual), "other content, and no word"
    return ""


def check_flips(file: Path, read: Callable[[], dict[str, Any]]) -> int:
    """Flip the bits of `file` one after another; return how many flips were noticed."""
    good, expected, n_noticed = file.read_bytes(), read(), 0
    try:
        for content in flips(good):
            file.write_bytes(content)
            message = refusal(read, expected)
            if message:
                n_noticed += 1
                assert "\n" not in message
                assert file.name in message
                assert "; run: mmbench " in message or "; delete it" in message
    finally:
        file.write_bytes(good)
    return n_noticed


@pytest.mark.parametrize("name", [FILE, *ARRAYS, *TEXTS])
def test_a_changed_bit_of_prepared_data(name: str, data: Path) -> None:
    file = data / "prepared" / "mine" / name
    n_noticed = check_flips(file, lambda: content_of(data))
    assert n_noticed >= (0.8 if name == FILE else 1) * min(
        MOST, file.stat().st_size
    )  # white space may change


@pytest.mark.parametrize("name", FEATURES)
def test_a_changed_bit_of_features(name: str, data: Path) -> None:
    file = feature_dir(open_prepared("mine", data), "text", "length") / name
    n_noticed = check_flips(file, lambda: content_of(data))
    assert n_noticed >= (0.8 if name == "manifest.json" else 1) * min(MOST, file.stat().st_size)


def test_a_changed_bit_of_the_recorded_hashes(data: Path) -> None:
    assert check_flips(hashes_path(data), lambda: dict(read_recorded(data))) > 100


def test_a_changed_bit_of_unfinished_work_changes_no_value(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed extraction had done and what was damaged since is done again."""
    monkeypatch.setattr("mmbench.features.network.FLUSH_SECONDS", 0.0)
    prepared, options = open_prepared("mine", data), Options(batch_size=2, force=True)

    def values() -> np.ndarray:
        return np.array(load_features(prepared, "text", "letters").values)

    class Stopping(Letters):
        def run(self, batch: Any) -> np.ndarray:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().run(batch)

    def work_of_a_kill() -> dict[Path, bytes]:
        with pytest.raises(KeyboardInterrupt):
            extract(prepared, "text", Stopping(), options=options)
        (folder,) = feature_dir(prepared, "text", "letters").parent.glob(".letters.work-*")
        return {file: file.read_bytes() for file in folder.iterdir()}

    extract(prepared, "text", Letters(), options=options)
    expected, files = values(), work_of_a_kill()
    assert len(files) == 3
    for file, good in files.items():
        for content in list(flips(good))[:15]:
            file.parent.mkdir(exist_ok=True)
            for other, whole in files.items():
                other.write_bytes(whole)
            file.write_bytes(content)
            feature_dir(prepared, "text", "letters").joinpath("manifest.json").unlink(missing_ok=True)
            extract(prepared, "text", Letters(), options=Options(batch_size=2))
            np.testing.assert_array_equal(values(), expected)
