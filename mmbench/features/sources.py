"""An item's text or picture as the encoders take it, or the reason why there is none.

Pictures come from a folder, a zip or a store of fetched ones (`prepared.manifest["images"]`, member name in the
item's record).
They are foreign files: every way in which one can be damaged ends as a counted reason, never as a crash or a
silent zero.
"""

import hashlib
import io
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbench.data.store import Prepared
from mmbench.errors import DataError
from mmbench.fetch.store import PictureStore

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

Ticker = Callable[[int], None]


class TextSource:
    """The items' `text` fields; counts items without one and items whose text another has, too."""

    def __init__(self, prepared: Prepared) -> None:
        self.texts = [_clean(record.get("text")) for record in prepared.item_records]
        self.reasons: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.texts)

    def fingerprint(self) -> str:
        """sha256 of all texts."""
        return hashlib.sha256("\0".join(text or "" for text in self.texts).encode()).hexdigest()

    def read(self, tick: Ticker) -> Iterator[str | None]:
        """Texts in item order, None where there is none."""
        seen: set[str] = set()
        for number, text in enumerate(self.texts, start=1):
            if text is None:
                self.reasons["no text"] += 1
            elif text in seen:
                self.reasons["duplicate"] += 1
            else:
                seen.add(text)
            yield text
            tick(number)


def _clean(text: Any) -> str | None:
    """White space collapsed; a text of field ends only (". .") is none."""
    joined = " ".join(str(text or "").split())
    return joined if any(letter.isalnum() for letter in joined) else None


class PictureSource:
    """The items' pictures; counts why some have none, and items whose picture file another has, too."""

    def __init__(self, prepared: Prepared) -> None:
        self.members = [record.get("image") or None for record in prepared.item_records]
        images = prepared.manifest.get("images")
        self.reasons: Counter[str] = Counter()
        self.digests: list[str] = []  # of the files, or why there are none; known after `fingerprint`
        self._open: Callable[[str], bytes | str] = lambda member: "missing file"
        self._store: PictureStore | None = None
        if images is not None and any(self.members):
            if images["kind"] == "store":
                self._store = _open_store(Path(images["path"]), prepared.name)
                self._open = self._store.read
            else:
                self._open = _opener(Path(images["path"]), str(images["kind"]), prepared.name)

    def __len__(self) -> int:
        return len(self.members)

    def close(self) -> None:
        """Let go of the store; a folder or a zip needs nothing."""
        if self._store is not None:
            self._store.close()

    def fingerprint(self) -> str:
        """sha256 over every picture file's bytes (or why there are none), in item order."""
        self.digests = []
        for member in self.members:
            self.digests.append(self._mark(member))
        return hashlib.sha256("".join(f"{one}\n" for one in self.digests).encode()).hexdigest()

    def content(self, number: int) -> bytes | str:
        """The picture file of item number + 1, or the reason why there is none. Call it from one thread."""
        return self._content(self.members[number])

    def duplicates(self, present: np.ndarray) -> int:
        """How many of the present items have the picture file of an earlier one; after `fingerprint`."""
        seen = [one for one, here in zip(self.digests, present, strict=True) if here]
        return len(seen) - len(set(seen))

    def _mark(self, member: str | None) -> str:
        """sha256 of the picture's bytes, or why there is none."""
        if self._store is not None and member is not None:
            # Known without reading gigabytes. Why one could not be fetched changes from day to day and is no input.
            return self._store.sha256(member) or "missing file"
        content = self._content(member)
        return content if isinstance(content, str) else hashlib.sha256(content).hexdigest()

    def read(self, tick: Ticker) -> Iterator["Image | None"]:
        """Pictures in item order as RGB, None where there is none."""
        seen: set[bytes] = set()
        for number, member in enumerate(self.members, start=1):
            content = self._content(member)
            picture = content if isinstance(content, str) else decode(content)
            if isinstance(picture, str):
                self.reasons[picture] += 1
                yield None
            else:
                assert isinstance(content, bytes)
                key = hashlib.sha256(content).digest()
                self.reasons["duplicate"] += key in seen
                seen.add(key)
                yield picture
            tick(number)

    def _content(self, member: str | None) -> bytes | str:
        return "no picture named" if member is None else self._open(member)


def _open_store(path: Path, name: str) -> PictureStore:
    if not path.is_file():
        raise DataError(
            f"the fetched pictures of {name} are no longer at {path}; run: mmbench prepare {name}"
        )
    return PictureStore(path)


def _opener(path: Path, kind: str, name: str) -> Callable[[str], bytes | str]:
    """A function member -> bytes, or the reason why it cannot be read."""
    if kind == "folder" and path.is_dir():
        return lambda member: _read_file(path.resolve(), member)
    if kind == "zip" and path.is_file():
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} is not a readable zip ({error}); fetch the pictures of {name} again"
            ) from error
        return lambda member: _read_member(archive, member)
    if kind not in ("folder", "zip"):
        raise DataError(f"pictures of {name}: kind {kind!r} is unknown; known: folder, zip, store")
    raise DataError(
        f"the pictures of {name} are no longer at {path}; "
        f"put them back or run: mmbench preprocess {name} --force"
    )


def _read_file(folder: Path, member: str) -> bytes | str:
    try:
        path = (folder / member).resolve()
        # A table from elsewhere must not make us read /etc/passwd, even as a picture.
        if not path.is_relative_to(folder):
            return "outside the folder"
        if not path.is_file():
            return "missing file"
        return path.read_bytes() if path.stat().st_size <= MAX_BYTES else "too large"
    except (OSError, ValueError):
        return "unreadable"


def _read_member(archive: zipfile.ZipFile, member: str) -> bytes | str:
    try:
        info = archive.getinfo(member)
    except KeyError:
        return "missing file"
    if info.file_size > MAX_BYTES:
        return "too large"
    try:
        return archive.read(info)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError):
        return "unreadable"  # bad CRC, encrypted, unknown compression
    except Exception as error:
        if type(error).__module__ in ("zlib", "lzma", "_lzma"):
            return "unreadable"
        raise


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
