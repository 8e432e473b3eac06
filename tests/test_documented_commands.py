"""Every command line of README and docs/ is parsed, and run on a small shop unless tests/documented.py says why not."""

import csv
import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from mmbench.cli import app
from mmbench.data.demo import write_raw
from mmbench.data.store import open_prepared
from tests import documented

ROOT = documented.ROOT
LINES = documented.lines()
N_ITEMS = 24  # of the shop in the pages; validation looks at the first 20


def test_every_command_line_can_be_parsed() -> None:
    assert len(LINES) > 100
    for line in LINES:
        try:
            documented.parse(line.words)
        except Exception as error:
            raise AssertionError(f"{line.page}: {line.text}: {error}") from error


def test_a_wrong_command_line_cannot_be_parsed() -> None:
    for words in (
        ("runs", "--modle", "hm4sr"),
        ("rum", "hm4sr"),
        ("datasets", "stats"),
        ("run", "a", "--epochs", "0"),
    ):
        with pytest.raises(Exception, match=r"(?i)no such|missing|invalid|unknown|greater|in the range"):
            documented.parse(words)


def test_commands_in_sentences_have_the_options_that_they_name() -> None:
    quoted = documented.inline()
    assert len(quoted) > 50
    for line in quoted:
        assert not documented.unknown_options(line.words), f"{line.page}: {line.text}"
    assert documented.unknown_options(["datasets", "stats", "--htlm"]) == {"--htlm"}
    assert documented.unknown_options(["leaderbord", "-o", "site"]) == {"leaderbord"}


def test_every_reason_not_to_run_a_command_is_needed() -> None:
    reasons = {line.reason for line in LINES}
    assert reasons - {""} == set(documented.NOT_RUN.values())


def test_every_command_line_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the pages, in one folder; what several pages say is run once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMBENCH_DATA", "data")
    monkeypatch.setenv("MMBENCH_RESULTS", "results")
    monkeypatch.setenv("MMBENCH_MODELS", "")
    raw = tmp_path / "data" / "raw" / "demo"
    raw.mkdir(parents=True)
    write_raw(raw, n_users=150, n_items=60)
    _invoke("prepare", "demo")
    done: set[tuple[str, ...]] = set()
    page = ""
    for line in LINES:
        if line.reason:
            continue
        if line.page != page:
            page = line.page
            FILES.get(page, lambda folder: None)(tmp_path)
        words = tuple(documented.small(line.words, tmp_path))
        if words not in done or "my-shop" in line.text or "shop.toml" in line.text:
            _invoke(*words, text=f"{line.page}: {line.text}")
        done.add(words)


def _invoke(*words: str, text: str = "") -> None:
    """Run a command in this process; what it raises names the line of the page."""
    outcome = CliRunner().invoke(app, list(words))
    assert outcome.exit_code == 0, f"{text or words}: {outcome.exception or outcome.output}"


def _write_experiment(folder: Path) -> None:
    (folder / "exp.toml").write_text(
        'models = ["sasrec"]\ndatasets = ["demo"]\nepochs = 1\nfloors = false\n[settings]\nhidden_dim = 16\n',
        encoding="utf-8",
    )


def _write_shop(folder: Path, page: str, name: str, *, columns: dict[str, list[str]]) -> None:
    """Write the table of a page and files with the columns that it names: each user takes six items."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (table,) = [block for block in re.findall(r"```toml\n(.*?)```", text, flags=re.S) if "[my-shop]" in block]
    (folder / "shop.toml").write_text(table, encoding="utf-8")
    orders = [["customer", "sku", "ordered_at"]]
    orders += [
        [f"u{u}", f"s{(u + i) % N_ITEMS}", f"2024-03-{i + 1:02}"] for u in range(N_ITEMS) for i in range(6)
    ]
    products = [
        list(columns),
        *([values[i % len(values)].format(i) for values in columns.values()] for i in range(N_ITEMS)),
    ]
    for file, rows in ((folder / name, orders), (folder / "products.csv", products)):
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        content = text.getvalue().encode()
        file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def _write_small_shop(folder: Path) -> None:
    if (folder / "data" / "datasets.toml").is_file():
        _invoke("datasets", "remove", "my-shop", "--yes")
    columns = {"sku": ["s{}"], "name": ["Blue cup {}"], "category": ["Kitchen"]}
    _write_shop(folder, "docs/guides/own_data.md", "orders.csv", columns=columns)


def _write_large_shop(folder: Path) -> None:
    columns = {
        "sku": ["s{}"], "name": ["Blue cup {}"], "maker": ["Acme"], "category": ["Home>Kitchen|Gifts"],
        "price": ["9.5"], "description": ["A cup."],
    }  # fmt: skip
    _write_shop(folder, "docs/data.md", "orders.csv.gz", columns=columns)
    (folder / "pictures").mkdir()
    for i in range(N_ITEMS):
        Image.effect_noise((16, 16), 40 + i).convert("RGB").save(folder / "pictures" / f"s{i}.jpg")


def _write_models(folder: Path) -> None:
    text = (ROOT / "docs" / "adding_a_model.md").read_text(encoding="utf-8")
    (folder / "my-models").mkdir()
    for name, content in re.findall(
        r"`my-models/([a-z_]+\.(?:py|toml))`:\n\n```\w+\n(.*?)```", text, flags=re.S
    ):
        (folder / "my-models" / name).write_text(content, encoding="utf-8")


def _write_lists(folder: Path) -> None:
    """Write lists of every user as another program would, and a folder for bundles."""
    data = open_prepared("demo", folder / "data")
    with (folder / "lists.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user", "item", "score"])
        ids = [record["id"] for record in data.item_records[:20]]
        writer.writerows([user, item, 60 - i] for user in data.user_ids for i, item in enumerate(ids))
    (folder / "bundles").mkdir()


def _write_printed(folder: Path) -> None:
    lines = ["paper,table,dataset,method,metric,value", "page,board,shop,theirs,HR@10,.3232"]
    (folder / "printed.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


FILES: dict[str, Callable[[Path], None]] = {
    "docs/audit.md": _write_printed,
    "docs/adding_a_model.md": _write_models,
    "docs/board.md": _write_lists,
    "docs/data.md": _write_large_shop,
    "docs/guides/cluster.md": _write_experiment,
    "docs/guides/own_data.md": _write_small_shop,
}
