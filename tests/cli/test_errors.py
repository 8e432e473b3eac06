"""Bad input of every kind: exit code 1 or 2, one line on stderr that names the fault, no traceback."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmbench import sealed
from mmbench.data import manifest
from mmbench.data.store import open_prepared
from mmbench.runs import store
from tests.cli.forks import Command, run_all
from tests.models.test_registry import OWN, RECIPE, write_own
from tests.prepared import ROOT, SMALL, Outcome, cells, finish, random_histories, start_anew, write_toy

QUICK = ("--quiet", "run")
END = ("--no-floors", "--epochs", "1", *SMALL)


class World:
    """Folders for the cases: `data` and `results` of a finished run are copied before they are damaged."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.good, self.results, self.mixed = root, data, root / "results", root / "mixed"
        self.count = 0
        commands = [Command(("run", "sasrec", *END), data, self.results)]
        for mask in ("none", "train"):  # two protocols in one results folder
            args = ("run", "pop", "--no-floors", "--set", f"mask_seen={mask}")
            commands.append(Command(args, data, self.mixed))
        for done in run_all(commands):
            assert done.returncode == 0, done.stderr

    def fresh(self) -> Path:
        self.count += 1
        return self.root / f"world-{self.count}"

    def data(self, damage: Callable[[Path], object]) -> Path:
        """A copy of the data folder after `damage(path of toy)`."""
        folder = self.fresh()
        shutil.copytree(self.good, folder)
        damage(folder / "prepared" / "toy")
        return folder

    def run(self, damage: Callable[[Path], object]) -> Path:
        """A copy of the results after `damage(path of the cell)`; returns the cell."""
        folder = self.fresh()
        shutil.copytree(self.results, folder)
        (cell,) = cells(folder)
        damage(cell)
        return cell

    def command(self, *args: str | Path, data: Path | None = None, results: Path | None = None) -> Command:
        return Command(args, data or self.good, results or self.fresh())

    def models(self, code: str = OWN, recipe: str = RECIPE) -> Path:
        return write_own(self.fresh(), code=code, recipe=recipe)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip(path: Path, at: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.write_bytes(bytes(data))


def other_catalogue(toy: Path) -> None:
    """Features that were made for 61 items beside data of 60 items."""
    data = toy.parents[1]
    larger = write_toy(data / "other", n_items=61)
    shutil.rmtree(toy / "features")
    shutil.copytree(larger.path / "features", toy / "features")


def nan_features(toy: Path) -> None:
    file = toy / "features" / "text" / "toy" / "values.npy"
    values = np.load(file)
    values[3, 3] = np.nan
    np.save(file, values)


def all_items_seen(toy: Path) -> None:
    items, _times, _ = random_histories(n_users=3, n_items=6)
    items = np.concatenate([np.tile(np.arange(1, 7), 2), items[:3]])
    write_toy(
        toy.parents[1], n_items=6, histories=(items, np.arange(len(items)), np.array([0, 12, len(items)]))
    )


def seal(path: Path, content: dict[str, object]) -> None:
    sealed.write_json(path, content, version=manifest.FORMAT)


def set_record(cell: Path, **changes: object) -> None:
    """Change a record, with the hash that belongs to the change."""
    content = sealed.read_json(cell / "run.json", advice="", version=store.FORMAT)
    sealed.write_json(cell / "run.json", {**content, **changes}, version=store.FORMAT)


def copied(cell: Path) -> Path:
    copy = cell.with_name(f"{cell.name}_backup")
    shutil.copytree(cell, copy)
    return copy


def set_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def usage_cases(w: World) -> dict[str, tuple[Command, int, str]]:
    """Faults of the command line itself: exit code 2."""

    def bad(*args: str | Path, data: Path | None = None) -> Command:
        return w.command(*QUICK, *args, data=data)

    def setting(value: str, *more: str) -> Command:
        return bad("sasrec", "--set", value, *more)

    cases = {
        "unknown command": (w.command("rnu"), "No such command 'rnu'. Did you mean 'run'"),
        "no model": (w.command("run"), "Missing argument 'MODEL'"),
        "unknown option": (w.command("run", "sasrec", "--sedes", "3"), "No such option: --sedes.*--seeds"),
        "option without value": (w.command("run", "sasrec", "--seeds"), "requires an argument"),
        "unknown model": (bad("sasrce"), "unknown model 'sasrce'; did you mean 'sasrec'"),
        "empty variant": (bad("sasrec", "sasrec:"), "'sasrec:' names no variant; write sasrec, or sasrec:VARIANT"),
        "unknown variant": (bad("hm4sr:-tmo"), "unknown variant 'hm4sr:-tmo'; did you mean 'hm4sr:-tmoe'"),
        "unknown data set": (bad("sasrec", "--dataset", "tyo"), "'tyo' is not prepared.*did you mean 'toy'"),
        "data set of another protocol": (
            bad("sasrec", "--dataset", "toy@random:1"), r"run: mmbench prepare toy@random:1",
        ),
        "no such prepared data": (
            bad("sasrec", "--dataset", "toy", data=w.fresh()), "is not prepared in .*; run: mmbench prepare toy",
        ),
        "seeds 0": (bad("sasrec", "--seeds", "0"), "--seeds '0'.*must be 1 or more"),
        "negative seeds": (bad("sasrec", "--seeds=-3"), "--seeds '-3'.*must be 1 or more"),
        "a seed twice": (bad("sasrec", "--seeds", "3,5,3"), "twice"),
        "seeds as text": (bad("sasrec", "--seeds", "ten"), r"--seeds 'ten': give a number of seeds \(10\)"),
        "seeds with a hole": (bad("sasrec", "--seeds", "1,,2"), "--seeds '1,,2'"),
        "seeds with two signs": (bad("sasrec", "--seeds=--5"), "--seeds '--5'"),
        "seeds in other digits": (bad("sasrec", "--seeds", "²"), "--seeds '²'"),
        "train with seed 0": (w.command("train", "sasrec", "--seed", "0"), "--seed"),
        "epochs 0": (bad("sasrec", "--epochs", "0"), "--epochs"),
        "epochs as text": (bad("sasrec", "--epochs", "many"), "--epochs"),
        "jobs 0": (bad("sasrec", "--jobs", "0"), "--jobs"),
        "unknown setting": (setting("n_head=2"), "--set n_head: unknown setting 'n_head'; did you mean 'n_heads'"),
        "setting of another model": (setting("gru4rec.lr=1"), "unknown model of this run 'gru4rec'"),
        "setting of no use": (
            bad("pop", "--no-floors", "--set", "pop.lr=1"), "--set pop.lr: pop has no use for this setting",
        ),
        "encoder of no use": (setting("sasrec.text_encoder=toy"), "--set sasrec.text_encoder: sasrec has no use"),
        "two precisions": (
            setting("precision=float64", "--set", "matmul=bfloat16"), "is about float32 products; precision is float64",
        ),
        "batch beyond all numbers": (setting("batch_size=99999999999999999999999"), "sasrec: batch_size: .*less than"),
        "cutoff of selection": (setting("selection_metric=HR@1000"), "the largest cutoff is selection_metric=HR@60"),
        "cutoff of a metric to print": (
            w.command("evaluate", cells(w.results)[0], "--metric", "HR@61"), r"HR@61: K must be in 1\.\.60",
        ),
        "setting without value": (setting("lr"), "write it as KEY=VALUE"),
        "setting with empty value": (setting("lr="), "write it as KEY=VALUE"),
        "text for a number": (setting("lr=fast"), "sasrec: lr: .*'fast'"),
        "quoted number": (setting('lr="0.1"'), "sasrec: lr: .*'0.1'"),
        "part of a layer": (setting("n_layers=1.5"), "sasrec: n_layers: "),
        "true for a number": (setting("n_layers=true"), "sasrec: n_layers: "),
        "negative rate": (setting("lr=-1"), "sasrec: lr: .*greater than 0"),
        "infinite rate": (setting("lr=inf"), "sasrec: lr: must be a finite number"),
        "batch size 0": (setting("batch_size=0"), "sasrec: batch_size: .*greater than 0"),
        "dropout 1": (setting("dropout=1"), "sasrec: dropout: .*less than 1"),
        "unknown choice": (setting("samples=prefx"), "sasrec: samples: .*'prefix'"),
        "unknown metric to select by": (setting("selection_metric=NDGC@10"), "did you mean 'NDCG'"),
        "metric without cutoff": (setting("selection_metric=HR"), "metric HR needs a cutoff"),
        "heads do not divide": (setting("hidden_dim=10", "--set", "n_heads=4"), "10 is not divisible by n_heads 4"),
        "d not divisible by 6": (bad("tmmsrec", "--set", "hidden_dim=64"), "divisible by 6"),
        "unknown device": (bad("sasrec", "--device", "tpu"), "unknown device 'tpu'; known: auto, cpu, cuda"),
        "device with a strange number": (bad("sasrec", "--device", "cpu:x"), "unknown device 'cpu:x'"),
        "train on an unknown device": (w.command("--quiet", "train", "sasrec", "--device", "tpu"), "unknown device"),
        "no GPU": (bad("sasrec", "--device", "cuda:63"), "device 'cuda:63'"),
        "unknown encoder": (bad("hm4sr", "--set", "text_encoder=tooy"), "'tooy'; did you mean 'toy'"),
        "encoder that is a path": (bad("hm4sr", "--set", "text_encoder=../x"), "not usable as a folder"),
        "no features for a multi-modal model": (
            bad("hm4sr", data=w.data(lambda toy: shutil.rmtree(toy / "features"))),
            "hm4sr reads text and image, but toy has no features; run: mmbench extract toy",
        ),
        "no such models folder": (w.command("--models-dir", w.fresh(), "run", "sasrec"), "does not exist"),
        "model with a syntax error": (
            w.command("--quiet", "--models-dir", w.models(code="def broken(:"), "run", "my-line"),
            "my_line.py: cannot be imported: my_line.py:1: SyntaxError",
        ),
        "recipe with an unknown key": (
            w.command("--quiet", "--models-dir", w.models(recipe=RECIPE.replace("tags", "tagz")), "run", "pop"),
            "my_line.toml: ",
        ),
        "evaluate nothing": (w.command("evaluate", w.fresh()), "no run .*; mmbench runs lists them"),
        "metric of evaluate": (w.command("evaluate", "x", "--metric", "NDGC@10"), "unknown metric 'NDGC'"),
        "cutoff beyond the items": (
            w.command("evaluate", "--no-rescore", cells(w.results)[0], "--metric", "HR@61"), r"K must be in 1\.\.60",
        ),
        "metric of report": (w.command("report", "--metric", "HRR@10", results=w.results), "did you mean 'HR'"),
        "report of nothing": (w.command("report", results=w.fresh()), "no results in .*; make some"),
        "test over users of a value of the catalogue": (
            w.command("report", "--metric", "Coverage@5", "--test", "users", results=w.results), "none per user; leave",
        ),
        "lists that are too short": (
            w.command("report", "--metric", "Coverage@25", results=w.results), "have 20 items, not 25; run: mmbench ev",
        ),
        "selection by a value of the catalogue": (
            w.command(*QUICK, "sasrec", *END, "--set", "selection_metric=Coverage@5"), "none per user; take NDCG@10",
        ),
        "format of report": (w.command("report", "--format", "word", results=w.results), "word"),
    }  # fmt: skip
    return {name: (command, 2, said) for name, (command, said) in cases.items()}


def data_cases(w: World) -> dict[str, tuple[Command, int, str]]:
    """Data, results and disks that are not as they should be: exit code 1."""

    def run(damage: Callable[[Path], object], model: str = "sasrec") -> Command:
        return w.command(*QUICK, model, *END, data=w.data(damage))

    def evaluate(damage: Callable[[Path], object]) -> Command:
        return w.command("evaluate", w.run(damage))

    blocked = w.fresh()
    blocked.write_text("a file where a folder should be")
    cases = {
        "manifest cut short": (run(lambda toy: cut(toy / "manifest.json")), r"manifest\.json is damaged"),
        "manifest of another kind": (run(lambda toy: (toy / "manifest.json").write_text("[]")), "no JSON object"),
        "manifest without protocol": (
            run(lambda toy: seal(toy / "manifest.json", {"name": "toy"})), "is missing",
        ),
        "manifest of a later version": (
            run(lambda toy: (toy / "manifest.json").write_text('{"format": 99}')), "another version of mmbench",
        ),
        "items changed": (run(lambda toy: flip(toy / "items.npy")), r"items\.npy is damaged"),
        "items cut short": (run(lambda toy: cut(toy / "items.npy")), r"items\.npy is damaged"),
        "times missing": (run(lambda toy: (toy / "times.npy").unlink()), r"times\.npy is damaged \(it is missing\)"),
        "features of other items": (run(other_catalogue, "hm4sr"), "made for another catalogue"),
        "features with NaN": (run(nan_features, "hm4sr"), "does not hold the values that its manifest describes"),
        "features cut short": (
            run(lambda toy: cut(toy / "features" / "text" / "toy" / "values.npy"), "hm4sr"), "is damaged",
        ),
        "empty features": (
            run(lambda toy: (toy / "features" / "text" / "toy" / "values.npy").write_bytes(b""), "hm4sr"),
            "is damaged",
        ),
        "no negative left": (
            w.command(
                *QUICK, "bpr-mf", "--no-floors", "--set", "selection_metric=NDCG@5", data=w.data(all_items_seen)
            ), "no negative is left",
        ),
        "samples a model cannot take": (
            w.command(*QUICK, "sasrec", *END, "--set", "samples=sequence"), "cannot be trained on samples = 'sequence'",
        ),
        "diverging": (w.command(*QUICK, "sasrec", *END, "--set", "lr=1e30"), "epoch 1, batch 2: loss term .* is "),
        "results folder is a file": (w.command(*QUICK, "sasrec", *END, results=blocked), "cannot write"),
        "results folder is a file, two jobs": (
            w.command(*QUICK, "pop", "random", "--jobs", "2", results=blocked), "cannot write",
        ),
        "results folder in nowhere": (w.command(*QUICK, "pop", results=Path("/proc/nowhere")), "cannot write"),
        "evaluate a damaged record": (evaluate(lambda cell: cut(cell / "run.json")), r"run\.json is damaged"),
        "evaluate a record of text": (evaluate(lambda cell: (cell / "run.json").write_text('"x"')), "is damaged"),
        "evaluate a record without settings": (
            evaluate(lambda cell: set_record(cell, settings=None)), "settings: .*got null.*; remove",
        ),
        "evaluate a record with another seed": (
            evaluate(lambda cell: set_json(cell / "run.json", seed=3)), "does not have the hash that it carries",
        ),
        "evaluate a copy": (
            w.command("evaluate", copied(w.run(lambda cell: None))), "seed_1_backup holds a copy of .*seed_1; a run",
        ),
        "evaluate a run of the first version": (
            evaluate(lambda cell: (cell / "run.json").write_text('{"format": 1}')), "another version .*: mmbench run",
        ),
        "evaluate a failed run": (evaluate(lambda c: set_record(c, status="failed")), "did not finish"),
        "checkpoint missing": (evaluate(lambda c: (c / "best.safetensors").unlink()), "is not a checkpoint of mmbench"),
        "checkpoint cut short": (evaluate(lambda c: cut(c / "best.safetensors")), "is not a checkpoint of mmbench"),
        "checkpoint of noise": (
            evaluate(lambda c: (c / "best.safetensors").write_bytes(bytes(range(256)) * 9)), "is not a checkpoint",
        ),
        "checkpoint of another model": (
            evaluate(lambda c: set_record(c, settings=widened(c))), "does not fit the model",
        ),
        "ranks damaged": (
            w.command("evaluate", "--no-rescore", w.run(lambda cell: cut(cell / "rankings" / "test.npz"))),
            "run: mmbench evaluate",
        ),
        "evaluate on other data": (
            w.command("evaluate", cells(w.results)[0], data=w.data(lambda toy: write_toy(toy.parents[1], seed=5))),
            "was run on other data",
        ),
        "another protocol in a table": (
            w.command("report", results=w.mixed),
            "mask_seen is .* against .*: mmbench report --set mask_seen=(none|train) or --set mask_seen=",
        ),
        "two protocols in one run": (
            w.command(*QUICK, "sasrec", *END[1:], "--set", "sasrec.mask_seen=input"),
            r"mask_seen is input \(sasrec\) against none \(pop, .*itemknn.*\); give all models the same value "
            r"\(--set mask_seen=input or --set mask_seen=none\)",
        ),
        "report over a damaged record": (
            w.command("report", results=w.run(lambda cell: cut(cell / "run.json")).parents[3]), "is damaged",
        ),
    }  # fmt: skip
    return {name: (command, 1, said) for name, (command, said) in cases.items()}


def widened(cell: Path) -> dict[str, object]:
    settings = json.loads((cell / "run.json").read_text(encoding="utf-8"))["settings"]
    return {**settings, "hidden_dim": {"value": 32, "origin": "user"}}


Case = tuple[Outcome, int, str, Command]
ROW = "a row among others"


@pytest.fixture(scope="module")
def outcomes(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every case, run; the damaged copies exist only here."""
    world = World(tmp_path_factory.mktemp("errors"), data_dir)
    before = open_prepared("toy", data_dir).hash
    row = world.command("run", "hm4sr", "pop", *END, data=world.data(nan_features))
    cases = {**usage_cases(world), **data_cases(world), ROW: (row, 1, "")}
    done = run_all([command for command, _, _ in cases.values()])
    assert open_prepared("toy", data_dir).hash == before
    return {
        name: (outcome, code, said, command)
        for (name, (command, code, said)), outcome in zip(cases.items(), done, strict=True)
    }


def test_bad_input_is_one_line_and_its_exit_code(outcomes: dict[str, Case]) -> None:
    """One test, so that the cases are run once, whichever worker of xdist gets it."""
    assert len(outcomes) >= 80
    faults = []
    for name, (outcome, code, said, command) in outcomes.items():
        text = outcome.stderr
        is_one_line = text.startswith("error: ") and text.endswith("\n") and text.count("\n") == 1
        is_right = outcome.returncode == code and re.search(said, text) and "Traceback" not in text
        if name != ROW and not (is_one_line and is_right):
            faults.append(f"{name}: mmbench {' '.join(map(str, command.args))}\n{outcome.returncode} {text}")
    assert not faults, "\n".join(faults)
    check_a_failed_cell_is_a_row_among_others(outcomes[ROW][0])
    for name in ("unknown option", "manifest cut short"):
        check_a_fresh_interpreter_says_the_same(outcomes[name])


def check_a_failed_cell_is_a_row_among_others(outcome: Outcome) -> None:
    assert outcome.returncode == 1
    assert "FAILED hm4sr on toy, seed 1: " in outcome.stderr
    assert "finished pop on toy, seed 1" in outcome.stderr
    assert "Pop" in outcome.stdout


def check_a_fresh_interpreter_says_the_same(case: Case) -> None:
    """Expect of `python -m mmbench` what the forked process gave that stands for it."""
    outcome, _, _, command = case
    fresh = finish(start_anew(*command.args, data=command.data, results=command.results, cwd=ROOT))
    assert (fresh.returncode, fresh.stdout) == (outcome.returncode, outcome.stdout)
    assert fresh.stderr.replace("python -m mmbench", "mmbench") == outcome.stderr
