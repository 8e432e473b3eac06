"""The engine: rows belong to their items, batches hold what fits, memory may run out, reasons are counted."""

import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.errors import DataError, UsageError
from mmbench.features import network
from mmbench.features.extract import Options, extract
from mmbench.features.store import FeatureSet, load_features
from tests.features.network_toys import LIMIT, Letters, Means
from tests.features.toy import encoded, items, picture, prepare

TEXTS = ["abc", "a", "", "abcdef" * 9, "ab", "abc", "#", "abcdefgh", "b"]


def with_texts(folder: Path, texts: list[str]) -> Prepared:
    return prepare(
        folder, [{**item, "text": text} for item, text in zip(items(len(texts)), texts, strict=True)]
    )


def with_pictures(folder: Path, contents: list[bytes | None]) -> Prepared:
    path = folder / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, content in enumerate(contents):
            if content is not None:
                archive.writestr(f"{number}.png", content)
    records = [{**item, "image": f"{k}.png"} for k, item in enumerate(items(len(contents)))]
    return prepare(folder, records, pictures=path)


def stored(prepared: Prepared, encoder: Any) -> FeatureSet:
    return load_features(prepared, encoder.modality, encoder.name)


def test_rows_belong_to_their_items_and_reasons_are_counted(tmp_path: Path) -> None:
    prepared = with_texts(tmp_path, TEXTS)
    encoder = Letters()
    report = extract(prepared, "text", encoder, options=Options(batch_size=3))
    actual = stored(prepared, encoder)
    texts = [text[:LIMIT] for text in TEXTS]
    assert actual.values[1:, 0].tolist() == [sum(map(ord, t)) if t not in ("", "#") else 0 for t in texts]
    assert actual.values[1:, 1].tolist() == [len(t) if t not in ("", "#") else 0 for t in texts]
    assert actual.present.tolist() == [False, True, True, False, True, True, True, False, True, True]
    # "#" has no letter: it counts as no text; "abc" stands twice, and the long one is cut.
    assert report.reasons == {"no text": 2, "duplicate": 1, "truncated": 1}
    assert report.absent == {"no text": 2}
    assert encoder.batches == [3, 3], "the longest first, equal texts once"
    assert actual.values[4, 2] == LIMIT
    assert actual.values[[1, 5, 8], 2].tolist() == [LIMIT, 2, LIMIT]


def test_what_the_encoder_finds_empty_is_counted_apart(tmp_path: Path) -> None:
    class Picky(Letters):
        def prepare(self, raw: str) -> Any:
            return None if raw == "a" else super().prepare(raw)

    report = extract(with_texts(tmp_path, TEXTS), "text", Picky())
    assert report.absent == {"no text": 2, "nothing to encode": 1}


def test_texts_of_one_length_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(network.TOKENS, "cpu", 60)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, LIMIT, 200)
    prepared = with_texts(tmp_path, [chr(65 + k % 60) + "x" * int(n) for k, n in enumerate(lengths)])
    encoder = Letters(fits=60)  # fails if a batch ever holds more
    extract(prepared, "text", encoder)
    actual = stored(prepared, encoder)
    waste = actual.values[1:, 2] - actual.values[1:, 1]
    assert waste.mean() < 1
    assert len(encoder.batches) < 120


@pytest.mark.parametrize("options", [Options(), Options(batch_size=64)])
def test_out_of_memory_halves_and_says_so(tmp_path: Path, options: Options) -> None:
    prepared = with_texts(tmp_path, ["x" * (1 + k % 30) + chr(65 + k // 30) for k in range(120)])
    said: list[str] = []
    encoder = Letters(fits=200)
    extract(prepared, "text", encoder, options=options, say=said.append)
    texts = prepared.item_records
    assert stored(prepared, encoder).values[1:, 1].tolist() == [len(text["text"]) for text in texts]
    assert said[
        0
    ] == f"text letters: out of memory with {options.batch_size or 120} in a batch; continuing with " + (
        "32" if options.batch_size else "60"
    )
    sizes = stored(prepared, encoder).manifest.extraction["batches"]
    expected = (4, "items", 4) if options.batch_size else (5, "tokens", 3 * 31)
    assert (len(said), sizes[-1]["unit"], sizes[-1]["at most"]) == expected
    assert max(encoder.batches) <= 200


def test_one_input_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    prepared = with_texts(tmp_path, ["x" * 30, "a"])
    with pytest.raises(DataError, match="out of memory with a single input") as caught:
        extract(prepared, "text", Letters(fits=20))
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_taken_for_memory(tmp_path: Path) -> None:
    class Broken(Letters):
        def run(self, batch: Any) -> np.ndarray:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        extract(with_texts(tmp_path, ["a"]), "text", Broken())
    assert network.is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert network.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[np.nan]]), "not finite; extract with --precision float32"),
        (np.ones((2, 1)), "returned .* for 1"),
    ],
)
def test_a_network_that_gives_nonsense(tmp_path: Path, values: np.ndarray, message: str) -> None:
    class Odd(Letters):
        def run(self, batch: Any) -> np.ndarray:
            return values

    with pytest.raises(DataError, match=message):
        extract(with_texts(tmp_path, ["a"]), "text", Odd())


def test_pictures_come_in_item_order_with_their_reasons(tmp_path: Path) -> None:
    seeds = [None, 1, 2, 3, 1, None, *range(4, 30)]
    contents = [None if seed is None else encoded(picture(seed)) for seed in seeds]
    contents[3] = b"no picture"
    contents[5] = encoded(picture(0).point(lambda level: 253 + level % 6 // 3 * 2))  # nearly white
    prepared = with_pictures(tmp_path, contents)
    encoder = Means()
    report = extract(prepared, "image", encoder, options=Options(batch_size=4))
    assert report.reasons == {"missing file": 1, "not a picture": 1, "blank": 1, "duplicate": 1}
    actual = stored(prepared, encoder)
    for item, content in enumerate(contents, start=1):
        if actual.present[item]:
            own = encoder.prepare(picture(seeds[item - 1]))  # type: ignore[arg-type]
            np.testing.assert_allclose(actual.values[item, :3], own.array.mean(axis=(1, 2)), rtol=1e-5)
        else:
            assert content is None or item in (4, 6)
    assert encoder.batches == [2, 3, *[4] * 6], "absent ones leave a gap in their batch, no shift"


def test_pictures_are_decoded_ahead_but_never_all_at_once(tmp_path: Path) -> None:
    prepared = with_pictures(tmp_path, [encoded(picture(k)) for k in range(120)])
    counts, lock = {"prepared": 0, "run": 0, "ahead": 0, "threads": 0}, threading.Lock()

    class Counting(Means):
        def prepare(self, raw: Any) -> Any:
            with lock:
                counts["prepared"] += 1
                counts["ahead"] = max(counts["ahead"], counts["prepared"] - counts["run"])
                counts["threads"] += threading.current_thread() is not threading.main_thread()
            return super().prepare(raw)

        def run(self, batch: Any) -> np.ndarray:
            with lock:
                counts["run"] += len(batch)
            return super().run(batch)

    extract(prepared, "image", Counting(), options=Options(batch_size=4))
    assert counts["prepared"] == counts["run"] == counts["threads"] == 120
    assert 4 < counts["ahead"] <= 4 + 2 * 4 + 1


def test_float16_is_another_feature_file_and_half_as_large(tmp_path: Path) -> None:
    prepared = with_texts(tmp_path, ["abc", "a"])
    encoder = Letters()
    full = np.array((extract(prepared, "text", encoder), stored(prepared, encoder).values)[1])
    report = extract(prepared, "text", encoder, options=Options(float16=True))
    half = stored(prepared, encoder)
    assert not report.skipped
    assert (half.values.dtype, full.dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(half.values, full.astype(np.float16))
    half.verify()
    assert extract(prepared, "text", encoder, options=Options(float16=True)).skipped
    assert not extract(prepared, "text", encoder).skipped


def test_nobody_has_a_text(tmp_path: Path) -> None:
    encoder = Letters()
    report = extract(with_texts(tmp_path, ["", "."]), "text", encoder)
    assert (report.n_present, report.dim, report.absent, encoder.batches) == (0, 0, {"no text": 2}, [])
    with pytest.raises(UsageError, match="batch size 0"):
        Options(batch_size=0)
