"""Prepare data sets."""

from pathlib import Path

from mmbench.api.arguments import Folder, check_name, data_folder
from mmbench.api.watching import Progress, watchers_of
from mmbench.data.store import Prepared
from mmbench.features.pipeline import Preparation, prepare_whole


def prepare(
    dataset: str,
    *,
    raw: Folder = None,
    offline: bool = False,
    force: bool = False,
    protocol: str | None = None,
    ties: str | None = None,
    text: str | None = None,
    image: str | None = None,
    device: str = "auto",
    pictures: bool = True,
    retry_pictures: bool = False,
    private_hosts: bool = False,
    data_dir: Folder = None,
    progress: Progress = False,
) -> Prepared:
    """Return the data set `NAME[@PROTOCOL][@TIES]`, prepared with pictures and features.

    See `mmbench.features.pipeline.Preparation` for the arguments. Raw files and pictures that are missing are
    fetched; what is done already is not done again. Raises UsageError for unknown names, DataError for data that are
    missing or damaged.
    """
    how = Preparation(
        raw=None if raw is None else Path(raw), offline=offline, force=force, protocol=protocol, ties=ties,
        text=text, image=image, device=device, pictures=pictures, retry_pictures=retry_pictures,
        private_hosts=private_hosts,
    )  # fmt: skip
    check_name(dataset, "data set", example="demo")
    return prepare_whole(dataset, data_folder(data_dir), how, watcher=watchers_of(progress).preparation)
