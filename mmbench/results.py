"""The only reader and writer of a results folder.

    results/<dataset>/<model>/<config id>/seed_<n>/
      run.json          the record: what was run on what, how it went (written last, in one step)
      ranks.npz         per user: greater and equal counts of the target, for valid and test
      train.jsonl       one line per epoch
      best.safetensors  the weights of the best validation epoch
      candidate.safetensors  weights that become best.safetensors once resume.safetensors knows of them; seldom seen
      resume.safetensors  state after the last epoch; removed when the cell is finished

Nothing is rounded here and no metric is stored: metrics come from the ranks, at report time.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmbench.atomic import write_json, write_with
from mmbench.data.store import folder_name
from mmbench.errors import DataError

RECORD_FORMAT = 1
SplitName = Literal["valid", "test"]


@dataclass(frozen=True)
class Ranks:
    """Target ranks of one split: the target of `user[k]` is beaten by `greater[k]` items and ties with `equal[k]`.

    The 1-based rank is uniform over greater+1 .. greater+equal+1 (see mmbench.metrics). All int64 [n].
    """

    user: np.ndarray
    greater: np.ndarray
    equal: np.ndarray
    n_candidates: int

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """run.json, typed. `path` is where it lies; everything else is in the file."""

    path: Path
    dataset: str  # name of the prepared data set, with its protocol and tie order: "amazon-beauty@random:1"
    model: str  # registry name with its variant: "hm4sr:-tmoe"
    display: str
    config_id: str
    seed: int
    status: Literal["finished", "failed"]
    reason: str = ""  # of a failed cell, one line
    deterministic: bool = False  # the seed changes nothing; one run stands for all
    synthetic: bool = False  # generated data
    leaky: bool = False  # selected on the test item (an as-released switch), marked in every table
    data_hash: str = ""
    protocol: dict[str, Any] = field(default_factory=dict)  # every field that makes rows comparable
    fingerprint: str = ""  # hash of `protocol`; includes the data hash
    n_items: int = 0
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # key -> {"value", "source"}
    features: dict[str, dict[str, Any]] = field(default_factory=dict)  # modality -> {"encoder", "hash", ...}
    n_parameters: int = 0
    n_epochs: int = 0  # of all stages
    best_epoch: int = 0  # of the last stage, which counts its own
    stopped: str = ""  # "patience", "max_epochs", "closed form"
    curve: list[dict[str, float]] = field(default_factory=list)  # [{"epoch", "<metric>"}], "stage" if several
    seconds: dict[str, float] = field(default_factory=dict)  # "train", "valid", "test", "epoch" (median)
    peak_memory: dict[str, int] = field(default_factory=dict)  # bytes, "host" and "device"
    environment: dict[str, Any] = field(default_factory=dict)  # code, versions, device, when, notes
    extra: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # said under every table: "no image features", ...

    def ranks(self, split: SplitName) -> Ranks:
        """Stored ranks; raises DataError when the file is missing or damaged."""
        file = self.path / "ranks.npz"
        try:
            with np.load(file, allow_pickle=False) as stored:
                return Ranks(
                    user=stored[f"{split}_user"].astype(np.int64),
                    greater=stored[f"{split}_greater"].astype(np.int64),
                    equal=stored[f"{split}_equal"].astype(np.int64),
                    n_candidates=int(stored["n_candidates"]),
                )
        except Exception as error:  # zipfile, numpy and OS each have their own
            raise DataError(f"{file} cannot be read ({error}); run: mmbench evaluate {self.path}") from error


def slug(text: str) -> str:
    """A model or data set name as a folder name: `hm4sr:-tmoe` -> `hm4sr--tmoe`... readable, unique enough
    because run.json holds the true name."""
    return re.sub(r"[^A-Za-z0-9._@+-]", "-", folder_name(text))


def cell_path(results_dir: Path, *, dataset: str, model: str, config_id: str, seed: int) -> Path:
    return results_dir / slug(dataset) / slug(model) / config_id / f"seed_{seed}"


def write_ranks(path: Path, *, valid: Ranks, test: Ranks) -> None:
    if valid.n_candidates != test.n_candidates:
        raise ValueError(f"valid ranks {valid.n_candidates} candidates, test {test.n_candidates}")
    arrays = {
        f"{name}_{part}": getattr(ranks, part)
        for name, ranks in (("valid", valid), ("test", test))
        for part in ("user", "greater", "equal")
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, n_candidates=np.int64(valid.n_candidates), **arrays)

    write_with(path / "ranks.npz", write)


def write_record(record: RunRecord) -> None:
    content = {key: value for key, value in asdict(record).items() if key != "path"}
    write_json(record.path / "run.json", {"format": RECORD_FORMAT, **content})


def read_record(path: Path) -> RunRecord:
    """The record in a cell's folder; DataError when there is none or it is damaged."""
    file = path / "run.json"
    if not file.is_file():
        raise DataError(f"{path} is no finished run: it has no run.json; give a folder .../seed_<n>")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != RECORD_FORMAT:
            raise ValueError("written by another version of mmbench")
        return RunRecord(path=path, **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file} is no run record ({error}); remove {path} and run the cell again") from error


def read_all(results_dir: Path) -> Iterator[RunRecord]:
    """Every record below a results folder, in path order."""
    for file in sorted(results_dir.glob("*/*/*/seed_*/run.json")):
        yield read_record(file.parent)


def select(
    records: Sequence[RunRecord], *, datasets: Sequence[str] = (), models: Sequence[str] = ()
) -> list[RunRecord]:
    """Records of the named data sets and models; an empty list of names means all."""
    return [
        one
        for one in records
        if (not datasets or one.dataset in datasets) and (not models or one.model in models)
    ]
