"""Extraction end to end: coverage told, nothing done twice, settings and inputs decide what is stale."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.features.encoders import CLASSICAL, DEFAULT, ENCODERS, get_encoder
from mmbench.features.extract import extract, extract_default
from mmbench.features.store import feature_dir, list_features, load_features
from tests.features.toy import encoded, items, picture, prepare


def with_pictures(tmp_path: Path, seeds: list[int | None], name: str = "toy") -> Prepared:
    """Items whose pictures have the given seeds; None = the file is missing."""
    path = tmp_path / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, seed in enumerate(seeds):
            if seed is not None:
                archive.writestr(f"{number}.png", encoded(picture(seed)))
    records = [{**record, "image": f"{k}.png"} for k, record in enumerate(items(len(seeds)))]
    return prepare(tmp_path, records, pictures=path, name=name)


def test_rows_belong_to_their_items(tmp_path: Path) -> None:
    prepared = with_pictures(tmp_path, [5, None, 7, 5])
    report = extract(prepared, "image")
    stored = load_features(prepared, "image", "colour-gradient")
    direct, _ = get_encoder("image").encode([picture(5), None, picture(7), picture(5)])
    np.testing.assert_array_equal(stored.values[1:], direct)
    assert stored.present.tolist() == [False, True, False, True, True]
    assert report.reasons == {"missing file": 1, "duplicate": 1}
    assert report.absent == {"missing file": 1}
    assert report.n_items - report.n_present == sum(report.absent.values())


def test_report_line_says_what_is_missing(tmp_path: Path) -> None:
    line = extract(with_pictures(tmp_path, [5, None, 7, 5]), "image").line()
    assert line.startswith(
        "image colour-gradient: 3 of 4 items (75.0%); 594 dimensions; absent: 1 missing file; "
    )
    assert "1 duplicate" in line
    assert line.endswith(" s")


def test_second_time_nothing_is_done(tmp_path: Path) -> None:
    prepared = with_pictures(tmp_path, [1, 2, None])
    first = extract_default(prepared)
    stamp = [(feature_dir(prepared, r.modality, r.encoder) / "values.npy").stat().st_mtime_ns for r in first]
    second = extract_default(prepared)
    assert [item.skipped for item in first + second] == [False, False, True, True]
    assert [(a.n_present, a.dim, a.reasons) for a in first] == [
        (b.n_present, b.dim, b.reasons) for b in second
    ]
    again = [(feature_dir(prepared, r.modality, r.encoder) / "values.npy").stat().st_mtime_ns for r in second]
    assert stamp == again
    assert "already stored" in second[0].line()
    assert not extract(prepared, "text", force=True).skipped


def test_changed_picture_or_text_is_seen(tmp_path: Path) -> None:
    before = extract_default(with_pictures(tmp_path, [1, 2]))
    hashes = {r.modality: r for r in before}
    prepared = with_pictures(tmp_path, [1, 3])
    after = {r.modality: r for r in extract_default(prepared)}
    assert after["text"].skipped
    assert not after["image"].skipped
    records = [{**record, "text": record["text"] + " new"} for record in items(2)]
    changed = prepare(tmp_path, records)
    assert not extract(changed, "text").skipped
    assert hashes.keys() == after.keys()


def test_missing_array_is_extracted_again(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, items(3))
    extract(prepared, "text")
    (feature_dir(prepared, "text", "tfidf-svd") / "values.npy").unlink()
    assert not extract(prepared, "text").skipped
    load_features(prepared, "text", "tfidf-svd").verify()


@dataclass(frozen=True)
class Length:
    """An encoder from outside the registry: the number of letters; texts with an x are refused."""

    factor: float = 1.0
    name = "length"
    modality = "text"

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "factor": self.factor}

    def encode(self, inputs: Iterable[str | None]) -> tuple[np.ndarray, np.ndarray]:
        texts = list(inputs)
        present = np.array([text is not None and "x" not in text for text in texts])
        return np.array([[self.factor * len(text or "")] for text in texts], np.float32), present


def test_any_encoder_fits_and_its_settings_are_part_of_the_identity(tmp_path: Path) -> None:
    records = items(3)
    records[1]["text"] = "x"
    prepared = prepare(tmp_path, records)
    report = extract(prepared, "text", Length())
    assert report.reasons == {"nothing to encode": 1}
    assert load_features(prepared, "text", "length").values[:, 0].tolist() == [0, 14, 0, 14]
    assert extract(prepared, "text", Length()).skipped
    assert not extract(prepared, "text", Length(factor=2)).skipped
    stored = load_features(prepared, "text", "length")
    assert stored.manifest.identity["factor"] == 2
    assert stored.values[1, 0] == 28


def test_nothing_present_stores_nothing_and_drops_what_was(tmp_path: Path) -> None:
    assert extract(with_pictures(tmp_path, [1, 2]), "image").dim == 594
    prepared = with_pictures(tmp_path, [None, None])
    report = extract(prepared, "image")
    assert (report.n_present, report.dim) == (0, 0)
    assert "0 of 2 items (0.0%); nothing stored; absent: 2 missing file" in report.line()
    assert list_features(prepared)["image"] == []


def test_defaults_leave_out_pictures_that_nobody_promised(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, items(3))
    assert [report.modality for report in extract_default(prepared)] == ["text"]
    asked = extract_default(prepared, text="none", image="colour-gradient")
    assert [(report.modality, report.absent) for report in asked] == [("image", {"no picture named": 3})]


def test_progress_names_the_work_and_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    extract_default(with_pictures(tmp_path, [1, None, 3]), on_progress=lambda *step: seen.append(step))
    assert seen[0] == ("text tfidf-svd", 1, 3)
    assert seen[-1] == ("image colour-gradient", 3, 3)


def test_unknown_encoder_is_suggested(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, items(2))
    with pytest.raises(UsageError, match="unknown text encoder 'tfidf'; did you mean 'tfidf-svd'"):
        extract(prepared, "text", "tfidf")
    with pytest.raises(UsageError, match="unknown modality"):
        extract(prepared, "sound")


@pytest.mark.parametrize(("modality", "name"), [(m, name) for m in ENCODERS for name in CLASSICAL[m]])
def test_registered_encoders_are_what_the_registry_says(modality: str, name: str) -> None:
    encoder = get_encoder(modality, name)
    assert (encoder.modality, encoder.name) == (modality, name)
    assert encoder.identity()["name"] == name
    values, present = encoder.encode([None, None])
    assert values.shape[0] == 2
    assert not present.any()
    assert DEFAULT[encoder.modality] in ENCODERS[encoder.modality]
