"""`mmbench models` and `mmbench show`: what a reader needs about a model, on a terminal, piped and as JSON."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mmbench.models import registry
from mmbench.reporting.model_page import page_of, to_json
from mmbench.settings.config import TrainConfig, build
from mmbench.tuning.space import SHARED
from tests.cli.forks import Command, run_all
from tests.prepared import Outcome, cli

TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
SHOWN = ("sasrec", "hm4sr", "iisan", "gru4rec", "itemknn", "random", "hm4sr:-imoe")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    (folder / "data").mkdir()
    return folder


@pytest.fixture(scope="module")
def pages() -> dict[str, dict[str, Any]]:
    """The JSON page of each model; made in this process, because a command for each takes a minute."""
    return {name: to_json(page_of(registry.find(name))) for name in registry.all_names(variants=False)}


def _run(folder: Path, names: tuple[str, ...], *more: str, **env: str) -> dict[str, Outcome]:
    commands = [Command(["show", name, *more], folder / "data", folder / "results", env) for name in names]
    done = dict(zip(names, run_all(commands), strict=True))
    for outcome in done.values():
        assert (outcome.returncode, outcome.stderr) == (0, "")
    return done


def test_json_holds_every_setting_as_a_run_would_have_it(pages: dict[str, dict[str, Any]]) -> None:
    for name, page in pages.items():
        entry = registry.find(name)
        values = {row["key"]: row["value"] for row in page["settings"]}
        assert set(values) == set(entry.known_settings())
        own = {row["key"]: row["value"] for row in page["settings"] if row["of"] == "model"}
        assert build(entry.config_class(), own, where=name) == entry.config()
        train = {key: value for key, value in values.items() if key not in own}
        assert set(train) == set(vars(TrainConfig()))
        for row in page["settings"]:
            if row["key"] in entry.recipe.settings:
                assert row["note"] == entry.recipe.settings[row["key"]].source
                assert row["origin"] == "recipe"
            else:
                assert row["origin"] == "default"
            assert row["may_be"]


def test_json_holds_variants_deviations_search_and_printed_numbers(pages: dict[str, dict[str, Any]]) -> None:
    for name, page in pages.items():
        entry, recipe = registry.find(name), registry.find(name).recipe
        assert [row["name"] for row in page["variants"]] == [f"{name}:{key}" for key in recipe.variants]
        for row, variant in zip(page["variants"], entry.variants()[1:], strict=True):
            told = recipe.variants[variant.variant]
            assert row["source"] == told.source
            assert all(change["from"] != change["to"] for change in row["changes"].values())
            for key, value in told.settings.items():
                assert row["changes"][key]["to"] == value
                assert row["changes"][key]["from"] != value
        assert [row["point"] for row in page["deviations"]] == [row.point for row in recipe.deviations]
        spaces = {
            space: {row["key"] for row in page["search"] if space in row["spaces"]}
            for space in ("shared", "recipe")
        }
        assert spaces["recipe"] == set(recipe.search)
        trained = entry.load().trainable
        assert spaces["shared"] - spaces["recipe"] <= set(SHARED if trained else ())
        assert all(len(row["source"]) >= 3 for row in page["search"])
        assert page["reported"] == recipe.reported
        assert page["is_trained"] == trained
        assert page["paper"] == (recipe.paper.model_dump() if recipe.paper else None)


def test_the_command_prints_the_json_page(folder: Path) -> None:
    for name, done in _run(folder, SHOWN, "--format", "json").items():
        expected = to_json(page_of(registry.find(name)))
        assert json.loads(done.stdout) == json.loads(json.dumps(expected))


def test_a_pipe_has_whole_lines_and_everything_in_them(
    folder: Path, pages: dict[str, dict[str, Any]]
) -> None:
    for name, done in _run(folder, SHOWN).items():
        text, page = done.stdout, pages[name.partition(":")[0]]
        assert "\x1b" not in text
        paper = page["paper"] or {}
        wanted = [
            page["summary"],
            paper.get("title", ""),
            paper.get("code", ""),
            *page["tags"],
            *page["inputs"],
        ]
        for row in page["deviations"]:
            wanted += [row[key] for key in ("point", "paper", "code", "here", "switch")]
        wanted += [row["source"] for row in page["search"]]
        if ":" not in name:
            wanted += [row[key] for row in page["variants"] for key in ("name", "summary", "source")]
        assert not [part for part in wanted if part not in text], name
        first_words = {line.split()[0] for line in text.splitlines() if line.strip()}
        assert {row["key"] for row in page["settings"] + page["search"]} <= first_words
        assert f"  mmbench run {name} --dataset demo" in text
        for values in page["reported"].values() if ":" not in name else ():
            assert all(f"{value:.4f}" in text for value in values.values())


def test_a_terminal_of_80_columns_holds_every_line_but_commands(folder: Path) -> None:
    for name, done in _run(folder, SHOWN, **TERMINAL).items():
        assert "\x1b[" in done.stdout
        lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
        wide = [line for line in lines if len(line) > 80 and not line.startswith("  mmbench ")]
        assert not [line for line in wide if " " in line.strip()], name


def test_a_variant_and_a_data_set_change_the_settings(folder: Path) -> None:
    asked = (["hm4sr:-imoe"], ["hm4sr:as-released"], ["sasrec", "--dataset", "amazon-beauty@tmmsrec"])
    done = run_all([Command(["show", *args, "-f", "json"], folder / "data", folder) for args in asked])
    ablation, released, on_data = (json.loads(outcome.stdout) for outcome in done)

    def row(page: dict[str, Any], key: str) -> tuple[Any, ...]:
        (actual,) = [row for row in page["settings"] if row["key"] == key]
        return tuple(actual[part] for part in ("value", "origin", "note"))

    assert row(ablation, "use_interactive_moe") == (False, "variant", "-imoe")
    assert (ablation["variants"], ablation["reported"]) == ([], {})
    assert released["file"] == "mmbench/models/hm4sr_released.py"
    assert row(released, "temporal_experts")[0] == "frozen"
    assert on_data["dataset"] == "amazon-beauty@tmmsrec"
    assert row(on_data, "patience")[1:] == row(on_data, "mask_seen")[1:] == ("protocol", "tmmsrec")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("show", "sasrce"), "did you mean 'sasrec'?"),
        (("show", "sasrec:offical"), "did you mean 'sasrec:official'?"),
        (("show", "sasrec", "--dataset", "amazon-beuty"), "did you mean 'amazon-beauty'?"),
        (("show", "sasrec", "--format", "yaml"), "yaml"),
        (("models", "--tag", "multimodl"), "did you mean 'multimodal'?"),
    ],
)
def test_bad_names_are_one_line(args: tuple[str, ...], text: str, folder: Path) -> None:
    done = cli(*args, data=folder / "data", results=folder / "results")
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_models_are_listed_by_tag(folder: Path) -> None:
    every, some = run_all(
        [
            Command(args, folder, folder)
            for args in (["models", "--variants"], ["models", "--tag", "multimodal"])
        ]
    )
    names = [line.split()[0] for line in every.stdout.splitlines()[1:] if line.strip()]
    assert set(registry.all_names()) <= set(names)
    listed = {line.split()[0] for line in some.stdout.splitlines()[1:] if line.strip()}
    assert listed == {name for name, entry in registry.entries().items() if "multimodal" in entry.recipe.tags}
    assert {"hm4sr", "tmmsrec"} <= listed
