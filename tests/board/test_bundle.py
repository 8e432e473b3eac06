"""Bundles of real runs: the same bytes, nothing private; and every claim that a forger may change is found."""

import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mmbench.board.checks import has_fault
from mmbench.board.known import known_data
from mmbench.board.manifest import MANIFEST
from mmbench.board.private import without_private
from mmbench.board.retraining import drawn_seeds, prediction_interval
from mmbench.board.verification import read_verdict, write_verdict
from mmbench.board.writing import libraries, write_bundle
from mmbench.data.split import make_split
from mmbench.data.store import open_prepared
from mmbench.errors import DataError
from tests.board.conftest import Made
from tests.board.making import checked, edit_json, ranking_arrays, rebuilt
from tests.cli.forks import Command, run_all


def test_the_same_runs_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    again = tmp_path / "again.mmb.zip"
    written = write_bundle(made.folder("sasrec"), again, with_weights=True)
    assert again.read_bytes() == made.sasrec.read_bytes()
    assert written.n_bytes == again.stat().st_size


def test_a_bundle_passes_its_checks(made: Made) -> None:
    verdict, checks = checked(made.sasrec)
    assert verdict.level == "claimed"
    assert not has_fault(list(checks.values()))
    passed = {name for name, check in checks.items() if check.status == "ok"}
    assert {"hashes", "schema", "configuration", "ranks", "lists", "metrics", "curve", "seeds"} <= passed
    assert checks["data"].status == "note"  # nobody knows the toy data


@pytest.mark.parametrize(
    ("key", "change", "status"),
    [
        ("lr", {"origin": "user", "note": ""}, "ok"),  # the recipe's value was typed for this seed
        ("text_encoder", {"value": "none", "origin": "user"}, "ok"),  # sasrec reads no texts
        ("lr", {"value": 0.5}, "fault"),
    ],
)
def test_seeds_differ_in_values_not_in_who_gave_them(
    key: str, change: dict[str, object], status: str, made: Made, tmp_path: Path
) -> None:
    def edit(folder: Path) -> None:
        edit_json(folder / "seed_2" / "run.json", lambda content: content["settings"][key].update(change))

    _, checks = checked(rebuilt(made.sasrec, tmp_path / "edited.mmb.zip", edit))
    assert checks["schema"].status == status
    assert status == "ok" or "seeds 1 and 2 differ in the setting lr" in checks["schema"].text


def test_without_lists_no_item_is_named(made: Made, tmp_path: Path) -> None:
    bundle = tmp_path / "bare.mmb.zip"
    write_bundle(made.folder("sasrec"), bundle, with_lists=False)
    _, checks = checked(bundle)
    assert not has_fault(list(checks.values()))
    assert checks["lists"].status == "not checked"
    assert checks["metrics"].status == "ok"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "files")
    for seed in (1, 2):
        with ranking_arrays(tmp_path / "files", seed) as arrays:
            assert not arrays["target"].any()
            assert not any(name.startswith(("items", "scores")) for name in arrays)


# -- private ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("read /home/eve/models/bert", "read bert"),
        ("(/home/eve/a.txt)", "(a.txt)"),
        ("~/data/x.csv is gone", "x.csv is gone"),
        ("C:\\Users\\eve\\x.csv", "x.csv"),
        ("\\\\server\\share\\x", "x"),
        ("https://host.org/a/b stays", "https://host.org/a/b stays"),
        ("HR/NDCG and 1/2 stay", "HR/NDCG and 1/2 stay"),
        ("hm4sr/table1", "hm4sr/table1"),
    ],
)
def test_paths_become_their_last_part(text: str, clean: str) -> None:
    assert without_private(text) == clean
    assert without_private({"a": [text, 1, None, True]}) == {"a": [clean, 1, None, True]}


def test_names_of_machines_leave_free_texts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "mill-7")
    content = {"notes": ["on mill-7 of mill-70"], "model": "mill-7"}
    assert without_private(content) == {"notes": ["on host of mill-70"], "model": "mill-7"}


def test_no_member_of_a_bundle_holds_a_path_or_a_name(made: Made) -> None:
    with zipfile.ZipFile(made.sasrec) as archive:
        texts = {name: archive.read(name) for name in archive.namelist() if not name.endswith(".npz")}
    for name, content in texts.items():
        for word in (str(made.results), str(Path.home()), socket.gethostname()):
            assert word.encode() not in content, name


def test_the_lock_names_the_libraries_that_compute(made: Made) -> None:
    lock = libraries()
    assert {"torch", "numpy", "scipy", "jinja2"} <= set(lock)
    assert lock["numpy"] == np.__version__


# -- forged claims ----------------------------------------------------------------------------------------


def arrays(change: Callable[[dict[str, np.ndarray]], None], split: str = "test") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        with ranking_arrays(folder, split=split) as content:
            change(content)

    return edit


def record(edit: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "seed_1" / "run.json", edit)


def better(content: dict[str, np.ndarray]) -> None:
    """Everybody's target is first, and nothing else is changed."""
    for rule in ("none", "train", "input"):
        content[f"greater_{rule}"] *= 0


def one_rank(content: dict[str, np.ndarray]) -> None:
    """A target that its user's list holds gets another rank there."""
    row = int(np.argmax((content["items_none"] == content["target"][:, None]).any(1)))
    content["greater_none"][row] += 30
    content["greater_train"][row] += 30


def swapped(content: dict[str, np.ndarray]) -> None:
    content["items_none"][:, [0, 1]] = content["items_none"][:, [1, 0]]


def doubled(content: dict[str, np.ndarray]) -> None:
    content["items_input"][0, 1] = content["items_input"][0, 0]


def masked_worse(content: dict[str, np.ndarray]) -> None:
    content["greater_input"][3] = content["greater_none"][3] + 1


def other_users(content: dict[str, np.ndarray]) -> None:
    content["user"][0] = 5000


def other_target(content: dict[str, np.ndarray]) -> None:
    content["target"][0] = content["target"][0] % 60 + 1


def copied_seed(folder: Path) -> None:
    """The ranks of seed 1 under the name of seed 2."""
    with ranking_arrays(folder, 1) as first:
        values = {name: array.copy() for name, array in first.items()}
    with ranking_arrays(folder, 2) as second:
        second.update(values)


def claimed(folder: Path) -> None:
    edit_json(folder / MANIFEST, lambda content: content["metrics"].update({"NDCG@10": [0.9, 0.9]}))


def other_epoch(content: dict) -> None:
    content["selection"]["epoch"] = 3 - content["selection"]["epoch"]


def higher_selection(content: dict) -> None:
    content["selection"]["value"] += 0.01


def higher_curve(content: dict) -> None:
    """The validation value and its place in the curve are raised together: only the ranks tell."""
    epoch, metric = content["selection"]["epoch"], content["selection"]["metric"]
    content["selection"]["value"] += 0.01
    for point in content["curve"]:
        if point["epoch"] == epoch:
            point[metric] += 0.01


FORGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "all ranks first": (arrays(better), "lists"),
    "valid and test apart": (arrays(better), "valid and test"),
    "values from other ranks": (arrays(better), "metrics"),
    "one rank": (arrays(one_rank), "lists"),
    "two places of a list": (arrays(swapped), "lists"),
    "an item twice": (arrays(doubled), "lists"),
    "worse when masked": (arrays(masked_worse), "ranks"),
    "other users": (arrays(other_users), "ranks"),
    "other targets": (arrays(other_target), "ranks"),
    "valid ranks": (arrays(better, "valid"), "metrics"),
    "a seed twice": (copied_seed, "seeds"),
    "claimed values": (claimed, "metrics"),
    "another metric": (
        lambda folder: edit_json(folder / MANIFEST, lambda c: c["metrics"].update({"MRR": [1.0, 1.0]})),
        "metrics",
    ),
    "an epoch that is not best": (record(other_epoch), "curve"),
    "a better selection": (record(higher_selection), "curve"),
    "a better curve": (record(higher_curve), "metrics"),
    "a failed run": (record(lambda content: content.update(status="failed", reason="no")), "schema"),
    "settings of one seed": (record(lambda c: c["settings"]["lr"].update(value=0.5)), "schema"),
    "another data set": (record(lambda content: content["protocol"].update(data="0" * 64)), "schema"),
    "another seed": (record(lambda content: content.update(seed=7)), "schema"),
    "an unknown key": (record(lambda content: content.update(evil=1)), "schema"),
    "a large catalogue": (record(lambda content: content.update(n_items=10**9)), "schema"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGED)
def test_what_a_forger_changes_is_found(made: Made, tmp_path: Path, kind: str) -> None:
    change, name = FORGED[kind]
    verdict, checks = checked(rebuilt(made.sasrec, tmp_path / "forged.mmb.zip", change))
    assert checks[name].status == "fault", [check for check in checks.values() if check.status != "ok"]
    assert verdict.level == "claimed"


def test_settings_that_do_not_give_the_configuration_are_found(made: Made, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        for seed in (1, 2):
            edit_json(
                folder / f"seed_{seed}" / "run.json",
                lambda content: content["settings"]["lr"].update(value=0.5),
            )

    _, checks = checked(rebuilt(made.sasrec, tmp_path / "forged.mmb.zip", change))
    assert checks["configuration"].status == "fault"


def test_targets_that_the_data_do_not_have_are_found(made: Made, data_dir: Path, tmp_path: Path) -> None:
    """A whole ranking of other targets agrees with itself; only the data tell."""

    def change(folder: Path) -> None:
        for seed in (1, 2):
            for split in ("valid", "test"):
                with ranking_arrays(folder, seed, split) as content:
                    content["user"] += 1

    _, checks = checked(made.sasrec, data_dir)
    assert checks["targets"].status == "ok"
    assert checked(made.sasrec)[1]["targets"].status == "not checked"
    _, checks = checked(rebuilt(made.sasrec, tmp_path / "forged.mmb.zip", change), data_dir)
    assert checks["targets"].text == "the valid users are not those of the data"


# -- with the data ----------------------------------------------------------------------------------------


def test_weights_give_the_same_ranks(made: Made, data_dir: Path) -> None:
    verdict, checks = checked(made.sasrec, data_dir, rescore=True, device="cpu")
    assert checks["rescore"].text == "2 seeds of 120 users ranked again: the same ranks"
    assert verdict.level == "re-scored"


def test_ranks_of_other_weights_are_found(made: Made, data_dir: Path, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        weights = folder / "seed_2" / "best.safetensors"
        weights.write_bytes((folder / "seed_1" / "best.safetensors").read_bytes())

    bundle = rebuilt(made.sasrec, tmp_path / "forged.mmb.zip", change)
    verdict, checks = checked(bundle, data_dir, rescore=True, device="cpu")
    assert checks["rescore"].status == "fault"
    assert "users have another rank" in checks["rescore"].text
    assert verdict.level == "claimed"


def test_a_closed_form_is_ranked_again_without_weights(made: Made, data_dir: Path) -> None:
    assert checked(made.pop, data_dir, rescore=True, device="cpu")[0].level == "re-scored"


def test_drawn_seeds_are_trained_in_their_own_folder(made: Made, data_dir: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "sasrec.mmb.zip"
    bundle.write_bytes(made.sasrec.read_bytes())
    verdict, checks = checked(bundle, data_dir, retrain=1, date="2026-01-02", device="cpu")
    assert verdict.seeds == tuple(drawn_seeds(verdict.bundle, "2026-01-02", 1, taken=[1, 2]))
    assert len(verdict.values) == 1
    assert checks["retrain"].status in (
        "ok",
        "fault",
    )  # two seeds have a wide interval; which is not the point
    assert len(list((tmp_path / "sasrec.mmb.zip.retrained").glob("toy/sasrec/*/seed_*/run.json"))) == 1
    assert verdict.level == ("re-trained" if checks["retrain"].status == "ok" else "claimed")


def test_a_deterministic_model_must_give_its_value(made: Made, data_dir: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "pop.mmb.zip"
    bundle.write_bytes(made.pop.read_bytes())
    assert checked(bundle, data_dir, retrain=3, device="cpu")[0].level == "re-trained"


def test_seeds_follow_from_bundle_and_date() -> None:
    seeds = drawn_seeds("a" * 64, "2026-01-01", 5)
    assert seeds == drawn_seeds("a" * 64, "2026-01-01", 5)
    assert len(set(seeds)) == 5
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert not set(seeds) & set(drawn_seeds("a" * 64, "2026-01-02", 5))
    assert not set(seeds) & set(drawn_seeds("b" * 64, "2026-01-01", 5))
    assert drawn_seeds("a" * 64, "2026-01-01", 5, taken=seeds[:1])[0] == seeds[1]


def test_the_interval_holds_the_mean_of_new_seeds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        old, new = rng.normal(size=3), rng.normal(size=2)
        low, high = prediction_interval(old, 2)
        inside += low <= new.mean() <= high
    assert stats.binomtest(inside, 2000, 0.95).pvalue > 1e-3


def test_a_verdict_is_about_its_bundle(made: Made, tmp_path: Path) -> None:
    bundle = tmp_path / "pop.mmb.zip"
    bundle.write_bytes(made.pop.read_bytes())
    assert read_verdict(bundle, "0" * 64) is None
    verdict, _ = checked(bundle)
    write_verdict(bundle, verdict)
    assert read_verdict(bundle, verdict.bundle) == verdict
    with pytest.raises(DataError, match="is about another bundle"):
        read_verdict(bundle, "0" * 64)


def test_the_commands(made: Made, data_dir: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "pop.mmb.zip"
    folder = made.folder("pop")
    commands = [
        ["bundle", folder, "-o", bundle],
        ["verify", bundle, "--rescore", "--device", "cpu"],
        ["bundle", folder, "-o", tmp_path / "pop.zip"],
        ["bundle", tmp_path, "-o", bundle],
        ["verify", bundle, "--retrain", "1", "--date", "yesterday"],
    ]
    written, verified, name, none, date = run_all(
        [Command(arguments, data_dir, made.results, {"COLUMNS": "80"}) for arguments in commands]
    )
    assert written.stdout.startswith(f"{bundle}: pop on toy, 1 seed, ")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert verified.stdout.splitlines()[-1] == "level: re-scored"
    assert (tmp_path / "pop.mmb.zip.verdict.json").is_file()
    for failed in (name, none, date):
        assert (failed.returncode, len(failed.error_lines)) == (2, 1), failed.stderr


def test_known_data_are_those_that_are_prepared_here(tmp_path: Path) -> None:
    from mmbench import api

    api.prepare("demo", text="none", image="none", data_dir=tmp_path)
    prepared, known = open_prepared("demo", tmp_path), known_data()["demo"]
    split = make_split(prepared.protocol, np.asarray(prepared.times), np.asarray(prepared.offsets))
    assert (known.hash, known.items) == (prepared.hash, prepared.n_items)
    assert known.test_users == int((split.test_pos >= 0).sum())
