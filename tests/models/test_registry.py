"""The registry: names, variants, recipes, and a user's own models."""

import sys
from pathlib import Path

import pytest

from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.settings.config import Layer, Origin
from mmbench.settings.recipe import read_recipe

OWN = '''
"""A user's own model: every item is as good as its position in the catalogue."""
from dataclasses import dataclass

import torch

from mmbench.settings.config import PositiveFloat
from mmbench.models.base import Recommender


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    slope: PositiveFloat


class Line(Recommender[LineConfig]):
    trainable = False
    deterministic = True

    def score(self, batch):
        return (self.config.slope * torch.arange(self.n_items)).expand(len(batch.user), -1)
'''
RECIPE = """
name = "my-line"
display = "Line"
class = "Line"
summary = "items by number"
tags = ["floor"]
inputs = ["item"]

[settings]
slope = { value = 2.0, source = "chosen" }

[variants.steep]
summary = "steeper"
settings = { slope = 9.0 }
"""


def write_own(folder: Path, *, code: str = OWN, recipe: str = RECIPE, stem: str = "my_line") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{stem}.py").write_text(code)
    (folder / f"{stem}.toml").write_text(recipe)
    return folder


def test_every_recipe_and_every_file_fits() -> None:
    known = registry.entries()
    assert {"sasrec", "hm4sr", "tmmsrec", "gru4rec", "bert4rec", "pop"} <= set(known)
    for entry in known.values():
        registry.check_recipe(entry)
        assert entry.load().__name__ == entry.recipe.model_class


def test_names_with_variants() -> None:
    names = registry.all_names()
    assert "sasrec:official" in names
    assert "sasrec:official" not in registry.all_names(variants=False)
    assert len(set(names)) == len(names)
    for name in names:
        entry = registry.find(name)
        assert name == (f"{entry.name}:{entry.variant}" if entry.variant else entry.name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sasrce", "unknown model 'sasrce'; did you mean 'sasrec'?"),
        ("SASRec", "did you mean 'sasrec'?"),
        ("sasrec:offical", "unknown variant 'sasrec:offical'; did you mean 'sasrec:official'?"),
        ("sasrce:official", "did you mean 'sasrec:official'?"),
        ("qqqqq", "unknown model 'qqqqq'; mmbench models lists all"),
        ("", "unknown model ''"),
        (
            "my-own-net",
            "unknown model 'my-own-net'; mmbench models lists all, --models-dir FOLDER adds your own",
        ),
    ],
)
def test_unknown_names_get_the_nearest(name: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.find(name)
    assert said in str(caught.value)


def test_a_model_in_the_folder_of_new_models_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a registered name is near, which is not what was meant."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="did you mean 'm3srec'"):
        registry.find("my-rec")
    (tmp_path / "my-models").mkdir()
    (tmp_path / "my-models" / "my_rec.toml").write_text("")
    with pytest.raises(UsageError, match=r"my-models/my_rec\.toml may be it: add --models-dir my-models"):
        registry.find("my-rec")


def test_code_without_a_recipe_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_MODELS", str(tmp_path))
    (tmp_path / "my_rec.py").write_text("")
    with pytest.raises(UsageError, match=r"my_rec\.py has no recipe my_rec\.toml beside it"):
        registry.find("my-rec")


def test_a_user_s_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_MODELS", str(write_own(tmp_path)))
    entry = registry.find("my-line:steep")
    assert (entry.file, entry.variant) == (tmp_path / "my_line.py", "steep")
    assert entry.load() is entry.load()
    assert "slope" in entry.known_settings()
    assert entry.layers("toy")[-1] == Layer(Origin.variant, {"slope": 9.0}, "steep")
    registry.check_recipe(entry)


def test_a_model_that_extends_another_has_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from mmbench.models.registry import find\n\n\nclass Line(find('sasrec').load()):\n    pass\n"
    monkeypatch.setenv("MMBENCH_MODELS", str(write_own(tmp_path, code=code, recipe=RECIPE)))
    entry = registry.find("my-line")
    assert entry.config_class() is registry.find("sasrec").config_class()


BAD = [
    (OWN.replace("class Line(", "class Lime("), RECIPE, "no class Line"),
    (OWN.replace("(Recommender[LineConfig])", "(Recommender)"), RECIPE, r"write class Line\(Recommender\["),
    (OWN.replace("(Recommender[LineConfig])", ""), RECIPE, r"write class Line\(Recommender\["),
    (OWN.replace("[LineConfig]", "[int]"), RECIPE, "with a dataclass"),
    (
        OWN.replace("slope: PositiveFloat", "lr: PositiveFloat"),
        RECIPE,
        r"\['lr'\] are training settings too",
    ),
    ("def broken(:", RECIPE, r"cannot be imported: \w+\.py:1: SyntaxError"),
    ("import surely_not_there", RECIPE, "ModuleNotFoundError"),
    ("raise KeyError('x')", RECIPE, r"cannot be imported: \w+\.py:1: KeyError"),
    (OWN, RECIPE.replace("slope = {", "slop = {"), "did you mean 'slope'"),
    (OWN, RECIPE.replace("slope = 9.0", "sloep = 9.0"), "did you mean 'slope'"),
    (OWN, RECIPE.replace('name = "my-line"', 'name = "other"'), "the file must be other.toml"),
    (OWN, RECIPE.replace('name = "my-line"', 'name = "My Line"'), "name: "),
    (OWN, RECIPE.replace('inputs = ["item"]', 'inputs = ["smell"]'), "unknown inputs"),
    (OWN, RECIPE.replace('tags = ["floor"]', 'tagz = ["floor"]'), "tag"),
    (OWN, RECIPE.replace('source = "chosen"', 'source = ""'), "source"),
    (OWN, RECIPE + "\n[broken", "my_line.toml"),
    (
        OWN,
        RECIPE + "\n[[deviations]]\npoint = 'loss'\nhere = 'mine'",
        "deviations.0: .*'loss' needs what the paper",
    ),
    (OWN, RECIPE.replace("my-line", "sasrec").replace("Line", "SASRec"), "sasrec"),
    (OWN, RECIPE.replace("value = 2.0", "value = -2.0"), r"\[settings\]: slope: .*greater than 0 \(got -2"),
    (OWN, RECIPE.replace("slope = 9.0", "slope = 'steep'"), r"\[variants.steep\]: slope: .*\(got 'steep'\)"),
    (
        OWN,
        RECIPE + "[dataset.toy]\nslope = {value = 0.0, source = 'own'}",
        r"\[dataset.toy\]: slope: .*got 0",
    ),
    (
        OWN.replace("slope: PositiveFloat", "slope: PositiveFloat = 3.0"),
        RECIPE,
        r"\[settings\]: slope has a value in LineConfig too",
    ),
    (OWN, RECIPE.replace('slope = { value = 2.0, source = "chosen" }', ""), "slope has no value"),
    (OWN, RECIPE + "[search]\nslope = [1.0, 2.0]", "search.slope: must be { values = "),
    (OWN, RECIPE + "[search]\nslope = {values = [1.0, 2.0]}", r"search\.slope\.source is missing"),
    (OWN, RECIPE + "[search]\nslope = {values = [], source = 'own'}", "search.slope: values is empty"),
    (
        OWN,
        RECIPE + "[search]\nslpe = {values = [1.0], source = 'own'}",
        r"\[search\]: .*did you mean 'slope'",
    ),
    (
        OWN,
        RECIPE + "[search]\nslope = {values = [1.0, -1.0], source = 'own'}",
        r"\[search\]: slope: .*got -1",
    ),
    (
        OWN,
        RECIPE + "[search]\nslope = {low = 0, high = 2, source = 'own'}",
        r"\[search\]: slope: .*\(got 0\)",
    ),
    (OWN, RECIPE + "[search]\nslope = {low = 2, high = 1, source = 'own'}", "search.slope: low must be less"),
    (
        OWN,
        RECIPE + "[search]\nmax_len = {low = 10, high = 11, step = 0.5, source = 'own'}",
        r"\[search\]: max_len: .*integer.*\(got 10",
    ),
    (
        OWN,
        RECIPE + "[search]\nsamples = {values = ['all', 'some'], source = 'own'}",
        r"\[search\]: samples: .*\(got 'some'\)",
    ),
    (
        OWN,
        RECIPE + "[search]\nsamples = {low = 1, high = 2, source = 'own'}",
        r"\[search\]: samples: .*\(got 1\)",
    ),
    (
        OWN,
        RECIPE + "[search]\nweight_decay = {low = 1e-6, high = 1, log = true, source = 'own'}",
        r"\[search\]: weight_decay: a range with log cannot hold the recipe's own value 0.0",
    ),
]


@pytest.mark.parametrize(("code", "recipe", "said"), BAD)
def test_faulty_models_are_one_line(
    code: str, recipe: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMBENCH_MODELS", str(write_own(tmp_path, code=code, recipe=recipe)))
    with pytest.raises(UsageError, match=said) as caught:
        registry.check_recipe(registry.find("my-line"))
    assert "\n" not in str(caught.value)


def test_a_recipe_without_code_and_a_name_taken_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMBENCH_MODELS", str(write_own(tmp_path / "a")))
    (tmp_path / "a" / "my_line.py").unlink()
    with pytest.raises(UsageError, match=r"has no my_line\.py beside it"):
        registry.find("my-line").load()
    taken = write_own(tmp_path / "b", recipe=RECIPE.replace("my-line", "sasrec"), stem="sasrec")
    monkeypatch.setenv("MMBENCH_MODELS", str(taken))
    with pytest.raises(UsageError, match="model 'sasrec' is already defined by"):
        registry.entries()
    monkeypatch.setenv("MMBENCH_MODELS", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="nowhere does not exist"):
        registry.entries()


def test_names_need_no_model_code() -> None:
    """Listing the registry imports no model and no torch (checked in a fresh process)."""
    import subprocess

    from tests.prepared import environment

    code = (
        "import sys; from mmbench.models import registry; registry.all_names(); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_every_model_that_reads_texts_or_pictures_is_tagged_multimodal() -> None:
    for entry in registry.entries().values():
        reads = bool({"text", "image"} & set(entry.recipe.inputs))
        assert reads == ("multimodal" in entry.recipe.tags), entry.name


def test_a_tag_outside_the_vocabulary_is_refused_in_one_line(tmp_path: Path) -> None:
    recipe = tmp_path / "sasrec.toml"
    text = registry.find("sasrec").file.with_suffix(".toml").read_text(encoding="utf-8")
    recipe.write_text(text.replace('tags = ["sequential"]', 'tags = ["multi-modal"]'))
    with pytest.raises(UsageError, match=r"sasrec\.toml: tags\.0: .*'multimodal'") as caught:
        read_recipe(recipe)
    assert "\n" not in str(caught.value)
