"""What a study remembers on disk, and who computes which trial.

    results/<data set>/<model>/tuning/<study id>/
      study.json    what is searched, how, on what: everything that the id is a hash of
      trials.jsonl  one line for each trial that ended, in the order of the ends
      best.toml     the best settings so far, with where they come from
      trials/<n>/   of a trial that is under way: its settings, its lock, the files of its training

The ledger is the record. A kill loses the unfinished epochs of the trials under way; the next process takes them up
again by their numbers.
"""

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mmbench import sealed, strict
from mmbench.atomic import hash_json, write_text
from mmbench.data.store import Prepared
from mmbench.errors import DamagedError, DataError, RunError, UsageError
from mmbench.locks import held, take
from mmbench.runs.store import slug
from mmbench.settings.recipe import Searched
from mmbench.tuning.sampling import SamplerName, Tried, Values, propose
from mmbench.tuning.space import Dimension

FORMAT = 1
STUDY, TRIALS, BEST = "study.json", "trials.jsonl", "best.toml"
TUNING = "tuning"  # the folder of a model's studies
RUNNING, VALUES = "trials", "values.json"
OPTION = "--results-dir"
Status = Literal["finished", "pruned", "cut", "failed"]
CHOOSABLE = ("finished", "cut")  # a pruned trial was stopped because it was worse than others


@dataclass(frozen=True, kw_only=True)
class Plan(strict.Strict):
    """What a study searches. Its budget is no part of it: more trials later go on with the same study."""

    dataset: str
    model: str
    metric: str
    sampler: SamplerName
    unit: Literal["trials", "seconds"]
    n_seeds: int  # of each trial
    prunes: bool
    space: dict[str, dict[str, Any]]  # by setting: its recipe's own value, and what is tried
    fixed: dict[str, Any]  # settings that the user gave all trials
    protocol: dict[str, Any]
    features: dict[str, Any]  # by modality: what the features were made from

    @cached_property
    def study_id(self) -> str:
        return hash_json(self.to_json())[:10]

    @cached_property
    def seed(self) -> int:
        """The sampler's, which differs between studies."""
        return int(self.study_id, 16)

    @cached_property
    def dimensions(self) -> dict[str, Dimension]:
        return {
            key: Dimension(key, content["own"], Searched.model_validate(content["searched"]))
            for key, content in self.space.items()
        }


def space_content(space: dict[str, Dimension]) -> dict[str, dict[str, Any]]:
    """Return a search space as a plan holds it, in JSON values."""
    return {
        key: json.loads(
            json.dumps({"own": one.own, "searched": one.searched.model_dump(exclude_defaults=True)})
        )
        for key, one in space.items()
    }


@dataclass(frozen=True, kw_only=True)
class Trial(strict.Strict):
    """How a trial went. `value`: the mean over its seeds of the best validation value."""

    number: int
    status: Status
    values: dict[str, Any]
    value: float | None = None
    reason: str = ""
    seeds: tuple[int, ...] = ()
    curves: tuple[tuple[tuple[int, float], ...], ...] = ()  # of each seed: epoch, value
    n_epochs: int = 0  # of all seeds
    n_parameters: int = 0
    seconds: float = 0.0

    @property
    def order(self) -> tuple[float, int, int]:
        """Smaller is better: the larger value, then fewer parameters, then the earlier trial."""
        assert self.value is not None
        return (-self.value, self.n_parameters, self.number)


@dataclass(frozen=True)
class Claimed:
    """A trial that this process computes."""

    number: int
    values: Values
    folder: Path


@dataclass(frozen=True)
class Ledger:
    """A study's folder."""

    plan: Plan
    path: Path

    @classmethod
    def open(cls, results_dir: Path, plan: Plan) -> "Ledger":
        """Open the study's folder, and write there what it searches."""
        ledger = cls(plan, folder_of(results_dir, plan.dataset, plan.model) / plan.study_id)
        try:
            ledger.path.mkdir(parents=True, exist_ok=True)
            if not (ledger.path / STUDY).is_file():
                sealed.write_json(ledger.path / STUDY, plan.to_json(), version=FORMAT)
        except OSError as error:
            raise RunError(
                f"cannot write {ledger.path}: {error.strerror or error}; choose another {OPTION}"
            ) from error
        return ledger

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """Open a study that exists; DataError when it is damaged or lies in a folder that is not its own."""
        advice = f"remove {path} and tune again: mmbench tune"
        file = path / STUDY
        try:
            plan = Plan.from_json(sealed.read_json(file, advice=advice, version=FORMAT))
        except FileNotFoundError as error:
            raise DataError(f"{path} is no study: it has no {STUDY}") from error
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
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise sealed.damaged(file, error, self._advice) from error
        found = []
        for number, line in enumerate(lines, start=1):
            if number == len(lines) and not line.endswith("\n"):
                break
            found.append(self._parse(line, number))
        return found

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
            raise sealed.damaged(file, error, self._advice) from error

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
    def claim(self, limit: int | None) -> Iterator[Claimed | None]:
        """Hold the next trial that nobody computes: one that was interrupted, else a new one.

        limit  how many trials there may be; None = any number

        Yield None when there are enough trials, or every combination was tried.
        """
        claimed, lock = None, None
        with self._alone():
            done = {trial.number for trial in self.trials()}
            for number in (n for n in itertools.count() if n not in done):
                values = self._values(number, done) if limit is None or number < limit else None
                if values is None:
                    break
                lock = take(self.path / RUNNING / f"{number}.lock", wait=False, error=RunError, option=OPTION)
                if lock is not None:
                    claimed = Claimed(number, values, self._folder(number))
                    break
        with lock or nullcontext():
            yield claimed

    def _values(self, number: int, done: set[int]) -> Values | None:
        """Return the settings of a trial under way, or of a new one, which is begun by writing them down."""
        file = self._folder(number) / VALUES
        if file.is_file():
            with suppress(
                DataError
            ):  # of a kill while it was written: it is made again, with the same result
                return dict(sealed.read_json(file, advice=self._advice))
        values = propose(self.plan.sampler, self.plan.dimensions, number, self.plan.seed, self._tried(done))
        if values is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            sealed.write_json(file, values)
        return values

    def _tried(self, done: set[int]) -> list[Tried]:
        """Return the trials that ended, by number, then those under way."""
        ended = sorted(self.trials(), key=lambda trial: trial.number)
        found = [Tried(trial.values, trial.value) for trial in ended]
        begun = sorted(self.path.glob(f"{RUNNING}/*/{VALUES}"), key=lambda file: int(file.parent.name))
        for file in begun:
            if int(file.parent.name) not in done:
                with suppress(DataError):
                    found.append(Tried(dict(sealed.read_json(file, advice="")), None))
        return found

    def _folder(self, number: int) -> Path:
        return self.path / RUNNING / str(number)

    def _alone(self) -> AbstractContextManager[bool]:
        return held(self.path / ".study.lock", error=RunError, option=OPTION)


def _line(trial: Trial) -> str:
    content = trial.to_json()
    return (
        json.dumps(
            {**content, sealed.SEAL: sealed.hash_content(content)}, ensure_ascii=False, allow_nan=False
        )
        + "\n"
    )


# -- the best ---------------------------------------------------------------------------------------------


def best_of(trials: list[Trial]) -> Trial | None:
    """Return the best trial; of equal values the one with fewer parameters, then the earlier one."""
    candidates = [trial for trial in trials if trial.value is not None and trial.status in CHOOSABLE]
    return min(candidates, key=lambda trial: trial.order, default=None)


def best_toml(plan: Plan, trials: list[Trial]) -> str:
    """Return the best settings as TOML, in the form that `mmbench run --config` and recipes have."""
    best = best_of(trials)
    if best is None:
        return "# no trial has finished yet\n"
    seconds = sum(trial.seconds for trial in trials)
    head = (
        f"# {plan.model} on {plan.dataset}: the best of {len(trials)} trials ({seconds / 3600:.2f} h), "
        f"validation {plan.metric} {best.value:.6f}\n"
    )
    source = json.dumps(f"tuned: study {plan.study_id}, trial {best.number}")
    rows = [
        f"{key} = {{ value = {json.dumps(value)}, source = {source} }}" for key, value in best.values.items()
    ]
    return head + "[settings]\n" + "\n".join(rows) + "\n"


# -- finding studies --------------------------------------------------------------------------------------


def folder_of(results_dir: Path, dataset: str, model: str) -> Path:
    return results_dir / slug(dataset) / slug(model) / TUNING


def studies_of(results_dir: Path, dataset: str, model: str) -> list[Ledger]:
    """Return the studies of a model on a data set; DataError for one that is damaged."""
    folder = folder_of(results_dir, dataset, model)
    found = [Ledger.read(file.parent) for file in sorted(folder.glob(f"*/{STUDY}"))]
    return [ledger for ledger in found if (ledger.plan.dataset, ledger.plan.model) == (dataset, model)]


def chosen_study(
    results_dir: Path,
    prepared: Prepared,
    model: str,
    *,
    protocol: dict[str, Any],
    features: dict[str, Any],
    study_id: str | None = None,
) -> Ledger:
    """Return the study of a model that fits the data, the protocol and the features, with the most trials.

    UsageError when there is none, with the command that makes one, or when `study_id` names none that fits.
    """
    fitting = [
        ledger
        for ledger in studies_of(results_dir, prepared.name, model)
        if (ledger.plan.protocol, ledger.plan.features) == (protocol, features) and best_of(ledger.trials())
    ]
    if study_id is not None:
        fitting = [ledger for ledger in fitting if ledger.plan.study_id == study_id]
    if not fitting:
        what = f"study {study_id}" if study_id else "study"
        raise UsageError(
            f"no {what} of {model} fits {prepared.name} as it is now; "
            f"run: mmbench tune {model} --dataset {prepared.name}"
        )
    return max(fitting, key=lambda ledger: (len(ledger.trials()), ledger.plan.study_id))
