"""An item's text or picture as encoders read it, or the reason why there is none."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from mmbench.data.decoding import decode
from mmbench.data.inputs import hash_marks, hash_texts, input_picture, input_text
from mmbench.data.pictures import PictureFiles
from mmbench.data.store import Prepared

if TYPE_CHECKING:
    from PIL.Image import Image

Ticker = Callable[[int], None]


class TextSource:
    """The items' `text` fields; counts items without text and items with the same text as another."""

    def __init__(self, prepared: Prepared) -> None:
        self.texts = [input_text(record) for record in prepared.item_records]
        self.reasons: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.texts)

    def fingerprint(self) -> str:
        """Return the sha256 of all texts, as mmbench.data.inputs hashes them."""
        return hash_texts(self.texts)

    def read(self, tick: Ticker) -> Iterator[str | None]:
        """Yield the texts in item order, None where there is none."""
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


class PictureSource:
    """The items' pictures; counts why some have none, and items with the same picture file as another."""

    def __init__(self, prepared: Prepared) -> None:
        self.members = [input_picture(record) for record in prepared.item_records]
        self.reasons: Counter[str] = Counter()
        self.marks: list[str] = []  # of the files, or why there are none; set by `fingerprint`
        self._files = PictureFiles(prepared.manifest.images if any(self.members) else None, prepared.name)

    def __len__(self) -> int:
        return len(self.members)

    def close(self) -> None:
        """Close the zip or the store."""
        self._files.close()

    def fingerprint(self) -> str:
        """Return the sha256 over all picture files (or why there is none), as mmbench.data.inputs hashes them."""
        self.marks = [self._files.mark(member) for member in self.members]
        return hash_marks(self.marks)

    def content(self, number: int) -> bytes | str:
        """Return the picture file of item number + 1, or why there is none; call this from a single thread only."""
        return self._files.read(self.members[number])

    def duplicates(self, present: np.ndarray) -> int:
        """Return how many of the present items repeat the picture file of an earlier item; call after `fingerprint`."""
        seen = [mark for mark, is_present in zip(self.marks, present, strict=True) if is_present]
        return len(seen) - len(set(seen))

    def read(self, tick: Ticker) -> Iterator["Image | None"]:
        """Yield the pictures in item order as RGB, None where there is none."""
        seen: set[bytes] = set()
        for number, member in enumerate(self.members, start=1):
            content = self._files.read(member)
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
