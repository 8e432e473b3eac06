"""Bytes of a foreign picture file -> RGB pixels, or the reason why there are none.

Every way in which a picture can be damaged ends as a reason that can be counted, never as a crash.
"""

import io
import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 64 * 2**20  # of one picture file; more is a mistake or a bomb
MAX_PIXELS = 64_000_000  # of one picture; decoded as RGB 192 MB
MIN_SIDE = 2  # pixels; a picture of one pixel (or a line of them) stands for "no picture"
BLANK_RANGE = 4  # of 255: a picture whose every channel spans less shows nothing (JPEG noise is about 2)

# Everything else Pillow can open is left out on purpose: EPS for one would run Ghostscript on a foreign file.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "ICO")

PREPROCESSING = (
    "first frame, EXIF orientation applied, transparency on white, converted to RGB; over "
    f"{MAX_PIXELS} pixels or {MAX_BYTES} bytes, or a side under {MIN_SIDE} pixels, refused"
)


def decode(content: bytes) -> "Image | str":
    """Bytes of a picture file -> RGB picture, or the reason why not ("truncated", "blank", ...). Thread-safe."""
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
    # Decoders of damaged files raise nearly everything (OSError, SyntaxError, ...): any is an answer.
    except Exception as error:
        return "truncated" if "truncated" in str(error).lower() else "undecodable"
    return "blank" if all(high - low < BLANK_RANGE for low, high in _extrema(picture)) else picture


def _silence_pillow() -> None:
    """No warnings about damaged EXIF, odd palettes or many pixels: `decode` answers for those itself.

    A filter for good rather than `catch_warnings`, which is not thread-safe. Adding it again changes nothing.
    """
    from PIL import Image

    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow can open."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _unidentified(content: bytes) -> str:
    """Why bytes are none of the known formats; an error page with status 200 is the usual case."""
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return "vector graphics"
    signatures = (b"\xff\xd8\xff", b"\x89png", b"gif8", b"riff")
    return "undecodable" if start.startswith(signatures) else "not a picture"


def _extrema(picture: "Image") -> list[tuple[int, int]]:
    return picture.getextrema()  # type: ignore[return-value]


def _to_rgb(image: "Image") -> "Image":
    """Any mode -> RGB: the first frame, upright, transparency on white, deep grey scaled to 8 bits."""
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
    """Turned as EXIF says. Damaged EXIF is no reason to lose a picture that was decoded."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # its readers and writers raise nearly everything, as decoders do
        return image


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Grey of 16 or 32 bits or float [h, w] -> uint8; the largest value tells the range."""
    values = np.nan_to_num(values.astype(np.float64))
    top = values.max(initial=0)
    # Above 255: 0..65535. Above 1: 0..255. Else 0..1.
    scale = 1 / 257 if top > 255 else 1 if top > 1 else 255
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
