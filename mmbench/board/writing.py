"""The runs of a configuration -> a bundle, without names of machines, people and folders."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np

from mmbench import __version__, sealed
from mmbench.atomic import hash_file
from mmbench.board import manifest as names
from mmbench.board.archive import write_archive
from mmbench.board.manifest import FileFacts, Manifest
from mmbench.board.private import clean_record, first_path, without_private
from mmbench.choices import SPLITS
from mmbench.errors import DataError, RunError, UsageError
from mmbench.evaluation.evidence import Ranking
from mmbench.evaluation.metrics import DEFAULT_METRICS
from mmbench.models import registry
from mmbench.runs.store import RECORD, RunRecord, read_record, write_rankings, write_record
from mmbench.training.files import BEST
from mmbench.tuning import ledger
from mmbench.tuning.stored import studies_of

DISTRIBUTION = "mmbench"


@dataclass(frozen=True)
class Written:
    """A bundle that was written.

    n_bytes  its size
    notes    a line about each thing that was left out or changed
    """

    manifest: Manifest
    n_bytes: int
    notes: tuple[str, ...]


def write_bundle(
    folder: Path, output: Path, *, with_lists: bool = True, with_weights: bool = False
) -> Written:
    """Write all seeds of a configuration as a bundle; the same runs give the same bytes.

    folder      results/<data set>/<model>/<configuration>
    with_lists  False: leave out lists and targets, for data that may not be passed on

    Raises UsageError for another folder, RunError where nothing can be bundled, DataError for damaged runs.
    """
    records = read_configuration(folder)
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        raise RunError(f"{folder} has no finished run ({records[0].reason}); run it again first")
    with tempfile.TemporaryDirectory(prefix="mmbench-bundle-") as temporary:
        stage = _Stage(Path(temporary), finished)
        for record in finished:
            stage.add_run(record, with_lists=with_lists, with_weights=with_weights)
        stage.add_code()
        stage.add_tuning()
        stage.add_libraries()
        failed = {str(record.seed): record.reason for record in records if record.status == "failed"}
        manifest = stage.finish(failed, with_lists=with_lists, with_weights=with_weights)
        write_archive(output, Path(temporary), [*manifest.files, names.MANIFEST])
    return Written(manifest, output.stat().st_size, tuple(stage.notes))


def read_configuration(folder: Path) -> list[RunRecord]:
    """Return the records of all seeds of a configuration, by seed."""
    files = sorted(folder.glob(f"seed_*/{RECORD}"))
    if not files:
        inside = (folder / RECORD).is_file()
        advice = f"give {folder.parent}" if inside else "give results/<data set>/<model>/<configuration>"
        raise UsageError(f"{folder} is not a folder of a configuration with runs; {advice}")
    return sorted((read_record(file.parent) for file in files), key=lambda record: record.seed)


class _Stage:
    """The files of a bundle in the making, in a temporary folder."""

    def __init__(self, root: Path, records: Sequence[RunRecord]) -> None:
        self.root, self.records, self.first = root, records, records[0]
        self.notes: list[str] = []
        self.metrics: dict[str, list[float]] = {str(metric): [] for metric in DEFAULT_METRICS}

    # -- runs ---------------------------------------------------------------------------------------------

    def add_run(self, record: RunRecord, *, with_lists: bool, with_weights: bool) -> None:
        folder = self.root / names.folder_of_seed(record.seed)
        write_record(replace(self._clean(record), path=folder))
        rankings = [record.ranking(split) for split in self._splits(record)]
        write_rankings(folder, rankings if with_lists else [without_lists(ranking) for ranking in rankings])
        for metric in DEFAULT_METRICS:
            test = rankings[-1]
            if metric.is_exact(test.limits.get(record.mask_seen)) and (metric.k or 0) <= record.n_items:
                self.metrics[str(metric)].append(metric.value(test, record.mask_seen))
        if with_weights:
            self._add_weights(record, folder)

    def _splits(self, record: RunRecord) -> Sequence[str]:
        return ("test",) if record.external else SPLITS

    def _clean(self, record: RunRecord) -> RunRecord:
        cleaned = clean_record(record)
        if cleaned != record:
            self.notes.append(f"seed {record.seed}: paths or names were taken out of its record")
        return cleaned

    def _add_weights(self, record: RunRecord, folder: Path) -> None:
        file = record.path / BEST
        if file.is_file():
            shutil.copyfile(file, folder / BEST)
        elif record.stopped not in ("closed form", "external"):
            raise DataError(f"{record.path} has no {BEST}; leave out --weights, or run it again")

    # -- what decided the runs ----------------------------------------------------------------------------

    def add_code(self) -> None:
        """Add the Python files of a user's own model, which must be those that ran."""
        recorded = self.first.environment.get("code", {}).get("own_model", "")
        if self.first.external or not recorded:
            return
        entry = registry.find(self.first.model)
        if entry.own_code() != recorded:
            raise DataError(f"{entry.file.parent}: the model's files changed since the runs; run them again")
        for file in [*sorted(entry.file.parent.glob("*.py")), entry.file.with_suffix(".toml")]:
            self._add_file(f"{names.MODEL}/{file.name}", file)

    def _add_file(self, name: str, file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        if names.limit_of(name) is None:
            raise DataError(f"{file}: a bundle takes small letters, digits and _ as a name; rename it")
        for number, line in enumerate(text.splitlines(), start=1):
            if path := first_path(line):
                raise DataError(f"{file}, line {number}: holds the path {path}; take it out and run again")
        self._write(name, text)

    def add_tuning(self) -> None:
        """Add the ledgers of the searches under the runs' protocol, as they are: their lines carry hashes."""
        results = self.first.path.parents[3]
        for study in studies_of(results, self.first.dataset, self.first.model):
            if study.plan.protocol != self.first.protocol or not study.trials():
                continue
            texts = {
                name: (study.path / name).read_text(encoding="utf-8")
                for name in (ledger.STUDY, ledger.TRIALS)
            }
            if path := first_path("\n".join(texts.values())):
                self.notes.append(f"study {study.plan.study_id} is left out: it holds the path {path}")
                continue
            for name, text in texts.items():
                self._write(f"{names.TUNING}/{study.plan.study_id}/{name}", text)

    def add_libraries(self) -> None:
        """Add the versions of mmbench's dependencies, if those that the runs recorded are installed."""
        recorded = self.first.environment.get("libraries", {})
        installed = libraries()
        if recorded and all(installed.get(name, "") == version for name, version in recorded.items()):
            lines = [f"{name}=={version}\n" for name, version in sorted(installed.items())]
            self._write(names.LIBRARIES, "".join(lines))
        else:
            self.notes.append("other libraries are installed than the runs recorded: no lock of libraries")

    # -- the whole ----------------------------------------------------------------------------------------

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def finish(self, failed: Mapping[str, str], *, with_lists: bool, with_weights: bool) -> Manifest:
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        record = self.first
        manifest = Manifest(
            dataset=record.dataset, model=record.model, display=record.display, config_id=record.config_id,
            fingerprint=record.fingerprint, seeds=tuple(run.seed for run in self.records),
            failed=without_private(dict(failed), is_free_text=True),
            metrics={
                name: tuple(values) for name, values in self.metrics.items()
                if len(values) == len(self.records)
            },
            has_lists=with_lists, has_weights=with_weights, mmbench=__version__,
            files={
                str(path.relative_to(self.root)): FileFacts(path.stat().st_size, hash_file(path))
                for path in files
            },
        )  # fmt: skip
        try:
            manifest = Manifest.from_json(manifest.to_json())
        except ValueError as error:
            raise DataError(
                f"{record.path.parent} cannot be bundled: {error}; rename it and run again"
            ) from error
        sealed.write_json(self.root / names.MANIFEST, manifest.to_json(), version=names.FORMAT)
        return manifest


def without_lists(ranking: Ranking) -> Ranking:
    """Return the ranking without what names items: only counts are left."""
    return replace(ranking, target=np.zeros_like(ranking.target), lists={})


def libraries() -> dict[str, str]:
    """Return the installed versions of mmbench's dependencies and of theirs, by name."""
    versions: dict[str, str] = {}
    waiting = [DISTRIBUTION]
    while waiting:
        name = waiting.pop()
        try:
            needed = metadata.requires(name) or []
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if name in versions:
            continue
        versions[name] = version
        waiting += [_name(line) for line in needed if "extra ==" not in line]
    versions.pop(DISTRIBUTION, None)
    return versions


def _name(requirement: str) -> str:
    """Return the name in a requirement such as `numpy>=1.26; python_version < "4"`."""
    length = next((i for i, sign in enumerate(requirement) if not (sign.isalnum() or sign in "._-")), None)
    return requirement[:length].lower().replace("_", "-")
