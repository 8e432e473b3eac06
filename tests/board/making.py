"""Bundles with something wrong in them: unpacked, changed, and packed again with a manifest that agrees."""

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmbench import sealed
from mmbench.atomic import hash_file
from mmbench.board.archive import write_archive
from mmbench.board.checks import Check
from mmbench.board.manifest import FORMAT, MANIFEST
from mmbench.board.verification import Verdict, Work, verify

Change = Callable[[Path], None]


def checked(bundle: Path, data_dir: Path = Path("none"), **work: Any) -> tuple[Verdict, dict[str, Check]]:
    """Verify a bundle; return the verdict and the checks by name."""
    checks: list[Check] = []
    verdict = verify(bundle, Work(data_dir=data_dir, **work), on_check=checks.append, say=lambda text: None)
    return verdict, {check.name: check for check in checks}


def rebuilt(bundle: Path, output: Path, change: Change, *, with_manifest: bool = True) -> Path:
    """Write a changed copy of a bundle.

    with_manifest  sizes and hashes of the manifest are those of the changed files, as a careful forger has them
    """
    folder = output.with_suffix(".files")
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    change(folder)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    if with_manifest:
        files = {
            name: {"size": (folder / name).stat().st_size, "sha256": hash_file(folder / name)}
            for name in names
            if name != MANIFEST
        }
        edit_json(folder / MANIFEST, lambda content: content.update(files=files), version=FORMAT)
    write_archive(output, folder, names)
    return output


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object], *, version: int | None = None) -> None:
    """Change sealed JSON and seal it again."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop(sealed.SEAL)
    kept = content.pop(sealed.FORMAT, None)
    edit(content)
    sealed.write_json(path, content, version=version or kept)


@contextmanager
def ranking_arrays(folder: Path, seed: int = 1, split: str = "test") -> Iterator[dict[str, np.ndarray]]:
    """Yield the arrays of a ranking; what is changed in them is sealed again."""
    path = folder / f"seed_{seed}" / "rankings" / f"{split}.npz"
    arrays, facts = sealed.read_arrays(path, advice="")
    yield arrays
    sealed.write_arrays(path, arrays, facts, is_compressed=False)
