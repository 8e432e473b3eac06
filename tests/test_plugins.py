"""Installed packages that add models, data sets and encoders.

Run: python -m pytest tests/test_plugins.py
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mmbench
from mmbench import plugins
from mmbench.cli import app
from mmbench.data.catalog import find_dataset, load_catalog, read_catalog
from mmbench.data.definition import why_outdated
from mmbench.data.prepare import prepare
from mmbench.data.store import Prepared, open_prepared
from mmbench.errors import DataError, MmbenchError, UsageError
from mmbench.features import encoders
from mmbench.features.extract import extract
from mmbench.features.overview import available
from mmbench.features.store import load_features
from mmbench.models import registry
from mmbench.runs.plan import make_cell
from tests.installed import on_path, write_package
from tests.models.test_registry import OWN, RECIPE

READER = """
from mmbench.data.raw import EventBuilder, RawData, RawItem


def read(spec, raw_dir):
    builder = EventBuilder()
    file = raw_dir / spec.files.interactions.name
    for line in file.read_text(encoding="utf-8").splitlines():
        day, user, item = line.split("/")
        builder.add(user, item, int(day) * 86_400 * 10**6)
    return RawData(builder.build(unit="s", file=file), {"a": RawItem("a", title="An apple")}, ["read by a plugin"])
"""
TABLE = """
[shop-log]
title = "A shop's log"
parser = "log_reader:read"
files.interactions = { name = "events.log" }
text_fields = ["title"]
filters = { min_user = 0, min_item = 0 }
"""
ENCODER = """
import numpy as np


class Lengths:
    modality = "text"

    def __init__(self, *, name, device, precision):
        self.name = name

    def identity(self):
        return {"name": self.name}

    def encode(self, inputs):
        lengths = np.array([[0 if text is None else len(text)] for text in inputs], dtype=np.float32)
        return lengths, lengths[:, 0] > 0
"""
POINTS = """
[mmbench.models]
any = plug_shop.models

[mmbench.datasets]
any = plug_shop.data

[mmbench.encoders]
text.lengths = plug_shop.lengths:Lengths

[console_scripts]
plug-shop = plug_shop:main
"""
FILES = {
    "plug_shop/__init__.py": "",
    "plug_shop/models/__init__.py": "",
    "plug_shop/models/my_line.py": OWN,
    "plug_shop/models/my_line.toml": RECIPE,
    "plug_shop/data/__init__.py": "",
    "plug_shop/data/shop.toml": TABLE,
    "plug_shop/data/log_reader.py": READER,
    "plug_shop/lengths.py": ENCODER,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the package plug-shop 1.0 is installed, to be copied and not changed."""
    folder = tmp_path_factory.mktemp("site")
    write_package(folder, "plug-shop", points=POINTS, files=FILES)
    return folder


@pytest.fixture
def shop(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield that folder while it is on the search path."""
    monkeypatch.delenv("MMBENCH_MODELS", raising=False)
    monkeypatch.delenv("MMBENCH_DATASETS", raising=False)
    with on_path(site):
        yield site


def is_imported() -> bool:
    return any(name.partition(".")[0] == "plug_shop" for name in sys.modules)


# -- models -----------------------------------------------------------------------------------------------


def test_a_package_adds_a_model_that_is_listed_without_being_imported(shop: Path) -> None:
    done = CliRunner().invoke(app, ["models"], catch_exceptions=False)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("my-line")]
    assert "plug-shop 1.0" in line
    assert not is_imported()
    entry = registry.find("my-line:steep")
    assert entry.load().__module__ == "plug_shop.models.my_line"
    registry.check_recipe(entry)
    shown = CliRunner().invoke(app, ["show", "my-line"], catch_exceptions=False).stdout
    assert "plug-shop 1.0" in shown


def test_a_run_records_the_package_and_its_identity_holds_it(
    shop: Path, toy: Prepared, tmp_path: Path
) -> None:
    (record,) = mmbench.run(
        "my-line", datasets="toy", seeds=1, floors=False, data_dir=toy.data_dir, results_dir=tmp_path
    )
    plugin = record.environment["code"]["plugin"]
    assert plugin == registry.find("my-line").plugin_facts()
    assert (plugin["package"], plugin["version"], len(plugin["code"])) == ("plug-shop", "1.0", 16)


def test_version_and_code_of_a_package_name_other_configurations(
    site: Path, toy: Prepared, tmp_path: Path
) -> None:
    ids = []
    for number, (version, extra) in enumerate(
        [("1.0", ""), ("1.1", ""), ("1.0", "# changed\n"), ("1.0", "")]
    ):
        folder = tmp_path / str(number)
        files = {**FILES, "plug_shop/models/my_line.py": OWN + extra}
        write_package(folder, "plug-shop", points=POINTS, files=files, version=version)
        with on_path(folder):
            cell = make_cell(results_dir=tmp_path, prepared=toy, model="my-line", seed=1, overrides=[])
            ids.append(cell.config_id)
    assert len(set(ids)) == 3
    assert ids[0] == ids[3]


def test_two_packages_with_one_name_are_both_refused_and_named(shop: Path, tmp_path: Path) -> None:
    files = {path.replace("plug_shop", "plug_other"): text for path, text in FILES.items()}
    extra = {
        "plug_other/models/fine.py": OWN, "plug_other/models/fine.toml": RECIPE.replace("my-line", "fine"),
    }  # fmt: skip
    points = POINTS.replace("plug_shop", "plug_other")
    write_package(tmp_path, "plug-other", points=points, files=files | extra, version="2.0")
    with on_path(tmp_path):
        for find, what in (
            (registry.find, "model 'my-line'"),
            (lambda name: find_dataset("shop-log", tmp_path / "data"), "data set 'shop-log'"),
            (lambda name: encoders.get_encoder("text", "lengths"), "encoder 'text.lengths'"),
        ):
            with pytest.raises(
                UsageError, match=f"{what} is in two packages, plug-other 2.0 and plug-shop 1.0;"
            ):
                find("my-line")
        assert registry.find("fine").origin == "plug-other 2.0"
        assert "my-line" not in registry.entries()
    assert registry.find("my-line").origin == "plug-shop 1.0"


def test_a_name_of_mmbench_stays_its_own(tmp_path: Path) -> None:
    recipe = RECIPE.replace('"my-line"', '"sasrec"')
    files = {"plug_a/__init__.py": "", "plug_a/sasrec.py": OWN, "plug_a/sasrec.toml": recipe}
    write_package(tmp_path, "plug-a", points="[mmbench.models]\nx = plug_a\n", files=files)
    with on_path(tmp_path):
        assert registry.find("sasrec").origin == "mmbench"
        assert registry.plugged().faults == ("plug-a 1.0: model 'sasrec' exists already (mmbench)",)


BROKEN = {
    "no module": ("x = plug_gone.models", "its module plug_gone.models does not exist"),
    "no package": ("x = plug_b:models", "is not a package with a folder"),
    "no name of a module": ("x = plug b", "names no module"),
    "empty": ("x = plug_b.empty", "holds no recipe"),
    "wrong recipe": ("x = plug_b.wrong", "wrong.toml: display"),
    "no entry point": ("nonsense", "entry points cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_has_a_line_and_the_rest_works(name: str, shop: Path, tmp_path: Path) -> None:
    point, why = BROKEN[name]
    files = {
        "plug_b/__init__.py": "", "plug_b/empty/__init__.py": "", "plug_b/wrong/__init__.py": "",
        "plug_b/wrong/wrong.toml": 'name = "wrong"\n',
    }  # fmt: skip
    write_package(tmp_path, "plug-b", points=f"[mmbench.models]\n{point}\n", files=files)
    with on_path(tmp_path):
        done = CliRunner().invoke(app, ["models"], catch_exceptions=False)
        (line,) = done.stderr.splitlines()
        assert line.startswith("warning: plugin left out: plug-b 1.0: ")
        assert why in line
        assert registry.find("my-line").load()
        with pytest.raises(UsageError, match=f"(?s)unknown model.*{why}"):
            registry.find("wrong")


def test_a_package_that_fails_at_import_is_named_in_one_line(shop: Path, tmp_path: Path) -> None:
    files = {"plug_c/__init__.py": "import no_such_library\n", "plug_c/bad.py": "", "plug_c/bad.toml": RECIPE}
    files["plug_c/bad.toml"] = RECIPE.replace("my-line", "bad")
    write_package(tmp_path, "plug-c", points="[mmbench.models]\nx = plug_c\n", files=files)
    with on_path(tmp_path):
        assert {"bad", "my-line"} <= set(registry.entries())
        with pytest.raises(UsageError) as caught:
            registry.find("bad").load()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("plug-c 1.0: plug_c.bad cannot be imported: __init__.py:1")
    assert "no_such_library" in str(caught.value)


# -- data sets --------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a data folder with the raw file of the plugin's data set."""
    folder = tmp_path / "data" / "raw" / "shop-log"
    folder.mkdir(parents=True)
    lines = [f"{19_000 + day}/{user}/{item}" for user in "xyz" for day, item in enumerate("cab")]
    (folder / "events.log").write_text("\n".join(lines))
    return tmp_path / "data"


def test_a_package_adds_a_data_set_and_its_reader(shop: Path, log: Path) -> None:
    assert "shop-log" in load_catalog(log)
    assert not is_imported()
    report = prepare("shop-log", log)
    data = report.prepared
    titles = {record["id"]: record["text"] for record in data.item_records if record}
    assert titles == {"a": "An apple.", "b": "", "c": ""}
    ids = [record["id"] for record in data.item_records]
    assert [ids[item - 1] for item in data.items[:3]] == ["c", "a", "b"]
    assert data.times[:3].tolist() == [(19_000 + day) * 86_400 for day in range(3)]
    assert "read by a plugin" in report.notes


def test_data_of_another_version_of_the_reader_are_outdated(shop: Path, log: Path, tmp_path: Path) -> None:
    prepare("shop-log", log)
    assert why_outdated(open_prepared("shop-log", log)) is None
    write_package(tmp_path / "new", "plug-shop", points=POINTS, files=FILES, version="1.1")
    with on_path(tmp_path / "new"):
        why = why_outdated(open_prepared("shop-log", log))
    assert why is not None
    assert "its definition changed since it was prepared (reader)" in why


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def read(spec, raw_dir):\n    return 1 / 0\n", "log_reader.py:2 in read(): ZeroDivisionError"),
        ("def read(spec, raw_dir):\n    return []\n", "it returned list, not"),
        ("def other(): pass\n", "has no read; correct"),
        ("import no_such_library\n", "cannot be imported: log_reader.py:1"),
        (READER.replace("len(events)", "0").replace("return RawData(", "builder.add('u', '', 5)\n    return RawData("),
         "item id is empty"),
    ],
)  # fmt: skip
def test_a_reader_that_fails_is_one_line(code: str, why: str, log: Path, tmp_path: Path) -> None:
    files = {**FILES, "plug_shop/data/log_reader.py": code}
    write_package(tmp_path / "site", "plug-shop", points=POINTS, files=files)
    with on_path(tmp_path / "site"), pytest.raises(MmbenchError) as caught:
        prepare("shop-log", log)
    assert why in str(caught.value)
    assert "plug-shop 1.0: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_tables_of_packages_may_name_code(shop: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(TABLE)
    with pytest.raises(UsageError, match="only the tables of installed packages"):
        read_catalog(file)
    forged = TABLE.replace('title = "A shop\'s log"', 'title = "x"\nreader = {target = "os:system"}')
    file.write_text(forged)
    with pytest.raises(UsageError, match="unknown key 'reader'"):
        read_catalog(file)


# -- encoders ---------------------------------------------------------------------------------------------


def test_a_package_adds_an_encoder_whose_features_name_it(shop: Path, log: Path) -> None:
    assert "lengths" in encoders.encoder_names("text")
    assert "lengths" not in encoders.encoder_names("image")
    (listed,) = [encoder for encoder in available() if encoder.name == "lengths"]
    assert listed.weights == "plug-shop 1.0"
    assert not is_imported()
    data = prepare("shop-log", log).prepared
    assert extract(data, "text", "lengths").n_present == 1
    features = load_features(data, "text", "lengths")
    by_id = dict(zip((record["id"] for record in data.item_records), features.values[1:, 0], strict=True))
    assert by_id["a"] == len("An apple.")
    facts = features.manifest.identity["plugin"]
    assert (facts["package"], facts["version"]) == ("plug-shop", "1.0")


@pytest.mark.parametrize(
    ("point", "why"),
    [
        ("lengths = plug_d:Lengths", "must be called text.NAME or image.NAME"),
        ("sound.x = plug_d:Lengths", "must be called text.NAME or image.NAME"),
        ("text.tfidf-svd = plug_d:Lengths", "encoder 'text.tfidf-svd' exists already"),
        ("text.x = plug_gone:Lengths", "does not exist"),
    ],
)
def test_an_encoder_that_is_declared_wrongly_is_left_out(point: str, why: str, tmp_path: Path) -> None:
    write_package(tmp_path, "plug-d", points=f"[mmbench.encoders]\n{point}\n", files={"plug_d.py": ENCODER})
    with on_path(tmp_path):
        (fault,) = encoders.plugged().faults
        assert why in fault
        assert fault.startswith("plug-d 1.0: ")


@pytest.mark.parametrize(
    ("target", "why"),
    [("Nothing", "has no Nothing"), ("dict", "has no identity()"), ("broken", "ValueError: no weights")],
)
def test_an_encoder_that_cannot_be_built_is_one_line(target: str, why: str, tmp_path: Path) -> None:
    code = "dict = dict\n\n\ndef broken(**settings):\n    raise ValueError('no weights')\n"
    points = f"[mmbench.encoders]\ntext.x = plug_e:{target}\n"
    write_package(tmp_path, "plug-e", points=points, files={"plug_e.py": code})
    with on_path(tmp_path), pytest.raises(UsageError) as caught:
        encoders.get_encoder("text", "x")
    assert why in str(caught.value)
    assert str(caught.value).startswith("plug-e 1.0: ")


# -- what is found ----------------------------------------------------------------------------------------


def test_the_hash_of_code_sees_every_file_of_a_package_and_one_of_a_module(
    shop: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(shop / "plug_shop" / "models", folder)
    before = plugins.hash_files(sorted(folder.glob("*.py")))
    assert registry.find("my-line").own_code() == before
    (folder / "my_line.py").rename(folder / "other.py")
    assert plugins.hash_files(sorted(folder.glob("*.py"))) != before
    assert all(plugin.code() for plugin in plugins.installed("encoders") if plugin.package == "plug-shop")


def test_of_two_copies_of_a_package_the_first_on_the_path_counts(shop: Path, tmp_path: Path) -> None:
    write_package(tmp_path, "Plug-Shop", points=POINTS, files=FILES, version="9.0")
    with on_path(tmp_path):
        assert registry.find("my-line").origin == "Plug-Shop 9.0"


def test_a_data_error_stays_a_data_error(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw file events\.log not found"):
        prepare("shop-log", tmp_path)
