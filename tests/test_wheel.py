"""The wheel holds everything that the program reads: it is built and installed into a bare virtual environment."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import mmbench

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and not os.environ.get("MMBENCH_WHEEL"),
    reason="takes half a minute; set MMBENCH_WHEEL=1 (continuous integration runs it)",
)


def _run(*words: str | Path, cwd: Path) -> str:
    """Run a program that may see nothing of this checkout; return what it prints."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MMBENCH_"))
    }
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    _run(*pip, "--wheel-dir", folder, ROOT, cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_has_the_version_and_every_file_of_the_package(wheel: Path) -> None:
    assert wheel.name == f"mmbench-{mmbench.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    tracked = _run("git", "ls-files", "mmbench", "baselines", "datasets.toml", cwd=ROOT).split()
    renamed = {"baselines": "mmbench/_baselines", "datasets.toml": "mmbench/_datasets.toml"}
    expected = {
        name.replace(top, renamed.get(top, top), 1) for name in tracked for top in [name.partition("/")[0]]
    }
    assert expected <= packed


def test_the_installed_program_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """What it depends on comes from this interpreter's packages, so that nothing is downloaded."""
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False, symlinks=os.name != "nt")
    python = bare / ("Scripts" if os.name == "nt" else "bin") / "python"
    _run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-compile",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=tmp_path,
    )
    packages = Path(
        _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    program = python.with_name("mmbench.exe" if os.name == "nt" else "mmbench")
    assert _run(program, "--version", cwd=tmp_path).strip() == f"mmbench {mmbench.__version__}"
    where = _run(python, "-c", "import mmbench; print(mmbench.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(packages)
    models = _run(program, "models", cwd=tmp_path)
    assert "hm4sr" in models
    assert "sasrec" in models
    assert "HM4SR" in _run(program, "audit", "hm4sr/table1", cwd=tmp_path)
    _run(program, "run", "pop", "--dataset", "demo", "--no-floors", cwd=tmp_path)
    assert "Pop" in _run(program, "report", "--format", "html", cwd=tmp_path)
