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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, TypeAdapter, ValidationError

from mmbench.atomic import write_json, write_with
from mmbench.data.manifest import folder_name
from mmbench.errors import DataError, OtherVersionError

RECORD_FORMAT = 1
SplitName = Literal["valid", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True)
class Ranks:
    """Target ranks of one split: the target of `user[k]` is beaten by `greater[k]` items and ties with `equal[k]`.

    The 1-based rank is uniform over greater+1 .. greater+equal+1 (see mmbench.evaluation.metrics). All int64 [n];
    ValueError when they are not equally long.
    """

    user: np.ndarray
    greater: np.ndarray
    equal: np.ndarray
    n_candidates: int

    def __post_init__(self) -> None:
        shapes = [one.shape for one in (self.user, self.greater, self.equal)]
        if shapes != [(len(self.user),)] * 3:
            said = ", ".join(
                f"{name} {list(shape)}"
                for name, shape in zip(("user", "greater", "equal"), shapes, strict=True)
            )
            raise ValueError(f"one value a user is needed, but the shapes are {said}")

    def __len__(self) -> int:
        return len(self.user)


def _each(**kinds: type) -> AfterValidator:
    """Every inner object of a field has these keys, of these types; it may have others."""

    def check(value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, one in value.items():
            for key, kind in kinds.items():
                if key not in one:
                    raise ValueError(f"{name} lacks {key}")
                if not isinstance(one[key], kind):
                    raise ValueError(f"{name}.{key} should be a {kind.__name__} (got {one[key]!r})")
        return value

    return AfterValidator(check)


def _with_code(environment: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(environment.get("code", {}), dict):
        raise ValueError(f"code should be an object (got {environment['code']!r})")
    return environment


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
    # key -> {"value", "source"}
    settings: Annotated[dict[str, dict[str, Any]], _each(value=object, source=str)] = field(
        default_factory=dict
    )
    # modality -> mmbench.features.use.FeatureUse
    features: Annotated[dict[str, dict[str, Any]], _each(encoder=str, identity=str, content=str)] = field(
        default_factory=dict
    )
    n_parameters: int = 0
    n_epochs: int = 0  # of all stages
    best_epoch: int = 0  # of the last stage, which counts its own
    stopped: str = ""  # "patience", "max_epochs", "closed form"
    curve: list[dict[str, float]] = field(default_factory=list)  # [{"epoch", "<metric>"}], "stage" if several
    seconds: dict[str, float] = field(default_factory=dict)  # "train", "valid", "test", "epoch" (median)
    peak_memory: dict[str, int] = field(default_factory=dict)  # bytes, "host" and "device"
    # code, versions, device, when, notes
    environment: Annotated[dict[str, Any], AfterValidator(_with_code)] = field(default_factory=dict)
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
    """The record in a cell's folder; DataError when there is none, or with the field that is not as it should be."""
    file = path / "run.json"
    if not file.is_file():
        raise DataError(f"{path} is no finished run: it has no run.json; give a folder .../seed_<n>")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != RECORD_FORMAT:
            raise OtherVersionError(
                f"{file} was written by another version of mmbench; choose another --results-dir, or remove {path}"
            )
        return _typed(path, content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file} is no run record ({error}); remove {path} and run the cell again") from error


@lru_cache(maxsize=1)
def _reader() -> TypeAdapter[RunRecord]:
    return TypeAdapter(RunRecord)


def _typed(path: Path, content: dict[str, Any]) -> RunRecord:
    """The record with every field of its type; ValueError names the first that is not, or that is unknown."""
    unknown = sorted(content.keys() - {one.name for one in fields(RunRecord)} | content.keys() & {"path"})
    if unknown:
        raise ValueError(f"unknown field {unknown[0]}")
    try:
        # Through JSON: pydantic's strict mode makes a dataclass of keys and values only there.
        return _reader().validate_json(json.dumps({**content, "path": str(path)}), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        own = first["type"] in ("value_error", "missing")  # they say it all, and their input is long
        given = "" if own else f" (got {json.dumps(first['input'])[:60]})"
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}{given}") from None


def read_all(
    results_dir: Path, *, skipped: Callable[[Path, DataError], None] | None = None
) -> Iterator[RunRecord]:
    """Every record below a results folder, in path order.

    A damaged one raises DataError; with `skipped` it is passed over, and that hears of the cell's folder and why.
    """
    for file in sorted(results_dir.glob("*/*/*/seed_*/run.json")):
        try:
            record = read_record(file.parent)
        except DataError as error:
            if skipped is None:
                raise
            skipped(file.parent, error)
        else:
            yield record


def lies_in(path: Path, *, datasets: Sequence[str] = (), models: Sequence[str] = ()) -> bool:
    """Whether a cell's folder is one of these data sets and models; for records that cannot tell it themselves."""
    dataset, model = path.parts[-4:-2]
    return (not datasets or dataset in map(slug, datasets)) and (not models or model in map(slug, models))


def select(
    records: Sequence[RunRecord], *, datasets: Sequence[str] = (), models: Sequence[str] = ()
) -> list[RunRecord]:
    """Records of the named data sets and models; an empty list of names means all."""
    return [
        one
        for one in records
        if (not datasets or one.dataset in datasets) and (not models or one.model in models)
    ]
