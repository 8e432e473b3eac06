"""Pictures of every mode and every kind of damage: decoded right, or absent with its reason."""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmbench.data import pictures
from mmbench.data.decoding import decode
from mmbench.data.picture_store import StoreWriter
from mmbench.errors import DataError
from mmbench.features.sources import PictureSource, TextSource
from tests.features.toy import encoded, items, picture, prepare

RGB = picture(3)


def pixels(content: bytes) -> np.ndarray:
    decoded = decode(content)
    assert not isinstance(decoded, str), decoded
    assert decoded.mode == "RGB"
    return np.asarray(decoded).astype(int)


def is_readable(content: bytes) -> bool:
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError:
        return False
    return True


def half_transparent() -> Image.Image:
    """Left half red, right half fully transparent black."""
    layer = np.zeros((20, 20, 4), np.uint8)
    layer[:, :10] = (255, 0, 0, 255)
    return Image.fromarray(layer)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    form = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    converted = RGB.convert(mode)
    expected = np.asarray(converted.convert("RGB")).astype(int)
    content = encoded(converted, form)
    if mode == "YCbCr" and not is_readable(content):
        pytest.skip("this Pillow cannot read the YCbCr that it writes; 13 can")
    assert np.abs(pixels(content) - expected).max() <= 1


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_common_formats(form: str) -> None:
    actual = pixels(encoded(RGB, form))
    assert actual.shape == (30, 40, 3)
    assert np.abs(actual - np.asarray(RGB).astype(int)).mean() < 40


def test_transparency_lies_on_white() -> None:
    for image in (half_transparent(), half_transparent().convert("P")):
        options: dict[str, Any] = {"transparency": image.getpixel((15, 5))} if image.mode == "P" else {}
        actual = pixels(encoded(image, **options))
        assert (actual[:, 15] == 255).all()
        assert (actual[:, 5] == (255, 0, 0)).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = (np.arange(400).reshape(20, 20) * 160).astype(np.uint16)
    actual = pixels(encoded(Image.fromarray(deep)))
    np.testing.assert_allclose(actual[..., 0], deep / 257, atol=0.51)


def test_float_grey() -> None:
    ramp = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    np.testing.assert_allclose(pixels(encoded(Image.fromarray(ramp), "TIFF"))[..., 0], ramp * 255, atol=0.51)


def test_first_frame_of_an_animation() -> None:
    frames = [picture(seed).convert("P") for seed in (1, 2)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(content)) as animation:
        assert animation.n_frames == 2
    np.testing.assert_array_equal(pixels(content), np.asarray(frames[0].convert("RGB")))


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert pixels(encoded(RGB, "JPEG", exif=exif)).shape == (40, 30, 3)


def test_plain_pictures_are_blank() -> None:
    assert decode(encoded(Image.new("RGB", (2, 2), "red"))) == "blank"
    assert decode(encoded(Image.new("RGB", (50, 50), (250, 250, 250)), "JPEG")) == "blank"
    assert decode(encoded(Image.new("RGBA", (9, 9), (9, 200, 9, 0)))) == "blank"


def test_damaged_files_say_how() -> None:
    png, jpeg = encoded(picture(1, (200, 200))), encoded(picture(1, (200, 200)), "JPEG")
    assert decode(b"") == "empty file"
    assert decode(b"<html>404</html>") == "not a picture"
    assert decode(png[:20]) in ("undecodable", "truncated")
    assert decode(jpeg[: len(jpeg) // 2]) == "truncated"
    assert decode(png[: len(png) // 2]) == "truncated"


@pytest.mark.filterwarnings("error")
def test_random_damage_never_escapes() -> None:
    rng = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        whole = np.frombuffer(encoded(RGB, form), np.uint8)
        for _ in range(15):
            damaged = whole.copy()
            place = rng.integers(len(whole), size=8)
            damaged[place] = rng.integers(256, size=8)
            decode(damaged.tobytes())


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 11_000, 60_000])  # over our limit, over Pillow's warning, its error
def test_decompression_bombs_are_not_decoded(side: int) -> None:
    assert decode(bomb(side, side)) == "too large"


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def make_store(path: Path, files: dict[str, bytes]) -> Path:
    path = path.with_suffix(".sqlite")
    with StoreWriter(path) as writer:
        for name, content in files.items():
            writer.put([name], f"http://host/{name}", content, tries=1)
        writer.fail(["gone.png"], "http://host/gone.png", "missing file", final=True, tries=1)
    return path


FILES = {
    "good.png": encoded(picture(1)),
    "same.png": encoded(picture(1)),
    "blank.png": encoded(Image.new("L", (5, 5), 9)),
    "text.png": b"not a picture",
    "cut.jpg": encoded(picture(2, (200, 200)), "JPEG")[:2000],
    "empty.png": b"",
}
MEMBERS = [*FILES, "gone.png", None]


@pytest.mark.parametrize("make", [make_zip, make_folder, make_store])
def test_reasons_are_counted(make: Any, tmp_path: Path) -> None:
    images = make(tmp_path / "pictures", FILES)
    records = [{**record, "image": member} for record, member in zip(items(8), MEMBERS, strict=True)]
    source = PictureSource(prepare(tmp_path, records, pictures=images))
    ticks: list[int] = []
    actual = [picture is not None for picture in source.read(ticks.append)]
    assert actual == [True, True] + [False] * 6
    assert ticks == list(range(1, 9))
    assert dict(+source.reasons) == {
        "duplicate": 1, "blank": 1, "not a picture": 1, "truncated": 1, "empty file": 1, "missing file": 1,
        "no picture named": 1,
    }  # fmt: skip


def test_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    record = [{**items(1)[0], "image": "good.png"}]
    marks = []
    for name, make, content in (
        ("a", make_zip, FILES["good.png"]),
        ("b", make_folder, FILES["good.png"]),
        ("s", make_store, FILES["good.png"]),
        ("c", make_folder, FILES["blank.png"]),
    ):
        images = make(tmp_path / name, {"good.png": content})
        marks.append(PictureSource(prepare(tmp_path, record, pictures=images)).fingerprint())
    assert marks[0] == marks[1] == marks[2] != marks[3]


def test_why_a_picture_is_not_in_the_store_is_a_reason_but_not_an_input(tmp_path: Path) -> None:
    record = [{**items(1)[0], "image": "a.png"}]
    marks, path = set(), tmp_path / "p.sqlite"
    for reason in ("HTTP 404 Not Found", "no connection"):
        with StoreWriter(path) as writer:
            writer.fail(["a.png"], "http://host/a.png", reason, final=False, tries=1)
        source = PictureSource(prepare(tmp_path, record, pictures=path))
        assert list(source.read(lambda _: None)) == [None]
        assert source.reasons == {reason: 1}
        marks.add(source.fingerprint())
        source.close()
    assert len(marks) == 1


def test_files_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "pictures", {})
    (tmp_path / "secret.png").write_bytes(FILES["good.png"])
    (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    members = ["../secret.png", str(tmp_path / "secret.png"), "link.png"]
    records = [{**record, "image": member} for record, member in zip(items(3), members, strict=True)]
    source = PictureSource(prepare(tmp_path, records, pictures=images))
    assert list(source.read(lambda _: None)) == [None] * 3
    assert source.reasons == {"outside the folder": 3}


def test_members_with_bad_checksum_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_zip(tmp_path / "p.zip", {"bad.png": bytes(2000), "big.png": bytes(70_000)})
    raw = bytearray((tmp_path / "p.zip").read_bytes())
    raw[40] ^= 0xFF  # inside the first member's data
    (tmp_path / "p.zip").write_bytes(raw)
    monkeypatch.setattr(pictures, "MAX_BYTES", 60_000)
    records = [
        {**record, "image": name} for record, name in zip(items(2), ("bad.png", "big.png"), strict=True)
    ]
    source = PictureSource(prepare(tmp_path, records, pictures=images))
    assert list(source.read(lambda _: None)) == [None, None]
    assert source.reasons == {"unreadable": 1, "too large": 1}


@pytest.mark.parametrize("make", [make_zip, make_folder, make_store])
def test_pictures_that_moved_away_are_one_line(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path / "pictures", {"a.png": FILES["good.png"]})
    prepared = prepare(tmp_path, items(1, image="a.png"), pictures=path)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(
        DataError, match=r"are no longer at .*; put them back or run: mmbench prepare toy"
    ) as caught:
        PictureSource(prepared)
    assert "\n" not in str(caught.value)


def test_a_zip_that_became_unreadable_is_one_line(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "p.zip", {"a.png": FILES["good.png"]})
    prepared = prepare(tmp_path, items(1, image="a.png"), pictures=path)
    path.write_text("no zip")
    with pytest.raises(DataError, match="not a readable zip"):
        PictureSource(prepared)


def test_links_that_lead_nowhere_are_missing_pictures(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pictures", {})
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    records = [
        {**record, "image": name} for record, name in zip(items(2), ("gone.png", "loop.png"), strict=True)
    ]
    source = PictureSource(prepare(tmp_path, records, pictures=folder))
    assert list(source.read(lambda _: None)) == [None, None]
    assert sum(source.reasons.values()) == 2


def test_texts_without_a_letter_count_as_none(tmp_path: Path) -> None:
    records = items(5)
    for record, text in zip(records, ["a lamp", " ", ". . .", None, "a  lamp"], strict=True):
        record["text"] = text
    source = TextSource(prepare(tmp_path, records))
    assert list(source.read(lambda _: None)) == ["a lamp", None, None, None, "a lamp"]
    assert source.reasons == {"no text": 3, "duplicate": 1}
