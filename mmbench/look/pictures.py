"""Thumbnails of a few items' pictures, decoded as for the encoders, or the reason why there is none."""

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mmbench.data.decoding import decode
from mmbench.data.store import Prepared
from mmbench.features.sources import PictureSource

if TYPE_CHECKING:
    from PIL.Image import Image

JPEG_QUALITY = 65

Thumbnails = dict[int, "Image | str"]  # item -> picture, or why there is none


def thumbnails(prepared: Prepared, items: Iterable[int], *, size: int) -> Thumbnails:
    """Return the items' pictures, with sides of at most `size` pixels; DataError if their folder or zip is gone."""
    source = PictureSource(prepared)
    pictures: Thumbnails = {}
    try:
        for item in items:
            content = source.content(item - 1)
            picture = content if isinstance(content, str) else decode(content)
            if not isinstance(picture, str):
                picture.thumbnail((size, size))
            pictures[item] = picture
    finally:
        source.close()
    return pictures


def data_url(picture: "Image") -> str:
    """Return a picture as a `data:` URL of a small JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
