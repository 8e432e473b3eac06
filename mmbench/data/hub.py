"""Data sets of the Hugging Face hub, or of a folder that its library reads, as Parquet files beside other raw files.

A split is named hub:NAME@REVISION, or hub:NAME@REVISION#CONFIG:SPLIT; without the end it is the split `train`. NAME is
OWNER/NAME on the hub, or a folder, which has no revision. The library `datasets` is imported when it is needed.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.atomic import write_with
from mmbench.errors import DataError, UsageError
from mmbench.explain import first_line
from mmbench.visible import one_line

PREFIX = "hub:"
_FORM = re.compile(r"hub:(?P<name>[^@#]+)(@(?P<revision>[^@#]+))?(#((?P<config>[^:]*):)?(?P<split>[\w.-]+))?")


@dataclass(frozen=True)
class HubSplit:
    """A split of a data set: its name or folder, revision ("" of a folder), configuration ("" = the default)."""

    name: str
    revision: str
    config: str
    split: str

    @classmethod
    def parse(cls, text: str) -> "HubSplit":
        """Parse hub:NAME@REVISION#CONFIG:SPLIT; UsageError for another form, and for a hub name without revision."""
        parts = _FORM.fullmatch(text)
        if parts is None:
            raise UsageError(f"{text!r} names no split; write hub:OWNER/NAME@REVISION#CONFIG:SPLIT")
        name, revision = parts["name"], parts["revision"] or ""
        if not revision and not Path(name).is_dir():
            raise UsageError(
                f"{text!r} names no revision, and data on the hub change; write hub:{name}@COMMIT (no folder {name} "
                "exists)"
            )
        return cls(name, revision, parts["config"] or "", parts["split"] or "train")

    @property
    def file_name(self) -> str:
        """Return the name of the Parquet file."""
        words = [Path(self.name).name, self.config, self.split, self.revision[:12]]
        return re.sub(r"[^A-Za-z0-9._-]", "-", "-".join(filter(None, words))) + ".parquet"

    def load(self) -> Any:
        """Return the split as the library gives it; DataError in one line for whatever goes wrong."""
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise UsageError(
                "hub: needs the package 'datasets'; install it: pip install 'mmbench[hub]'"
            ) from error
        try:
            return load_dataset(
                self.name, self.config or None, split=self.split, revision=self.revision or None
            )
        except Exception as error:
            raise DataError(
                f"{PREFIX}{self.name}: split {self.split} cannot be read: {one_line(first_line(error))}"
            ) from error


def fetch(text: str, folder: Path) -> Path:
    """Write a split as a Parquet file into a folder, and return the file; one that is there is not fetched again.

    A folder's split is always read anew, because it has no revision.
    """
    split = HubSplit.parse(text)
    file = folder / split.file_name
    if split.revision and file.is_file():
        return file
    data = split.load()
    folder.mkdir(parents=True, exist_ok=True)
    write_with(file, lambda temporary: data.to_parquet(str(temporary)))
    return file
