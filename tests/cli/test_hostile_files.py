"""What breaks parsers and programs: nesting, thousands of digits, no UTF-8, models that are none. One line each."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.cli.forks import Command, run_all
from tests.models.test_registry import OWN, RECIPE
from tests.prepared import SMALL, Outcome

DEEP, DIGITS, NAME = "[" * 3000, "9" * 5000, "x" * 300
HEAD = OWN.partition("class Line(")[0]
SLOPE = 'slope = { value = 2.0, source = "chosen" }'
TRAINED = f"""{OWN.replace("    trainable = False", "")}
    def __init__(self, config, catalog):
        super().__init__(config, catalog)
        self.weight = torch.nn.Parameter(torch.ones(self.n_items))

    def loss(self, batch):
        return """
QUICK = ("-q", "run", "sasrec", "--no-floors", "--epochs", "1", *SMALL)
READS = """
    @classmethod
    def reads(cls, config, modality):
        raise LookupError(modality)
"""

# Code and recipe of a user's model, and what is said about it.
MODELS: Mapping[str, tuple[str, str | bytes, str]] = {
    "function": (f"{HEAD}def Line(x):\n    return x\n", RECIPE, "Line is of type function, not a class; write class"),
    "number": (f"{HEAD}Line = 3\n", RECIPE, "my_line.py: Line is of type int, not a class"),
    "module": ("import os as Line\n", RECIPE, "Line is of type module, not a class"),
    "other class": (OWN.replace("Recommender[LineConfig]", "object"), RECIPE, "Line is a class of something else"),
    "no dataclass": (OWN.replace("@dataclass(frozen=True, kw_only=True)", ""), RECIPE, "with a dataclass"),
    "no value": (OWN, RECIPE.replace(SLOPE, ""), "slope: has no value; give it a default in its class"),
    "type of no value": (OWN.replace("slope: PositiveFloat", "slope: torch.Tensor"), RECIPE, "use int, float, bool"),
    "type of nowhere": (OWN.replace("PositiveFloat\n\n", "'Nowhere'\n\n"), RECIPE, "use int, float, bool"),
    "recipe in Latin-1": (OWN, RECIPE.replace("items by", "Größe").encode("latin-1"), "my_line.toml: it is not UTF-8"),
    "recipe too deep": (OWN, f"{RECIPE}\nx = {DEEP}", "my_line.toml: it is nested too deeply"),
    "recipe of digits": (OWN, RECIPE.replace("2.0", DIGITS), "a number has more than 4,300 digits"),
    "syntax": ("x = 1\ndef broken(:", RECIPE, "cannot be imported: my_line.py:2: SyntaxError"),
    "exit": ("import sys\n\nsys.exit(3)", RECIPE, "cannot be imported: my_line.py:3: SystemExit: 3"),
    "no text": (f"{OWN}{READS}", RECIPE.replace('["item"]', '["item", "text"]'), "my_line.py:25 in reads.*: Lookup"),
    "loss of each target": (f"{TRAINED}batch.target.float()", RECIPE, "scalar tensors by name.* not a Tensor"),
    "loss of nothing": (f"{TRAINED}{{}}", RECIPE, "not an empty dictionary"),
    "loss of None": (f"{TRAINED}None", RECIPE, "not a NoneType"),
    "loss term of each item": (f"{TRAINED}{{'ce': self.weight}}", RECIPE, r"'ce' must .* shape \[60\]; take its mean"),
    "loss term of Python": (f"{TRAINED}{{'ce': 3.0}}", RECIPE, "'ce' must be a scalar tensor, not a float"),
    "loss of no parameter": (f"{TRAINED}{{'ce': torch.ones(())}}", RECIPE, "no term depends on a parameter"),
    "loss that exits": (f"{TRAINED}exit(3)", RECIPE, r"my_line.py:28 in loss\(\): SystemExit: 3; full traceback"),
    "loss that fails": (f"{TRAINED}[][1]", RECIPE, r"my_line.py:28 in loss\(\): IndexError: list.*; full traceback"),
}  # fmt: skip
# Arguments, and what is said about them.
ARGUMENTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "setting too deep": ((*QUICK, "--set", f"lr={DEEP}"), r"--set \[\[.*nested too deeply"),
    "setting of digits": ((*QUICK, "--set", f"lr={DIGITS}"), "more than 4,300 digits"),
    "setting out of range": ((*QUICK, "--set", f"n_layers={'9' * 4000}"), r"n_layers: .*\(got 9{80}\.\.\.\)"),
    "two settings in one": ((*QUICK, "--set", "lr=1\nx=2"), "lr: must be a number"),
    "stack": ((*QUICK, "--stack", "²"), "--stack ²: must be"),
    "device": ((*QUICK, "--device", f"cuda:{DIGITS}"), "unknown device"),
    "metric": (("report", "--metric", f"NDCG@{DIGITS}"), "cutoff must be a whole number"),
    "knock-out": (("knockout", "nowhere", "--what", f"history={DIGITS}"), "number of events"),
    "models": (("--models-dir", NAME, "models"), "too long|does not exist"),
    "results": (("--results-dir", NAME, *QUICK), "File name too long"),
    "page": (("datasets", "stats", "toy", "--html", NAME), "File name too long"),
    "data": (("prepare", "demo", "--raw", NAME), "File name too long"),
}
FILES = {
    "too deep": f"[a]\nx = {DEEP}",
    "of digits": f"[a]\nx = {DIGITS}",
    "in Latin-1": '[a]\ntitle = "é"'.encode("latin-1"),
    "of zeros": b"[a]\nx = \0",
}
IDS = {"too deep": ("[" * 100_000, "nested too deeply"), "of digits": (f'{{"a": {DIGITS}}}', "4,300 digits")}
Case = tuple[Command, str]


def write(folder: Path, **contents: str | bytes) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        file = folder / name.replace("_DOT_", ".")
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def cases(root: Path, data: Path) -> dict[str, Case]:
    def command(*args: object, **env: str) -> Command:
        return Command(tuple(map(str, args)), data, root / "results", env=env)

    tried: dict[str, Case] = {}
    for number, (name, (code, recipe, text)) in enumerate(MODELS.items()):
        folder = write(root / f"model{number}", my_line_DOT_py=code, my_line_DOT_toml=recipe)
        run = command("-q", "--models-dir", folder, "run", "my-line", "--no-floors", "--epochs", 1)
        tried[f"model: {name}"] = run, text
    for name, (args, text) in ARGUMENTS.items():
        tried[f"argument: {name}"] = command(*args), text
    for number, (name, content) in enumerate(FILES.items()):
        folder = write(root / f"file{number}", x_DOT_toml=content)
        tried[f"data sets {name}"] = command("datasets", "add", folder / "x.toml"), r"x\.toml: "
        tried[f"papers {name}"] = command("reproduce", MMBENCH_PAPERS=str(folder)), r"x\.toml: "
    for number, (name, (content, text)) in enumerate(IDS.items()):
        folder = write(root / f"ids{number}", ids_DOT_json=content)
        np.save(folder / "a.npy", np.ones((60, 3)))
        args = (
            "import-features",
            "toy",
            "--array",
            folder / "a.npy",
            "--name",
            "a",
            "--modality",
            "text",
            "--ids",
            folder / "ids.json",
        )
        tried[f"ids {name}"] = command(*args), text
    return tried


@pytest.fixture(scope="module")
def outcomes(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, str]]:
    tried = cases(tmp_path_factory.mktemp("hostile"), data_dir)
    done = run_all([command for command, _ in tried.values()])
    return {name: (outcome, text) for (name, (_, text)), outcome in zip(tried.items(), done, strict=True)}


def test_whatever_breaks_a_parser_or_a_model_is_one_line(outcomes: dict[str, tuple[Outcome, str]]) -> None:
    faults = []
    for name, (outcome, text) in outcomes.items():
        stderr = outcome.stderr
        is_one_line = stderr.startswith("error: ") and stderr.count("\n") == 1 and len(stderr) < 1000
        if not (outcome.returncode in (1, 2) and is_one_line and re.search(text, stderr)):
            faults.append(f"{name} [{outcome.returncode}]: {stderr[-500:]}")
    assert not faults, "\n".join(faults)


def test_a_number_of_threads_that_is_none_is_passed_over(data_dir: Path, tmp_path: Path) -> None:
    """A run of a model that is not trained: two threads that train beside other tests would wait for each other."""
    texts = ("²", "0", "9" * 5000, "9" * 10)
    run = ("-q", "run", "pop", "--no-floors")
    runs = [Command(run, data_dir, tmp_path / text[:1], env={"OMP_NUM_THREADS": text}) for text in texts]
    for text, outcome in zip(texts, run_all(runs), strict=True):
        assert outcome.returncode == 0, f"{text[:9]}: {outcome.stderr}"
