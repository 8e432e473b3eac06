"""The table in docs/data.md is cut out and prepared."""

import re
from pathlib import Path

import pytest

from mmbench.data.catalog import add_datasets
from mmbench.data.prepare import prepare
from tests.data.raw_files import grid, write_lines

ROOT = Path(__file__).resolve().parents[2]


def test_the_documented_table_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMBENCH_DATASETS", raising=False)
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    body = re.search(r"```toml\n# shop\.toml\n(.*?)```", text, flags=re.S)
    assert body is not None
    (tmp_path / "shop.toml").write_text(body[1], encoding="utf-8")
    days = [f"{user},{item},2024-01-{1 + number % 6:02d}" for number, (user, item, _) in enumerate(grid())]
    write_lines(tmp_path / "orders.csv.gz", ["customer,sku,ordered_at", *days])
    products = [f'i{number},Lamp {number},Acme,Home>Light|Gift,"Bright, warm",9' for number in range(6)]
    write_lines(tmp_path / "products.csv", ["sku,name,maker,category,description,price", *products])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "i3.jpg").write_bytes(b"x")
    assert add_datasets(tmp_path / "shop.toml", tmp_path / "data") == ["my-shop"]
    prepared = prepare("my-shop", tmp_path / "data").prepared
    record = prepared.item_records[3]
    assert record["text"] == "Lamp 3. Home, Light, Gift. Acme. Bright, warm."
    assert (record["image"], record["price"]) == ("i3.jpg", "9")
    assert record["categories"] == [["Home", "Light"], ["Gift"]]
    assert prepared.times[:6].tolist() == [1_704_067_200 + 86_400 * day for day in range(6)]
