"""Network encoders without a network, whose values show their batches; and a process that extracts with one."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data.store import open_path
from mmbench.features import network
from mmbench.features.encoders import Input
from mmbench.features.extract import Options, extract
from mmbench.features.manifest import Modality

LIMIT = 40  # letters of a text


@dataclass
class Letters:
    """Texts as letters. The values depend on the batch, as rounding does in a real network, only visibly so."""

    fits: int = 1_000_000  # letters that a batch may have, padding included
    log: Path | None = None
    seconds: float = 0.0  # per batch
    batches: list[int] = field(default_factory=list)
    name = "letters"
    modality: Modality = "text"
    device = "cpu"

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def load(self) -> None:
        self.batches.clear()

    def prepare(self, raw: str) -> Input | None:
        kept = raw[:LIMIT].replace("#", "")
        ids = np.array([ord(letter) for letter in kept], np.int64)
        return Input(ids, cut=len(raw) > LIMIT) if len(ids) else None

    def run(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        width = max(len(tokens) for tokens in batch)
        if len(batch) * width > self.fits:
            raise MemoryError
        self.batches.append(len(batch))
        time.sleep(self.seconds)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{len(batch)}\n")
        return np.array([[tokens.sum(), len(tokens), width, len(batch)] for tokens in batch], np.float32)


@dataclass
class Means(Letters):
    """Pictures as the mean of each channel, and the size of the batch."""

    name = "means"
    modality: Modality = "image"

    def prepare(self, raw: Any) -> Input | None:
        pixels = np.asarray(raw.resize((8, 8)), np.float32) / 255
        return Input(pixels.transpose(2, 0, 1)) if pixels.mean() < 0.99 else None

    def run(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        found = super().run([np.zeros(1)] * len(batch))
        return np.concatenate([np.stack(batch).mean(axis=(2, 3)), found[:, 3:]], axis=1).astype(np.float32)


def main() -> None:
    """Extract with batches of 4, every batch stored at once."""
    prepared, modality, log, seconds = sys.argv[1:]
    network.FLUSH_SECONDS = 0.0
    encoder = (Letters if modality == "text" else Means)(log=Path(log), seconds=float(seconds))
    lines: list[str] = []
    report = extract(
        open_path(Path(prepared)), modality, encoder, options=Options(batch_size=4), say=lines.append
    )
    print(*lines, report.line(), sep="\n")


if __name__ == "__main__":
    main()
