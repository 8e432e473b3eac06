"""Thumbnails of a few items' pictures, decoded as the encoders see them, or the reason why there is none."""

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mmbench.data.store import Prepared
from mmbench.features.extract import NOTES
from mmbench.features.sources import PictureSource

if TYPE_CHECKING:
    from PIL.Image import Image

JPEG_QUALITY = 65

Thumbnails = dict[int, "Image | str"]  # item -> picture, or why there is none


def thumbnails(prepared: Prepared, items: Iterable[int], *, size: int) -> Thumbnails:
    """Pictures of the items, no side longer than `size` pixels. Raises DataError when their folder or zip is gone."""
    wanted = list(dict.fromkeys(items))
    source = PictureSource(prepared)
    source.members = [source.members[item - 1] for item in wanted]  # read no other picture
    found: Thumbnails = {}
    for item, picture in zip(wanted, source.read(lambda done: None), strict=True):
        if picture is None:
            found[item] = _newest_reason(source, found)
        else:
            picture.thumbnail((size, size))
            found[item] = picture
    return found


def _newest_reason(source: PictureSource, found: Thumbnails) -> str:
    """The reason whose count is ahead of what was read so far."""
    seen = [one for one in found.values() if isinstance(one, str)]
    return next(
        (reason for reason, n in source.reasons.items() if reason not in NOTES and n > seen.count(reason)),
        "no picture",
    )


def data_url(picture: "Image") -> str:
    """A picture as a `data:` URL of a small JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
