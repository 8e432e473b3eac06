"""A prepared data set of a few items with given records, and small pictures in every form."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmbench.data.store import Prepared, write_prepared

PROTOCOL = {
    "name": "clean", "duplicates": "drop", "min_user": 1, "min_item": 1, "iterate": False, "require": [],
    "ties": "file", "split": "leave-one-out", "valid_share": 0.0, "test_share": 0.0, "max_len": 50,
    "mask_seen": "none", "selection_metric": "NDCG@10", "patience": 10,
}  # fmt: skip


def prepare(
    data_dir: Path,
    records: list[dict[str, Any]],
    *,
    images: dict[str, str] | None = None,
    name: str = "toy",
    more: dict[str, Any] | None = None,
) -> Prepared:
    """One user who bought every item once."""
    n = len(records)
    manifest = {
        "name": name, "dataset": name, "title": name, "synthetic": True, "protocol": PROTOCOL,
        "counts": {"users": 1, "items": n, "interactions": n}, "statistics": {}, "printed": {}, "raw": [],
        "images": images, "created": 0.0, **(more or {}),
    }  # fmt: skip
    return write_prepared(
        data_dir=data_dir,
        manifest=manifest,
        items=np.arange(1, n + 1),
        times=np.arange(n),
        offsets=np.array([0, n]),
        item_records=records,
        user_ids=["u"],
        categories=([], np.zeros(0), np.zeros(n + 1)),
    )


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
