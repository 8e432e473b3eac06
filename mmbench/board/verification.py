"""All checks of a bundle, the level that it reached, and the verdict that is stored beside it.

A verdict is as good as whoever wrote it: a board takes those that its keeper made (docs/board.md).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mmbench import __version__, sealed, strict
from mmbench.atomic import hash_file
from mmbench.board import retraining
from mmbench.board.archive import BundleError
from mmbench.board.checks import Check, has_fault, offline_checks
from mmbench.board.opened import Bundle, opened
from mmbench.data.loaded import load_data
from mmbench.data.store import is_prepared, open_prepared
from mmbench.errors import DataError, MmbenchError, UsageError

Level = Literal["claimed", "re-scored", "re-trained"]
LEVELS: tuple[Level, ...] = get_args(Level)
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a verification does beyond the checks that need no data.

    retrain  how many seeds are trained, 0 for none; they follow from the bundle and `date`
    """

    data_dir: Path
    rescore: bool = False
    retrain: int = 0
    date: str = ""
    device: str = "auto"
    trusts_code: bool = False

    @property
    def needs_data(self) -> bool:
        return self.rescore or self.retrain > 0


@dataclass(frozen=True, kw_only=True)
class Verdict(strict.Strict):
    """What a verification gave, for the board."""

    bundle: str  # sha256 of the archive
    level: Level
    date: str
    mmbench: str
    checks: tuple[tuple[str, str, str], ...]  # name, status, text
    seeds: tuple[int, ...] = ()  # those that were trained again
    values: tuple[float, ...] = ()  # theirs


def verify(
    path: Path, work: Work, *, on_check: Callable[[Check], object], say: Callable[[str], object]
) -> Verdict:
    """Check a bundle, call `on_check` with each check, and return the verdict; its level is "claimed" after a fault.

    Raises UsageError for what cannot be done with this bundle, DataError where there is no such file.
    """
    checks: list[Check] = []

    def report(check: Check) -> None:
        checks.append(check)
        on_check(check)

    try:
        with opened(path) as bundle:
            for check in offline_checks(bundle):
                report(check)
            if not has_fault(checks):
                report(check_targets(bundle, work.data_dir))
            retrained = None
            if work.needs_data and not has_fault(checks):
                retrained = _with_data(bundle, path, work, report, say)
            return _verdict(bundle, checks, work, retrained)
    except BundleError as error:
        report(Check("archive", "fault", str(error)))
        sha256 = hash_file(path)
        return Verdict(
            bundle=sha256, level="claimed", date=today(), mmbench=__version__, checks=_texts(checks)
        )


def check_targets(bundle: Bundle, data_dir: Path) -> Check:
    """Check users and targets against the prepared data, where this machine has the bundle's data set."""
    record, name = bundle.records[0], "targets"
    if not is_prepared(record.dataset, data_dir):
        return Check(name, "not checked", f"{record.dataset} is not prepared here (mmbench prepare)")
    try:
        prepared = open_prepared(record.dataset, data_dir)
        if prepared.hash != record.data_hash:
            return Check(
                name, "not checked", f"{record.dataset} is prepared here from other data or otherwise"
            )
        data = load_data(prepared.path, prepared.hash)
    except MmbenchError as error:
        return Check(name, "not checked", str(error))
    for split in bundle.splits:
        view, ranking = data.targets("test" if split == "test" else "valid"), bundle.ranking(record, split)
        if not np.array_equal(ranking.user, view.user):
            return Check(name, "fault", f"the {split} users are not those of the data")
        if ranking.has_targets and not np.array_equal(ranking.target, view.target):
            return Check(name, "fault", f"the {split} targets are not those of the data")
    checked = "users and targets" if bundle.manifest.has_lists else "users"
    return Check(name, "ok", f"{checked} are those of the data prepared here")


def _with_data(
    bundle: Bundle,
    path: Path,
    work: Work,
    report: Callable[[Check], object],
    say: Callable[[str], object],
) -> retraining.Retrained | None:
    retraining.open_model(bundle, trusts_code=work.trusts_code)
    if work.rescore:
        report(retraining.rescore(bundle, data_dir=work.data_dir, device=work.device))
    if not work.retrain:
        return None
    check, retrained = retraining.retrain(
        bundle, work.retrain, date=work.date or today(), data_dir=work.data_dir, device=work.device,
        work=path.with_name(f"{path.name}.retrained"), say=say,
    )  # fmt: skip
    report(check)
    return retrained


def _verdict(
    bundle: Bundle, checks: Sequence[Check], work: Work, retrained: retraining.Retrained | None
) -> Verdict:
    passed = {check.name for check in checks if check.status == "ok"}
    level: Level = (
        "claimed" if has_fault(checks)
        else "re-trained" if "retrain" in passed
        else "re-scored" if "rescore" in passed
        else "claimed"
    )  # fmt: skip
    return Verdict(
        bundle=bundle.sha256, level=level, date=work.date or today(), mmbench=__version__, checks=_texts(checks),
        seeds=() if retrained is None else retrained.seeds,
        values=() if retrained is None else retrained.values,
    )  # fmt: skip


def _texts(checks: Sequence[Check]) -> tuple[tuple[str, str, str], ...]:
    return tuple((check.name, check.status, check.text) for check in checks)


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def check_date(text: str) -> str:
    """Return a date YYYY-MM-DD; UsageError for anything else."""
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError("other form")
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise UsageError(f"--date {text!r}: write a day as YYYY-MM-DD, for example {today()}") from error


# -- files ------------------------------------------------------------------------------------------------


def verdict_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.verdict.json")


def write_verdict(path: Path, verdict: Verdict) -> Path:
    """Store the verdict beside its bundle, instead of an older verdict; return the file."""
    file = verdict_file(path)
    sealed.write_json(file, verdict.to_json(), version=FORMAT)
    return file


def read_verdict(path: Path, sha256: str) -> Verdict | None:
    """Return the verdict that lies beside a bundle; None where there is none, DataError if it is of other bytes."""
    file = verdict_file(path)
    advice = f"verify it again: mmbench verify {path}"
    try:
        verdict = Verdict.from_json(sealed.read_json(file, advice=advice, version=FORMAT))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise sealed.damaged(file, error, advice) from error
    if verdict.bundle != sha256:
        raise DataError(f"{file} is about another bundle ({verdict.bundle[:12]}); {advice}")
    return verdict
