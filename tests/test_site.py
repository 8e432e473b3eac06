"""The documentation as a site: it builds without a warning, and its reference says what the program says."""

import re
from pathlib import Path

import pytest
import typer
from rich.markup import render

from docs.site import assemble, commands, models, settings
from mmbench.cli import app
from mmbench.models import registry
from mmbench.settings.config import TrainConfig, defaults_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site's sources."""
    folder = tmp_path_factory.mktemp("site")
    assemble.assemble(folder)
    return folder


def test_the_site_builds_without_a_warning_and_loads_nothing(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A page outside the navigation, and a link to a page or a heading that does not exist, are warnings."""
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install -e '.[docs]'")
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(site / "mkdocs.yml"), strict=True)
    build(config)
    assert not [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    for page in ("index", "reference/models/hm4sr/index", "guides/compare/index"):
        text = (site / "html" / f"{page}.html").read_text(encoding="utf-8")
        assert not re.findall(
            r"<(?:script|img|link)[^>]*(?:src|href)=\"https?://(?!github)[^\"]*\"[^>]*>", text
        )


def test_the_reference_has_every_command_and_every_option() -> None:
    text = commands.page()
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        _, _, rest = text.partition(f"\n## mmbench {name}\n")
        section = rest.partition("\n## ")[0]
        assert section, name
        named = set(re.findall(r"--[a-z][a-z0-9-]*", section))
        assert {
            option for parameter in command.params for option in parameter.opts if option[:2] == "--"
        } <= named


def test_no_word_of_a_help_text_is_taken_for_markup() -> None:
    """`mmbench[tune]` would be printed as `mmbench`: brackets need a backslash."""
    pending = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        pending += getattr(command, "commands", {}).values()
        for text in [command.help, *(getattr(parameter, "help", "") for parameter in command.params)]:
            assert render(text or "").plain == (text or "").replace("\\[", "["), text


def test_every_training_setting_has_a_meaning() -> None:
    comments = settings.comments_of(TrainConfig)
    assert set(comments) == set(defaults_of(TrainConfig))
    assert not [key for key, text in comments.items() if len(text.split()) < 2]


def test_the_zoo_has_every_model_and_every_measured_value(site: Path) -> None:
    text = (site / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(models/([\w-]+)\.md\)", text)) == set(registry.entries())
    displays = {entry.display for entry in registry.entries().values()}
    numbers = models.measured(ROOT / "docs")
    assert set(numbers) <= displays
    assert re.search(r"\[SASRec\].*\.0399 \(\.0415, -4%\)", text)
