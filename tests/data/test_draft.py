"""`mmbench datasets init`: drafts that `datasets add` accepts, and what cannot be guessed.

Run: python -m pytest tests/data/test_draft.py
"""

import zipfile
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from mmbench.cli import app
from mmbench.data.adding import add
from mmbench.data.catalog import read_catalog
from mmbench.data.draft import write_draft
from mmbench.data.prepare import prepare
from mmbench.data.spec import DatasetSpec
from mmbench.data.timestamps import guess_unit
from mmbench.errors import DataError, MmbenchError, UsageError
from tests.data.raw_files import grid, write_lines

PRODUCTS = ["sku,Product Name,maker,category,description,price,photo"]
PRODUCTS += [
    f"i{n},Lamp {n},Acme,Home>Light|Gift>{n},Bright lamp,{n}.5,http://shop/{n}.jpg" for n in range(6)
]


def shop(folder: Path) -> tuple[Path, Path]:
    """Write orders and products whose columns have everyday names."""
    orders = [
        f"{number},{user},{item},2024-01-{1 + number % 6:02d}"
        for number, (user, item, _) in enumerate(grid())
    ]
    first = write_lines(folder / "orders.csv.gz", ["order_no,customer,article,ordered_at", *orders])
    return first, write_lines(folder / "products.csv", PRODUCTS)


def spec_of(file: Path) -> DatasetSpec:
    (spec,) = read_catalog(file).values()
    return spec


def test_a_draft_is_accepted_and_prepares_what_the_files_hold(tmp_path: Path) -> None:
    file, draft = write_draft(*shop(tmp_path / "My Shop"))
    assert (file.name, draft.unknown) == ("my-shop.toml", [])
    assert add(file, tmp_path / "data") == {"my-shop": []}
    spec = spec_of(file)
    events = spec.columns.interactions
    assert (events.user, events.item, events.timestamp, events.unit) == (
        "customer",
        "article",
        "ordered_at",
        "iso",
    )
    data = prepare("my-shop", tmp_path / "data").prepared
    record = data.item_records[3]
    assert (data.n_users, data.n_items, data.n_events) == (6, 6, 36)
    assert (
        record["text"]
        == f"Lamp {record['id'][1:]}. Home, Light, Gift, {record['id'][1:]}. Acme. Bright lamp."
    )
    assert record["categories"] == [["Home", "Light"], ["Gift", record["id"][1:]]]
    assert record["price"] == f"{record['id'][1:]}.5"
    assert spec.columns.items.image_url == "photo"


@pytest.mark.parametrize("kind", ["folder", "zip", "elsewhere"])
def test_pictures_that_lie_beside_the_files_are_named(kind: str, tmp_path: Path) -> None:
    """Of two places the one that has more of them; where none has any, the line is left to be filled in."""
    (tmp_path / "orders.csv").write_text("customer,sku,ordered_at\na,s1,2024-03-01\na,s2,2024-03-02\n")
    (tmp_path / "products.csv").write_text("sku,name,file\ns1,Cup,s1.jpg\ns2,Plate,s2.jpg\n")
    (tmp_path / "a-few").mkdir()
    (tmp_path / "a-few" / "s1.jpg").write_bytes(b"")
    names = ["s1.jpg", "s2.jpg", "s3.jpg"]
    if kind == "folder":
        (tmp_path / "photos").mkdir()
        for name in names:
            (tmp_path / "photos" / name).write_bytes(b"")
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            for name in names:
                archive.writestr(name, b"")
    else:
        (tmp_path / "a-few" / "s1.jpg").unlink()
    file, _ = write_draft(tmp_path / "orders.csv", tmp_path / "products.csv", name="mine")
    (line,) = [line for line in file.read_text(encoding="utf-8").splitlines() if "images" in line]
    expected = {
        "folder": 'images = { name = "photos", member = "{file}" }   # it has 2 of the first 2 pictures',
        "zip": 'images = { name = "photos.zip", member = "{file}" }   # it has 2 of the first 2 pictures',
        "elsewhere": '# images = { name = "FOLDER OR ZIP", member = "{file}" }',
    }
    assert line.startswith(expected[kind])


def test_pictures_that_are_called_as_the_ids_are_found(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("reader,sku,ordered_at\na,s1,2024-03-01\na,s2,2024-03-02\n")
    (tmp_path / "products.csv").write_text("sku,name\ns1,Cup\ns2,Plate\n")
    for folder, names in {"covers": ["s1.png", "s2.png"], "old": ["s1.jpg"], "others": ["x.png"]}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"")
    file, draft = write_draft(tmp_path / "orders.csv", tmp_path / "products.csv", name="mine")
    assert draft.unknown == []  # a reader is a user
    why = "it has such pictures of 2 of the first 2 items"
    assert (
        f'images = {{ name = "covers", member = "{{sku}}.png" }}   # {why}'
        in file.read_text(encoding="utf-8").splitlines()
    )


def test_every_guess_has_a_reason(tmp_path: Path) -> None:
    file, _ = write_draft(*shop(tmp_path))
    columns = file.read_text(encoding="utf-8").partition("columns.interactions]")[2].splitlines()
    for line in columns:
        assert not line or line.startswith("[") or "   # " in line


def test_ids_are_found_by_their_values_where_names_say_nothing(tmp_path: Path) -> None:
    events = [f"{user},{item},{time}" for user, item, time in grid()]
    first = write_lines(tmp_path / "a.csv", ["buyer,what,when", *events])
    second = write_lines(tmp_path / "b.csv", ["label,code", *(f"x{n},i{n}" for n in range(6))])
    file, draft = write_draft(first, second, name="mine")
    text = file.read_text(encoding="utf-8")
    assert draft.unknown == ["user"]
    for guess in ('item = "what"', 'item = "code"', 'timestamp = "when"'):
        assert guess in text
    assert 'user = "?"   # NOT GUESSED: the columns are buyer, what, when' in text
    with pytest.raises(DataError, match=r"no column '\?'"):
        add(file, tmp_path / "data")


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (["1400000000", "1400000001.5"], "s"),
        ([1_400_000_000_000], "ms"),
        (["2014-05-13", "2014-05-13T10:00:00Z"], "iso"),
        ([20140513], "iso"),
        (["0", "1", "17"], "order"),
        (["yesterday"], None),
        (["1400000000", "soon"], None),
        ([], None),
    ],
)
def test_the_unit_is_the_one_in_which_all_times_are_plausible(values: list[object], unit: str | None) -> None:
    assert guess_unit(values) == unit


def test_parquet_and_recbole_files_make_drafts_too(tmp_path: Path) -> None:
    rows = pd.DataFrame(grid(), columns=["user_id", "item_id", "seconds"])
    rows["seconds"] = pd.to_datetime(rows["seconds"], unit="s")
    rows.to_parquet(tmp_path / "log.parquet")
    file, draft = write_draft(tmp_path / "log.parquet", None, name="log")
    assert draft.unknown == []
    assert spec_of(file).columns.interactions.timestamp == "seconds"
    lines = ["\t".join(map(str, event)) for event in grid()]
    write_lines(tmp_path / "x.inter", ["user_id:token\titem_id:token\ttimestamp:float", *lines])
    write_lines(
        tmp_path / "x.item", ["item_id:token\tcategories:token_seq", *(f"i{n}\ta b" for n in range(6))]
    )
    file, draft = write_draft(tmp_path / "x.inter", tmp_path / "x.item", name="atomic")
    assert spec_of(file).parser == "recbole"
    add(file, tmp_path / "data")
    assert prepare("atomic", tmp_path / "data").prepared.item_records[1]["categories"] == [["a"], ["b"]]


def test_files_of_two_folders_and_a_table_elsewhere(tmp_path: Path) -> None:
    first, second = shop(tmp_path / "in")
    (tmp_path / "in" / "cat").mkdir()
    second = second.rename(tmp_path / "in" / "cat" / "products.csv")
    file, _ = write_draft(first, second, name="apart", output=tmp_path / "out.toml")
    assert add(file, tmp_path / "data") == {"apart": []}


def test_names_that_need_quotes_survive(tmp_path: Path) -> None:
    events = [f"{user},{item},{time}" for user, item, time in grid()]
    odd = 'user\\ ""x"" # id'
    first = write_lines(tmp_path / "a.csv", [f'"{odd}",item,timestamp', *events])
    second = write_lines(tmp_path / "b.csv", ['item,"a ""title"" # \\"', *(f"i{n},x" for n in range(6))])
    file, draft = write_draft(first, second, name="mine")
    assert draft.unknown == ["user"]
    assert spec_of(file).columns.items.extra == ['a "title" # \\']


@pytest.mark.parametrize(
    ("files", "options", "why"),
    [
        (["gone.csv"], {}, "does not exist"),
        (["empty.csv"], {}, "is empty"),
        (["header.csv"], {}, "no row"),
        (["x.txt"], {}, "must end in"),
        (["good.csv"], {"name": "My Shop"}, "cannot name a data set"),
        (["good.csv"], {"name": "demo"}, "ships with mmbench"),
        (["good.csv"], {"output": "good.csv"}, "not written over"),
    ],
)
def test_bad_input_is_one_line(files: list[str], options: dict[str, str], why: str, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "header.csv").write_text("user,item,timestamp\n")
    (tmp_path / "x.txt").write_text("user,item\n")
    (tmp_path / "good.csv").write_text("user,item,timestamp\nu,i,1400000000\n")
    before = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    kwargs = {"name": options.get("name", "mine"), "output": tmp_path / options.get("output", "new.toml")}
    with pytest.raises(MmbenchError, match=why) as caught:
        write_draft(tmp_path / files[0], None, **kwargs)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == before


def test_the_commands_say_what_comes_next_and_what_stays(tmp_path: Path) -> None:
    shop(tmp_path / "shop")
    data, results = tmp_path / "data", tmp_path / "results"

    def run(*args: str) -> str:
        options = ["--data-dir", str(data), "--results-dir", str(results)]
        done = CliRunner().invoke(app, [*options, "datasets", *args], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    folder = tmp_path / "shop"
    out = run("init", str(folder / "orders.csv.gz"), str(folder / "products.csv"))
    assert (
        f"next: check the file, then: mmbench datasets add {folder / 'shop.toml'} && mmbench prepare shop"
        in out
    )
    run("add", str(folder / "shop.toml"))
    prepare("shop", data)
    prepare("shop", data, ties="reverse")
    (results / "shop").mkdir(parents=True)
    lines = run("remove", "shop", "--yes").splitlines()
    assert lines[0].startswith("removed the prepared data of shop (")
    assert lines[1:] == [
        f"stays: raw files in {folder}",
        "stays: prepared data of shop@reverse",
        f"stays: runs in {results / 'shop'} (mmbench runs rm)",
    ]
    with pytest.raises(UsageError, match="nothing was removed"):
        CliRunner().invoke(
            app, ["--data-dir", str(data), "datasets", "remove", "shop", "--yes"], catch_exceptions=False
        )
