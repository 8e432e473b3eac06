"""The pages: every link leads somewhere, nothing is loaded, foreign texts stay texts, rows have a history."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mmbench.audit import audit, library
from mmbench.board.curves import curve_svg
from mmbench.board.entries import Curve, Entry, entries_of_bundles, entries_of_results
from mmbench.board.history import History, read_history
from mmbench.board.outdated import Fix, fixes, why_outdated
from mmbench.board.printed import printed_rows
from mmbench.board.site import Built, build_site
from mmbench.board.verification import read_verdict
from mmbench.errors import DataError, UsageError
from mmbench.reporting.rounding import number
from tests.board.conftest import Made
from tests.board.making import checked, rebuilt
from tests.board.test_bundle import FORGED
from tests.cli.forks import Command, run_all
from tests.reporting.conftest import all_records, fake_run, paper_like

ROOT = Path(__file__).resolve().parents[2]
EVIL = "<img src=x onerror=alert(1)>\x1b[2J\u202e\"'"


class Page(HTMLParser):
    """Links, what would be loaded, texts of cells, attributes with scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if tag == "a" and name == "href":
                self.links.append(value or "")
            elif name in ("src", "href", "srcset", "data", "action"):
                self.loaded.append(f"{tag} {name}={value}")
            elif name == "id":
                self.ids.append(value or "")
            self.handlers += [name] * name.startswith("on")


def results_of(root: Path) -> list[Entry]:
    return list(entries_of_results(root, on_left_out=lambda each: pytest.fail(each.reason)))


def build(root: Path, site: Path, date: str = "2026-01-01", **options: object) -> Built:
    return build_site(results_of(root), site, left_out=[], date=date, **options)


@pytest.fixture(scope="module")
def site(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board of both bundles, of a third one with a fault, and of the results of three models on printed data."""
    root = tmp_path_factory.mktemp("site")
    bundles = root / "bundles"
    bundles.mkdir()
    for path in (made.sasrec, made.pop):
        (bundles / path.name).write_bytes(path.read_bytes())
    rebuilt(made.sasrec, bundles / "forged.mmb.zip", FORGED["claimed values"][0])
    paper_like(root / "results", seeds=2, datasets=("amazon-toys", "other"))
    left_out: list = []
    entries = list(entries_of_bundles(bundles, on_left_out=left_out.append)) + results_of(root / "results")
    build_site(entries, root / "site", left_out=left_out, date="2026-01-01")
    return root / "site"


def test_every_link_leads_to_a_file(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert len(pages) == 1 + 1 + 3 + (2 + 4 + 4) + (2 + 4 - 2)  # index, log, boards, configurations, models
    for path in pages:
        page = Page(path)
        assert page.links
        assert len(page.ids) == len(set(page.ids))
        for link in page.links:
            target = link.partition("#")[0]
            if not target.startswith(("https://", "http://")):
                assert not target or (site / target).is_file(), f"{path.name} -> {link}"


def test_nothing_is_loaded_and_no_script_but_ours_runs(site: Path) -> None:
    for path in site.glob("*.html"):
        page = Page(path)
        assert not page.loaded
        assert not page.handlers
        assert page.tags.count("script") == 1
        assert "default-src 'none'" in page.text
        assert "url(" not in page.text
        assert "@import" not in page.text


def test_a_bundle_with_a_fault_is_left_out_and_named(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    assert re.search(r"forged\.mmb\.zip</b>: metrics: ", index)
    assert sorted(path.name for path in (site / "bundles").iterdir()) == ["pop.mmb.zip", "sasrec.mmb.zip"]


def test_the_numbers_are_those_of_the_report(made: Made, site: Path) -> None:
    (board,) = site.glob("board-toy-*.html")
    text = board.read_text(encoding="utf-8")
    records = all_records(made.results)
    for record in records:
        if record.deterministic:
            assert f">{number(record.metrics()['NDCG@10'])}<" in text
    values = [record.metrics()["NDCG@10"] for record in records if record.model == "sasrec"]
    assert f">{number(sum(values) / 2)} <span" in text


def test_only_re_trained_rows_are_bold(tmp_path: Path) -> None:
    paper_like(tmp_path / "results", seeds=2)
    entries = results_of(tmp_path / "results")
    build_site(entries, tmp_path / "claimed", left_out=[], date="2026-01-01")
    for path in (tmp_path / "claimed").glob("[bi]*.html"):
        assert not re.search(r"<b>[.\d]", path.read_text(encoding="utf-8"))
    levels = {"hm4sr": "re-trained", "sasrec": "re-trained", "gru4rec": "re-scored"}
    verified = [replace(entry, level=levels.get(entry.record.model, "claimed")) for entry in entries]
    build_site(verified, tmp_path / "verified", left_out=[], date="2026-01-01")
    (board,) = (tmp_path / "verified").glob("board-*.html")
    rows = re.findall(r'href="run-toys-(\w+)-.*?</tr>', board.read_text(encoding="utf-8"), flags=re.S)
    bold = [
        re.search(r'href="run-toys-(\w+)-', row)[1]  # type: ignore[index]
        for row in re.findall(r"<tr.*?</tr>", board.read_text(encoding="utf-8"), flags=re.S)
        if re.search(r"<b>[.\d]", row)
    ]
    assert rows
    assert set(bold) == {"hm4sr"}


def test_foreign_texts_stay_texts(tmp_path: Path) -> None:
    fake_run(
        tmp_path / "results", "sasrec", display=EVIL, notes=[EVIL], settings={"network": EVIL},
        environment={"device": EVIL, "finished": EVIL, "libraries": {"a": EVIL}, "code": {"commit": EVIL}},
        curve=[{"epoch": 1, "NDCG@20": 0.1}],
    )  # fmt: skip
    build(tmp_path / "results", tmp_path / "site")
    for path in (tmp_path / "site").glob("*.html"):
        page = Page(path)
        assert "img" not in page.tags
        assert not page.handlers
        assert not page.loaded
        assert not {"\x1b", "\u202e"} & set(page.text)


def test_pages_hold_no_path_of_this_machine(made: Made, tmp_path: Path) -> None:
    results = tmp_path / "results"
    fake_run(
        results, "sasrec", notes=["read /home/eve/models/bert"], settings={"text_encoder": "/srv/x/bert"}
    )
    fake_run(results, "gru4rec", seed=1)
    fake_run(results, "gru4rec", seed=2, reason="no space left in /home/eve/results")
    build(results, tmp_path / "site")
    for path in (tmp_path / "site").glob("*.html"):
        assert not re.search(r"/home/|/srv/|/eve", path.read_text(encoding="utf-8")), path.name


def test_a_link_of_a_paper_that_is_no_address_is_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmbench.models import registry

    entry = registry.find("hm4sr")
    assert entry.recipe.paper is not None
    paper = entry.recipe.paper.model_copy(update={"url": "javascript:alert(1)"})
    evil = replace(entry, recipe=entry.recipe.model_copy(update={"paper": paper}))
    monkeypatch.setattr("mmbench.board.views.registered", lambda: {"hm4sr": evil})
    fake_run(tmp_path / "results", "hm4sr")
    build(tmp_path / "results", tmp_path / "site")
    assert not any("javascript" in link for link in Page(tmp_path / "site" / "model-hm4sr.html").links)


# -- history ----------------------------------------------------------------------------------------------


def test_the_same_rows_are_the_same_site(tmp_path: Path) -> None:
    paper_like(tmp_path / "results", seeds=2)
    assert build(tmp_path / "results", tmp_path / "site").version == 1
    before = {path.name: path.read_bytes() for path in (tmp_path / "site").iterdir() if path.is_file()}
    assert build(tmp_path / "results", tmp_path / "site", date="2026-02-02").version == 1
    after = {path.name: path.read_bytes() for path in (tmp_path / "site").iterdir() if path.is_file()}
    assert after == before


def test_replaced_rows_stay_reachable(tmp_path: Path) -> None:
    results, site = tmp_path / "results", tmp_path / "site"
    fake_run(results, "sasrec", seed=0)
    fake_run(results, "gru4rec", seed=0)
    build(results, site)
    (old,) = site.glob("run-toys-sasrec-*.html")
    fake_run(results, "sasrec", seed=1)
    assert build(results, site, "2026-02-02").version == 2
    (new,) = set(site.glob("run-toys-sasrec-*.html")) - {old}
    assert old.name in Page(new).links
    assert old.name in Page(site / "log.html").links
    event = read_history(site).versions[-1].events
    assert [(each.kind, each.page, each.before) for each in event] == [("replaced", new.name, old.name)]
    for file in sorted(results.glob("toys/gru4rec/*/*/run.json")):
        file.unlink()
    assert build(results, site, "2026-03-03").version == 3
    (removed,) = read_history(site).versions[-1].events
    assert (removed.kind, removed.name) == ("removed", "GRU4Rec on toys")
    assert (site / removed.before).is_file()


def test_a_folder_that_is_no_board_is_left_alone(tmp_path: Path) -> None:
    paper_like(tmp_path / "results", seeds=1)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    with pytest.raises(DataError, match="holds files and is not a board"):
        build(tmp_path / "results", tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_text(encoding="utf-8") == "mine"
    with pytest.raises(UsageError, match="no bundle passed its checks"):
        build_site([], tmp_path / "empty", left_out=[], date="2026-01-01")


def test_a_row_that_nothing_replaced_has_no_earlier_page() -> None:
    assert History().replaced_by("run.html") == ""


# -- outdated ---------------------------------------------------------------------------------------------


def test_a_fix_touches_what_was_computed_before_it() -> None:
    fix = Fix(date="2026-01-10", words="x", models=("hm4sr", "caser:official"), datasets=("a",))
    touched = {
        (model, dataset, day): fix.touches(model=model, dataset=dataset, day=day)
        for model in ("hm4sr", "hm4sr:-tmoe", "caser", "caser:official", "sasrec")
        for dataset in ("a", "a@clean", "b")
        for day in ("2026-01-09", "2026-01-10")
    }
    assert {key for key, value in touched.items() if value} == {
        (model, dataset, "2026-01-09")
        for model in ("hm4sr", "hm4sr:-tmoe", "caser:official")
        for dataset in ("a", "a@clean")
    }
    assert replace(fix, models=(), datasets=()).touches(model="any", dataset="any", day="2025-12-31")


def test_outdated_rows_are_marked_where_something_was_trained(tmp_path: Path) -> None:
    made = {"finished": "2020-01-01T10:00:00+00:00"}
    fake_run(tmp_path / "results", "hm4sr", environment=made)
    fake_run(tmp_path / "results", "pop", environment=made, stopped="closed form")
    fake_run(tmp_path / "results", "sasrec", environment={"finished": "2100-01-01T10:00:00+00:00"})
    outdated = {entry.record.model: entry.outdated for entry in results_of(tmp_path / "results")}
    assert outdated["hm4sr"] == why_outdated(model="hm4sr", dataset="toys", day="2020-01-01") != ""
    assert (outdated["pop"], outdated["sasrec"]) == ("", "")
    build(tmp_path / "results", tmp_path / "site")
    (board,) = (tmp_path / "site").glob("board-*.html")
    assert board.read_text(encoding="utf-8").count(">outdated<") == 2  # hm4sr, under both mask rules


def test_every_entry_of_the_changelog_that_moves_numbers_is_a_fix() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\* (.*?)(?=^\* |^#|\Z)", text, flags=re.S | re.M)
    moving = [
        re.sub(r"^\*{0,2}\[numbers\]\*{0,2} *", "", " ".join(entry.split()))
        for entry in entries
        if re.match(r"\*{0,2}\[numbers\]", entry)
    ]
    assert len(moving) == len(fixes())
    for entry in moving:
        assert sum(entry.startswith(fix.words) for fix in fixes()) == 1, entry


# -- parts ------------------------------------------------------------------------------------------------


def test_printed_numbers_stand_beside_with_the_audit_s_verdict() -> None:
    rows = printed_rows("amazon-toys@clean")
    assert {row.method for row in rows} >= {"hm4sr", "sasrec", "gru4rec"}
    for table in {row.source for row in rows}:
        impossible = {
            finding.method
            for finding in audit(table).findings
            if (finding.weight, finding.dataset) == ("impossible", "amazon-toys") and finding.method
        }
        assert {row.method for row in rows if (row.source, row.weight) == (table, "impossible")} == impossible
    assert printed_rows("toys") == []
    assert library().rows


def test_a_curve_is_drawn_to_scale() -> None:
    curve = Curve(seed=1, points=((1, 0.0), (2, 0.5), (3, 1.0)), best=3)
    drawn = curve_svg([curve], "NDCG@10")
    (points,) = re.findall(r'points="([^"]+)"', drawn)
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0])
    assert places[0][1] - places[1][1] == pytest.approx(places[1][1] - places[2][1], abs=0.11)
    assert places[0][1] > places[2][1]  # larger is higher
    assert f'cx="{places[2][0]}" cy="{places[2][1]}"' in drawn
    assert curve_svg([Curve(seed=1, points=(), best=0)], "NDCG@10") == ""
    assert "nan" not in curve_svg([Curve(seed=1, points=((1, 0.5),), best=1)], "x")


def test_the_command(made: Made, data_dir: Path, tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    (bundles / "pop.mmb.zip").write_bytes(made.pop.read_bytes())
    (bundles / "bad.mmb.zip").write_bytes(b"no zip")
    first, empty, date, again = run_all([
        Command(["leaderboard", "--bundles", bundles, "--no-results", "-o", tmp_path / "site"], data_dir, made.results),
        Command(["leaderboard", "--bundles", tmp_path, "--no-results", "-o", tmp_path / "x"], data_dir, made.results),
        Command(["leaderboard", "-o", tmp_path / "x", "--date", "1.2.2026"], data_dir, made.results),
        Command(["leaderboard", "--bundles", bundles, "-o", tmp_path / "site"], data_dir, made.results),
    ])  # fmt: skip
    assert first.stdout.endswith("1 configuration on 1 board, 5 pages, version 1\n"), first.stderr
    assert first.error_lines == [
        "warning: left out: bad.mmb.zip: bad.mmb.zip is refused: it is not a zip file; ask for the bundle again"
    ]
    for failed in (empty, date):
        assert (failed.returncode, len(failed.error_lines)) == (2, 1), failed.stderr
    assert again.stdout.endswith("2 configurations on 1 board, 7 pages, version 2\n"), again.stdout


def test_levels_of_verdicts_are_on_the_board(made: Made, data_dir: Path, tmp_path: Path) -> None:
    from mmbench.board.verification import write_verdict

    bundle = tmp_path / "pop.mmb.zip"
    bundle.write_bytes(made.pop.read_bytes())
    verdict, _ = checked(bundle, data_dir, rescore=True, device="cpu")
    write_verdict(bundle, verdict)
    assert read_verdict(bundle, verdict.bundle) is not None
    (entry,) = entries_of_bundles(tmp_path, on_left_out=lambda each: pytest.fail(each.reason))
    assert entry.level == "re-scored"
    bundle.write_bytes(made.sasrec.read_bytes())  # a verdict about other bytes counts for nothing
    left_out: list = []
    assert list(entries_of_bundles(tmp_path, on_left_out=left_out.append)) == []
    assert "is about another bundle" in left_out[0].reason


def test_the_sample_board_is_whole() -> None:
    """Every link leads somewhere, and its bundles are what their manifests say."""
    sample = ROOT / "docs" / "sample_board"
    for path in sample.glob("*.html"):
        for link in Page(path).links:
            assert link.startswith(("https://", "#")) or (sample / link.partition("#")[0]).is_file(), link
    for bundle in sorted((sample / "bundles").iterdir()):
        _, checks = checked(bundle)
        for name in ("hashes", "schema", "ranks", "metrics", "seeds"):
            assert checks[name].status in ("ok", "not checked"), (bundle.name, checks[name])
        assert checks["lists"].status == "not checked"  # nobody's items
