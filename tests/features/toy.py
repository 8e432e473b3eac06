"""A prepared data set of a few items with given records, and small pictures in every form."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmbench.data.images import list_path
from mmbench.data.manifest import Pictures
from mmbench.data.protocol import PROTOCOLS
from mmbench.data.store import Prepared
from tests.prepared import write_data_set

PROTOCOL = replace(PROTOCOLS["clean"], min_user=1, min_item=1, iterate=False, selection_metric="NDCG@10")


def prepare(
    data_dir: Path, records: list[dict[str, Any]], *, pictures: Path | None = None, name: str = "toy"
) -> Prepared:
    """One user who bought every item once (three times over, where there are fewer than three items).

    pictures  a folder, zip or store
    """
    n, repeats = len(records), 3 if len(records) < 3 else 1
    bought = np.tile(np.arange(1, n + 1), repeats)
    histories = (bought, np.arange(len(bought)), np.array([0, len(bought)]))
    images = None if pictures is None else at(pictures)
    return write_data_set(
        data_dir, name, histories, records, protocol=PROTOCOL, images=images, created=0.0, user_ids=["u"]
    )


def at(pictures: Path) -> Pictures:
    """A folder, zip or store of pictures as a manifest names it."""
    return list_path(pictures).facts


def items(n: int, **fields: Any) -> list[dict[str, Any]]:
    """n records a000, a001, ... with a text each; `fields` are shared by all."""
    return [
        {"id": f"a{k:03d}", "title": f"thing {k}", "text": f"thing number {k}", "image": None, **fields}
        for k in range(n)
    ]


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """An RGB picture of random blocks, no two seeds alike."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()
