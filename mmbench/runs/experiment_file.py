"""A run and its table as a TOML file: what is trained on what, with which seeds and settings, and how it is reported.

models = ["hm4sr", "sasrec"]
datasets = ["demo"]
seeds = 3                      # 1, 2, 3; or a list: [3, 5, 8]

[settings]
lr = 0.001                     # of every model that has it
[settings.hm4sr]
dropout = 0.2                  # of this model

[tuning]
tuned = true                   # the best settings that `mmbench tune` stored

[report]
metrics = ["NDCG@10", "HR@10"]
test = "users"
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mmbench import strict
from mmbench.atomic import hash_json, write_text
from mmbench.choices import DEFAULT_LISTS, Correction, MaskRule, SplitName, Style, TestName, Ties
from mmbench.errors import UsageError, suggest
from mmbench.explain import read_toml

FOLDER, FILE = "experiments", "experiment.toml"


@dataclass(frozen=True, kw_only=True)
class Tuning(strict.Strict):
    """Which stored search gives settings: that of `study`, or with `tuned` whichever fits."""

    tuned: bool = False
    study: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(strict.Strict):
    """The options of `mmbench report`, by their names."""

    metrics: tuple[str, ...] = ()
    compare: str = ""
    test: TestName = "t"
    correction: Correction = "holm"
    split: SplitName = "test"
    ties: Ties = "expected"
    mask_seen: MaskRule | None = None
    unequal_budgets: bool = False
    sort: str = ""
    top: int = 0
    floors: bool = True
    tests: bool = True
    style: Style = "full"
    transpose: bool = False
    notes: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ExperimentFile(strict.Strict):
    """The content of an experiment's file.

    seeds     how many (3 = 1, 2, 3) or which
    epochs    the maximum number of epochs; 0 = that of each recipe
    settings  by key, or by model and key
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    seeds: int | tuple[int, ...] = 1
    epochs: int = 0
    floors: bool = True
    controls: bool = False
    lists: int = DEFAULT_LISTS
    settings: dict[str, Any] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)
    report: ReportOptions = field(default_factory=ReportOptions)

    @property
    def flat_settings(self) -> dict[str, Any]:
        """Return the settings as `--set` names them: "lr", "hm4sr.dropout"."""
        flat: dict[str, Any] = {}
        for key, value in self.settings.items():
            inner = value if isinstance(value, dict) else None
            flat |= (
                {f"{key}.{name}": part for name, part in inner.items()} if inner is not None else {key: value}
            )
        return flat

    @property
    def run_options(self) -> dict[str, Any]:
        """Return the arguments of `mmbench.run` that the file states."""
        return {
            "models": list(self.models), "datasets": list(self.datasets),
            "seeds": self.seeds if isinstance(self.seeds, int) else list(self.seeds),
            "settings": self.flat_settings, "epochs": self.epochs or None, "floors": self.floors,
            "controls": self.controls, "tuned": self.tuning.tuned, "study": self.tuning.study or None,
        }  # fmt: skip


def is_experiment_file(text: str) -> bool:
    """Return whether an argument names a file instead of a model."""
    return text.endswith(".toml")


def read_experiment_file(file: Path) -> ExperimentFile:
    """Return an experiment; UsageError names the file, the key and the nearest known key."""
    content = read_toml(file)
    _check_keys(file, content, ExperimentFile, "")
    for name, kind in (("tuning", Tuning), ("report", ReportOptions)):
        if isinstance(content.get(name), dict):
            _check_keys(file, content[name], kind, f" [{name}]")
    try:
        experiment = strict.read(ExperimentFile, content)
    except (ValueError, TypeError) as error:  # TypeError: a date, which JSON has not
        raise UsageError(f"{file}: {error}") from None
    if not experiment.models:
        raise UsageError(f'{file}: models names no model; for example models = ["sasrec"]')
    return experiment


def _check_keys(file: Path, content: Mapping[str, Any], kind: type, where: str) -> None:
    known: Collection[str] = [parameter.name for parameter in fields(kind)]
    for key in content:
        if key not in known:
            raise UsageError(f"{file}{where}: {suggest(key, known, what='key')}")


def write_experiment_file(results_dir: Path, experiment: ExperimentFile) -> Path:
    """Write an experiment beside the results, under the hash of its content; return the file.

    UsageError for a setting that TOML cannot hold.
    """
    text = as_toml(experiment)
    file = results_dir / FOLDER / hash_json(strict.dump(experiment))[:10] / FILE
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)
    return file


def as_toml(experiment: ExperimentFile) -> str:
    """Return the text of an experiment's file, without default values."""
    plain, default = strict.dump(experiment), strict.dump(ExperimentFile(models=()))
    lines = ["# Made by mmbench run; the same again, and its table: mmbench run THIS-FILE"]
    lines += [
        f"{key} = {_value(key, value)}"
        for key, value in plain.items()
        if not isinstance(value, dict) and (value != default[key] or key in ("models", "datasets", "seeds"))
    ]
    tables = {
        f"settings.{_key(key)}": value for key, value in plain["settings"].items() if isinstance(value, dict)
    }
    shared = {key: value for key, value in plain["settings"].items() if not isinstance(value, dict)}
    changed = {
        name: {key: value for key, value in plain[name].items() if value != default[name][key]}
        for name in ("tuning", "report")
    }
    for name, table in {"settings": shared, **tables, **changed}.items():
        if table:
            lines += [
                "",
                f"[{name}]",
                *(f"{_key(key)} = {_value(key, value)}" for key, value in table.items()),
            ]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(key: str, value: Any) -> str:
    """Return a TOML value; of JSON's, only null is none."""
    if value is None:
        raise UsageError(f"{key} = none cannot stand in an experiment's file")
    if isinstance(value, list):
        return f"[{', '.join(_value(key, part) for part in value)}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
