"""What shops really serve: odd modes, odd sizes, damaged EXIF, and files that are not pictures at all."""

import io
import struct
import threading
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmbench.data.decoding import decode
from tests.features.toy import encoded, picture

RGB = picture(3, (60, 40))
EXACT = np.asarray(RGB).astype(int)


def pixels(content: bytes) -> np.ndarray:
    decoded = decode(content)
    assert not isinstance(decoded, str), decoded
    assert decoded.mode == "RGB"
    return np.asarray(decoded).astype(int)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def in_front_of_data(png: bytes, extra: bytes) -> bytes:
    place = png.index(b"IDAT") - 4
    return png[:place] + extra + png[place:]


def test_inverted_cmyk_jpeg_keeps_its_colours() -> None:
    content = encoded(RGB.convert("CMYK"), "JPEG", quality=95, subsampling=0)
    assert b"Adobe" in content[:100]  # such files store 255 - ink
    assert np.abs(pixels(content) - EXACT).mean() < 5


def test_palette_with_a_transparency_of_its_own_for_each_colour() -> None:
    flat = Image.new("P", (20, 20), 0)
    flat.putpalette([255, 0, 0, 0, 0, 255])
    flat.paste(1, (10, 0, 20, 20))
    actual = pixels(encoded(flat, transparency=bytes([255, 128])))
    assert tuple(actual[5, 5]) == (255, 0, 0)
    assert np.abs(actual[5, 15] - (127, 127, 255)).max() <= 1  # half blue on white


def test_grey_with_alpha_lies_on_white() -> None:
    layer = np.zeros((10, 10, 2), np.uint8)
    layer[:, :5] = (0, 255)
    actual = pixels(encoded(Image.fromarray(layer, "LA")))
    assert (actual[:, :5] == 0).all()
    assert (actual[:, 5:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_one_colour_that_stands_for_transparent(mode: str) -> None:
    image = RGB.convert(mode)
    colour = image.getpixel((0, 0))
    assert tuple(pixels(encoded(image, transparency=colour))[0, 0]) == (255, 255, 255)


def test_deep_grey_with_a_transparent_value() -> None:
    deep = Image.fromarray((np.arange(400).reshape(20, 20) * 160).astype(np.uint16))
    assert pixels(encoded(deep, transparency=100)).max() == 248  # 63,840 of 65,535


def test_one_bit() -> None:
    actual = pixels(encoded(RGB.convert("1")))
    assert set(np.unique(actual)) == {0, 255}


@pytest.mark.parametrize(
    ("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})], ids=["gif", "webp", "apng"]
)
def test_first_frame(form: str, options: dict[str, Any]) -> None:
    frames = [picture(seed).quantize(25).convert("RGB") for seed in (1, 2, 3)]
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(io.BytesIO(content)) as animation:
        assert animation.n_frames == 3
    np.testing.assert_array_equal(pixels(content), np.asarray(frames[0]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(orientation: int) -> None:
    """The picture is stored turned, and EXIF says how to turn it back."""
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(RGB if stored is None else RGB.transpose(stored), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels(content), EXACT)


def test_damaged_exif_costs_no_picture() -> None:
    jpeg = encoded(RGB, "JPEG")
    for block in (b"II*\0\x08\0\0\0" + b"\xff" * 32, b"", b"II*\0", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"):
        exif = b"Exif\0\0" + block
        content = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
        assert pixels(content).shape == (40, 60, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_one_pixel_is_too_small(size: tuple[int, int]) -> None:
    assert decode(encoded(picture(1, size))) == "too small"


def test_a_gif_of_one_transparent_pixel() -> None:
    assert decode(encoded(Image.new("P", (1, 1)), "GIF", transparency=0)) == "too small"


def test_extremely_wide() -> None:
    assert pixels(encoded(picture(1, (20_000, 2)))).shape == (2, 20_000, 3)


def test_a_true_bomb_is_not_decoded() -> None:
    """20,000 x 20,000 zeros are 400 kB as a file and 1.2 GB as a picture."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(20_001)) for _ in range(20_000)) + rows.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    assert len(bomb) < 500_000
    assert decode(bomb) == "too large"


def test_a_bomb_in_a_text_field() -> None:
    text = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(10_000_000)))
    assert decode(in_front_of_data(encoded(RGB), text)) == "undecodable"


def test_a_header_that_promises_more_than_there_is() -> None:
    png = bytearray(encoded(RGB))
    png[16:24] = struct.pack(">II", 6_000, 6_000)
    png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
    assert decode(bytes(png)) == "truncated"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html><title>Sorry</title></html>", "not a picture"),
        (b"no such picture", "not a picture"),
        (bytes(5_000), "not a picture"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>', "vector graphics"),
        (b"\xef\xbb\xbf <SVG width='1'/>", "vector graphics"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
        (b"%PDF-1.4\n", "not a picture"),
        (b"\xff\xd8\xff\xe0", "undecodable"),
        (b"\x89PNG\r\n\x1a\n", "undecodable"),
    ],
)
def test_what_is_no_picture(content: bytes, reason: str) -> None:
    assert decode(content) == reason


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "JPEG2000"])
def test_cut_at_any_place(form: str) -> None:
    whole = encoded(picture(1, (200, 200)), form)
    for share in (0.3, 0.6, 0.9):
        assert decode(whole[: int(len(whole) * share)]) in ("truncated", "undecodable", "not a picture")


def test_threads_decode_at_once_and_leave_the_warnings_of_others_alone() -> None:
    contents = [encoded(picture(seed), "JPEG") for seed in range(8)] + [b"<html>"]
    expected = [
        picture if isinstance(picture, str) else picture.tobytes() for picture in map(decode, contents)
    ]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(5):
            for number, content in enumerate(contents):
                actual = decode(content)
                if (actual if isinstance(actual, str) else actual.tobytes()) != expected[number]:
                    wrong.append(number)

    before = len(warnings.filters)
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(warnings.filters) == before
    with pytest.warns(UserWarning, match="of somebody else"):
        warnings.warn("of somebody else", stacklevel=1)
