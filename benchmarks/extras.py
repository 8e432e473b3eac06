"""Size of each extra: python benchmarks/extras.py [--extras NAME ...] [--base PYTHON] [--json FILE] [--write]

What mmbench needs is installed into a virtual environment, once. Each extra then gets an environment of its own that
sees the base, so that pip installs only what is missing, and is removed after it was measured: packages and MB beyond
the base. Needs pip's usual access to a package index.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from shutil import rmtree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.turns import ROOT, machine, table, write_section

MB = 1e6
OF_EACH_VENV = ("pip", "setuptools")


@dataclass(frozen=True)
class Size:
    """What lies in a folder of packages: bytes of all its files, and of the files of each package."""

    n_bytes: int
    packages: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.n_bytes / MB:,.1f}" if self.n_bytes < 10 * MB else f"{self.n_bytes / MB:,.0f}"


def requirements(project: Mapping[str, object], extra: str = "") -> list[str]:
    """Return the requirements of an extra, those of other extras that it names among them; of "", the base's."""
    if not extra:
        return list(project["dependencies"])  # type: ignore[call-overload]
    flat: list[str] = []
    for line in project["optional-dependencies"][extra]:  # type: ignore[index]
        own = re.fullmatch(rf"{project['name']}\[(.+)\]", line)
        flat += [line] if own is None else [
            part for name in own[1].split(",") for part in requirements(project, name.strip())
        ]  # fmt: skip
    return list(dict.fromkeys(flat))


def measure(folder: Path) -> Size:
    """Return the size of a folder site-packages, and of the packages in it, but those that every environment has."""
    sizes = {
        each.metadata["Name"]: sum(
            file.stat().st_size for path in each.files or () if (file := Path(str(path.locate()))).is_file()
        )
        for each in distributions(path=[str(folder)])
    }
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    shared = sum(sizes.pop(name, 0) for name in OF_EACH_VENV)
    return Size(total - shared, sizes)


def site_of(environment: Path) -> Path:
    (site,) = environment.glob("lib/python*/site-packages")
    return site


def make_environment(folder: Path, base: Path | None = None) -> Path:
    """Make a virtual environment, which sees the packages of `base`; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    if base is not None:
        (site_of(folder) / "base.pth").write_text(f"{base}\n", encoding="utf-8")
    return folder / "bin" / "python"


def install(python: Path, wanted: Iterable[str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check",
         *wanted],
        check=True,
    )  # fmt: skip


def measure_extras(
    project: Mapping[str, object], names: Sequence[str], folder: Path, base: Path | None
) -> dict[str, Size]:
    """Return the size of the base, "", and of each extra beyond it.

    base  folder site-packages that has the base already; None installs it
    """
    if base is None:
        install(make_environment(folder / "base"), requirements(project))
        base = site_of(folder / "base")
    sizes = {"": measure(base)}
    for name in names:
        environment = folder / name
        install(make_environment(environment, base), requirements(project, name))
        sizes[name] = measure(site_of(environment))
        rmtree(environment)
        print(f"{name}: {len(sizes[name].packages)} packages, {sizes[name]} MB", file=sys.stderr, flush=True)
    return sizes


def describe(sizes: Mapping[str, Size], left_out: Sequence[str]) -> str:
    names = ", ".join(f"`{name}`" for name in left_out)
    omitted = f" Not measured: {names}." if names else ""
    facts, base = machine(1), sizes[""]
    rows = [[f"`{name}`", str(len(size.packages)), str(size)] for name, size in sizes.items() if name]
    return f"""## What each extra adds

{facts["date"]}, Python {sys.version_info.major}.{sys.version_info.minor} on {sys.platform}. Packages and MB beyond
what `pip install mmbench` brings ({len(base.packages)} packages, {base} MB with the build of PyTorch that was installed
here); a package of the base counts only where an extra needs another version.{omitted} Made by
`python benchmarks/extras.py`.

{table(["`mmbench[...]`", "packages", "MB"], rows)}
"""


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = list(project["optional-dependencies"])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", nargs="+", default=known, choices=known, metavar="NAME")
    parser.add_argument(
        "--base", type=Path, help="a folder site-packages that has what mmbench needs, and no extra"
    )
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mmbench-extras-") as temporary:
        sizes = measure_extras(project, arguments.extras, Path(temporary), arguments.base)
    text = describe(sizes, [name for name in known if name not in sizes])
    print(text)
    if arguments.json:
        content = {name: asdict(size) for name, size in sizes.items()}
        arguments.json.write_text(json.dumps(content), encoding="utf-8")
    if arguments.write:
        write_section("extras", text)


if __name__ == "__main__":
    main()
