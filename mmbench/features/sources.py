"""An item's text or picture as the encoders take it, or the reason why there is none.

Pictures come from a folder or a zip (`prepared.manifest["images"]`, member name in the item's record).
They are foreign files: every way in which one can be damaged ends as a counted reason, never as a crash or a
silent zero.
"""

import hashlib
import io
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbench.data.store import Prepared
from mmbench.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 64 * 2**20  # of one picture file; more is a mistake or a bomb
MAX_PIXELS = 64_000_000  # of one picture; decoded as RGB 192 MB
BLANK_RANGE = 4  # of 255: a picture whose every channel spans less shows nothing (JPEG noise is about 2)

PREPROCESSING = (
    "first frame, EXIF orientation applied, transparency on white, converted to RGB; "
    f"over {MAX_PIXELS} pixels or {MAX_BYTES} bytes refused"
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
        if images is not None and any(self.members):
            self._open = _opener(Path(images["path"]), str(images["kind"]), prepared.name)

    def __len__(self) -> int:
        return len(self.members)

    def fingerprint(self) -> str:
        """sha256 over every picture file's bytes (or why there are none), in item order."""
        self.digests = []
        for member in self.members:
            content = self._content(member)
            self.digests.append(content if isinstance(content, str) else hashlib.sha256(content).hexdigest())
        return hashlib.sha256("".join(f"{one}\n" for one in self.digests).encode()).hexdigest()

    def content(self, number: int) -> bytes | str:
        """The picture file of item number + 1, or the reason why there is none. Call it from one thread."""
        return self._content(self.members[number])

    def duplicates(self, present: np.ndarray) -> int:
        """How many of the present items have the picture file of an earlier one; after `fingerprint`."""
        seen = [one for one, here in zip(self.digests, present, strict=True) if here]
        return len(seen) - len(set(seen))

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
        raise DataError(f"pictures of {name}: kind {kind!r} is unknown; known: folder, zip")
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
    """Bytes of a picture file -> RGB picture, or the reason why not ("truncated", "blank", ...)."""
    from PIL import Image

    if not content:
        return "empty file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # damaged EXIF, odd palettes: harmless
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > MAX_PIXELS:
                    return "too large"
                picture = _to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        return "too large"
    # Decoders of damaged files raise nearly everything (OSError, SyntaxError, ...): any is an answer.
    except Exception as error:
        return "truncated" if "truncated" in str(error).lower() else "undecodable"
    return "blank" if all(high - low < BLANK_RANGE for low, high in _extrema(picture)) else picture


def _extrema(picture: "Image") -> list[tuple[int, int]]:
    return picture.getextrema()  # type: ignore[return-value]


def _to_rgb(image: "Image") -> "Image":
    """Any mode -> RGB: the first frame, upright, transparency on white, deep grey scaled to 8 bits."""
    from PIL import Image, ImageOps

    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return Image.fromarray(_to_bytes(np.asarray(upright))).convert("RGB")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return upright.convert("RGB")


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Grey of 16 or 32 bits or float [h, w] -> uint8; the largest value tells the range."""
    values = np.nan_to_num(values.astype(np.float64))
    top = values.max(initial=0)
    # Above 255: 0..65535. Above 1: 0..255. Else 0..1.
    scale = 1 / 257 if top > 255 else 1 if top > 1 else 255
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
