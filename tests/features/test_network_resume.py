"""Real kills of real processes: what was done is not done again, and nobody sees the kill in the values."""

import shutil
import zipfile
from pathlib import Path

import pytest

from mmbench.data.store import Prepared
from mmbench.features import network
from mmbench.features.extract import Options, extract
from mmbench.features.store import feature_dir
from tests.features.network_toys import Letters
from tests.features.toy import encoded, items, picture, prepare
from tests.forkserver import Forked, server
from tests.prepared import ROOT, environment, finish, kill_group, wait_for

N = 61
NAMES = {"text": "letters", "image": "means"}


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Texts of many lengths and pictures, some of them missing."""
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(N):
            if number % 7 != 3:
                archive.writestr(f"{number}.png", encoded(picture(number)))
    records = [
        {**item, "text": f"thing {k}{' long' * (k % 9)}" if k % 11 else "", "image": f"{k}.png"}
        for k, item in enumerate(items(N))
    ]
    return prepare(tmp_path, records, pictures=path)


def begin(prepared: Prepared, modality: str, log: Path, *, seconds: float) -> Forked:
    args, env = [str(prepared.path), modality, str(log), str(seconds)], environment()
    return server(env, ROOT).start(args, module="tests.features.network_toys", env=env, cwd=ROOT)


def lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines() if log.is_file() else []


def take(prepared: Prepared, modality: str) -> tuple[bytes, bytes]:
    """The stored bytes; the folder of the modality is then removed."""
    folder = feature_dir(prepared, modality, NAMES[modality])
    found = (folder / "values.npy").read_bytes(), (folder / "present.npy").read_bytes()
    left = {path.name for path in folder.parent.iterdir()}
    assert left == {folder.name, ".swap.lock", f".{folder.name}.lock"}, "nothing of the work is left"
    shutil.rmtree(folder.parent)
    return found


@pytest.mark.parametrize("modality", ["text", "image"])
def test_kills_leave_no_trace_in_the_values(prepared: Prepared, tmp_path: Path, modality: str) -> None:
    whole, log = tmp_path / "whole.log", tmp_path / "killed.log"
    assert finish(begin(prepared, modality, whole, seconds=0)).returncode == 0
    expected = take(prepared, modality)
    for target in (1, 6, 11):
        process = begin(prepared, modality, log, seconds=0.05)
        wait_for(lambda target=target: len(lines(log)) >= target, every=0.002)
        kill_group(process)
        assert finish(process).returncode == -9
    done = finish(begin(prepared, modality, log, seconds=0))
    assert done.returncode == 0, done.stderr
    assert "resumes after" in done.stdout
    assert take(prepared, modality) == expected
    # A kill may cost the batch that was just run but not yet stored; nothing else is run twice.
    assert len(lines(whole)) <= len(lines(log)) <= len(lines(whole)) + 3


def test_two_at_once_the_second_waits_and_finds_it_done(prepared: Prepared, tmp_path: Path) -> None:
    first_log, second_log = tmp_path / "1.log", tmp_path / "2.log"
    first = begin(prepared, "text", first_log, seconds=0.15)
    wait_for(lambda: len(lines(first_log)) >= 1)
    second = finish(begin(prepared, "text", second_log, seconds=0))
    assert finish(first).returncode == second.returncode == 0
    assert "another process is extracting it; waiting" in second.stdout
    assert "already stored" in second.stdout
    assert lines(second_log) == []


class Stopping(Letters):
    """Gives up after some batches, as a kill does, but in this process."""

    stop_after = 3

    def run(self, batch: object) -> object:  # type: ignore[override]
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        return super().run(batch)  # type: ignore[arg-type]


def interrupted(prepared: Prepared, options: Options, *, fits: int = 1_000_000) -> Path:
    """Begin and stop; -> the work folder."""
    with pytest.raises(KeyboardInterrupt):
        extract(prepared, "text", Stopping(fits=fits), options=options)
    [folder] = feature_dir(prepared, "text", "letters").parent.glob(".letters.work-*")
    return folder


@pytest.fixture
def store_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "FLUSH_SECONDS", 0.0)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("store_at_once")
def test_sizes_found_before_the_stop_hold_after_it(prepared: Prepared) -> None:
    """Memory ran out before the stop: the second run makes the small batches at once, and the same ones."""
    whole = Letters(fits=150)
    extract(prepared, "text", whole)
    expected, n_batches = take(prepared, "text"), len(whole.batches)
    interrupted(prepared, Options(), fits=150)
    said: list[str] = []
    again = Letters(fits=150)
    extract(prepared, "text", again, say=said.append)
    assert not any("out of memory" in text for text in said)
    assert len(again.batches) == n_batches - Stopping.stop_after
    assert take(prepared, "text") == expected


@pytest.mark.usefixtures("store_at_once")
def test_another_batch_size_holds_from_here_on(prepared: Prepared) -> None:
    folder = interrupted(prepared, Options(batch_size=5))
    assert files(folder) == [f"{k:09d}-{k + 5:09d}.npz" for k in (0, 5, 10)] + ["plan.json"]
    encoder = Letters()
    extract(prepared, "text", encoder, options=Options(batch_size=2))
    assert set(encoder.batches) <= {1, 2}
    assert sum(encoder.batches) == N - len(range(0, N, 11)) - 15


@pytest.mark.usefixtures("store_at_once")
@pytest.mark.parametrize("damage", ["cut", "gap", "plan", "device"])
def test_damaged_work_is_done_again(prepared: Prepared, damage: str) -> None:
    extract(prepared, "text", Letters(), options=Options(batch_size=4))
    expected = take(prepared, "text")
    folder = interrupted(prepared, Options(batch_size=4))
    second = folder / "000000004-000000008.npz"
    if damage == "cut":
        second.write_bytes(second.read_bytes()[:-40])
    elif damage == "gap":
        second.unlink()
    elif damage == "plan":
        (folder / "plan.json").write_text("{")
    encoder, said = Letters(), []
    if damage == "device":
        encoder.device = "cuda"
    extract(prepared, "text", encoder, options=Options(batch_size=4), say=said.append)
    n_done = {"cut": 4, "gap": 4, "plan": 0, "device": 0}[damage]
    assert sum(encoder.batches) == N - len(range(0, N, 11)) - n_done
    assert any("the two round differently" in text for text in said) == (damage == "device")
    assert take(prepared, "text") == expected


@pytest.mark.usefixtures("store_at_once")
def test_unfinished_work_on_other_inputs_goes(prepared: Prepared, tmp_path: Path) -> None:
    stale = interrupted(prepared, Options(batch_size=4))
    other = prepare(tmp_path, [{**item, "text": f"other {item['id']}"} for item in items(N)])
    extract(other, "text", Letters(), options=Options(batch_size=4))
    assert not stale.exists()
    interrupted(other, Options(batch_size=5, float16=True))
    forced = Letters()
    extract(other, "text", forced, options=Options(batch_size=4), force=True)
    assert sum(forced.batches) == N, "force begins from the start"
