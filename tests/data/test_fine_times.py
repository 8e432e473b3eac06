"""Times finer than a second: they are kept, decide what counts as an equal time, and change no identity.

Run: python -m pytest tests/data/test_fine_times.py
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mmbench
from mmbench.data.manifest import FRACTIONS, write_manifest
from mmbench.data.prepare import prepare
from mmbench.data.store import Prepared, open_path
from mmbench.errors import DamagedError, UsageError
from mmbench.look.gather import look
from mmbench.reporting.slices import labels_of
from mmbench.reporting.targets import tied_share
from mmbench.runs.store import RunRecord
from tests.data.preparing import made
from tests.data.raw_files import DAY, START, TABLE, write_lines
from tests.runs.test_rerank import finished

N_USERS, N_EVENTS = 40, 6
# Milliseconds from the last input event to the target. The newest input event is at .9 s of its second.
GAPS = (0, 1, 99, 100, 1_000, DAY * 1000 - 1, DAY * 1000)
NAMES = ("0", "<1 d", "<1 d", "<1 d", "<1 d", "<1 d", "1-7 d")


def histories() -> dict[str, list[int]]:
    """Each user's times in milliseconds: days apart, the last two as far as the next of GAPS says."""
    times = {}
    for user in range(N_USERS):
        days = [(START + step * DAY) * 1000 + 900 for step in range(N_EVENTS - 1)]
        times[f"u{user:02}"] = [*days, days[-1] + GAPS[user % len(GAPS)]]
    return times


def declared(declare, *, unit: str = "ms", cut: int = 1) -> None:
    """Write the raw files; with `cut` = 1000 the milliseconds lack their fractions of a second."""
    raw = declare(TABLE + f'columns.interactions = {{ unit = "{unit}" }}')
    per_unit = 1000 if unit == "s" else 1
    rows = [
        f"{user}\ti{(int(user[1:]) + step) % N_EVENTS}\t{time // cut * cut // per_unit}"
        for user, times in histories().items()
        for step, time in enumerate(times)
    ]
    write_lines(raw / "events.tsv", ["user\titem\ttimestamp", *rows])
    write_lines(raw / "items.tsv", ["item\ttitle\tgenres", "i0\tA\t"])


def without_fractions(prepared: Prepared) -> Prepared:
    """The same data as an older mmbench prepared them."""
    (prepared.path / FRACTIONS).unlink()
    files = {name: sha256 for name, sha256 in prepared.manifest.files.items() if name != FRACTIONS}
    write_manifest(prepared.path, replace(prepared.manifest, files=files))
    return open_path(prepared.path)


def pop_on(prepared: Prepared, tmp_path: Path) -> RunRecord:
    return finished(prepared, tmp_path / "results", "pop", mask_seen="none")


def test_times_are_kept_to_the_millisecond(tmp_path: Path, declare) -> None:
    declared(declare)
    prepared = made(tmp_path)
    assert prepared.fractions is not None
    ticks = np.asarray(prepared.times) * 1_000_000 + prepared.fractions
    expected = [time * 1000 for _, times in sorted(histories().items()) for time in times]
    assert ticks.tolist() == expected
    assert not prepared.lacks_fractions


def test_whole_seconds_have_no_further_file_and_one_identity_in_both_units(tmp_path: Path, declare) -> None:
    hashes = set()
    for unit in ("s", "ms"):
        declared(declare, unit=unit, cut=1000)
        prepared = made(tmp_path / unit)
        assert prepared.fractions is None
        assert not (prepared.path / FRACTIONS).exists()
        assert not prepared.lacks_fractions
        hashes.add(prepared.hash)
    assert len(hashes) == 1


def test_data_of_an_older_mmbench_keep_their_identity_and_get_their_fractions(
    tmp_path: Path, declare
) -> None:
    declared(declare)
    whole = made(tmp_path)
    older = without_fractions(whole)
    assert older.hash == whole.hash
    assert older.lacks_fractions
    again = prepare("mine", tmp_path / "data")
    assert again.fresh
    assert again.prepared.manifest.files == whole.manifest.files
    assert not prepare("mine", tmp_path / "data").fresh


STAYS = "its times stay whole seconds, though its raw files have finer ones"


def test_data_of_an_older_mmbench_that_may_only_be_read_are_used_as_they_are(
    tmp_path: Path, declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared(declare)
    older = without_fractions(made(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # tests may run as root
    again = prepare("mine", tmp_path / "data")
    assert not again.fresh
    assert again.notes == [STAYS]
    assert again.prepared.manifest == older.manifest


def test_without_raw_files_the_fractions_stay_missing_and_a_note_says_so(tmp_path: Path, declare) -> None:
    declared(declare)
    without_fractions(made(tmp_path))
    shutil.rmtree(tmp_path / "raw")
    again = prepare("mine", tmp_path / "data")
    assert not again.fresh
    assert again.notes == ["its raw files are gone, so only the settings were compared", STAYS]


def test_a_failure_to_add_the_fractions_leaves_the_data_as_they_were(
    tmp_path: Path, declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared(declare)
    older = without_fractions(made(tmp_path))

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmbench.data.writing.swap_folder", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare("mine", tmp_path / "data")
    assert open_path(older.path).manifest == older.manifest
    open_path(older.path).verify()
    assert prepare("mine", tmp_path / "data").prepared.fractions is not None


def test_a_changed_fraction_is_damage(tmp_path: Path, declare) -> None:
    declared(declare)
    prepared = made(tmp_path)
    np.save(prepared.path / FRACTIONS, np.asarray(prepared.fractions) + 1)
    with pytest.raises(DamagedError, match=FRACTIONS):
        open_path(prepared.path).verify()


def test_slices_and_caption_compare_the_times_of_the_file(tmp_path: Path, declare) -> None:
    declared(declare)
    prepared = made(tmp_path)
    run = pop_on(prepared, tmp_path)
    kinds = [user % len(GAPS) for user in range(N_USERS)]
    tied, gap = (labels_of(run, family, "test", prepared.data_dir) for family in ("tied", "gap"))
    assert [tied.names[k] for k in tied.index] == ["later" if kind else "tied" for kind in kinds]
    assert [gap.names[k] for k in gap.index] == [NAMES[kind] for kind in kinds]
    share = kinds.count(0) / N_USERS
    assert tied_share(run, prepared.data_dir) == pytest.approx(share, abs=1e-12)
    text = str(mmbench.report([run], data_dir=prepared.data_dir))
    assert f"{100 * share:.1f} % of test targets share their time" in text


def test_figures_count_gaps_below_a_second_as_gaps(tmp_path: Path, declare) -> None:
    declared(declare)
    shown = look(made(tmp_path))
    assert shown.intervals is not None
    assert shown.intervals.counts[0] == [user % len(GAPS) for user in range(N_USERS)].count(0)


def test_without_fractions_the_second_is_named_and_slices_of_time_are_refused(
    tmp_path: Path, declare
) -> None:
    declared(declare)
    prepared = without_fractions(made(tmp_path))
    run = pop_on(prepared, tmp_path)
    same_second = [user % len(GAPS) in (0, 1, 2) for user in range(N_USERS)]
    text = " ".join(str(mmbench.report([run], data_dir=prepared.data_dir)).split())
    assert f"{100 * np.mean(same_second):.1f} % of test targets share their second" in text
    assert "mmbench prepare mine" in text
    for family in ("tied", "gap"):
        with pytest.raises(UsageError, match=r"whole seconds.*run: mmbench prepare mine"):
            labels_of(run, family, "test", prepared.data_dir)
    assert labels_of(run, "repeat", "test", prepared.data_dir).names
