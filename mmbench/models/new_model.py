"""A new model of the user's: two files that pass `mmbench check` at once, as a beginning to be changed."""

import keyword
import re
from collections.abc import Collection
from pathlib import Path

from mmbench.atomic import write_text
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.settings.recipe import NAME_PATTERN

TEMPLATES = {".py": "new_model.py.j2", ".toml": "new_model.toml.j2"}


def write_model(name: str, folder: Path, *, reads: Collection[str] = ()) -> list[Path]:
    """Write the code and the recipe of a new model into a folder, which is made if need be; return the two files.

    reads  "text", "image" or both: the features that its item vectors hold besides an embedding

    UsageError for a name that a model cannot have or another model has, and for a file that exists.
    """
    check_name(name)
    stem = name.replace("-", "_")
    files = {suffix: folder / f"{stem}{suffix}" for suffix in TEMPLATES}
    for file in files.values():
        if file.exists() or file.is_symlink():
            raise UsageError(f"{file} exists and is not written over; choose another name or another folder")
    _check_free(name, folder)
    texts = {suffix: _render(template, name, reads) for suffix, template in TEMPLATES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, file in files.items():
        write_text(file, texts[suffix])
    return list(files.values())


def _allowed(name: str) -> str:
    """Return the name with what a model's name may hold; "" where nothing such is left."""
    near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return near if near != name and near[:1].isalpha() and not keyword.iskeyword(near) else ""


def check_name(name: str) -> None:
    """Raise UsageError for a name that no model can have: its file must be a module that Python can import."""
    stem = name.replace("-", "_")
    if not re.fullmatch(NAME_PATTERN, name) or not stem.isidentifier() or keyword.iskeyword(stem):
        raise UsageError(
            f"{name!r} cannot name a model: write small letters, digits and hyphens, a letter first, and no word of "
            f"Python (for example {_allowed(name) or 'my-model'})"
        )
    if name.startswith(registry.EXTERNAL):
        raise UsageError(
            f"{name!r}: {registry.EXTERNAL} begins the names of other programs; choose another name"
        )


def _check_free(name: str, folder: Path) -> None:
    """Raise UsageError when a registered model, or a model in the folder, has the name or is shown under it."""
    for entry in registry.entries_with(folder).values():
        if name in (entry.name, entry.recipe.display.casefold()):
            raise UsageError(f"model {name!r} exists already ({entry.file}); choose another name")


def _render(template: str, name: str, reads: Collection[str]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mmbench.models", "."), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    camel = "".join(part.capitalize() for part in name.split("-"))
    modalities = [modality for modality in ("text", "image") if modality in reads]
    return environment.get_template(template).render(name=name, class_name=camel, reads=modalities)
