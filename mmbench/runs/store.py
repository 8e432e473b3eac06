"""The only reader and writer of a results folder.

    results/<dataset>/<model>/<configuration>/seed_<n>/
      run.json          the record: what was run on what, and the outcome (written last, atomically)
      rankings/<name>.npz  counts, lists and targets of a ranking (mmbench.evaluation.evidence): valid, test, ...
      train.jsonl       a line per epoch
      best.safetensors  the weights of the best validation epoch
      traceback.txt     the whole traceback of a run that failed for a reason that mmbench did not foresee
      and, while the cell is computed, the files of mmbench.training.files

Every file that a number comes from carries the hash of its content, and a record names its own folder. Nothing is
rounded here and no metric is stored: metrics are computed from the rankings on request.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmbench import sealed, strict
from mmbench.atomic import hash_json
from mmbench.choices import MaskRule, SplitName
from mmbench.data.manifest import folder_name
from mmbench.errors import DamagedError, DataError
from mmbench.evaluation.evidence import Ranking, Ranks, read_ranking, write_ranking
from mmbench.evaluation.metrics import Metric, as_metrics, default_metrics
from mmbench.explain import explain
from mmbench.features.use import FeatureUse
from mmbench.runs.shelves import Shelves
from mmbench.runs.sources import SourceUse
from mmbench.settings.config import Setting
from mmbench.tracking.energy import EnergyUse

if TYPE_CHECKING:
    from mmbench.evaluation.data_facts import DataFacts

FORMAT = 2
RECORD, RANKINGS = "run.json", "rankings"
TRACEBACK = "traceback.txt"  # of an error that mmbench did not foresee


class MisplacedError(DataError):
    """A run that lies in another folder than it names: a copy, or a folder that was renamed.

    home  the folder that the run names
    """

    def __init__(self, text: str, home: Path) -> None:
        super().__init__(text)
        self.home = home


@dataclass(frozen=True)
class Selection(strict.Strict):
    """Why the weights that were ranked are these: the best value of a metric on the validation targets."""

    metric: str
    value: float
    epoch: int  # counts from the start of the last stage


@dataclass(frozen=True, kw_only=True)
class Stored(strict.Strict):
    """The content of run.json."""

    dataset: str  # name of the prepared data set, with its protocol and tie order: "amazon-beauty@random:1"
    model: str  # registry name with its variant: "hm4sr:-tmoe"
    display: str
    config_id: str
    seed: int
    status: Literal["finished", "failed"]
    reason: str = ""  # says in a line why the cell failed
    deterministic: bool = False  # the seed changes nothing; a single run stands for all
    synthetic: bool = False  # generated data
    leaky: bool = False  # selected on the test item (an as-released switch), marked in every table
    protocol: dict[str, Any] = field(default_factory=dict)  # every field that makes rows comparable
    n_items: int = 0
    settings: dict[str, Setting] = field(default_factory=dict)
    features: dict[str, FeatureUse] = field(default_factory=dict)  # by modality
    sources: list[SourceUse] = field(default_factory=list)  # other data sets that it was pre-trained on
    selection: Selection | None = None  # None: nothing was selected (a closed form, a fixed number of epochs)
    n_parameters: int = 0
    n_epochs: int = 0  # of all stages
    stopped: str = ""  # "patience", "max_epochs", "fixed epochs", "closed form"
    curve: list[dict[str, float]] = field(default_factory=list)  # [{"epoch", "<metric>"}], "stage" if several
    seconds: dict[str, float] = field(
        default_factory=dict
    )  # "train", "valid", "rank_test", "epoch" (median), ...
    peak_memory: dict[str, int] = field(default_factory=dict)  # bytes, "host" and "device"
    energy: EnergyUse | None = None  # None: nobody asked for it, or nothing could be measured
    environment: dict[str, Any] = field(default_factory=dict)  # code, versions, device, threads, when, notes
    external: bool = False  # lists of another program, see mmbench.board.external
    extra: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # printed under every table: "no image features", ...


@dataclass(frozen=True, kw_only=True)
class _Sealed(Stored):
    """The whole text of run.json."""

    format: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RunRecord(Stored):
    """run.json, typed. `path` is its folder."""

    path: Path

    @property
    def data_hash(self) -> str:
        """Return the hash of the prepared data."""
        return str(self.protocol.get("data", ""))

    @property
    def fingerprint(self) -> str:
        """Return the hash of everything that two rows must share to stand in the same table."""
        return fingerprint_of(self.protocol)

    @property
    def mask_seen(self) -> MaskRule:
        """Return the mask rule that decided the selection."""
        rule: MaskRule = self.protocol.get("mask_seen", "none")
        return rule

    @property
    def best_epoch(self) -> int:
        """Return the epoch whose weights were ranked; 0 when nothing was selected."""
        return self.selection.epoch if self.selection else 0

    @property
    def title(self) -> str:
        """Return the run's folder, from the data set on."""
        return run_title(self.dataset, self.model, self.config_id, self.seed)

    @property
    def failure(self) -> str:
        """Return why the run failed, and the file of the whole traceback where it exists."""
        file = self.path / TRACEBACK
        return f"{self.reason}; full traceback: {file}" if file.is_file() else self.reason

    def ranking(self, name: str) -> Ranking:
        """Return a stored ranking; DataError when it is missing, damaged or of another run."""
        advice = f"run: mmbench evaluate {self.path}"
        try:
            ranking = read_ranking(self.path / RANKINGS, name, advice=advice)
        except FileNotFoundError as error:
            raise DataError(f"{self.path} has no ranking {name}; {advice}") from error
        if ranking.made_by.run != self.title:
            raise DamagedError(
                f"{self.path / RANKINGS} holds the ranking {name} of {ranking.made_by.run}; {advice}"
            )
        if ranking.n_items != self.n_items:
            raise DamagedError(
                f"{self.path / RANKINGS} ranks {ranking.n_items} items, not {self.n_items}; {advice}"
            )
        return ranking

    def ranks(self, split: SplitName, rule: MaskRule | None = None) -> Ranks:
        """Return stored ranks, by default under the run's own mask rule."""
        return self.ranking(split).ranks(rule or self.mask_seen)

    def metrics(
        self,
        split: SplitName = "test",
        metrics: str | Metric | Iterable[str | Metric] | None = None,
        facts: "DataFacts | None" = None,
    ) -> dict[str, float]:
        """Return metrics of a split by name, unrounded, under the run's own mask rule; none of a failed run.

        metrics  by default `default_metrics` of the catalogue's size
        facts    what metrics that read the data set, as Novelty@10 does, need of it (`mmbench.runs.facts.data_facts`);
                 `Runs.to_frame` has them by itself
        """
        if self.status == "failed":
            return {}
        ranking = self.ranking(split)
        wanted = default_metrics(self.n_items) if metrics is None else as_metrics(metrics)
        return {str(metric): metric.value(ranking, self.mask_seen, facts=facts) for metric in wanted}

    def __repr__(self) -> str:
        state = self.status if self.status == "finished" else f"failed: {self.reason}"
        return f"<run of {self.model} on {self.dataset}, seed {self.seed}, {state}; {self.path}>"


def fingerprint_of(protocol: Mapping[str, Any]) -> str:
    """Return the hash of a protocol's comparable fields."""
    return hash_json(dict(protocol))[:16]


# -- folders ----------------------------------------------------------------------------------------------


def slug(text: str) -> str:
    """Return a model's or data set's name as a folder's: `hm4sr:-tmoe` -> `hm4sr--tmoe`.

    Two names may share a folder; the configurations in it tell the models apart.
    """
    return re.sub(r"[^A-Za-z0-9._@+-]", "-", folder_name(text))


def run_title(dataset: str, model: str, config_id: str, seed: int) -> str:
    return f"{slug(dataset)}/{slug(model)}/{config_id}/seed_{seed}"


def cell_path(results_dir: Path, *, dataset: str, model: str, config_id: str, seed: int) -> Path:
    return results_dir / run_title(dataset, model, config_id, seed)


def lies_in(path: Path, *, datasets: Sequence[str] = (), models: Sequence[str] = ()) -> bool:
    """Return whether a cell's folder belongs to these data sets and models, for records that cannot be read."""
    dataset, model = path.parts[-4:-2]
    return (not datasets or dataset in map(slug, datasets)) and (not models or model in map(slug, models))


# -- records ----------------------------------------------------------------------------------------------


def write_record(record: RunRecord) -> None:
    content = strict.dump(record)
    del content["path"]
    sealed.write_json(record.path / RECORD, content, version=FORMAT)


def read_record(path: Path, known: Shelves[str] | None = None) -> RunRecord:
    """Return the record in a cell's folder; DataError when there is none, when it is damaged, or lies elsewhere.

    known  hashes of the bytes of whole records; these are not checked again, others are added
    """
    file = path / RECORD
    advice = f"remove {path}, or choose another --results-dir, and run it again: mmbench run"
    try:
        text = file.read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is not a finished run: it has no {RECORD}; give a folder .../seed_<n>"
        ) from error
    except OSError as error:
        raise sealed.damaged(file, explain(error), advice) from error
    sha256 = hashlib.sha256(text).hexdigest()
    is_known = known is not None and known.get(path) == sha256
    if not is_known:
        sealed.open_json(text, file, advice=advice, version=FORMAT)
    try:
        stored = strict.read_text(_Sealed, text)
    except ValueError as error:
        raise sealed.damaged(file, error, advice) from error
    fields = dict(vars(stored))
    del fields[sealed.FORMAT], fields[sealed.SEAL]
    record = RunRecord(path=path, **fields)
    _check_place(record)
    if known is not None and not is_known:
        known.put(path, "", sha256)
    return record


@contextmanager
def known_records() -> Iterator[Shelves[str]]:
    """Yield the hashes of records that earlier commands read, for `read_record`; store at the end what was added."""
    known = Shelves("records", str)
    try:
        yield known
    finally:
        known.save()


def _check_place(record: RunRecord) -> None:
    """Raise MisplacedError when the folder differs from what the record names."""
    folder = Path(os.path.abspath(record.path))  # links are not followed: their names are the user's choice
    if "/".join(folder.parts[-4:]) != record.title:
        home = Path(*folder.parts[:-4]) / record.title
        what = "a copy of" if (home / RECORD).is_file() else "another run, that of"
        raise MisplacedError(f"{record.path} holds {what} {home}; a run counts once, in its own folder", home)


def write_rankings(record_path: Path, rankings: Sequence[Ranking]) -> None:
    for ranking in rankings:
        write_ranking(record_path / RANKINGS, ranking)


def read_all(
    results_dir: Path,
    *,
    datasets: Sequence[str] = (),
    models: Sequence[str] = (),
    on_error: Callable[[Path, DataError], None] | None = None,
) -> Iterator[RunRecord]:
    """Yield every record below a results folder, in path order.

    datasets, models  only the folders of these names are looked into, which models may share (`slug`); () means all

    Raise DataError for a record that is damaged or in another folder, such as a copy; with `on_error`, call it with
    the folder and the error, and leave the record out.
    """
    with known_records() as known:
        for file in sorted(results_dir.glob(f"*/*/*/*/{RECORD}")):
            if not lies_in(file.parent, datasets=datasets, models=models):
                continue
            try:
                record = read_record(file.parent, known)
            except DataError as error:
                if on_error is None:
                    raise
                on_error(file.parent, error)
            else:
                yield record


def select(
    records: Sequence[RunRecord], *, datasets: Sequence[str] = (), models: Sequence[str] = ()
) -> list[RunRecord]:
    """Return the records of the named data sets and models; an empty list of names means all."""
    return [
        record
        for record in records
        if (not datasets or record.dataset in datasets) and (not models or record.model in models)
    ]
