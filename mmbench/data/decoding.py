"""Bytes of an untrusted picture file -> RGB pixels, or the reason why there are none.

Whatever is wrong with a picture becomes a reason that can be counted, never a crash.
"""

import io
import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 64 * 2**20  # a larger picture file is a mistake or a bomb
MAX_PIXELS = 64_000_000  # a picture of this size takes 192 MB as RGB
MIN_SIDE = 2  # pixels; a picture of a single pixel (or a line of pixels) stands for "no picture"
BLANK_RANGE = 4  # of 255; a picture is blank if every channel spans less (JPEG noise is about 2)

# The other formats of Pillow are left out on purpose: EPS, for example, would run Ghostscript on an untrusted file.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "ICO")

PREPROCESSING = (
    "first frame, EXIF orientation applied, transparency on white, converted to RGB; over "
    f"{MAX_PIXELS} pixels or {MAX_BYTES} bytes, or a side under {MIN_SIDE} pixels, refused"
)


def decode(content: bytes) -> "Image | str":
    """Return the RGB picture, or the reason why there is none ("truncated", "blank", ...). Thread-safe."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        return "empty file"
    _silence_pillow()
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                return "too large"
            if min(image.size) < MIN_SIDE:
                return "too small"
            picture = _to_rgb(image)
    except UnidentifiedImageError:
        return _unidentified(content)
    except (Image.DecompressionBombError, MemoryError):
        return "too large"
    # Decoders of damaged files raise nearly everything (OSError, SyntaxError, ...), and each of these is an answer.
    except Exception as error:
        return "truncated" if "truncated" in str(error).lower() else "undecodable"
    return "blank" if all(high - low < BLANK_RANGE for low, high in _extrema(picture)) else picture


def _silence_pillow() -> None:
    """Silence warnings about damaged EXIF, odd palettes or many pixels: `decode` handles these itself.

    The filter is permanent, because `catch_warnings` is not thread-safe; adding it twice changes nothing.
    """
    from PIL import Image

    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@cache
def _formats() -> tuple[str, ...]:
    """Return those of FORMATS that this build of Pillow can open."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _unidentified(content: bytes) -> str:
    """Return why the bytes are in no known format; most often they are an error page sent with status 200."""
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return "vector graphics"
    signatures = (b"\xff\xd8\xff", b"\x89png", b"gif8", b"riff")
    return "undecodable" if start.startswith(signatures) else "not a picture"


def _extrema(picture: "Image") -> list[tuple[int, int]]:
    return picture.getextrema()  # type: ignore[return-value]


def _to_rgb(image: "Image") -> "Image":
    """Convert any mode to RGB: the first frame, upright, transparency on white, deep grey scaled to 8 bits."""
    from PIL import Image

    image.load()
    upright = _upright(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return Image.fromarray(_to_bytes(np.asarray(upright))).convert("RGB")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return upright.convert("RGB")


def _upright(image: "Image") -> "Image":
    """Turn a picture as its EXIF data say; damaged EXIF data do not lose a decoded picture."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # reading and writing EXIF raises nearly everything, as decoders do
        return image


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Convert grey of 16 or 32 bits or float [h, w] to uint8; the largest value decides the range."""
    values = np.nan_to_num(values.astype(np.float64))
    top = values.max(initial=0)
    # The range is 0..65535 above 255, 0..255 above 1, else 0..1.
    scale = 1 / 257 if top > 255 else 1 if top > 1 else 255
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
