"""What a study remembers on disk, and who computes which trial.

    results/<data set>/<model>/tuning/<study id>/
      study.json    what is searched, how, on what: everything that the id is a hash of
      trials.jsonl  a line for each trial that ended, in the order of the ends
      best.toml     the best settings so far, and the study that they come from
      trials/<n>/   of a trial that is under way: its settings, its seconds, the files of its training

The ledger is the record. A kill loses the unfinished epochs of the trials under way; the next process resumes them by
their numbers. A worker marks its trial as begun until it gives the trial back, so that a trial that kills
its workers is known.
"""

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from mmbench import sealed
from mmbench.atomic import write_text
from mmbench.errors import DamagedError, DataError, RunError
from mmbench.locks import held, take
from mmbench.runs.store import slug
from mmbench.tuning.records import Plan, Trial, best_toml
from mmbench.tuning.sampling import Tried, Values, propose

FORMAT = 1
STUDY, TRIALS, BEST = "study.json", "trials.jsonl", "best.toml"
TUNING = "tuning"  # the folder of a model's studies
RUNNING, VALUES, SECONDS, BEGUN = "trials", "values.json", "seconds", "begun"
OPTION = "--results-dir"


@dataclass(frozen=True)
class Claimed:
    """A trial that this process computes.

    earlier  seconds that were spent on it before an interruption
    n_begun  how many workers took it and did not give it back, this process included; 0 outside of workers
    """

    number: int
    values: Values
    folder: Path
    earlier: float = 0.0
    n_begun: int = 0


@dataclass(frozen=True)
class Ledger:
    """A study's folder."""

    plan: Plan
    path: Path

    @classmethod
    def open(cls, results_dir: Path, plan: Plan) -> "Ledger":
        """Open the study's folder, and write there what it searches.

        DataError when what stands there already is damaged or of another version.
        """
        ledger = cls(plan, folder_of(results_dir, plan.dataset, plan.model) / plan.study_id)
        try:
            ledger.path.mkdir(parents=True, exist_ok=True)
            if not (ledger.path / STUDY).is_file():
                sealed.write_json(ledger.path / STUDY, plan.to_json(), version=FORMAT)
        except OSError as error:
            raise RunError(
                f"cannot write {ledger.path}: {error.strerror or error}; choose another {OPTION}"
            ) from error
        return cls.read(ledger.path)

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """Open a study that exists; DataError when it is damaged or lies in a folder that is not its own."""
        file = path / STUDY
        advice = f"remove {file} and run the same mmbench tune command again, which keeps the trials"
        try:
            sealed.read_json(file, advice=advice)
            advice = f"remove {path} and tune again: mmbench tune"
            plan = Plan.from_json(sealed.read_json(file, advice=advice, version=FORMAT))
        except FileNotFoundError as error:
            raise DataError(f"{path} is not a study: it has no {STUDY}") from error
        except ValueError as error:
            raise sealed.damaged(file, error, advice) from error
        if plan.study_id != path.name:
            raise DamagedError(f"{path} holds the study {plan.study_id}; {advice}")
        return cls(plan, path)

    # -- trials that ended --------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """Return the trials in the order of their ends. A last line that a kill cut short is left out."""
        file = self.path / TRIALS
        try:
            with file.open(encoding="utf-8", newline="\n") as opened:
                lines = list(opened)  # str.splitlines would also split at U+2028, which a reason may hold
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise sealed.damaged(file, error, self._advice) from error
        whole = lines[:-1] if lines and not lines[-1].endswith("\n") else lines
        return [self._parse(line, number) for number, line in enumerate(whole, start=1)]

    def _parse(self, line: str, number: int) -> Trial:
        file = self.path / TRIALS
        try:
            content = json.loads(line)
            if not isinstance(content, dict) or content.pop(sealed.SEAL, None) != sealed.hash_content(
                content
            ):
                raise ValueError(f"line {number} does not have the hash that it carries")
            return Trial.from_json(content)
        except (ValueError, RecursionError) as error:
            advice = (
                f"remove line {number} and run the same mmbench tune command again, which repeats its trial"
            )
            raise sealed.damaged(file, error, advice) from error

    @property
    def _advice(self) -> str:
        return f"remove {self.path} and tune again: mmbench tune"

    def record(self, trial: Trial) -> None:
        """Add a trial that ended, write the best settings, and drop the trial's folder."""
        with self._alone():
            trials = [*self.trials(), trial]
            write_text(self.path / TRIALS, "".join(map(_line, trials)))
            write_text(self.path / BEST, best_toml(self.plan, trials))
        shutil.rmtree(self._folder(trial.number), ignore_errors=True)

    # -- trials under way ---------------------------------------------------------------------------------

    @contextmanager
    def claim(
        self, limit: int | None, *, is_worker: bool = False, only_begun: bool = False
    ) -> Iterator[Claimed | None]:
        """Hold the next trial that nobody computes: an interrupted trial, else a new trial.

        limit       how many trials there may be; None = any number
        is_worker   mark the trial as begun while it is held
        only_begun  take only trials that a worker did not give back

        Yield None when there are enough trials, or every combination was tried.
        """
        claimed, lock = None, None
        with self._alone():
            done = {trial.number for trial in self.trials()}
            numbers = self.begun() if only_begun else itertools.count()
            for number in (n for n in numbers if n not in done):
                values = self._values(number, done) if limit is None or number < limit else None
                if values is None:
                    break
                lock = take(self.path / RUNNING / f"{number}.lock", wait=False, error=RunError, option=OPTION)
                if lock is not None:
                    folder = self._folder(number)
                    n_begun = _mark(folder) if is_worker else 0
                    claimed = Claimed(number, values, folder, self._seconds(number), n_begun)
                    break
        with lock or nullcontext():
            try:
                yield claimed
            finally:  # not reached when the process dies
                if claimed is not None and is_worker:
                    (claimed.folder / BEGUN).unlink(missing_ok=True)

    def begun(self) -> list[int]:
        """Return the trials that workers took and did not give back, or still compute."""
        done = {trial.number for trial in self.trials()}
        marked = {int(mark.parent.name) for mark in self.path.glob(f"{RUNNING}/*/{BEGUN}")}
        return sorted(marked - done)

    def tidy(self) -> None:
        """Remove what a process left of trials that it ended, and then died before it had removed it."""
        for trial in self.trials():
            shutil.rmtree(self._folder(trial.number), ignore_errors=True)

    def forget_marks(self) -> None:
        """Remove the marks of workers that were stopped with their command."""
        for number in self.begun():
            lock = take(self.path / RUNNING / f"{number}.lock", wait=False, error=RunError, option=OPTION)
            if lock is not None:
                with lock:
                    (self._folder(number) / BEGUN).unlink(missing_ok=True)

    def spent(self, *, without: int | None = None) -> float:
        """Return the seconds of all trials, ended and under way, but those of the trial `without`."""
        trials = self.trials()
        ended = {trial.number for trial in trials} | {without}
        files = self.path.glob(f"{RUNNING}/*/{SECONDS}")
        running = {int(file.parent.name) for file in files} - ended
        return sum(trial.seconds for trial in trials if trial.number != without) + sum(
            map(self._seconds, running)
        )

    def note_seconds(self, number: int, seconds: float) -> None:
        """Remember how long a trial under way has taken, for the budget of others and after an interruption."""
        write_text(self._folder(number) / SECONDS, repr(seconds))

    def _seconds(self, number: int) -> float:
        try:
            return float((self._folder(number) / SECONDS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0.0

    def _values(self, number: int, done: set[int]) -> Values | None:
        """Return the settings of a trial under way, or of a new trial, which begins when they are written."""
        file = self._folder(number) / VALUES
        if file.is_file():
            with suppress(DataError):  # a kill cut the file short: it is made again, with the same result
                return dict(sealed.read_json(file, advice=self._advice))
        values = propose(self.plan.sampler, self.plan.dimensions, number, self.plan.seed, self._tried(done))
        if values is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            sealed.write_json(file, values)
        return values

    def _tried(self, done: set[int]) -> list[Tried]:
        """Return the trials that ended, by number, then those under way."""
        ended = sorted(self.trials(), key=lambda trial: trial.number)
        tried = [Tried(trial.values, trial.value) for trial in ended]
        begun = sorted(self.path.glob(f"{RUNNING}/*/{VALUES}"), key=lambda file: int(file.parent.name))
        for file in begun:
            if int(file.parent.name) not in done:
                with suppress(DataError):
                    tried.append(Tried(dict(sealed.read_json(file, advice="")), None))
        return tried

    def _folder(self, number: int) -> Path:
        return self.path / RUNNING / str(number)

    def _alone(self) -> AbstractContextManager[bool]:
        return held(self.path / ".study.lock", error=RunError, option=OPTION)


def _mark(folder: Path) -> int:
    """Mark a trial as begun; return how often it was begun and not given back."""
    with (folder / BEGUN).open("a+") as file:
        file.write("x")
        return file.tell()


def _line(trial: Trial) -> str:
    content = trial.to_json()
    return (
        json.dumps(
            {**content, sealed.SEAL: sealed.hash_content(content)}, ensure_ascii=False, allow_nan=False
        )
        + "\n"
    )


# -- the best ---------------------------------------------------------------------------------------------


def folder_of(results_dir: Path, dataset: str, model: str) -> Path:
    return results_dir / slug(dataset) / slug(model) / TUNING
